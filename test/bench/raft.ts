import { EtcdGroup, etcdMissing } from "./raft-etcd.ts";
import { BenchGroup, cpuSeconds } from "./raft-group.ts";
import { median } from "./report.ts";

export interface RaftBenchOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly inFlight: readonly number[];
  readonly contenders: readonly ("shoal" | "etcd")[];
  /** Members write a V8 profile of every thread into this directory when they end. */
  readonly profile: string | undefined;
}

export interface LoadFigures {
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly meanMs: number;
  readonly p99Ms: number;
  /** Of the three members together, the client left out where it is a process of its own. */
  readonly cpuUsPerCommit: number;
  /** Durable writes of the leader's log. */
  readonly syncsPerCommit: number;
}

export interface RaftRow extends LoadFigures {
  readonly contender: "shoal" | "etcd";
  readonly inFlight: number;
}

const proposalBytes = 256;
/**
 * V8 compiles what has run often: a process of hours has, so the members have before they are measured. With one at a
 * time that takes longest.
 */
const warmups = [
  { inFlight: 64, bytes: proposalBytes, ms: 6_000 },
  { inFlight: 1, bytes: proposalBytes, ms: 6_000 },
] as const;
const settleMs = 500;

/** Proposals per second and their latency, ours and etcd's in turn. */
export async function benchRaft(
  options: RaftBenchOptions,
  say: (line: string) => void,
): Promise<readonly RaftRow[]> {
  const missing = etcdMissing();
  const contenders = options.contenders.filter((name) => name !== "etcd" || missing === undefined);
  if (missing !== undefined) {
    say(`bench: without etcd beside it: ${missing} not found; install etcd-server and nghttp2-client`);
  }
  const taken: RaftRow[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    for (const contender of contenders) {
      const rows = contender === "shoal" ? await loadShoal(options) : await loadEtcd(options);
      for (const row of rows) say(`round ${round}: ${printRow(row)}`);
      taken.push(...rows);
    }
  }
  return contenders.flatMap((contender) =>
    options.inFlight.map((inFlight) =>
      medianRow(taken.filter((row) => row.contender === contender && row.inFlight === inFlight)),
    ),
  );
}

async function loadShoal({ seconds, inFlight: counts, profile }: RaftBenchOptions): Promise<RaftRow[]> {
  const execArgv = profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`];
  await using group = await BenchGroup.start(execArgv);
  const leader = await group.leader();
  const pids = group.members.map(({ pid }) => pid);
  const rows: RaftRow[] = [];
  for (const warmup of warmups) await leader.load(warmup);
  for (const inFlight of counts) {
    await leader.load({ inFlight, bytes: proposalBytes, ms: settleMs });
    const before = { cpu: await cpuSeconds(pids), view: await leader.look() };
    const result = await leader.load({ inFlight, bytes: proposalBytes, ms: seconds * 1000 });
    const after = { cpu: await cpuSeconds(pids), view: await leader.look() };
    rows.push({
      contender: "shoal",
      inFlight,
      perSecond: result.count / result.seconds,
      p50Ms: result.p50Ms,
      meanMs: (inFlight * result.seconds * 1000) / result.count,
      p99Ms: result.p99Ms,
      cpuUsPerCommit: ((after.cpu - before.cpu) * 1e6) / result.count,
      syncsPerCommit: (after.view.logSyncs - before.view.logSyncs) / result.count,
    });
  }
  return rows;
}

async function loadEtcd({ seconds, inFlight: counts }: RaftBenchOptions): Promise<RaftRow[]> {
  await using group = await EtcdGroup.start();
  const rows: RaftRow[] = [];
  for (const inFlight of counts) {
    const figures = await group.load({ inFlight, bytes: proposalBytes, seconds });
    rows.push({ contender: "etcd", inFlight, ...figures });
  }
  return rows;
}

function medianRow(rows: readonly RaftRow[]): RaftRow {
  const [first] = rows;
  if (first === undefined) throw new Error("assertion failed: a row was not measured");
  const of = (name: keyof LoadFigures): number => median(rows.map((row) => row[name]));
  return {
    contender: first.contender,
    inFlight: first.inFlight,
    perSecond: of("perSecond"),
    p50Ms: of("p50Ms"),
    meanMs: of("meanMs"),
    p99Ms: of("p99Ms"),
    cpuUsPerCommit: of("cpuUsPerCommit"),
    syncsPerCommit: of("syncsPerCommit"),
  };
}

function printRow(row: RaftRow): string {
  return (
    `${row.contender} ${row.inFlight} in flight: ${row.perSecond.toFixed(0)}/s p50 ${row.p50Ms.toFixed(2)} ms ` +
    `mean ${row.meanMs.toFixed(2)} ms p99 ${row.p99Ms.toFixed(2)} ms ${row.cpuUsPerCommit.toFixed(1)} us/commit ` +
    `${row.syncsPerCommit.toFixed(3)} syncs/commit`
  );
}

/** The rows as Markdown, ours beside etcd's. */
export function raftTable(rows: readonly RaftRow[], note: string): string {
  const lines = rows
    .toSorted((a, b) => a.inFlight - b.inFlight)
    .map((row) =>
      [
        row.inFlight,
        row.contender === "shoal" ? "Shoal" : "etcd",
        row.perSecond.toFixed(0),
        row.p50Ms.toFixed(2),
        row.meanMs.toFixed(2),
        row.p99Ms.toFixed(2),
        row.cpuUsPerCommit.toFixed(1),
        row.syncsPerCommit.toFixed(3),
      ].join(" | "),
    );
  const head = [
    "in flight",
    "who",
    "commits/s",
    "p50 ms",
    "mean ms",
    "p99 ms",
    "CPU µs/commit",
    "fsyncs/commit",
  ];
  return [
    note,
    "",
    `| ${head.join(" | ")} |`,
    "|--:|---|--:|--:|--:|--:|--:|--:|",
    ...lines.map((line) => `| ${line} |`),
    "",
  ].join("\n");
}
