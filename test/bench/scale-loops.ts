/**
 * The leader's loops alone, on one core: its store, orchestrators, allocator, scheduler and dispatcher, with a log that
 * commits at once and workers that run what they are told. Then the same entries once more, as a follower takes them.
 */
import { EventEmitter, setMaxListeners } from "node:events";
import { Dispatcher } from "../../manager/dispatcher/dispatcher.ts";
import { runAllocator } from "../../manager/allocator/run.ts";
import { runOrchestration } from "../../manager/orchestrator/run.ts";
import { runScheduler } from "../../manager/scheduler/run.ts";
import { Store } from "../../manager/store/store.ts";
import type { NodeId, TaskId } from "../../model/ids.ts";
import { taskStates } from "../../model/task.ts";
import { ManagerMessage, WorkerMessage } from "../../proto/gen/shoal/dispatcher.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { sleep } from "../lab/shell.ts";
import { clusterObject, id, nodeObject, serviceObject, serviceSpec, taskSpec } from "../sim/objects.ts";

export interface LoopsBenchOptions {
  readonly workers: number;
  readonly services: number;
  /** Of each service. */
  readonly replicas: number;
}

export interface LoopsFigures {
  readonly tasks: number;
  /** Processor time of the leader for one task, from its creation until it runs. */
  readonly leaderMicros: number;
  readonly followerMicros: number;
  /** Main heap after a collection, where `--expose-gc` allows one, for one task. */
  readonly leaderHeapBytes: number;
  readonly followerHeapBytes: number;
  /** Most of the process until every task ran, with the log that it keeps. */
  readonly leaderResidentBytes: number;
  readonly logBytes: number;
  readonly entries: number;
  readonly messagesSent: number;
  readonly messagesReceived: number;
}

const commitMs = 3;
const lookEveryMs = 20;
const gibibyte = 2 ** 30;
/** The workers send no heartbeats. */
const longMs = 3_600_000;

export async function benchLoops(options: LoopsBenchOptions): Promise<LoopsFigures> {
  const { workers, services, replicas } = options;
  const tasks = services * replicas;
  const entries: Uint8Array[] = [];
  const ended = new AbortController();
  setMaxListeners(0, ended.signal); // Every session listens.
  const store: Store = new Store({
    clock: systemClock,
    proposer: {
      propose: async (data) => {
        entries.push(data);
        const index = entries.length;
        await systemClock.sleep(commitMs);
        store.apply(index, data);
        return { index };
      },
      confirmLeader: () => Promise.resolve(),
    },
  });
  store.setLeading(1);
  const deps = { store, clock: systemClock, random: systemRandom, log: silentLog };
  const dispatcher = new Dispatcher({ ...deps, nodeId: id<NodeId>("leader") }, ended.signal);
  await store.update((tx) => tx.clusters.create(clusterObject({ heartbeatPeriodMs: longMs })));
  const nodes = Array.from({ length: workers }, (_, i) => {
    const hostname = `worker${i}x`;
    return nodeObject(hostname, { nanoCpus: 64e9, memoryBytes: 256 * gibibyte });
  });
  await store.batch(nodes, (tx, node) => void tx.nodes.create(node));
  const loops = [
    dispatcher.run(ended.signal),
    runOrchestration(deps, ended.signal),
    runAllocator(deps, ended.signal),
    runScheduler(deps, ended.signal),
  ];
  const streams = nodes.map(({ id: nodeId }) => {
    const stream = new WorkerEnd();
    const peer = { nodeId, address: "10.9.0.1" };
    // It is a stream by what the dispatcher uses of one.
    loops.push(dispatcher.serve(stream as unknown as DispatcherStream, peer, ended.signal));
    return stream;
  });
  const count = (of: "running" | "messagesSent" | "messagesReceived"): number =>
    streams.reduce((sum, stream) => sum + stream[of], 0);
  while (streams.some(({ messagesSent }) => messagesSent < 2)) await sleep(lookEveryMs); // Info, and an empty set.

  const heapBefore = collectedHeap();
  const setUp = entries.length;
  const cpu = process.cpuUsage();
  const reservations = { nanoCpus: 10_000_000, memoryBytes: 2 ** 26, generic: {} };
  const task = taskSpec({ image: "registry.example/app:1", resources: { reservations } });
  const names = Array.from({ length: services }, (_, i) => `service${i}x`);
  await store.batch(names, (tx, name) => {
    const spec = serviceSpec({ task, mode: { kind: "replicated", replicas } });
    tx.services.create(serviceObject(name, spec));
  });
  while (count("running") < tasks) await sleep(lookEveryMs);
  const leaderMicros = microsSince(cpu) / tasks;
  const leaderResidentBytes = process.resourceUsage().maxRSS * 1024;
  const leaderHeapBytes = (collectedHeap() - heapBefore) / tasks;
  ended.abort(new Error("done"));
  await Promise.allSettled(loops);

  const follower = new Store({ clock: systemClock, proposer: noProposer });
  for (const [i, entry] of entries.slice(0, setUp).entries()) follower.apply(i + 1, entry);
  const followerHeap = collectedHeap();
  const followerCpu = process.cpuUsage();
  for (let i = setUp; i < entries.length; i += 1) follower.apply(i + 1, entries[i] ?? new Uint8Array());
  const followerMicros = microsSince(followerCpu) / tasks;
  return {
    tasks: follower.view(({ tasks: all }) => all.count),
    leaderMicros,
    followerMicros,
    leaderHeapBytes,
    leaderResidentBytes,
    followerHeapBytes: (collectedHeap() - followerHeap) / tasks,
    logBytes: entries.slice(setUp).reduce((sum, { length }) => sum + length, 0) / tasks,
    entries: entries.length - setUp,
    messagesSent: count("messagesSent"),
    messagesReceived: count("messagesReceived"),
  };
}

