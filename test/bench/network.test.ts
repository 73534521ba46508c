import t from "tap";
import { isReached } from "./comparison.ts";
import { pathRows } from "./network.ts";

const figures = new Map([
  ["throughput, link", 10],
  ["throughput, overlay", 6],
  ["throughput, virtual IP", 5.5],
  ["round trip, link", 30],
  ["round trip, overlay", 52],
  ["connection, virtual IP", 100],
  ["connection, virtual IP among 1000 services", 105],
]);

t.test("each path stands beside the one that it is compared with", async (t) => {
  const seen = pathRows(figures, 1_000).map((row) => [row.what, row.value, row.beside?.what, isReached(row)]);
  t.strictSame(seen, [
    ["throughput, link", 10, undefined, undefined],
    ["throughput, overlay", 6, "link", true],
    ["throughput, virtual IP", 5.5, "overlay", true],
    ["round trip, link", 30, undefined, undefined],
    ["round trip, overlay", 52, "link", undefined],
    ["round trip, overlay, more than the link's", 22, undefined, false],
    ["connection, virtual IP among 1000 services", 105, "virtual IP", true],
  ]);
});

t.test("without Docker's overlay, no row is compared with it", async (t) => {
  t.notOk(pathRows(figures, 1_000).some(({ beside }) => beside?.what.includes("Docker")));
});
