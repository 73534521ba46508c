/** Whole clusters with thousands of simulated workers: real managers, real sessions, no containers. */
import { type ChildProcess, fork } from "node:child_process";
import { call } from "../lab/api.ts";
import { sleep } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import { measureLists } from "./scale-lists.ts";
import { cpuSeconds } from "./raft-group.ts";
import { BenchManagers, type ManagerProcess, residentBytes } from "./scale-managers.ts";
import type { ProbeAnswer } from "./scale-probe.ts";
import type { WorkersAnswer, WorkersRequest, WorkersView } from "./scale-workers.ts";

export interface ScaleBenchOptions {
  readonly managers: number;
  readonly workers: number;
  readonly services: number;
  /** Of each service. */
  readonly replicas: number;
  /** Directory for V8 profiles of the managers. */
  readonly profile?: string | undefined;
  /** A step that takes longer has failed. */
  readonly timeoutSeconds: number;
}

export interface Figure {
  readonly what: string;
  readonly value: string;
}

type Say = (line: string) => void;

const lookEveryMs = 100;
const sayEveryMs = 5_000;
const createsUnderWay = 8;
const mebibyte = 2 ** 20;
const listRounds = 5;
const settleMs = 5_000;
const quietSeconds = 10;

/** Deploys all services at once, waits until every task runs, then does the same with one global service. */
export async function benchScale(options: ScaleBenchOptions, say: Say): Promise<Figure[]> {
  await using cluster = await ScaleCluster.start(options, say);
  const { services, replicas, workers } = options;
  const tasks = services * replicas;
  const figures: Figure[] = [];
  // As they come, so that what fails later does not take them along.
  const note = (more: readonly Figure[]): void => {
    for (const figure of more) {
      say(`  ${figure.what}: ${figure.value}`);
      figures.push(figure);
    }
  };
  const replicated = { Replicated: { Replicas: replicas } };
  const spent = await cluster.spend(() => cluster.deploy(services, replicated, tasks));
  note(deploymentFigures(`${services} × ${replicas} tasks onto ${workers} workers`, spent.result));
  note([{ what: "processor time of all managers", value: `${spent.cpuSeconds.toFixed(1)} s` }]);
  note(await cluster.memoryFigures());
  const global = await cluster.deploy(1, { Global: {} }, tasks + workers);
  note(deploymentFigures(`a global service on ${workers} workers`, global).slice(0, 3));
  note([await heartbeatFigure(cluster, workers)]);
  note(await listFigures(cluster));
  note(await failoverFigures(cluster, workers));
  return figures;
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
  const { connected, lost } = await cluster.workers.ask({ kind: "look" });
  const nodes = await call<NodeSummary[]>((await cluster.leader()).socket, "GET", "/nodes");
  const notReady = nodes.filter(({ Spec, Status }) => Spec.Role === "worker" && Status.State !== "ready");
  return [
    {
      what: `leader killed: all ${workers} workers connected to the next one`,
      value: `${seconds.toFixed(1)} s`,
    },
    {
      what: "sessions that ended besides, workers without one, and workers not ready, a few seconds later",
      value: `${lost - before.lost - workers}, ${workers - connected}, ${notReady.length}`,
    },
  ];
}

/** When how many were there. */
interface Sample {
  readonly seconds: number;
  readonly assigned: number;
  readonly running: number;
}

interface Deployment {
  readonly createdSeconds: number;
  readonly tasks: number;
  readonly samples: readonly Sample[];
  readonly delay: ProbeAnswer;
}

