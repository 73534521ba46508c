import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { plants } from "./raft-plants.ts";

const run = promisify(execFile);
const program = fileURLToPath(new URL("raft-plant-run.js", import.meta.url));

t.jobs = 2;
t.setTimeout(240_000); // Of real time, on a machine that is busy otherwise.

/** Histories of a plant's own plan that are run once more without the bug, up to the one that found it. */
const controlSeeds = 3;
/** Of the days that the other plants have in common; these are found by one of them. */
const commonControlSeeds = 30;

for (const { name, rules, plan, seeds } of plants) {
  t.test(`found within ${seeds} seeds, as "${rules.join('" or "')}": ${name}`, async (t) => {
    const { seed, rule, others } = await runSeeds("--plant", name, "--seeds", `${seeds}`);
    if (seed === undefined) {
      t.fail(`no seed found it; other rules that were broken: ${others.join(", ") || "none"}`);
      return;
    }
    t.comment(`seed ${seed}: ${rule ?? ""}`);
    if (plan === undefined) return;
    const from = Math.max(1, seed - controlSeeds + 1);
    const place = ["--from", `${from}`, "--seeds", `${seed - from + 1}`];
    const control = await runSeeds("--plant", name, "--control", ...place);
    t.equal(control.rule, undefined, "the same histories without it break no rule");
  });
}

t.test(
  "the days on which plants without a plan of their own are found break no rule without them",
  async (t) => {
    t.equal((await runSeeds("--seeds", `${commonControlSeeds}`)).rule, undefined);
  },
);

t.test("a plant whose text is gone is told, not passed over", async (t) => {
  await t.rejects(
    run(process.execPath, [program, "--plant", "no such plant"]),
    /there is no plant called no such plant/,
  );
});

async function runSeeds(
  ...args: readonly string[]
): Promise<{ seed?: number; rule?: string; others: readonly string[] }> {
  const { stdout } = await run(process.execPath, [program, ...args]);
  return JSON.parse(stdout) as { seed?: number; rule?: string; others: string[] }; // Written by the program.
}
