import type { ClusterPlan } from "./cluster-plan.ts";
import type { SimManager } from "./cluster-manager.ts";
import type { ClusterWire } from "./cluster-wire.ts";
import type { SimWorker } from "./cluster-worker.ts";
import { type CrashLoss, loseAll, loseNothing, loseSome } from "./disk.ts";
import type { SimNetwork } from "./raft-network.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

export const faultKinds = [
  /** A manager's process dies and is started again. */
  "manager-kill",
  "leader-kill",
  /** A host with all that is on it loses power. */
  "host-power",
  "manager-pause",
  "worker-kill",
  "worker-pause",
  /** One host hears nobody, or is not heard, or both. */
  "isolate",
  /** The hosts fall into two parts. */
  "split",
  "slow",
  /** A container's process ends by itself. */
  "container-exit",
  /** A manager's disk has no room, or hardly any. */
  "full-disk",
] as const;

export type FaultKind = (typeof faultKinds)[number];

export interface FaultDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly network: SimNetwork;
  readonly wire: ClusterWire;
  readonly managers: readonly SimManager[];
  readonly workers: readonly SimWorker[];
}

const longestPauseMs = 4_000;
const slowMs = 400;

/** What goes wrong, now and then, until it is healed. */
export class ClusterFaults {
  readonly #deps: FaultDeps;
  readonly #plan: ClusterPlan["faults"];
  #isOver = false;

  constructor(deps: FaultDeps, plan: ClusterPlan["faults"]) {
    this.#deps = deps;
    this.#plan = plan;
  }

  start(): void {
    const { schedule, random } = this.#deps;
    schedule.after(2 * random.next() * this.#plan.everyMs, () => {
      if (this.#isOver) return;
      this.#strike(random.pick(this.#plan.kinds) ?? "leader-kill");
      this.start();
    });
  }

  /** Everything is started and every link is whole from now on. */
  heal(): void {
    const { network, wire, managers, workers, trace } = this.#deps;
    this.#isOver = true;
    trace.note("all", "heals");
    network.mend();
    network.faulty = false;
    wire.mend();
    for (const manager of managers) this.#makeRoom(manager);
    for (const manager of managers) if (!manager.isRunning) manager.start();
    for (const worker of workers) if (!worker.isRunning) worker.start();
  }

  #strike(kind: FaultKind): void {
    const { random, managers, workers, wire, trace } = this.#deps;
    const manager = random.pick(managers);
    const worker = random.pick(workers);
    if (manager === undefined || worker === undefined) return;
    switch (kind) {
      case "manager-kill":
        return this.#kill(manager);
      case "leader-kill":
        return this.#kill(managers.find(({ replica }) => replica?.isLeader === true) ?? manager);
      case "host-power":
        return this.#powerOff(worker.name);
      case "manager-pause":
        return manager.pause(
          random.pick(["raft", "main", "both"] as const) ?? "both",
          random.next() * longestPauseMs,
        );
      case "worker-kill":
        worker.crash("process");
        return this.#afterwards(() => {
          if (!worker.isRunning) worker.start();
        });
      case "worker-pause":
        return worker.pause(random.next() * longestPauseMs);
      case "isolate": {
        const how = random.pick(["to", "from", "both"] as const);
        return this.#cut(
          (from, to) => (how !== "to" && from === worker.name) || (how !== "from" && to === worker.name),
        );
      }
      case "split": {
        const left = new Set(workers.filter(() => random.chance(0.5)).map(({ name }) => name));
        const how = random.chance(0.5) ? "both" : "one-way";
        return this.#cut((from, to) => left.has(from) !== left.has(to) && (how === "both" || left.has(from)));
      }
      case "slow":
        trace.note(worker.name, "is slow");
        wire.slow(worker.name, slowMs);
        return this.#afterwards(() => wire.slow(worker.name, 0));
      case "container-exit": {
        const container = random.pick(worker.containers());
        if (container === undefined) return;
        trace.note(worker.name, "container ends", container.taskId);
        return worker.engine.exit(container.containerId, random.integer(3));
      }
      case "full-disk":
        trace.note(manager.name, "disk is full");
        manager.disk.capacityBytes = manager.disk.usedBytes + random.integer(4_096);
        return this.#afterwards(() => this.#makeRoom(manager));
    }
  }

  #makeRoom(manager: SimManager): void {
    manager.disk.capacityBytes = Number.MAX_SAFE_INTEGER;
  }

  #kill(manager: SimManager): void {
    manager.crash("process");
    this.#afterwards(() => {
      if (!manager.isRunning) manager.start();
    });
  }

  #powerOff(name: string): void {
    const manager = this.#deps.managers.find((each) => each.name === name);
    const worker = this.#deps.workers.find((each) => each.name === name);
    const loss = this.#loss();
    manager?.crash("power", loss);
    worker?.crash("power", loss);
    this.#afterwards(() => {
      if (manager?.isRunning === false) manager.start();
      if (worker?.isRunning === false) worker.start();
    });
  }

  #loss(): CrashLoss {
    const { random } = this.#deps;
    return random.pick([loseAll, loseNothing, loseSome(random)]) ?? loseAll;
  }

  #cut(separates: (from: string, to: string) => boolean): void {
    const { network, wire, workers, trace } = this.#deps;
    network.mend();
    wire.mend();
    const cuts: string[] = [];
    for (const { name: from } of workers) {
      for (const { name: to } of workers) {
        if (from === to || !separates(from, to)) continue;
        network.cut(from, to);
        wire.cut(from, to);
        cuts.push(`${from}>${to}`);
      }
    }
    trace.note("all", "cuts", cuts.join(" "));
    this.#afterwards(() => {
      trace.note("all", "mends");
      network.mend();
      wire.mend();
    });
  }

  #afterwards(repair: () => void): void {
    const { schedule, random } = this.#deps;
    schedule.after((0.2 + random.next()) * this.#plan.lastsMs, () => {
      if (!this.#isOver) repair();
    });
  }
}
