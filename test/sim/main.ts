import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError, Option } from "commander";
import { type ClusterResult, simulateCluster } from "./cluster.ts";
import { type Extent, extents } from "./cluster-plan.ts";
import { type RaftResult, simulateRaft } from "./raft.ts";

interface Flags {
  readonly seeds: number;
  readonly from: number;
  readonly seed?: number;
  readonly jobs: number;
  readonly trace: boolean;
  readonly extent?: Extent;
}

const progressEvery = 1000;

const program = new Command("sim").description("histories under faults, each from a seed alone");

/** What is told of one history, whatever it was a history of. */
interface Outcome {
  readonly lines: readonly string[];
  readonly summary: string;
  readonly failed: boolean;
  /** Sums over all histories, by name. */
  readonly counts: Readonly<Record<string, number>>;
  readonly virtualMs: number;
}

type Kind = "raft" | "cluster";

interface Asked {
  readonly keep: "lines" | "digest";
  /** Of clusters. */
  readonly extent?: Extent | undefined;
}

const simulations: Readonly<Record<Kind, (seed: number, asked: Asked) => Promise<Outcome>>> = {
  async raft(seed, { keep }) {
    const result = await simulateRaft({ seed, keep });
    const { lines, violations, events, operations, acknowledged, isBeyondRepair, virtualMs, transfers } =
      result;
    const beyondRepair = { "that lost too many disks to go on": isBeyondRepair ? 1 : 0 };
    const sent = {
      "transfers of snapshots": transfers.begun,
      "resumed after a restart": transfers.resumed,
      "taken in whole": transfers.delivered,
    };
    const counts = { events, operations, "writes acknowledged": acknowledged, ...sent, ...beyondRepair };
    return { lines, summary: summary(result), failed: violations.length > 0, counts, virtualMs };
  },
  async cluster(seed, { keep, extent }) {
    const result = await simulateCluster({ seed, keep, ...(extent !== undefined && { extent }) });
    const { lines, violations, events, requests, acknowledged, virtualMs } = result;
    const counts = { events, requests, "requests acknowledged": acknowledged };
    return { lines, summary: clusterSummary(result), failed: violations.length > 0, counts, virtualMs };
  },
};

addCommand("raft", "groups of 1 to 7 managers; exits with 1 when a rule was broken");
addCommand(
  "cluster",
  "whole clusters with clients and services; exits with 1 when a rule was broken",
).addOption(new Option("--extent <extent>", "what takes part in a cluster").choices(extents));

await program.parseAsync();

function addCommand(kind: Kind, description: string): Command {
  return program
    .command(kind)
    .description(description)
    .option("--seeds <n>", "how many histories", count, 1000)
    .option("--from <seed>", "the first seed", natural, 1)
    .option("--seed <seed>", "only this one; equal seeds give equal traces and digests", natural)
    .option("--jobs <n>", "processes", count, 1)
    .option("--trace", "print everything that happens: ms of virtual time, who, what", false)
    .action(async ({ seeds, from, seed, jobs, trace, extent }: Flags) => {
      if (seed !== undefined) process.exitCode = await runOne(kind, seed, { trace, extent });
      else if (jobs > 1) process.exitCode = await runInProcesses(kind, { seeds, from, jobs, extent });
      else process.exitCode = await runMany(kind, { seeds, from, trace, extent });
    });
}

interface How {
  readonly trace: boolean;
  readonly extent: Extent | undefined;
}

async function runOne(kind: Kind, seed: number, { trace, extent }: How): Promise<number> {
  const { lines, summary: text, failed } = await simulations[kind](seed, { keep: "lines", extent });
  if (trace || failed) for (const line of lines) console.log(line);
  console.log(text);
  return failed ? 1 : 0;
}

async function runMany(
  kind: Kind,
  { seeds, from, trace, extent }: How & { readonly seeds: number; readonly from: number },
): Promise<number> {
  const startedMs = performance.now();
  const totals = new Map<string, number>();
  let failedCount = 0;
  let virtualMs = 0;
  for (let done = 1; done <= seeds; done += 1) {
    const seed = from + done - 1;
    const outcome = await simulations[kind](seed, { keep: trace ? "lines" : "digest", extent });
    for (const line of outcome.lines) console.log(line);
    if (trace) console.log(outcome.summary);
    if (outcome.failed) {
      failedCount += 1;
      console.log(`${outcome.summary}\n  replay: npm run sim -- ${kind} --seed ${seed} --trace`);
    }
    for (const [name, value] of Object.entries(outcome.counts)) {
      totals.set(name, (totals.get(name) ?? 0) + value);
    }
    virtualMs += outcome.virtualMs;
    if (done % progressEvery === 0 || done === seeds) {
      const elapsedMs = performance.now() - startedMs;
      const cpu = process.cpuUsage();
      const cpuMs = (cpu.user + cpu.system) / 1_000;
      const sums = [...totals].map(([name, value]) => `${value} ${name}`).join(", ");
      console.log(
        `${done} histories from seed ${from}, ${failedCount} failed: ${Math.round((done / elapsedMs) * 60_000)} a minute, ` +
          `${Math.round(cpuMs / done)} ms of CPU each, ${Math.round(virtualMs / 3_600_000)} h of virtual time, ${sums}`,
      );
    }
  }
  return failedCount > 0 ? 1 : 0;
}

async function runInProcesses(
  kind: Kind,
  { seeds, from, jobs, extent }: Omit<How, "trace"> & { seeds: number; from: number; jobs: number },
): Promise<number> {
  const share = Math.ceil(seeds / jobs);
  const codes = Array.from({ length: jobs }, (_, job) => {
    const first = from + job * share;
    const own = Math.min(share, from + seeds - first);
    return own <= 0
      ? Promise.resolve(0)
      : runProcess([
          kind,
          "--seeds",
          `${own}`,
          "--from",
          `${first}`,
          ...(extent === undefined ? [] : ["--extent", extent]),
        ]);
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

function clusterSummary({
  seed,
  plan,
  violations,
  digest,
  events,
  requests,
  ...rest
}: ClusterResult): string {
  const [first] = violations;
  const verdict = first === undefined ? "ok" : `FAILED ${first.rule}: ${first.text}`;
  return (
    `seed ${seed} digest ${digest}: ${plan.day} day, ${plan.managers} managers, ${plan.workers} workers, ` +
    `${events} events, ${requests} requests, ${Math.round(rest.virtualMs)} ms of virtual time (settled in ${Math.round(rest.settledMs)}): ${verdict}`
  );
}

function summary({ seed, plan, violations, digest, events, operations, virtualMs }: RaftResult): string {
  const { founders, hosts, network } = plan;
  const [first] = violations;
  const verdict = first === undefined ? "ok" : `FAILED ${first.rule}: ${first.text}`;
  return (
    `seed ${seed} digest ${digest}: ${founders} founders of ${hosts} managers, ${network.kind} network, ` +
    `${events} events, ${operations} operations of clients, ${Math.round(virtualMs)} ms of virtual time: ${verdict}`
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
