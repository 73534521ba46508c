import { register } from "node:module";
import { parseArgs } from "node:util";
import { clusterPlants } from "./cluster-plants.ts";

/**
 * Runs whole clusters from seed 1 on with a bug planted, until one of them finds it.
 *
 * Prints one line of JSON: the seed that found it, and the rule that was broken.
 */
const { values } = parseArgs({ options: { plant: { type: "string" }, seeds: { type: "string" } } });
const plant = clusterPlants.find(({ name }) => name === values.plant);
if (plant === undefined) throw new Error(`there is no plant called ${values.plant}`);
register("./raft-plant-hooks.js", import.meta.url, { data: plant });
const { simulateCluster } = await import("./cluster.ts");
const seeds = Number(values.seeds ?? "20");
let found: { seed: number; rule: string; text: string } | undefined;
for (let seed = 1; seed <= seeds && found === undefined; seed += 1) {
  const [violation] = (
    await simulateCluster({
      seed,
      extent: "services",
      ...(plant.day && { day: plant.day }),
      ...(plant.plan && { plan: plant.plan }),
    })
  ).violations;
  if (violation !== undefined) found = { seed, ...violation };
}
console.log(JSON.stringify(found ?? {}));
