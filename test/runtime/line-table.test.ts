import { isDeepStrictEqual } from "node:util";
import * as fc from "fast-check";
import t from "tap";
import { encodeLineTable, sourceOf } from "../../runtime/line-table.ts";

const rows = fc.array(
  fc.option(
    fc.record(
      {
        source: fc.string().filter((name) => name !== "" && !name.includes("\n")),
        line: fc.integer({ min: 1, max: 2 ** 18 - 1 }),
      },
      { noNullPrototype: true },
    ),
    { nil: undefined },
  ),
);

t.test("every line is found again, and none before or behind them", (t) => {
  fc.assert(
    fc.property(rows, (rows) => {
      const table = encodeLineTable(rows);
      const found = Array.from({ length: rows.length + 2 }, (_, line) => sourceOf(table, line));
      return isDeepStrictEqual(found, [undefined, ...rows, undefined]);
    }),
    { numRuns: 200 },
  );
  t.end();
});

t.test("what does not fit is refused, what is no table too", (t) => {
  t.throws(() => encodeLineTable([{ source: "a.ts", line: 2 ** 18 }]), { name: "RangeError" });
  t.throws(() => sourceOf(Buffer.from("{"), 1), { name: "RangeError" });
  t.end();
});
