/** Whole clusters with thousands of simulated workers: real managers, real sessions, no containers. */
import { call } from "../lab/api.ts";
import { sleep } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import {
  type Deployment,
  mebibyte,
  type Sample,
  type Say,
  ScaleCluster,
  type ScaleClusterOptions,
  secondsSince,
  type Spending,
} from "./scale-cluster.ts";
import { cpuSeconds } from "./raft-group.ts";
import { measureLists } from "./scale-lists.ts";
import { residentBytes } from "./scale-managers.ts";

export const scaleSteps = ["connect", "deploy", "global", "heartbeats", "lists", "failover"] as const;
export type ScaleStep = (typeof scaleSteps)[number];

export interface ScaleBenchOptions extends ScaleClusterOptions {
  readonly services: number;
  /** Of each service. */
  readonly replicas: number;
  /** Those asked for, carried out in the order of `scaleSteps`. */
  readonly steps: readonly ScaleStep[];
}

export interface Figure {
  readonly what: string;
  readonly value: string;
}

const listRounds = 5;
const settleMs = 5_000;
const quietSeconds = 10;
/** Workers that are connected when the leader is killed under those that are connecting. */
const killAfterShare = 0.3;

/** Carries out the steps one after another; one that fails is a figure too, and the next one follows. */
export async function benchScale(options: ScaleBenchOptions, say: Say): Promise<Figure[]> {
  await using cluster = await ScaleCluster.start(options, say);
  const figures: Figure[] = [];
  // As they come, so that what fails later does not take them along.
  const note = (more: readonly Figure[]): void => {
    for (const figure of more) {
      say(`  ${figure.what}: ${figure.value}`);
      figures.push(figure);
    }
  };
  if (!options.steps.includes("connect")) say(`all connected in ${(await cluster.connect()).toFixed(1)} s`);
  for (const step of scaleSteps.filter((each) => options.steps.includes(each))) {
    try {
      await carryOut(step, cluster, options, note);
    } catch (error) {
      note([{ what: `${step} failed`, value: error instanceof Error ? error.message : String(error) }]);
    }
  }
  return figures;
}

type Note = (figures: readonly Figure[]) => void;

async function carryOut(
  step: ScaleStep,
  cluster: ScaleCluster,
  options: ScaleBenchOptions,
  note: Note,
): Promise<void> {
  const { services, replicas, workers } = options;
  switch (step) {
    case "connect":
      return note(await connectFigures(cluster, workers));
    case "deploy": {
      const tasks = services * replicas;
      const mode = { Replicated: { Replicas: replicas } };
      const { result, spending } = await cluster.spend(() => cluster.deploy(services, mode, tasks));
      note(deploymentFigures(`${services} × ${replicas} tasks onto ${workers} workers`, result));
      note(spendingFigures(spending, lastOf(result).running));
      return note(await memoryFigures(cluster));
    }
    case "global": {
      const { result, spending } = await cluster.spend(() => cluster.deploy(1, { Global: {} }, workers));
      note(deploymentFigures(`a global service on ${workers} workers`, result));
      return note(spendingFigures(spending, workers));
    }
    case "heartbeats":
      return note([await heartbeatFigure(cluster, workers)]);
    case "lists":
      return note(await listFigures(cluster));
    case "failover":
      return note(await failoverFigures(cluster, workers));
  }
}

/** All workers ask for a session at once, and the leader dies among them. */
async function connectFigures(cluster: ScaleCluster, workers: number): Promise<Figure[]> {
  const startMs = performance.now();
  const connecting = cluster.connect();
  connecting.catch(() => undefined); // Awaited below.
  await cluster.watch("the first are connected", ({ connected }) => connected >= workers * killAfterShare);
  const killedSeconds = secondsSince(startMs);
  await (await cluster.leader()).kill();
  // No next leader has taken anyone in yet: whoever was connected is, or was.
  const atKill = await cluster.workers.ask({ kind: "look" });
  const hadSessions = atKill.connected + atKill.lost;
  await cluster.watch("the leader's loss is noticed", ({ lost }) => lost >= hadSessions);
  await cluster.watch(`${workers} connected`, ({ connected }) => connected === workers);
  await connecting;
  const seconds = secondsSince(startMs);
  await sleep(settleMs);
  return [
    {
      what: `${workers} workers connected, the leader killed after ${killedSeconds.toFixed(1)} s`,
      value: `${seconds.toFixed(1)} s`,
    },
    await lossFigure(cluster, workers, hadSessions),
  ];
}

async function listFigures(cluster: ScaleCluster): Promise<Figure[]> {
  const leader = await cluster.leader();
  await leader.probe();
  const lists = await measureLists(leader.socket, "service-1", listRounds);
  const delay = await leader.probe();
  return [
    ...lists.map(({ name, firstByteMs, wholeMs }) => ({
      what: `${name} while 1,000 tasks a second come or go: longest until the first byte, and to the end`,
      value: `${firstByteMs.toFixed(0)} ms, ${wholeMs.toFixed(0)} ms`,
    })),
    {
      what: "leader's main thread late meanwhile, p99 and longest",
      value: `${delay.delayP99Ms.toFixed(0)} ms, ${delay.delayMaxMs.toFixed(0)} ms`,
    },
  ];
}

/** Nothing else happens: what the leader then does is to hear its workers. */
async function heartbeatFigure(cluster: ScaleCluster, workers: number): Promise<Figure> {
  await sleep(settleMs);
  const { pid } = await cluster.leader();
  const before = await cpuSeconds([pid]);
  await sleep(quietSeconds * 1_000);
  const share = ((await cpuSeconds([pid])) - before) / quietSeconds;
  return {
    what: `leader with ${workers} idle workers: share of one core`,
    value: `${(share * 100).toFixed(0)} %`,
  };
}

