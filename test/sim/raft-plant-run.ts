import { register } from "node:module";
import { parseArgs } from "node:util";
import { plants } from "./raft-plants.ts";

/**
 * Runs seeds with a bug planted, until one of them finds it by a rule that it is to be found by; `--control` runs the same
 * histories without the bug, until one breaks any rule. With no name, the code as it is.
 *
 * Prints one line of JSON: the seed that found it, and the rule that was broken; and the rules that were broken before.
 */
const { values } = parseArgs({
  options: {
    plant: { type: "string" },
    control: { type: "boolean", default: false },
    from: { type: "string", default: "1" },
    seeds: { type: "string", default: "20" },
  },
});
const plant = plants.find(({ name }) => name === values.plant);
if (plant === undefined && values.plant !== undefined)
  throw new Error(`there is no plant called ${values.plant}`);
const isPlanted = plant !== undefined && !values.control;
if (isPlanted) register("./raft-plant-hooks.js", import.meta.url, { data: plant });
const { simulateRaft } = await import("./raft.ts");
const plan = plant?.plan ?? {};
const from = Number(values.from);
const end = from + Number(values.seeds);
const others = new Set<string>();
let found: { seed: number; rule: string; text: string } | undefined;
for (let seed = from; seed < end && found === undefined; seed += 1) {
  for (const violation of (await simulateRaft({ seed, plan })).violations) {
    if (isPlanted && !plant.rules.includes(violation.rule)) others.add(violation.rule);
    else found ??= { seed, ...violation };
  }
}
console.log(JSON.stringify({ ...found, others: [...others] }));
