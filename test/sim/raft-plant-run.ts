import { register } from "node:module";
import { parseArgs } from "node:util";
import { plants } from "./raft-plants.ts";

/**
 * Runs seeds from 1 on with a bug planted, until one of them finds it; with no name, the code as it is.
 *
 * Prints one line of JSON: the seed that found it, and the rule that was broken.
 */
const { values } = parseArgs({ options: { plant: { type: "string" }, seeds: { type: "string" } } });
const plant = plants.find(({ name }) => name === values.plant);
if (plant === undefined && values.plant !== undefined)
  throw new Error(`there is no plant called ${values.plant}`);
if (plant !== undefined) register("./raft-plant-hooks.js", import.meta.url, { data: plant });
const { simulateRaft } = await import("./raft.ts");
const plan = plant?.plan ?? {};
const seeds = Number(values.seeds ?? "20");
let found: { seed: number; rule: string; text: string } | undefined;
for (let seed = 1; seed <= seeds && found === undefined; seed += 1) {
  const [violation] = (await simulateRaft({ seed, plan })).violations;
  if (violation !== undefined) found = { seed, ...violation };
}
console.log(JSON.stringify(found ?? {}));
