import { Command, InvalidArgumentError, Option } from "commander";
import { readFile, writeFile } from "node:fs/promises";
import type { ClusterFile } from "../lab/lab.ts";
import { type ApiBenchOptions, apiTable, benchApi } from "./api.ts";
import { benchCluster, type ClusterBenchOptions } from "./cluster.ts";
import { comparisonTable } from "./comparison.ts";
import { drive } from "./drive.ts";
import { benchEngine, type EngineBenchOptions, engineParts } from "./engine.ts";
import { benchLeaderLoss } from "./leader-loss.ts";
import { benchNetwork, type NetworkBenchOptions, networkParts } from "./network.ts";
import { benchRaft, raftTable, type RaftBenchOptions } from "./raft.ts";
import { benchCore } from "./raft-core.ts";
import { benchStalls } from "./raft-stalls.ts";
import { benchStorage, type StorageBenchOptions } from "./raft-storage.ts";
import { machine, markdownTable } from "./report.ts";
import { benchLoops, loopsTable, type LoopsBenchOptions } from "./scale-loops.ts";
import { benchScale, figuresTable, type ScaleBenchOptions, scaleSteps } from "./scale.ts";
import { benchScheduler, schedulerTable, type SchedulerBenchOptions } from "./scheduler.ts";

interface Flags {
  readonly managers: number;
  readonly workers: number;
  readonly replicas: number;
  readonly scale: number;
  readonly rounds: number;
  readonly overlay?: "dnsrr" | "vip";
  readonly kill: boolean;
  readonly docker: ClusterBenchOptions["docker"];
  readonly cluster?: string;
  readonly markdown?: string;
}

const coreEntries = 300_000;

const program = new Command("bench").description("figures, side by side with what else there is");

program
  .command("cluster")
  .description("deploy, scale, update and lose hosts; beside Docker Swarm where dockerd is installed")
  .option("--managers <n>", "", count, 3)
  .option("--workers <n>", "", count, 2)
  .option("--replicas <n>", "of the first deployment", count, 50)
  .option("--scale <n>", "scaled up to", count, 150)
  .option("--rounds <n>", "each in fresh clusters; medians are printed", count, 1)
  .addOption(new Option("--overlay <mode>", "tasks on an overlay network").choices(["dnsrr", "vip"]))
  .option("--no-kill", "lose no host")
  .addOption(new Option("--docker <when>", "").choices(["auto", "only", "never"]).default("auto"))
  .option("--cluster <file>", "measure a cluster that is up, by its cluster.json; its hosts are killed")
  .option("--markdown <file>", "also write the table there")
  .action(async ({ overlay, cluster, markdown, ...flags }: Flags) => {
    const options: ClusterBenchOptions = { ...flags, network: overlay ?? "host" };
    const say = (line: string): void => console.log(line);
    const columns =
      cluster === undefined ? await benchCluster(options, say) : [await driveFile(cluster, options, say)];
    const network = overlay === undefined ? "on the hosts' network" : `on an overlay (${overlay})`;
    const rounds = flags.rounds === 1 ? "one round" : `medians of ${flags.rounds} rounds`;
    const note = `${flags.managers} managers and ${flags.workers} workers on one machine (${machine()}), tasks ${network}, ${rounds}.`;
    const table = markdownTable(columns, note);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, `# Figures\n\n${table}`);
    if (columns.some(({ figures }) => Object.values(figures).some(Number.isNaN))) process.exitCode = 1;
  });

