import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { clusterPlants } from "./cluster-plants.ts";

const run = promisify(execFile);
const program = fileURLToPath(new URL("cluster-plant-run.js", import.meta.url));

t.jobs = 2;
t.setTimeout(240_000); // Of real time, on a machine that is busy otherwise.

for (const { name, seeds } of clusterPlants) {
  t.test(`found within ${seeds} seeds: ${name}`, async (t) => {
    const { stdout } = await run(process.execPath, [program, "--plant", name, "--seeds", `${seeds}`]);
    const { seed, rule } = JSON.parse(stdout) as { seed?: number; rule?: string }; // Written by the program.
    t.type(seed, "number", "no seed found it");
    t.comment(`seed ${seed}: ${rule}`);
  });
}
