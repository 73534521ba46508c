import type { StoreView, Transaction } from "../../manager/store/transaction.ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { NodeDescription } from "../../model/node.ts";
import { type Log, silentLog } from "../../runtime/log.ts";
import { AvailabilityChecker } from "./cluster-availability.ts";
import { ContainerUsers, placeProblem } from "./cluster-attached.ts";
import { absent, ClusterClients } from "./cluster-clients.ts";
import { ClusterFaults } from "./cluster-faults.ts";
import { writeGoods } from "./cluster-goods.ts";
import { SimManager } from "./cluster-manager.ts";
import { type ClusterPlan, type Day, type Extent, planOf } from "./cluster-plan.ts";
import { registryOf } from "./cluster-services.ts";
import { describe, unsettled } from "./cluster-settled.ts";
import { ClusterWire } from "./cluster-wire.ts";
import { Witness } from "./cluster-witness.ts";
import { SimWorker } from "./cluster-worker.ts";
import { VirtualClock } from "./clock.ts";
import type { SimDisk } from "./disk.ts";
import { loneStore } from "./lone-store.ts";
import { clusterObject, nodeObject } from "./objects.ts";
import { foundedDisks, type Violation } from "./raft.ts";
import { SimNetwork } from "./raft-network.ts";
import { Schedule, simRandom } from "./raft-schedule.ts";
import { Trace } from "./raft-trace.ts";

/** Virtual time within which everything has come to rest once all faults are over. */
export const settleBoundMs = 240_000;
const foundingBoundMs = 30_000;
const lookEveryMs = 250;

export interface ClusterResult {
  readonly seed: number;
  readonly plan: ClusterPlan;
  /** Empty when all went well; the first one is what the others may follow from. */
  readonly violations: readonly Violation[];
  /** Of the whole trace. */
  readonly digest: string;
  /** The trace, when it was asked for. */
  readonly lines: readonly string[];
  readonly events: number;
  readonly requests: number;
  readonly acknowledged: number;
  readonly virtualMs: number;
  /** From the end of all faults until everything was at rest. */
  readonly settledMs: number;
}

export interface ClusterOptions {
  readonly seed: number;
  /** The kind of day; drawn from the seed when it is not given. */
  readonly day?: Day;
  /** How much of the product takes part; all of it when it is not given. */
  readonly extent?: Extent;
  /** What the plan is to be instead of what the seed draws. */
  readonly plan?: Partial<ClusterPlan>;
  readonly keep?: "lines" | "digest";
}

/**
 * One history of one cluster, from a seed alone: the real store, loops, dispatcher and members of every manager and the
 * real agent of every worker, on simulated clocks, disks, wire and engines, with clients and faults. Histories run one
 * at a time in a process.
 */
