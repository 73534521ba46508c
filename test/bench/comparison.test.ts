import t from "tap";
import { type Comparison, comparisonTable, isReached } from "./comparison.ts";

const beside = { what: "Docker", value: 10 };
const cases: readonly { name: string; row: Partial<Comparison>; reached: boolean | undefined }[] = [
  { name: "nothing aimed at", row: {}, reached: undefined },
  { name: "its own value", row: { aim: { of: "value", bound: "at most", limit: 4 } }, reached: true },
  { name: "too little", row: { aim: { of: "value", bound: "at least", limit: 5 } }, reached: false },
  { name: "a share", row: { beside, aim: { of: "share", bound: "at most", limit: 0.4 } }, reached: true },
  {
    name: "too large a share",
    row: { beside, aim: { of: "share", bound: "at most", limit: 0.3 } },
    reached: false,
  },
  {
    name: "a share of nothing",
    row: { aim: { of: "share", bound: "at most", limit: 1 } },
    reached: undefined,
  },
  {
    name: "what failed",
    row: { value: Number.NaN, aim: { of: "value", bound: "at most", limit: 4 } },
    reached: false,
  },
];

for (const { name, row, reached } of cases) {
  t.test(`reached or not: ${name}`, async (t) => {
    t.equal(isReached({ what: "start", unit: "s", value: 4, ...row }), reached);
  });
}

t.test("a table has a row a figure, with its share and what is aimed at", async (t) => {
  const table = comparisonTable(
    [
      {
        what: "start",
        unit: "s",
        value: 2.504,
        beside,
        aim: { of: "share", bound: "at most", limit: 1 / 3 },
      },
      { what: "memory", unit: "MB", value: Number.NaN, aim: { of: "value", bound: "at most", limit: 0.6 } },
      { what: "answers", unit: "/s", value: 23_456.7 },
    ],
    "Note.",
  );
  t.equal(
    table,
    `Note.

| figure | Shoal | beside | share | aimed at | reached |
|---|--:|--:|--:|--:|---|
| start | 2.5 s | 10 s (Docker) | 0.25× | at most 0.33× | yes |
| memory | failed |  |  | at most 0.6 MB | no |
| answers | 23,457 /s |  |  |  |  |
`,
  );
});
