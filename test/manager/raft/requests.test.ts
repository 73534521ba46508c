import t from "tap";
import { Proposals, Reads } from "../../../manager/raft/requests.ts";

const limits = { retryTicks: 2, boundTicks: 5, inFlight: 1 };

t.test("a proposal whose index a later leadership gives away is handed back, and never settles", (t) => {
  const proposals = new Proposals();
  proposals.add(1, { index: 10, term: 5 });
  t.equal(proposals.add(2, { index: 10, term: 7 }), 1);
  proposals.add(3, { index: 11, term: 7 });
  t.strictSame(proposals.abandonBefore(7), [], "those of the present leadership go on");
  const entry = { kind: "data", data: new Uint8Array() } as const;
  t.strictSame(proposals.settle({ ...entry, index: 10, term: 7 }), { id: 2, outcome: "committed" });
  t.strictSame(proposals.settle({ ...entry, index: 11, term: 8 }), { id: 3, outcome: "lost" });
  t.end();
});

t.test("reads gather in batches, are asked again without an answer, and end at the bound", (t) => {
  const reads = new Reads<string>(limits, 40);
  const asked: number[] = [];
  const ask = (): void => reads.ask((ctx) => asked.push(ctx) > 0);
  reads.add("a");
  reads.add("b");
  ask();
  reads.add("c");
  ask();
  t.strictSame(asked, [40], "one batch is under way, the next gathers");
  t.strictSame(reads.answered(7), [], "an answer to a question of another life");
  t.strictSame(reads.tick(), []);
  t.strictSame(reads.tick(), []);
  ask();
  t.strictSame(asked, [40, 41]);
  t.strictSame(reads.answered(40), [], "the first question does not count any more");
  t.strictSame(reads.answered(41), ["a", "b", "c"]);
  reads.add("d");
  for (let tick = 0; tick < 4; tick += 1) t.strictSame(reads.tick(), []);
  t.strictSame(reads.tick(), ["d"]);
  t.end();
});
