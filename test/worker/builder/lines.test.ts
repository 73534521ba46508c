import t from "tap";

import { Lines } from "../../../worker/builder/lines.ts";

t.test("lines, however they are cut; the last one needs no end", (t) => {
  const said: string[] = [];
  const lines = new Lines(
    (line) => said.push(line),
    () => t.fail("no line is long"),
  );
  for (const piece of ["a", "b\nc\n\n", "d", "e"]) lines.write(piece);
  t.strictSame(said, ["ab", "c", ""]);
  lines.end();
  lines.end();
  t.strictSame(said, ["ab", "c", "", "de"]);
  t.end();
});

t.test("a line that never ends is not kept", (t) => {
  let passed = 0;
  let rest = "";
  const lines = new Lines(
    (line) => (rest += line),
    (part) => (passed += part.length),
  );
  const piece = "x".repeat(64 * 1024);
  for (let count = 0; count < 1_000; count++) {
    lines.write(piece);
    t.equal(passed, (count + 1) * piece.length);
  }
  lines.write("end");
  lines.end();
  t.equal(rest, "end");
  t.end();
});
