import { type ChildProcess, fork } from "node:child_process";
import { call } from "../lab/api.ts";
import { sleep } from "../lab/shell.ts";
import { type ProcessorTime, processorTime, since } from "./scale-cpu.ts";
import { BenchManagers, type ManagerProcess, residentBytes } from "./scale-managers.ts";
import type { ProbeAnswer } from "./scale-probe.ts";
import type { WorkersAnswer, WorkersRequest, WorkersView } from "./scale-workers.ts";

export interface ScaleClusterOptions {
  readonly managers: number;
  readonly workers: number;
  /** Directory for V8 profiles of all processes. */
  readonly profile?: string | undefined;
  /** A step that takes longer has failed. */
  readonly timeoutSeconds: number;
}

export type Say = (line: string) => void;

/** When how many were there. */
export interface Sample {
  readonly seconds: number;
  readonly assigned: number;
  readonly running: number;
}

export interface Deployment {
  readonly createdSeconds: number;
  /** Tasks that are there in the end, with those that were there before. */
  readonly tasks: number;
  readonly samples: readonly Sample[];
  readonly delay: ProbeAnswer;
  /** Why it did not come to its end. */
  readonly failure: string | undefined;
}

/** Processor time that each process used, by its part. */
export type Spending = readonly { readonly who: string; readonly time: ProcessorTime }[];

const lookEveryMs = 100;
const sayEveryMs = 5_000;
const createsUnderWay = 8;
export const mebibyte = 2 ** 20;

/** Managers, each a process, that form a cluster, and one process with all its workers. */
export class ScaleCluster implements AsyncDisposable {
  readonly managers: BenchManagers;
  readonly workers: WorkersProcess;
  readonly #options: ScaleClusterOptions;
  readonly #say: Say;
  #leader: ManagerProcess | undefined;
  #created = 0;

  private constructor(
    managers: BenchManagers,
    workers: WorkersProcess,
    options: ScaleClusterOptions,
    say: Say,
  ) {
    this.managers = managers;
    this.workers = workers;
    this.#options = options;
    this.#say = say;
  }

  /** Workers have certificates then, and no sessions. */
  static async start(options: ScaleClusterOptions, say: Say): Promise<ScaleCluster> {
    const { profile } = options;
    const execArgv = profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`];
    const managers = await BenchManagers.start(options.managers, execArgv);
    const workers = new WorkersProcess(execArgv);
    const cluster = new ScaleCluster(managers, workers, options, say);
    try {
      const startMs = performance.now();
      await workers.ask({
        kind: "certify",
        count: options.workers,
        token: managers.workerToken,
        rootPem: managers.rootPem,
        managers: managers.addresses,
      });
      say(`${options.workers} certificates in ${secondsSince(startMs).toFixed(1)} s`);
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Opens a session for every worker. @returns How long that took, in seconds. */
  async connect(): Promise<number> {
    const startMs = performance.now();
    const connecting = this.workers.ask({ kind: "connect" });
    connecting.catch(() => undefined); // Awaited below, unless the watch fails first.
    await this.watch(
      `${this.#options.workers} connected`,
      ({ connected }) => connected === this.#options.workers,
    );
    await connecting;
    return secondsSince(startMs);
  }

  async leader(): Promise<ManagerProcess> {
    if (this.#leader === undefined || this.#leader.hasEnded) this.#leader = await this.managers.leader();
    return this.#leader;
  }

  /** Creates services of one mode and waits until so many more tasks run. */
  async deploy(services: number, mode: unknown, moreTasks: number): Promise<Deployment> {
    const tasks = (await this.workers.ask({ kind: "look" })).assigned + moreTasks;
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
    const watching = this.watch(`${tasks} tasks running`, ({ assigned, running }) => {
      samples.push({ seconds: secondsSince(startMs), assigned, running });
      return running >= tasks;
    });
    const failure = await Promise.all([creating, watching]).then(
      () => undefined,
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    );
    return { createdSeconds, tasks, samples, delay: await leader.probe(), failure };
  }

  /**
   * Looks at the workers until they are as wished.
   * @throws {Error} when that takes longer than a step may.
   */
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
        const { connected, lost, assigned, running } = view;
        this.#say(
          `${secondsSince(startMs).toFixed(0)} s: ${connected} connected, ${lost} lost, ${assigned} assigned, ` +
            `${running} running, ${await this.#leaderMemory()}`,
        );
      }
      await sleep(lookEveryMs);
    }
  }

  async #leaderMemory(): Promise<string> {
    if (this.#leader === undefined || this.#leader.hasEnded) return "no leader known";
    const { now } = await residentBytes(this.#leader.pid);
    return `leader ${(now / mebibyte).toFixed(0)} MiB`;
  }

  /** Runs `work` and counts the processor time of every process meanwhile. */
  async spend<T>(work: () => Promise<T>): Promise<{ readonly result: T; readonly spending: Spending }> {
    const leader = await this.leader();
    const followers = this.managers.running.filter((manager) => manager !== leader);
    const processes = [
      { who: "leader", pid: leader.pid },
      ...followers.map(({ pid }) => ({ who: "follower", pid })),
      { who: "workers", pid: this.workers.pid },
    ];
    const look = (): Promise<ProcessorTime[]> => Promise.all(processes.map(({ pid }) => processorTime(pid)));
    const before = await look();
    const result = await work();
    const after = await look();
    const none = { main: 0, others: 0 };
    const spending = processes.map(({ who }, i) => ({
      who,
      time: since(before[i] ?? none, after[i] ?? none),
    }));
    return { result, spending };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.workers.end();
    await this.managers[Symbol.asyncDispose]();
  }
}

const workersEndMs = 10_000;

/** The parent's end of `scale-workers.ts`. One request at a time waits for what takes long; the others are short. */
class WorkersProcess {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (view: WorkersView) => void; reject: (e: Error) => void }>();
  #asked = 0;

  constructor(execArgv: readonly string[]) {
    this.#child = fork(new URL("./scale-workers.js", import.meta.url), {
      execArgv: ["--max-old-space-size=8192", ...execArgv],
    });
    this.#child.on("message", ({ id, view, error }: WorkersAnswer) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(view);
      else waiting?.reject(new Error(error));
    });
    this.#child.once("exit", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the workers' process ended"));
    });
  }

  ask(request: WorkersRequest): Promise<WorkersView> {
    this.#asked += 1;
    const id = this.#asked;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, request });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.disconnect(); // It exits by itself then, and leaves its profile.
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), workersEndMs);
    await ended;
    clearTimeout(timer);
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

export function secondsSince(startMs: number): number {
  return (performance.now() - startMs) / 1_000;
}