export async function simulateCluster({
  seed,
  day,
  extent,
  plan: given,
  keep = "digest",
}: ClusterOptions): Promise<ClusterResult> {
  const plan = planOf(seed, { day, extent, given });
  const images = await foundedDisks(plan.managers);
  if ("violations" in images) throw new Error("the group of managers could not be founded");
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = keep === "lines" ? stackTraceLimit : 0; // Refusals are many here, and nobody reads where they came from.
  try {
    const world = new World(seed, plan, keep, images);
    await world.run();
    return world.result();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

class World {
  readonly #seed: number;
  readonly #plan: ClusterPlan;
  readonly #schedule = new Schedule();
  readonly #trace: Trace;
  readonly #keep: "lines" | "digest";
  readonly #witness: Witness;
  readonly #managers: readonly SimManager[];
  readonly #workers: readonly SimWorker[];
  readonly #clients: ClusterClients;
  readonly #users: ContainerUsers;
  readonly #faults: ClusterFaults;
  readonly #violations: Violation[] = [];
  #settledMs = 0;

  constructor(seed: number, plan: ClusterPlan, keep: "lines" | "digest", images: readonly SimDisk[]) {
    this.#seed = seed;
    this.#plan = plan;
    this.#keep = keep;
    const schedule = this.#schedule;
    const random = simRandom(Math.imul(seed, 0x9e3779b1)); // Neighbours begin alike otherwise.
    const trace = new Trace(() => schedule.nowMs, keep);
    this.#trace = trace;
    const violate = (rule: string, text: string): void => this.#violate(rule, text);
    this.#witness = new Witness(schedule, plan, violate);
    const network = new SimNetwork({ schedule, random, trace, onSend: () => {} }, plan.network);
    const wire = new ClusterWire({ schedule, random, trace }, plan.wire);
    const log = (who: string): Log => this.#log(who);
    const common = { schedule, random, trace, wire, log };
    this.#managers = images.map(
      (image, index) =>
        new SimManager(
          { ...common, network, violate, committed: (output) => this.#witness.committed(output) },
          plan,
          `n${index + 1}`,
          image,
        ),
    );
    const registry = registryOf(random);
    const managers = this.#managers.map(({ name }) => `${name}:0`);
    const names = [
      ...this.#managers.map(({ name }) => name),
      ...Array.from({ length: plan.workers }, (_, index) => `w${index + 1}`),
    ];
    this.#workers = names.map(
      (name) =>
        new SimWorker({ ...common, managers }, plan, {
          name,
          description: describeHost(name, (1 + random.integer(4)) * 1_000_000_000),
          registry,
        }),
    );
    const nodes = this.#workers.map(({ nodeId }) => nodeId);
    this.#clients = new ClusterClients(
      { schedule, random, trace, wire, managers: this.#managers, violate },
      plan,
      nodes,
    );
    const own = simRandom(Math.imul(seed, 0x9e3779b1) ^ 0xa77ac4);
    this.#users = new ContainerUsers({ schedule, random: own, trace, workers: this.#workers }, plan);
    this.#faults = new ClusterFaults(
      { schedule, random, trace, network, wire, managers: this.#managers, workers: this.#workers },
      plan.faults,
    );
    const availability = new AvailabilityChecker(plan.day, violate);
    this.#witness.onChange = (events) => {
      this.#note(events);
      this.#witness.view((view) => availability.look(view, events));
      const problem = this.#witness.view((view) => placeProblem(view, this.#workers));
      if (problem !== undefined) this.#violate("places of containers", problem);
    };
  }

  async run(): Promise<void> {
    await this.#found();
    if (this.#isBroken) return;
    for (const manager of this.#managers) manager.start();
    for (const worker of this.#workers) worker.start();
    this.#clients.start();
    if (this.#plan.extent === "whole") this.#users.start();
    this.#faults.start();
    await this.#until(this.#schedule.nowMs + this.#plan.durationMs);
    if (this.#isBroken) return;
    this.#faults.heal();
    this.#clients.stop();
    this.#users.stop();
    await this.#settle();
    if (!this.#isBroken) this.#checkWrites();
  }

  result(): ClusterResult {
    return {
      seed: this.#seed,
      plan: this.#plan,
      violations: this.#violations,
      digest: this.#trace.digest,
      lines: this.#trace.lines,
      events: this.#schedule.fired,
      requests: this.#clients.requests,
      acknowledged: this.#clients.acknowledged,
      virtualMs: this.#schedule.nowMs,
      settledMs: this.#settledMs,
    };
  }

  get #isBroken(): boolean {
    return this.#violations.length > 0;
  }

  /** Puts the objects that a cluster has once its nodes have joined into the log. */
  async #found(): Promise<void> {
    const { store, log } = loneStore(new VirtualClock());
    await store.update((tx) => this.#writeFirst(tx));
    const [entry] = log;
    if (entry === undefined) throw new Error("the first write made no entry");
    for (const manager of this.#managers) void manager.found(entry);
    await this.#until(foundingBoundMs, () => this.#witness.view((view) => view.cluster) !== undefined);
    for (const manager of this.#managers) manager.crash("process");
    if (this.#witness.view((view) => view.cluster) === undefined)
      this.#violate("liveness", "a sound group took no write");
  }

  #writeFirst(tx: Transaction): void {
    const { snapshotEntries, keepEntries, managersWork } = this.#plan;
    tx.clusters.create(
      clusterObject({ snapshotIntervalEntries: snapshotEntries, slowFollowerEntries: keepEntries }),
    );
    if (this.#plan.extent === "whole") writeGoods(tx);
    const zones = ["a", "b", "c"] as const;
    for (const [index, { name }] of this.#workers.entries()) {
      const isManager = this.#managers.some((manager) => manager.name === name);
      const role = isManager ? "manager" : "worker";
      const availability = isManager && !managersWork ? "drain" : "active";
      const { description: _unknown, ...node } = nodeObject(name, {
        state: "unknown",
        spec: { role, availability, labels: { zone: zones[index % 3] ?? "a" } },
      });
      const member = { address: `${name}:0`, raftAddress: `${name}:1` };
      tx.nodes.create({ ...node, id: name as NodeId, role, index: index + 1, ...(isManager && { member }) });
    }
  }

  async #settle(): Promise<void> {
    const healedMs = this.#schedule.nowMs;
    let problem: string | undefined = "it has not been looked at";
    let calmLooks = 0;
    const look = (): boolean => {
      problem = this.#clients.isIdle
        ? (this.#disagreement() ?? this.#unsettled())
        : "clients wait for answers";
      calmLooks = problem === undefined ? calmLooks + 1 : 0;
      return calmLooks >= 2;
    };
    await this.#until(healedMs + settleBoundMs, look);
    this.#settledMs = this.#schedule.nowMs - healedMs;
    if (problem === undefined || this.#isBroken) return;
    this.#witness.view((view) => {
      for (const task of view.tasks.list()) this.#trace.remark("log", describe(task));
      for (const service of view.services.list()) this.#trace.remark("log", print({ service }));
    });
    this.#violate("settling", `not at rest ${settleBoundMs / 1000} s after the last fault: ${problem}`);
  }

  #unsettled(): string | undefined {
    return this.#witness.view((view) => unsettled(view, this.#workers));
  }

  /** Every manager has everything that is committed. */
  #disagreement(): string | undefined {
    for (const { name, replica } of this.#managers) {
      if (replica === undefined) return `${name} does not serve`;
      const { appliedIndex } = replica.store;
      if (appliedIndex !== this.#witness.store.appliedIndex)
        return `${name} has ${appliedIndex} of ${this.#witness.store.appliedIndex}`;
    }
    return undefined;
  }

  /** What was acknowledged is there, on every manager, and they all have the same. */
  #checkWrites(): void {
    const wanted = this.#witness.view(allObjects);
    for (const { name, replica } of this.#managers) {
      const found = replica?.store.view(allObjects) ?? new Map<string, string>();
      for (const id of new Set([...wanted.keys(), ...found.keys()])) {
        if (wanted.get(id) === found.get(id)) continue;
        const text = `${name} has ${found.get(id) ?? "no"} ${id}; the log makes it ${wanted.get(id) ?? "nothing"}`;
        return this.#violate("state-machine safety", text);
      }
    }
    const services = this.#witness.view((view) => view.services.list());
    for (const { draft, possible, previous } of this.#clients.known) {
      const found = services.find(({ spec }) => spec.name === draft.name);
      const marker = found === undefined ? absent : (found.spec.labels["marker"] ?? "");
      const isRolledBack = found?.updateStatus?.state.startsWith("rollback") === true && previous.has(marker);
      if (!possible.has(marker) && !isRolledBack)
        this.#violate(
          "acknowledged writes",
          `service ${draft.name} has spec ${marker}; acknowledged: ${[...possible].join(" or ")}`,
        );
    }
    for (const [id, possible] of this.#clients.availability) {
      const availability = this.#witness.view((view) => view.nodes.get(id)?.spec.availability) ?? absent;
      if (!possible.has(availability))
        this.#violate(
          "acknowledged writes",
          `node ${id} is ${availability}, not ${[...possible].join(" or ")}`,
        );
    }
  }

  #note(events: Parameters<Witness["onChange"]>[0]): void {
    for (const event of events) {
      if (event.kind === "resync") continue;
      if (event.table === "tasks") {
        const { id, slot, nodeId, desiredState, status, serviceId } = event.object;
        const place = `${serviceId.slice(0, 4)}.${slot}@${nodeId ?? "-"}`;
        this.#trace.note(
          "log",
          `task ${event.kind}`,
          id.slice(0, 6),
          place,
          desiredState,
          status.state,
          status.error,
        );
      } else if (event.table === "nodes") {
        const { id, spec, status } = event.object;
        this.#trace.note("log", `node ${event.kind}`, id, spec.availability, status.state);
      } else if (event.table === "services") {
        const { id, spec, updateStatus } = event.object;
        this.#trace.note("log", `service ${event.kind}`, id.slice(0, 4), spec.name, updateStatus?.state);
      }
    }
  }

  /** Looks now and then; a violation ends it at once. */
  async #until(ms: number, check: () => boolean = () => false): Promise<void> {
    let reached = check();
    const look = (): void => {
      reached = check();
      if (!reached && this.#schedule.nowMs < ms) this.#schedule.after(lookEveryMs, look);
    };
    if (!reached) this.#schedule.after(lookEveryMs, look);
    await this.#schedule.runUntil(ms, () => reached || this.#isBroken);
  }

  /** What the code calls an error is one here: nothing that faults of a sound product bring about is worth that word. */
  #log(who: string): Log {
    const say =
      (level: string) =>
      (fields: Readonly<Record<string, unknown>>, text: string): void => {
        if ((level === "error" || level === "fatal") && !isLossOfLeadership(fields) && !isFullDisk(fields))
          this.#violate("an error was logged", `${who}: ${text} ${print(fields)}`);
        if (this.#keep === "lines") this.#trace.remark(who, `${level} ${text} ${print(fields)}`);
      };
    const log: Log = {
      ...silentLog,
      info: this.#keep === "lines" ? say("info") : silentLog.info,
      warn: this.#keep === "lines" ? say("warn") : silentLog.warn,
      error: say("error"),
      fatal: say("fatal"),
      child: () => log,
    };
    return log;
  }

  #violate(rule: string, text: string): void {
    this.#trace.note("all", "VIOLATION", rule, text);
    this.#violations.push({ rule, text });
  }
}

