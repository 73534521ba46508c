import t from "tap";

import type { Recorded } from "./ask.ts";
import { namesOf } from "./calls/call.ts";
import { compare, judge } from "./compare.ts";
import { Normal } from "./normal.ts";

const said = (body: unknown, status = 200): Recorded[] => [
  { call: "GET /x", answer: { status, type: "", body } },
];

t.test("differences are told by their place, also what is there on one side only", (t) => {
  const found = compare(said({ a: [1, { b: null }], c: "x" }), said({ a: [1, { b: [] }], d: "x" }, 404));
  t.strictSame(
    found.map(({ at, docker, ours }) => `${at}: ${docker} ${ours}`),
    ["status: 200 404", "body.a.1.b: null []", 'body.c: "x" nothing', 'body.d: nothing "x"'],
  );
  t.strictSame(compare(said({ a: 1 }), said({ a: 1 })), []);
  t.equal(compare(said("x"), []).length, 1, "an answer that is missing is one");
  t.end();
});

t.test("what is expected meets its place of its call alone; what meets nothing is named", (t) => {
  const found = compare(said({ a: 1, b: 1 }), said({ a: 2, b: 2 }));
  const rule = (call: RegExp, at: RegExp) => ({ call, at, why: "" });
  const idle = rule(/GET \/y/, /a$/);
  const judged = judge(found, [rule(/GET \/x/, /a$/), idle]);
  t.strictSame(
    judged.unexpected.map(({ at }) => at),
    ["body.b"],
  );
  t.strictSame(judged.idle, [idle]);
  t.end();
});

t.test("what no two engines say alike is put into words", (t) => {
  const normal = new Normal(["/var/lib/x"]);
  const { out } = normal.command({
    code: 0,
    out: `${"a1".repeat(32)} 2026-01-02T03:04:05.1Z Up 3 minutes 172.17.0.2 /var/lib/x/y 1.5MB`,
    err: "",
  }) as { out: string };
  t.equal(out, "<id> <time> Up <duration> <address> <own>/y <size>");
  const { out: ids } = normal.command({ code: 0, out: "653368006847 0a1b2c3d4e5f 1234567890", err: "" }) as {
    out: string;
  };
  t.equal(ids, "<id12> <id12> 1234567890", "an id may have no letter");
  const lines = [
    { status: "Downloading", id: "x" },
    { stream: "a" },
    { stream: "b\n" },
    { aux: { ID: "x" } },
  ];
  t.match(normal.answer({ status: 200, type: "", body: lines }), {
    body: [{ stream: "ab\n" }, { aux: { ID: "x" } }],
  });
  t.match(
    normal.answer({ status: 200, type: "", body: { Pid: 5, Size: 0, StartedAt: "0001-01-01T00:00:00Z" } }),
    {
      body: { Pid: "<number>", Size: 0, StartedAt: "0001-01-01T00:00:00Z" },
    },
  );
  t.end();
});

t.test("a call that comes again has a name of its own", (t) => {
  t.strictSame(namesOf(["GET /a", ["POST /a", { b: 1 }], "GET /a"]), [
    "GET /a",
    'POST /a {"b":1}',
    "GET /a #2",
  ]);
  t.end();
});