/** The leader is killed; all workers find the next one, and nothing of theirs is lost. */
async function failoverFigures(cluster: ScaleCluster, workers: number): Promise<Figure[]> {
  const before = await cluster.workers.ask({ kind: "look" });
  const startMs = performance.now();
  await (await cluster.leader()).kill();
  await cluster.watch("all workers have left the killed leader", ({ lost }) => lost - before.lost >= workers);
  await cluster.watch(`${workers} connected again`, ({ connected }) => connected === workers);
  const seconds = secondsSince(startMs);
  await sleep(settleMs);
  return [
    {
      what: `leader killed: all ${workers} workers connected to the next one`,
      value: `${seconds.toFixed(1)} s`,
    },
    await lossFigure(cluster, workers, before.lost + workers),
  ];
}

/** @param expectedLost - Sessions that ended with their leader. */
async function lossFigure(cluster: ScaleCluster, workers: number, expectedLost: number): Promise<Figure> {
  const { connected, lost } = await cluster.workers.ask({ kind: "look" });
  const nodes = await call<NodeSummary[]>((await cluster.leader()).socket, "GET", "/nodes");
  const notReady = nodes.filter(({ Spec, Status }) => Spec.Role === "worker" && Status.State !== "ready");
  return {
    what: "sessions that ended besides, workers without one, and workers not ready, a few seconds later",
    value: `${lost - expectedLost}, ${workers - connected}, ${notReady.length}`,
  };
}

function deploymentFigures(what: string, deployment: Deployment): Figure[] {
  const { createdSeconds, tasks, samples, delay, failure } = deployment;
  const last = lastOf(deployment);
  const assigned = whenReached(samples, "assigned", tasks);
  const running = whenReached(samples, "running", tasks);
  const pace = (of: "assigned" | "running"): string =>
    (tenth(samples, of, tasks, 0) / tenth(samples, of, tasks, 9)).toFixed(2);
  return [
    { what: `${what}: services created`, value: `${createdSeconds.toFixed(1)} s` },
    ...(failure === undefined ? [] : [{ what: "not all", value: failure }]),
    { what: "all assigned, committed and told to their workers", value: `${assigned.toFixed(1)} s` },
    { what: "all reported running, and that committed", value: `${running.toFixed(1)} s` },
    {
      what: "at the end: seconds, assigned, running",
      value: `${last.seconds.toFixed(1)} s, ${last.assigned}, ${last.running} of ${tasks}`,
    },
    {
      what: "pace of the last tenth to that of the first: assigned, running",
      value: `${pace("assigned")}, ${pace("running")}`,
    },
    {
      what: "leader's main thread late, p99 and longest",
      value: `${delay.delayP99Ms.toFixed(0)} ms, ${delay.delayMaxMs.toFixed(0)} ms`,
    },
    {
      what: "longest garbage collection there, and all",
      value: `${delay.longestGcMs.toFixed(0)} ms, ${(delay.gcMs / 1000).toFixed(1)} s`,
    },
  ];
}

function spendingFigures(spending: Spending, tasks: number): Figure[] {
  const perTask = (seconds: number): string => `${((seconds * 1e6) / tasks).toFixed(0)} µs`;
  const all = spending.reduce((sum, { time }) => sum + time.main + time.others, 0);
  return [
    ...spending.map(({ who, time }) => ({
      what: `processor time a task, ${who}: main thread, all others`,
      value: `${perTask(time.main)}, ${perTask(time.others)}`,
    })),
    { what: "processor time a task, everything", value: perTask(all) },
  ];
}

async function memoryFigures(cluster: ScaleCluster): Promise<Figure[]> {
  const leader = await cluster.leader();
  const ofLeader = await residentBytes(leader.pid);
  const others = cluster.managers.running.filter((manager) => manager !== leader);
  const peaks = await Promise.all(others.map(async ({ pid }) => (await residentBytes(pid)).peak));
  const { heapBytes } = await leader.probe();
  const print = (bytes: number): string => `${Math.round(bytes / mebibyte).toLocaleString("en")} MiB`;
  return [
    {
      what: "leader's memory: at the end, most, main heap",
      value: [ofLeader.now, ofLeader.peak, heapBytes].map(print).join(", "),
    },
    { what: "followers' memory, most", value: peaks.map(print).join(", ") },
  ];
}

function lastOf({ samples }: Deployment): Sample {
  return samples.at(-1) ?? { seconds: 0, assigned: 0, running: 0 };
}

/** When so many were there for the first time, between two samples by proportion. */
function whenReached(samples: readonly Sample[], of: "assigned" | "running", count: number): number {
  const at = samples.findIndex((sample) => sample[of] >= count);
  const after = samples[at];
  const before = samples[at - 1];
  if (after === undefined) return Number.NaN;
  if (before === undefined || after[of] === before[of]) return after.seconds;
  const share = (count - before[of]) / (after[of] - before[of]);
  return before.seconds + share * (after.seconds - before.seconds);
}

/** How long that tenth of all took. */
function tenth(samples: readonly Sample[], of: "assigned" | "running", count: number, which: number): number {
  const first = samples[0]?.[of] ?? 0;
  const at = (part: number): number =>
    whenReached(samples, of, Math.ceil(first + ((count - first) * part) / 10));
  return at(which + 1) - at(which);
}

export function figuresTable(figures: readonly Figure[], note: string): string {
  const rows = figures.map(({ what, value }) => `| ${what} | ${value} |`);
  return `${note}\n\n| figure | result |\n|---|--:|\n${rows.join("\n")}\n`;
}