/** The log hears of it from the group a moment before the leader's loops are ended. */
function isLossOfLeadership({ error }: Readonly<Record<string, unknown>>): boolean {
  return error instanceof ClusterError && error.code === "no-leader";
}

/** Somebody has to make room: that is an error, and a fault here. */
function isFullDisk({ error }: Readonly<Record<string, unknown>>): boolean {
  return error instanceof ClusterError && error.message.includes("the disk of this manager is full");
}

function print(fields: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(fields, (_key, value: unknown) =>
    value instanceof Error ? (value.stack ?? value.message) : value,
  );
}

function allObjects(view: StoreView): Map<string, string> {
  const { clusters, services, tasks, nodes, revisions, networks, secrets, configs, attachments } = view;
  return new Map(
    [clusters, services, tasks, nodes, revisions, networks, secrets, configs, attachments].flatMap((table) =>
      table.list().map((object) => [object.id, canonical(object)]),
    ),
  );
}

/** Equal for equal values, whatever the order in which they were written down. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

function describeHost(name: string, nanoCpus: number): NodeDescription {
  return {
    hostname: name,
    platform: { architecture: "x86_64", os: "linux" },
    resources: { nanoCpus, memoryBytes: 2 * 2 ** 30, generic: {} },
    engineVersion: "1",
    engineLabels: {},
    plugins: [],
  };
}
