import t from "tap";
import { interpolate, interpolateAll } from "../../cli/compose/interpolate.ts";

const environment = { A: "a", EMPTY: "" };
const cases = [
  { name: "a plain variable", text: "x-$A-y", want: "x-a-y" },
  { name: "a braced variable", text: "x${A}y", want: "xay" },
  { name: "two dollars are one", text: "$$A", want: "$A" },
  { name: "a missing variable is empty", text: "[${NONE}]", want: "[]" },
  { name: "- takes the default when unset only", text: "${NONE-d}${EMPTY-d}", want: "d" },
  { name: ":- takes the default when empty too", text: "${NONE:-d}${EMPTY:-d}${A:-d}", want: "dda" },
  { name: "a default may hold a variable", text: "${NONE:-${A}}", want: "a" },
  {
    name: "a default may hold a colon and a port",
    text: "${REGISTRY:-10.0.0.1:5000}/web",
    want: "10.0.0.1:5000/web",
  },
  { name: "+ stands in when set", text: "${A:+yes}${NONE:+yes}", want: "yes" },
  { name: "? passes a value on", text: "${A:?needed}", want: "a" },
] as const;

for (const { name, text, want } of cases) {
  t.test(name, (t) => {
    t.equal(
      interpolate(text, environment, () => {}),
      want,
    );
    t.end();
  });
}

t.test("a required variable says what it is for", (t) => {
  t.throws(
    () => interpolate("${NONE:?say where}", environment, () => {}),
    /required variable NONE .*: say where/,
  );
  t.throws(() => interpolate("${EMPTY:?}", environment, () => {}), /required variable EMPTY/);
  t.end();
});

t.test("a lone dollar sign is refused with the way to write one", (t) => {
  t.throws(() => interpolate("cost: 5$ ", environment, () => {}), /write \$\$ for a dollar sign/);
  t.end();
});

t.test("values are replaced at every depth, and the missing ones are named", (t) => {
  const missing: string[] = [];
  const value = interpolateAll({ list: ["$A", 1, { deep: "$NONE" }], $A: true }, environment, (name) =>
    missing.push(name),
  );
  t.strictSame(value, { list: ["a", 1, { deep: "" }], $A: true });
  t.strictSame(missing, ["NONE"]);
  t.end();
});
