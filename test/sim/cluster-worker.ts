import type { NodeId } from "../../model/ids.ts";
import type { NodeDescription } from "../../model/node.ts";
import type { ClusterId } from "../../model/ids.ts";
import type { Log } from "../../runtime/log.ts";
import { seededRandom } from "../../runtime/random.ts";
import { Agent } from "../../worker/agent/agent.ts";
import { Attachments } from "../../worker/agent/attachments.ts";
import { Journal } from "../../worker/agent/journal.ts";
import { taskLabel } from "../../worker/task/request.ts";
import type { HeldPlace } from "./cluster-attached.ts";
import type { ClusterWire } from "./cluster-wire.ts";
import { type CrashLoss, type DiskCall, type DiskFault, SimDisk } from "./disk.ts";
import { FakeEngine, type FakeEngineOptions } from "./engine.ts";
import { Lane } from "./lane.ts";
import { FakeNetwork } from "./network.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

export interface WorkerPlan {
  readonly syncMs: readonly [number, number];
  readonly skewMs: number;
}

export interface WorkerDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly wire: ClusterWire;
  readonly log: (who: string) => Log;
  /** Cluster addresses of the managers. */
  readonly managers: readonly string[];
}

interface Life {
  readonly lane: Lane;
  agent: Agent | undefined;
  readonly attachments: Attachments;
}

/** Of a container whose machine lost power. */
const powerExitCode = 255;

/** The worker of one host: engine, network and disk, which outlive the process with the real agent in it. */
export class SimWorker {
  readonly name: string;
  readonly nodeId: NodeId;
  readonly description: NodeDescription;
  readonly engine: FakeEngine;
  readonly #network = new FakeNetwork();
  /** Of containers that are no tasks; they run on without the process. */
  readonly #places = new Map<string, HeldPlace>();
  readonly #deps: WorkerDeps;
  readonly #plan: WorkerPlan;
  readonly #disk: SimDisk;
  readonly #skewMs: number;
  #life: Life | undefined;
  #lives = 0;

  constructor(
    deps: WorkerDeps,
    plan: WorkerPlan,
    host: {
      readonly name: string;
      readonly description: NodeDescription;
      readonly registry: FakeEngineOptions["registry"];
    },
  ) {
    this.#deps = deps;
    this.#plan = plan;
    this.name = host.name;
    this.nodeId = host.name as NodeId;
    this.description = host.description;
    this.#skewMs = (deps.random.next() * 2 - 1) * plan.skewMs;
    const machine = new Lane(deps.schedule, this.#skewMs);
    this.engine = new FakeEngine(machine.clock, { registry: host.registry });
    this.#disk = new SimDisk({
      clock: machine.clock,
      whenStopped: "hang",
      onCall: (call) => this.#onCall(call),
    });
  }

  get isRunning(): boolean {
    return this.#life !== undefined;
  }

  start(): void {
    const { schedule, trace, wire } = this.#deps;
    const lane = new Lane(schedule, this.#skewMs);
    this.#lives += 1;
    // Of its own, as what services do must not hang on containers of users.
    const random = seededRandom(this.#lives);
    const attachments = new Attachments({ clock: lane.clock, random });
    const life: Life = { lane, agent: undefined, attachments };
    attachments.onLost(({ containerId }) => void this.#places.delete(containerId));
    for (const { containerId, ...place } of this.#places.values())
      attachments.adopt(containerId, [containerId], place);
    trace.note(this.name, "worker starts");
    this.#life = life;
    wire.powered(this.name);
    this.#begin(life).catch((error: unknown) => {
      throw error; // The journal's disk neither fails nor is full: nothing can go wrong here.
    });
  }

  /** Ends the process, or the machine with it: of what was not synced, `loss` says what stays. */
  crash(how: "process" | "power", loss?: CrashLoss): void {
    const life = this.#life;
    if (life === undefined) return;
    this.#deps.trace.note(this.name, "worker crashes", how);
    this.#life = undefined;
    life.lane.end();
    this.#deps.wire.ended(life.lane, this.name, how);
    if (loss !== undefined) this.#disk.losePower(loss);
    else this.#disk.killProcess();
    if (how === "power") this.#places.clear();
    if (how === "power")
      for (const { containerId } of this.containers()) this.engine.exit(containerId, powerExitCode);
  }

  pause(ms: number): void {
    this.#deps.trace.note(this.name, "worker pauses", Math.round(ms));
    this.#life?.lane.pause(ms);
  }

  /** Containers that run now, with the task that each belongs to. */
  containers(): { readonly containerId: string; readonly taskId: string }[] {
    return this.engine
      .records()
      .filter(({ status }) => status.state === "running")
      .map(({ id, labels }) => ({ containerId: id, taskId: labels[taskLabel] ?? "" }));
  }

  places(): HeldPlace[] {
    return [...this.#places.values()];
  }

  /** Nothing comes of it where the process is away, or ends before it is answered. */
  runContainer(containerId: string, network: string): void {
    const life = this.#life;
    const wish = { containerId, network, names: [containerId], address: "" };
    life?.attachments.attach(wish, new AbortController().signal).then(
      (place) => {
        if (this.#life === life) this.#places.set(containerId, { ...place, containerId });
      },
      () => undefined, // No address is left, or no manager was there.
    );
  }

  endContainer(containerId: string): void {
    this.#places.delete(containerId);
    this.#life?.attachments.keep(containerId, new Set());
  }

  async #begin(life: Life): Promise<void> {
    const { random, log, wire, managers } = this.#deps;
    const { lane } = life;
    const alive = (): boolean => this.#life === life;
    const deps = { clock: lane.clock, random, log: log(this.name), disk: this.#disk };
    const journal = await Journal.open(deps, "/worker");
    if (!alive()) return;
    life.agent = new Agent(
      {
        ...deps,
        engine: whileAlive(this.engine, alive),
        network: whileAlive(this.#network, alive),
        journal,
        attachments: life.attachments,
        connect: (address) => wire.connect({ name: this.name, lane }, address),
        onFacts: () => {},
        onHealth: () => {},
      },
      {
        nodeId: this.nodeId,
        clusterId: "sim" as ClusterId,
        role: "worker",
        certificatePem: "",
        keyPem: "",
        rootPem: "",
        managers,
        listenAddress: "",
        advertiseAddress: "",
        dataPathAddress: "10.9.0.1",
      },
      this.description,
    );
    life.agent.start();
  }

  #onCall({ kind }: DiskCall): DiskFault | undefined {
    if (kind !== "sync" && kind !== "sync-directory") return undefined;
    const [least, most] = this.#plan.syncMs;
    return { kind: "delay", ms: least + this.#deps.random.next() * (most - least) };
  }
}

/** A process that has ended calls nothing any more, and hears of nothing that it had called. */
function whileAlive<T extends object>(target: T, alive: () => boolean): T {
  const never = new Promise<never>(() => {});
  return new Proxy(target, {
    get(of, name) {
      const value: unknown = Reflect.get(of, name);
      if (typeof value !== "function") return value;
      return (...args: readonly unknown[]): unknown => {
        if (!alive()) return never;
        const result: unknown = Reflect.apply(value, of, args);
        if (!(result instanceof Promise)) return result;
        return result.then(
          (settled: unknown) => (alive() ? settled : never),
          (error: unknown) => {
            if (alive()) throw error;
            return never;
          },
        );
      };
    },
  });
}
