import t from "tap";
import { simulateCluster } from "./cluster.ts";
import { clusterSeeds } from "./cluster-seeds.ts";

t.setTimeout(240_000); // Of real time, on a machine that is busy otherwise.

const seedCount = 20;

t.test("whole clusters keep every rule and come to rest, whatever the seed", async (t) => {
  for (let seed = 1; seed <= seedCount; seed += 1) {
    const { violations, acknowledged } = await simulateCluster({ seed });
    t.strictSame(violations, [], `seed ${seed}`);
    t.ok(acknowledged > 0, `seed ${seed}: requests were carried out`);
  }
});

for (const { seed, extent, found } of clusterSeeds) {
  t.test(`seed ${seed}: ${found}`, async (t) => {
    t.strictSame((await simulateCluster({ seed, extent })).violations, []);
  });
}

t.test("a seed is a history: the same one again, event for event", async (t) => {
  const first = await simulateCluster({ seed: 7 });
  const second = await simulateCluster({ seed: 7, keep: "lines" });
  t.equal(second.digest, first.digest);
  t.equal(second.events, first.events);
  t.not((await simulateCluster({ seed: 8 })).digest, first.digest);
});
