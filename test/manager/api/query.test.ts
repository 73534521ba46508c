import t from "tap";
import { labelsMatch, swarmLabelsMatch, parseDurationMs, parseTime } from "../../../manager/api/query.ts";
import { templateProblem } from "../../../model/template-syntax.ts";

const nowMs = 1_700_000_000_000;

t.test("durations are read as Go prints them", (t) => {
  const cases = [
    ["10m", 600_000],
    ["1h30m", 5_400_000],
    ["1.5s", 1_500],
    ["250ms", 250],
    ["10", undefined],
    ["m", undefined],
    ["-5s", undefined],
    ["", undefined],
  ] as const;
  for (const [text, want] of cases) t.equal(parseDurationMs(text), want, text);
  t.end();
});

t.test("times come as seconds, RFC 3339 or a duration back from now", (t) => {
  const cases = [
    ["1700000000", nowMs],
    ["1700000000.5", nowMs + 500],
    ["2023-11-14T22:13:20Z", nowMs],
    ["2023-11-14T23:13:20.250+01:00", nowMs + 250],
    ["2023-11-14T22:13Z", nowMs - 20_000],
    ["2023-11-14T22Z", nowMs - 800_000],
    ["10m", nowMs - 600_000],
    ["0", undefined],
    [null, undefined],
  ] as const;
  for (const [text, want] of cases) t.equal(parseTime(text, "since", nowMs), want, text ?? "absent");
  for (const text of ["soon", "2023-13-41", "-1"]) t.throws(() => parseTime(text, "since", nowMs), /since/);
  t.end();
});

t.test("a label is wanted by presence or by value, and all must be there", (t) => {
  const labels = { a: "1", b: "", "c=d": "2" };
  t.ok(labelsMatch(labels, undefined));
  t.ok(labelsMatch(labels, ["a", "b"]));
  t.ok(labelsMatch(labels, ["a=1", "b="]));
  t.notOk(labelsMatch(labels, ["a=1", "b=x"]));
  t.notOk(labelsMatch(labels, ["constructor"]));
  t.notOk(labelsMatch(labels, ["a="]), "the empty value is a value");
  t.ok(swarmLabelsMatch(labels, ["a=", "b="]), "but not for swarm objects, where it is none");
  t.ok(swarmLabelsMatch({ token: "YQ==" }, ["token=YQ=="]), "a value may end as the bare key does");
  t.notOk(swarmLabelsMatch(labels, ["z="]));
  t.notOk(swarmLabelsMatch(labels, ["a=2"]));
  t.end();
});

t.test("placeholders that nothing can fill are found at once", (t) => {
  const good = [
    "",
    "plain {x}",
    "{{.Task.Slot}}",
    "a-{{ .Node.Hostname }}-{{.Service.ID}}",
    '{{index .Service.Labels "a.b"}}',
  ];
  for (const text of good) t.equal(templateProblem(text, {}), undefined, text);
  for (const text of ["{{.Foo}}", "{{", "{{.Task.Slot", "{{}}", '{{secret "a"}}'])
    t.type(templateProblem(text, {}), "string", text);
  t.end();
});
