import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";
import { type RaftResult, simulateRaft } from "./raft.ts";

interface Flags {
  readonly seeds: number;
  readonly from: number;
  readonly seed?: number;
  readonly jobs: number;
  readonly trace: boolean;
}

const progressEvery = 1000;

const program = new Command("sim").description("histories under faults, each from a seed alone");

program
  .command("raft")
  .description("groups of 1 to 7 managers; exits with 1 when a rule was broken")
  .option("--seeds <n>", "how many histories", count, 1000)
  .option("--from <seed>", "the first seed", natural, 1)
  .option("--seed <seed>", "only this one", natural)
  .option("--jobs <n>", "processes", count, 1)
  .option("--trace", "print everything that happens", false)
  .action(async ({ seeds, from, seed, jobs, trace }: Flags) => {
    if (seed !== undefined) process.exitCode = await runOne(seed, trace);
    else if (jobs > 1) process.exitCode = await runInProcesses({ seeds, from, jobs });
    else process.exitCode = await runMany({ seeds, from, trace });
  });

await program.parseAsync();

async function runOne(seed: number, trace: boolean): Promise<number> {
  const result = await simulateRaft({ seed, keep: "lines" });
  if (trace || result.violations.length > 0) for (const line of result.lines) console.log(line);
  console.log(summary(result));
  return result.violations.length > 0 ? 1 : 0;
}

async function runMany({
  seeds,
  from,
  trace,
}: {
  seeds: number;
  from: number;
  trace: boolean;
}): Promise<number> {
  const startedMs = performance.now();
  const totals = { failed: 0, events: 0, operations: 0, acknowledged: 0, virtualMs: 0 };
  for (let done = 1; done <= seeds; done += 1) {
    const result = await simulateRaft({ seed: from + done - 1, keep: trace ? "lines" : "digest" });
    for (const line of result.lines) console.log(line);
    if (trace) console.log(summary(result));
    if (result.violations.length > 0) {
      totals.failed += 1;
      console.log(`${summary(result)}\n  replay: npm run sim -- raft --seed ${result.seed} --trace`);
    }
    totals.events += result.events;
    totals.operations += result.operations;
    totals.acknowledged += result.acknowledged;
    totals.virtualMs += result.virtualMs;
    if (done % progressEvery === 0 || done === seeds) {
      const minutes = (performance.now() - startedMs) / 60_000;
      console.log(
        `${done} histories from seed ${from}, ${totals.failed} failed: ${Math.round(done / minutes)} a minute, ` +
          `${Math.round(totals.virtualMs / 3_600_000)} h of virtual time, ${totals.events} events, ` +
          `${totals.operations} operations (${totals.acknowledged} writes acknowledged)`,
      );
    }
  }
  return totals.failed > 0 ? 1 : 0;
}

async function runInProcesses({
  seeds,
  from,
  jobs,
}: {
  seeds: number;
  from: number;
  jobs: number;
}): Promise<number> {
  const share = Math.ceil(seeds / jobs);
  const codes = Array.from({ length: jobs }, (_, job) => {
    const first = from + job * share;
    const own = Math.min(share, from + seeds - first);
    return own <= 0 ? Promise.resolve(0) : runProcess(["raft", "--seeds", `${own}`, "--from", `${first}`]);
  });
  return Math.max(...(await Promise.all(codes)));
}

function runProcess(args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), [...args], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}

function summary({ seed, plan, violations, digest, events, operations, virtualMs }: RaftResult): string {
  const { founders, hosts, network } = plan;
  const [first] = violations;
  const verdict = first === undefined ? "ok" : `FAILED ${first.rule}: ${first.text}`;
  return (
    `seed ${seed} digest ${digest} ${founders}/${hosts} ${network.kind} ` +
    `${events} events ${operations} operations ${Math.round(virtualMs)} ms: ${verdict}`
  );
}

function count(text: string): number {
  const value = natural(text);
  if (value < 1) throw new InvalidArgumentError("a number from 1 on is expected");
  return value;
}

function natural(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new InvalidArgumentError("a natural number is expected");
  return value;
}
