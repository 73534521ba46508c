import t from "tap";
import { type RaftResult, simulateRaft } from "./raft.ts";
import { regressionSeeds } from "./raft-seeds.ts";

t.setTimeout(240_000); // Of real time, on a machine that is busy otherwise.

const freshSeeds = { from: 1000, count: 200 } as const;

t.test("a seed replays byte for byte", async (t) => {
  for (const seed of [1, 2, 3, 8]) {
    const first = await simulateRaft({ seed, keep: "lines" });
    const second = await simulateRaft({ seed, keep: "lines" });
    const third = await simulateRaft({ seed });
    t.strictSame(second.lines, first.lines, `seed ${seed}`);
    t.equal(second.digest, first.digest);
    t.equal(third.digest, first.digest, "also when no lines are kept");
    t.ok(first.lines.length > 500);
  }
});

t.test("different seeds give different histories", async (t) => {
  const digests = new Set<string>();
  for (let seed = 1; seed <= 20; seed += 1) digests.add((await simulateRaft({ seed })).digest);
  t.equal(digests.size, 20);
});

for (const { seed, found } of regressionSeeds) {
  t.test(`seed ${seed}, once: ${found}`, async (t) => {
    t.equal(problem(await simulateRaft({ seed })), "");
  });
}

t.test(`${freshSeeds.count} histories keep every rule`, async (t) => {
  let acknowledged = 0;
  let operations = 0;
  for (let seed = freshSeeds.from; seed < freshSeeds.from + freshSeeds.count; seed += 1) {
    const result = await simulateRaft({ seed });
    acknowledged += result.acknowledged;
    operations += result.operations;
    if (result.violations.length > 0) t.fail(problem(result));
  }
  t.ok(acknowledged > 10 * freshSeeds.count, `${acknowledged} writes were acknowledged`);
  t.ok(operations > 2 * acknowledged * 0.9, `${operations} operations`);
});

function problem({ seed, violations }: RaftResult): string {
  const [first] = violations;
  return first === undefined
    ? ""
    : `${first.rule}: ${first.text} (npm run sim -- raft --seed ${seed} --trace)`;
}