export function loopsTable(figures: LoopsFigures): string {
  const rows: readonly (readonly [string, string])[] = [
    ["tasks", whole(figures.tasks)],
    ["leader's loops, processor time a task", `${figures.leaderMicros.toFixed(1)} µs`],
    ["a follower's store, processor time a task", `${figures.followerMicros.toFixed(1)} µs`],
    ["leader's heap a task", `${whole(figures.leaderHeapBytes)} bytes`],
    ["a follower's heap a task", `${whole(figures.followerHeapBytes)} bytes`],
    ["leader's resident memory, most", `${whole(figures.leaderResidentBytes / 2 ** 20)} MiB`],
    ["log a task", `${whole(figures.logBytes)} bytes`],
    ["entries of the log", whole(figures.entries)],
    [
      "messages to and from workers a task",
      `${(figures.messagesSent / figures.tasks).toFixed(2)}, ${(figures.messagesReceived / figures.tasks).toFixed(2)}`,
    ],
  ];
  return ["| | |", "|---|--:|", ...rows.map(([what, value]) => `| ${what} | ${value} |`), ""].join("\n");
}

type DispatcherStream = Parameters<Dispatcher["serve"]>[0];

const noProposer = {
  propose: () => Promise.reject(new Error("a follower proposes nothing")),
  confirmLeader: () => Promise.reject(new Error("a follower does not lead")),
};

/** A worker without a wire; messages are encoded and decoded all the same, as the leader's end would. */
class WorkerEnd extends EventEmitter {
  running = 0;
  messagesSent = 0;
  messagesReceived = 0;
  #statuses: TaskId[] = [];
  #sequence = 0;
  #isReporting = false;
  #inFlight = 0;
  #paused = false;
  readonly #waiting: Uint8Array[] = [];

  constructor() {
    super();
    this.setMaxListeners(0);
    const description = nodeObject("described", { nanoCpus: 64e9, memoryBytes: 256 * gibibyte }).description;
    const json = Buffer.from(JSON.stringify(description));
    setImmediate(() =>
      this.#send({ body: { $case: "hello", value: { description: { json }, dataPathAddress: "10.9.0.1" } } }),
    );
  }

  write(message: ManagerMessage): boolean {
    ManagerMessage.encode(message).finish();
    this.messagesSent += 1;
    if (message.body?.$case === "statusAck") this.#acknowledged();
    if (message.body?.$case !== "assignments" || message.body.value.tasks.length === 0) return true;
    for (const { id: taskId } of message.body.value.tasks) this.#statuses.push(taskId as TaskId);
    this.#reportSoon();
    return true;
  }

  /** One batch at a time, as the agent's reporter does. */
  #reportSoon(): void {
    if (this.#inFlight > 0 || this.#isReporting || this.#statuses.length === 0) return;
    this.#isReporting = true;
    setTimeout(() => this.#report(), 2);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.emit("data", WorkerMessage.decode(next));
    }
  }

  #acknowledged(): void {
    this.running += this.#inFlight;
    this.#inFlight = 0;
    this.#reportSoon();
  }

  #report(): void {
    this.#isReporting = false;
    this.#sequence += 1;
    this.#inFlight = this.#statuses.length;
    const statuses = this.#statuses.map((taskId) => ({
      taskId,
      state: taskStates.running,
      atMs: Date.now(),
      message: "started",
      error: "",
      containerId: "",
      pid: 0,
      exitCode: undefined,
      ports: [],
    }));
    this.#statuses = [];
    this.#send({ body: { $case: "statuses", value: { sequence: this.#sequence, statuses } } });
  }

  #send(message: WorkerMessage): void {
    this.messagesReceived += 1;
    const bytes = WorkerMessage.encode(message).finish();
    if (this.#paused) this.#waiting.push(bytes);
    else this.emit("data", WorkerMessage.decode(bytes));
  }
}

function microsSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

function collectedHeap(): number {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}
