import t from "tap";
import { type RaftResult, simulateRaft } from "./raft.ts";
import { manyTransfers, planOf } from "./raft-plan.ts";
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
  let resumed = 0;
  for (let seed = freshSeeds.from; seed < freshSeeds.from + freshSeeds.count; seed += 1) {
    const result = await simulateRaft({ seed });
    acknowledged += result.acknowledged;
    operations += result.operations;
    resumed += result.transfers.resumed;
    if (result.violations.length > 0) t.fail(problem(result));
  }
  t.ok(acknowledged > 10 * freshSeeds.count, `${acknowledged} writes were acknowledged`);
  t.ok(operations > 2 * acknowledged * 0.9, `${operations} operations`);
  t.ok(resumed > 2, `${resumed} transfers of snapshots went on after a restart of the receiver`);
});

t.test(
  "who was away for a moment is not sent one snapshot after another while much is written",
  async (t) => {
    const { host } = manyTransfers(planOf(1));
    let begun = 0;
    for (let seed = 1; seed <= 6; seed += 1) {
      const result = await simulateRaft({
        seed,
        plan: {
          founders: 3,
          hosts: 3,
          network: {
            kind: "stream",
            latencyMs: [2, 4], // There and back for each of some dozens of parts.
            dropRatio: 0,
            duplicateRatio: 0,
            spikeRatio: 0,
            spikeMs: 0,
            encoded: false,
          },
          host: { ...host, coreLimits: {} },
          clients: { clients: 7, thinkMs: 10, writeRatio: 1, leaderRatio: 1 },
          faults: { kinds: ["receiver-restart"], everyMs: 1500, lastsMs: 600 },
          changeEveryMs: undefined,
          durationMs: 8_000,
        },
      });
      t.equal(problem(result), "");
      t.ok(result.acknowledged > 1_000, `a snapshot each 10 of ${result.acknowledged} entries`);
      begun += result.transfers.begun;
    }
    t.ok(begun <= 20, `${begun} transfers were begun; 46 of them when no log is kept for who is behind`);
  },
);

function problem({ seed, violations }: RaftResult): string {
  const [first] = violations;
  return first === undefined
    ? ""
    : `${first.rule}: ${first.text} (npm run sim -- raft --seed ${seed} --trace)`;
}