program
  .command("engine")
  .description("containers and images of one host, beside Docker's where dockerd is installed")
  .option("--parts <names>", `any of ${engineParts.join(",")}`, listOf(engineParts), [...engineParts])
  .option("--rounds <n>", "in turn; medians are printed", count, 3)
  .option("--minutes <n>", "no round begins that would last longer", count, 10)
  .addOption(new Option("--docker <when>", "").choices(["auto", "never"]).default("auto"))
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: EngineBenchOptions & { markdown?: string }) => {
    const rows = await benchEngine(options, (line) => console.log(line));
    const note = `One host each, as namespaces of one machine (${machine()}), medians of up to ${options.rounds} rounds.`;
    const table = comparisonTable(rows, note);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("network")
  .description("overlay, virtual IPs, mesh and names between hosts that are namespaces; needs iperf3")
  .option("--parts <names>", `any of ${networkParts.join(",")}`, listOf(networkParts), [...networkParts])
  .option("--seconds <n>", "of each throughput", count, 3)
  .option("--rounds <n>", "in turn; medians are printed", count, 3)
  .option("--services <n>", "that virtual IP and mesh are measured among", count, 1_000)
  .option("--minutes <n>", "within which it ends", count, 10)
  .addOption(new Option("--docker <when>", "Docker's overlay").choices(["auto", "never"]).default("auto"))
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: NetworkBenchOptions & { markdown?: string }) => {
    const rows = await benchNetwork(options, (line) => console.log(line));
    const note = `Three hosts in namespaces of one machine (${machine()}), medians of up to ${options.rounds} rounds.`;
    const table = comparisonTable(rows, note);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

interface RaftFlags extends Omit<RaftBenchOptions, "inFlight" | "contenders" | "profile"> {
  readonly inFlight: readonly number[];
  readonly only?: "shoal" | "etcd";
  readonly profile?: string;
  readonly markdown?: string;
}

program
  .command("raft")
  .description("proposals per second of three members, beside etcd where it is installed")
  .option("--rounds <n>", "in turn; medians are printed", count, 5)
  .option("--seconds <n>", "of each load", count, 8)
  .option("--in-flight <list>", "proposals under way", counts, [1, 64, 1000])
  .addOption(new Option("--only <contender>", "leave the other one out").choices(["shoal", "etcd"]))
  .option("--profile <directory>", "for V8 profiles of our members' threads")
  .option("--markdown <file>", "also write the table there")
  .action(async ({ only, profile, markdown, ...flags }: RaftFlags) => {
    const contenders = only === undefined ? (["shoal", "etcd"] as const) : [only];
    const rows = await benchRaft({ ...flags, contenders, profile }, (line) => console.log(line));
    const note = `Medians of ${flags.rounds} rounds of ${flags.seconds} s, three members on one machine (${machine()}).`;
    const table = raftTable(rows, note);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("api")
  .description("writes through the REST API of a leader: its managers and a front door, or whole hosts")
  .option("--managers <n>", "", count, 3)
  .option("--clients <list>", "requests under way", counts, [1, 64])
  .option("--seconds <n>", "of each load", count, 8)
  .option("--rounds <n>", "in turn; medians are printed", count, 3)
  .addOption(new Option("--place <where>", "").choices(["processes", "lab"]).default("processes"))
  .option("--profile <directory>", "for V8 profiles of the processes")
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: ApiBenchOptions & { readonly markdown?: string }) => {
    const rows = await benchApi(options, (line) => console.log(line));
    const where = options.place === "lab" ? "hosts in the lab" : "processes";
    const load = `medians of ${options.rounds} rounds of ${options.seconds} s, the load on the same machine`;
    const table = apiTable(rows, `Leader of ${options.managers} managers, ${where} (${machine()}), ${load}.`);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("raft-core")
  .description("raft-ts alone: a group in this process, storage in memory, nothing but the core")
  .option("--members <n>", "", count, 3)
  .option("--entry-bytes <n>", "", count, 256)
  .option("--batch <n>", "proposals between two looks at the work", count, 64)
  .option("--rounds <n>", "after one to warm up", count, 5)
  .action(({ members, entryBytes, batch, rounds }: Record<string, number>) => {
    const options = { members: members ?? 3, entryBytes: entryBytes ?? 256, batch: batch ?? 64 };
    const results = benchCore({ ...options, rounds: rounds ?? 5, entries: coreEntries });
    for (const { entries, cpuSeconds, entriesPerCpuSecond } of results) {
      console.log(
        `${entries} entries in ${cpuSeconds.toFixed(2)} CPU-s: ${Math.round(entriesPerCpuSecond)} entries/CPU-s`,
      );
    }
    const rates = results.map(({ entriesPerCpuSecond }) => entriesPerCpuSecond).toSorted((a, b) => a - b);
    const median = Math.round(rates[Math.floor(rates.length / 2)] ?? Number.NaN);
    console.log(
      `median ${median} entries per CPU-second, ${options.members} members, ${options.entryBytes}-byte entries, ` +
        `batches of ${options.batch} (${machine()})`,
    );
  });

program
  .command("raft-storage")
  .description("log and snapshots of one member: appends, restarts, a large snapshot")
  .option("--entries <n>", "in the log of a restart", amount, 1_000_000)
  .option("--entry-bytes <n>", "", count, 256)
  .option("--snapshot-mib <n>", "", count, 1024)
  .option("--seconds <n>", "of each load on the log", count, 5)
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: StorageBenchOptions & { readonly markdown?: string }) => {
    const table = await benchStorage(options, (line) => console.log(line));
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("scheduler")
  .description("the placement engine alone, on one core")
  .option("--nodes <n>", "", count, 10_000)
  .option("--services <n>", "", count, 1000)
  .option("--replicas <n>", "of each service", count, 1000)
  .option("--decisions <n>", "single placements, timed one by one", count, 20_000)
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: SchedulerBenchOptions & { readonly markdown?: string }) => {
    const figures = benchScheduler(options, (line) => console.log(line));
    const table = `${schedulerTable(options, figures)}\nOne core (${machine()}).\n`;
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("scale")
  .description(
    "whole clusters with thousands of simulated workers: real managers and sessions, no containers",
  )
  .option("--managers <n>", "", count, 3)
  .option("--workers <n>", "", count, 50)
  .option("--services <n>", "", count, 10)
  .option("--replicas <n>", "of each service", count, 100)
  .option("--timeout-seconds <n>", "of each step", count, 400)
  .option("--steps <names>", `any of ${scaleSteps.join(",")}`, listOf(scaleSteps), [...scaleSteps].slice(1))
  .option("--profile <directory>", "for V8 profiles of all processes")
  .option("--markdown <file>", "also write the table there")
  .action(async ({ markdown, ...options }: ScaleBenchOptions & { readonly markdown?: string }) => {
    const figures = await benchScale(options, (line) => console.log(line));
    const table = figuresTable(figures, `${options.managers} managers on one machine (${machine()}).`);
    console.log(`\n${table}`);
    if (markdown !== undefined) await writeFile(markdown, table);
  });

program
  .command("scale-loops")
  .description(
    "the leader's loops alone on one core, and a follower's store: processor time and memory for a task",
  )
  .option("--workers <n>", "", count, 1_000)
  .option("--services <n>", "", count, 50)
  .option("--replicas <n>", "of each service", count, 1_000)
  .action(async (options: LoopsBenchOptions) => console.log(loopsTable(await benchLoops(options))));

program
  .command("raft-stalls")
  .description(
    "elections while the main thread of each member is blocked again and again; there should be none",
  )
  .option("--minutes <n>", "", count, 10)
  .option("--every <ms>", "", count, 1000)
  .option("--for <ms>", "", count, 300)
  .action(async (flags: { minutes: number; every: number; for: number }) => {
    const options = { minutes: flags.minutes, everyMs: flags.every, forMs: flags.for };
    const elections = await benchStalls(options, (line) => console.log(line));
    if (elections > 0) process.exitCode = 1;
  });

program
  .command("leader-loss")
  .description("the host of the leader loses power: time to the next write, in the lab")
  .option("--rounds <n>", "each begins with three managers", count, 200)
  .action(async ({ rounds }: { rounds: number }) => {
    const taken = await benchLeaderLoss(rounds, (line) => console.log(line));
    const sorted = taken.toSorted((a, b) => a - b);
    const at = (part: number): string => (sorted[Math.floor((sorted.length - 1) * part)] ?? 0).toFixed(0);
    console.log(
      `${rounds} rounds: p50 ${at(0.5)} ms, p90 ${at(0.9)} ms, p99 ${at(0.99)} ms, longest ${at(1)} ms`,
    );
  });

try {
  await program.parseAsync();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

async function driveFile(
  file: string,
  options: ClusterBenchOptions,
  say: (line: string) => void,
): Promise<{ title: string; figures: Awaited<ReturnType<typeof drive>> }> {
  const cluster = JSON.parse(await readFile(file, "utf8")) as ClusterFile;
  const figures = await drive(cluster, options, (name, seconds) => say(`  ${name} ${seconds.toFixed(3)}`));
  return { title: cluster.name, figures };
}

/** Such as "1,64,1000". */
function counts(value: string): number[] {
  return value.split(",").map(count);
}

function listOf<Name extends string>(names: readonly Name[]): (value: string) => Name[] {
  return (value) =>
    value.split(",").map((each) => {
      const name = names.find((known) => known === each);
      if (name === undefined) throw new InvalidArgumentError(`any of ${names.join(",")} is accepted.`);
      return name;
    });
}

function count(value: string): number {
  if (!/^\d{1,5}$/.test(value)) throw new InvalidArgumentError("a whole number is accepted.");
  return Number(value);
}

function amount(value: string): number {
  if (!/^\d{1,8}$/.test(value)) throw new InvalidArgumentError("a whole number is accepted.");
  return Number(value);
}