function deploymentFigures(what: string, { createdSeconds, tasks, samples, delay }: Deployment): Figure[] {
  const assigned = whenReached(samples, "assigned", tasks);
  const running = whenReached(samples, "running", tasks);
  const pace = (of: "assigned" | "running"): string =>
    (tenth(samples, of, tasks, 0) / tenth(samples, of, tasks, 9)).toFixed(2);
  return [
    { what: `${what}: services created`, value: `${createdSeconds.toFixed(1)} s` },
    { what: "all assigned, committed and told to their workers", value: `${assigned.toFixed(1)} s` },
    { what: "all reported running, and that committed", value: `${running.toFixed(1)} s` },
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

export class ScaleCluster implements AsyncDisposable {
  readonly managers: BenchManagers;
  readonly workers: WorkersProcess;
  readonly #options: Pick<ScaleBenchOptions, "timeoutSeconds">;
  readonly #say: Say;
  #leader: ManagerProcess | undefined;
  #created = 0;

  private constructor(
    managers: BenchManagers,
    workers: WorkersProcess,
    options: Pick<ScaleBenchOptions, "timeoutSeconds">,
    say: Say,
  ) {
    this.managers = managers;
    this.workers = workers;
    this.#options = options;
    this.#say = say;
  }

  /** Managers that form a cluster, and workers that have certificates and are connected. */
  static async start(
    options: Pick<ScaleBenchOptions, "managers" | "workers" | "profile" | "timeoutSeconds">,
    say: Say,
    connect: "connected" | "certified" = "connected",
  ): Promise<ScaleCluster> {
    const { profile } = options;
    const execArgv = profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`];
    const managers = await BenchManagers.start(options.managers, execArgv);
    const workers = new WorkersProcess();
    const cluster = new ScaleCluster(managers, workers, options, say);
    try {
      let startMs = performance.now();
      await workers.ask({
        kind: "certify",
        count: options.workers,
        token: managers.workerToken,
        rootPem: managers.rootPem,
        managers: managers.addresses,
      });
      say(`${options.workers} certificates in ${secondsSince(startMs).toFixed(1)} s`);
      if (connect === "certified") return cluster;
      startMs = performance.now();
      await workers.ask({ kind: "connect" });
      await cluster.watch(`${options.workers} connected`, ({ connected }) => connected === options.workers);
      say(`${options.workers} sessions in ${secondsSince(startMs).toFixed(1)} s`);
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  async leader(): Promise<ManagerProcess> {
    if (this.#leader === undefined || this.#leader.hasEnded) this.#leader = await this.managers.leader();
    return this.#leader;
  }

  /** Creates services of one mode and waits until so many tasks run. */
  async deploy(services: number, mode: unknown, tasks: number): Promise<Deployment> {
    const leader = await this.leader();
    await leader.probe();
    const startMs = performance.now();
    let left = services;
    const create = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        this.#created += 1;
        await call(leader.socket, "POST", "/services/create", {
          body: serviceSpec(`service-${this.#created}`, mode),
          timeoutMs: this.#options.timeoutSeconds * 1_000,
        });
      }
    };
    let createdSeconds = Number.NaN;
    const creating = Promise.all(Array.from({ length: createsUnderWay }, create)).then(() => {
      createdSeconds = secondsSince(startMs);
    });
    const samples: Sample[] = [];
    await Promise.all([
      creating,
      this.watch(`${tasks} tasks running`, ({ assigned, running }) => {
        samples.push({ seconds: secondsSince(startMs), assigned, running });
        return running >= tasks;
      }),
    ]);
    return { createdSeconds, tasks, samples, delay: await leader.probe() };
  }

  /** Looks at the workers until they are as wished. */
  async watch(what: string, isDone: (view: WorkersView) => boolean): Promise<void> {
    const startMs = performance.now();
    let saidMs = startMs;
    for (;;) {
      const view = await this.workers.ask({ kind: "look" });
      if (isDone(view)) return;
      const nowMs = performance.now();
      if (nowMs - startMs > this.#options.timeoutSeconds * 1_000) {
        throw new Error(`not in time: ${what}; last seen: ${JSON.stringify(view)}`);
      }
      if (nowMs - saidMs > sayEveryMs) {
        saidMs = nowMs;
        const leader = await this.leader();
        const memory = await residentBytes(leader.pid);
        const { connected, lost, assigned, running } = view;
        this.#say(
          `${secondsSince(startMs).toFixed(0)} s: ${connected} connected, ${lost} lost, ${assigned} assigned, ` +
            `${running} running, leader ${(memory.now / mebibyte).toFixed(0)} MiB`,
        );
      }
      await sleep(lookEveryMs);
    }
  }

  /** Runs `work` and counts the processor time of the managers. */
  async spend<T>(work: () => Promise<T>): Promise<{ readonly result: T; readonly cpuSeconds: number }> {
    const pids = this.managers.running.map(({ pid }) => pid);
    const before = await cpuSeconds(pids);
    const result = await work();
    return { result, cpuSeconds: (await cpuSeconds(pids)) - before };
  }

  async memoryFigures(): Promise<Figure[]> {
    const leader = await this.leader();
    const ofLeader = await residentBytes(leader.pid);
    const others = this.managers.running.filter((manager) => manager !== leader);
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

  async [Symbol.asyncDispose](): Promise<void> {
    await this.workers.end();
    await this.managers[Symbol.asyncDispose]();
  }
}

/** The parent's end of `scale-workers.ts`. One request at a time. */
class WorkersProcess {
  readonly #child: ChildProcess = fork(new URL("./scale-workers.js", import.meta.url), {
    execArgv: ["--max-old-space-size=8192"],
  });

  ask(request: WorkersRequest): Promise<WorkersView> {
    return new Promise((resolve, reject) => {
      const onExit = (): void =>
        reject(new Error(`the workers' process ended while asked to ${request.kind}`));
      this.#child.once("exit", onExit);
      this.#child.once("message", ({ view, error }: WorkersAnswer) => {
        this.#child.off("exit", onExit);
        if (error === undefined) resolve(view);
        else reject(new Error(error));
      });
      this.#child.send(request);
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await ended;
  }
}

function serviceSpec(name: string, mode: unknown): unknown {
  return {
    Name: name,
    TaskTemplate: {
      ContainerSpec: { Image: "registry.example/app:1", Command: ["/bin/server"], Env: ["MODE=production"] },
      Resources: { Reservations: { NanoCPUs: 10_000_000, MemoryBytes: 64 * mebibyte } },
    },
    Mode: mode,
  };
}

export function figuresTable(figures: readonly Figure[], note: string): string {
  const rows = figures.map(({ what, value }) => `| ${what} | ${value} |`);
  return `${note}\n\n| figure | result |\n|---|--:|\n${rows.join("\n")}\n`;
}

function secondsSince(startMs: number): number {
  return (performance.now() - startMs) / 1_000;
}
