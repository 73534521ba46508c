import type { MemberId, RaftNode, Ready } from "raft-ts";
import type { SimDisk } from "./disk.ts";
import { Checkers, isQuorum } from "./raft-checkers.ts";
import { Clients } from "./raft-clients.ts";
import { Faults } from "./raft-faults.ts";
import { type HostDeps, SimHost } from "./raft-host.ts";
import type { Ledger } from "./raft-ledger.ts";
import { SimNetwork } from "./raft-network.ts";
import { observeRounds } from "./raft-observe.ts";
import { Operator, isMember } from "./raft-operator.ts";
import { type RaftPlan, planOf } from "./raft-plan.ts";
import { Schedule, type SimRandom, simRandom } from "./raft-schedule.ts";
import { Trace } from "./raft-trace.ts";
import { takeTurnsAtOnce } from "./raft-turns.ts";

/** Virtual time within which a write must be acknowledged once all faults are over: about twelve elections. */
export const writeBoundMs = 10_000;
/** ... and within which all members must have applied the same. */
export const agreeBoundMs = 20_000;
const lookEveryMs = 10;
const foundingBoundMs = 60_000;

export interface Violation {
  readonly rule: string;
  readonly text: string;
}

export interface RaftResult {
  readonly seed: number;
  readonly plan: RaftPlan;
  /** Empty when all went well; the first one is what the others may follow from. */
  readonly violations: readonly Violation[];
  /** Of the whole trace. */
  readonly digest: string;
  /** The trace, when it was asked for. */
  readonly lines: readonly string[];
  readonly events: number;
  readonly operations: number;
  readonly acknowledged: number;
  readonly transfers: SimNetwork["transfers"];
  /** Too many disks were lost for anything to be decided once all was healed: liveness was not asked for. */
  readonly isBeyondRepair: boolean;
  readonly virtualMs: number;
}

export interface RaftOptions {
  readonly seed: number;
  readonly plan?: Partial<RaftPlan>;
  readonly keep?: "lines" | "digest";
}

/**
 * One history of one group, from a seed alone: the real member, log, snapshots and recovery on simulated disks, wire and
 * clocks, with clients, an operator and faults. Histories run one at a time in a process.
 */
export async function simulateRaft({
  seed,
  plan: wanted = {},
  keep = "digest",
}: RaftOptions): Promise<RaftResult> {
  const plan = { ...planOf(seed), ...wanted };
  const images = await foundedDisks(plan.founders);
  if ("violations" in images) return { ...notBegun, ...images, seed, plan };
  const world = new World(seed, plan, keep, images);
  await observed(world, () => world.run());
  return world.result();
}

takeTurnsAtOnce();

const founded = new Map<number, Promise<Founded>>();

/** Disks of a group, or what went wrong on the way there. */
export type Founded =
  | readonly SimDisk[]
  | { readonly violations: readonly Violation[]; readonly digest: string };

const notBegun = {
  lines: [],
  events: 0,
  operations: 0,
  acknowledged: 0,
  transfers: { begun: 0, resumed: 0, delivered: 0 },
  isBeyondRepair: false,
  virtualMs: 0,
};

/** Disks of a group that came about the real way: one founder, and the others joined. Made once for each size. */
export function foundedDisks(founders: number): Promise<Founded> {
  const known = founded.get(founders) ?? found(founders);
  founded.set(founders, known);
  return known;
}

async function found(founders: number): Promise<Founded> {
  const calm: RaftPlan = {
    ...planOf(0),
    founders,
    hosts: founders,
    network: {
      kind: "stream",
      latencyMs: [0.1, 0.2],
      dropRatio: 0,
      duplicateRatio: 0,
      spikeRatio: 0,
      spikeMs: 0,
      encoded: true,
    },
    host: {
      snapshotEntries: 1000,
      keepEntries: 10,
      smallSnapshotBytes: 1024 * 1024,
      segmentBytes: 4096,
      readBytes: Infinity,
      syncMs: [0.1, 0.2],
      coreLimits: {},
      snapshotPartBytes: 1024,
      maxKeepEntries: 20_000,
    },
  };
  const world = new World(founders, calm, "digest", []);
  return observed(world, () => world.grow());
}

async function observed<T>(world: World, action: () => Promise<T>): Promise<T> {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0; // Refusals are many here, and nobody reads where they came from.
  observeRounds((node, ready) => world.onRound(node, ready));
  try {
    return await action();
  } finally {
    observeRounds(undefined);
    Error.stackTraceLimit = stackTraceLimit;
  }
}

class World {
  readonly #seed: number;
  readonly #plan: RaftPlan;
  readonly #schedule = new Schedule();
  readonly #trace: Trace;
  readonly #random: SimRandom;
  readonly #network: SimNetwork;
  readonly #checkers: Checkers;
  readonly #ledgers = new Map<MemberId, Ledger>();
  readonly #nodes = new Map<MemberId, RaftNode>();
  readonly #hosts: readonly SimHost[];
  readonly #clients: Clients;
  readonly #operator: Operator;
  #isBeyondRepair = false;
  readonly #violations: Violation[] = [];

  constructor(seed: number, plan: RaftPlan, keep: "lines" | "digest", images: readonly SimDisk[]) {
    this.#seed = seed;
    this.#plan = plan;
    this.#random = simRandom(seed);
    const schedule = this.#schedule;
    const random = this.#random;
    const trace = new Trace(() => schedule.nowMs, keep);
    this.#trace = trace;
    const violate = (rule: string, text: string): void => this.#violate(rule, text);
    this.#checkers = new Checkers({
      ledgerOf: (id) => this.#ledgers.get(id),
      nodeOf: (id) => this.#nodes.get(id),
      violate,
    });
    this.#network = new SimNetwork(
      { schedule, random, trace, onSend: (from, message) => this.#checkers.onSend(from, message) },
      plan.network,
    );
    this.#clients = new Clients({ schedule, random, trace }, plan.clients, {
      hosts: () => this.#hosts,
      violate,
    });
    const deps: HostDeps = {
      schedule,
      random,
      trace,
      network: this.#network,
      checkers: this.#checkers,
      ledgers: this.#ledgers,
      violate,
      refused: (request) => this.#clients.refused(request),
      applied: (request, index) => this.#clients.applied(request, index),
    };
    this.#hosts = Array.from(
      { length: plan.hosts },
      (_, index) => new SimHost(deps, plan.host, `n${index + 1}`, images[index]),
    );
    this.#operator = new Operator(
      { schedule, random, trace },
      {
        hosts: this.#hosts,
        everyMs: plan.changeEveryMs ?? Infinity,
        wasMember: (id) => this.#checkers.wasMember(id),
      },
    );
  }

  /** A core was asked for its work. */
  onRound(node: RaftNode, ready: Ready): void {
    const { id } = node.status();
    const host = this.#hosts.find(({ memberId }) => memberId === id);
    if (host === undefined) return;
    host.node = node;
    this.#nodes.set(id, node);
    this.#checkers.onReady(node, ready);
  }

  async run(): Promise<void> {
    const { durationMs, founders, changeEveryMs, faults } = this.#plan;
    for (const host of this.#hosts.slice(0, founders)) host.start("join");
    this.#clients.start();
    if (changeEveryMs !== undefined) this.#operator.start();
    const trouble = new Faults(
      {
        schedule: this.#schedule,
        random: this.#random,
        trace: this.#trace,
        network: this.#network,
        hosts: this.#hosts,
        operator: this.#operator,
      },
      faults,
    );
    trouble.start();
    await this.#until(durationMs);
    if (this.#isBroken) return;
    trouble.heal();
    this.#clients.stop();
    this.#operator.stop();
    await this.#recover();
    if (!this.#isBroken) this.#clients.check();
  }

  /** Founds the group host by host and gives their disks as they are then. */
  async grow(): Promise<Founded> {
    const [founder] = this.#hosts;
    founder?.start("bootstrap");
    await this.#reach("the founder leads", () => founder?.isLeader === true);
    for (const [position, host] of this.#hosts.entries()) {
      if (position === 0) continue;
      this.#operator.join(host, "add", () => {});
      await this.#reach(`${host.name} votes`, () => {
        const status = founder?.node?.status();
        return status?.configuration.voters.length === position + 1 && this.#agree();
      });
    }
    return this.#isBroken ? this.result() : this.#hosts.map(({ disk }) => disk.clone({}));
  }

  result(): RaftResult {
    return {
      seed: this.#seed,
      plan: this.#plan,
      violations: this.#violations,
      digest: this.#trace.digest,
      lines: this.#trace.lines,
      events: this.#schedule.fired,
      operations: this.#clients.operations,
      acknowledged: this.#clients.acknowledged,
      transfers: this.#network.transfers,
      isBeyondRepair: this.#isBeyondRepair,
      virtualMs: this.#schedule.nowMs,
    };
  }

  get #isBroken(): boolean {
    return this.#violations.length > 0;
  }

  /** Liveness, and then that everybody has the same. */
  async #recover(): Promise<void> {
    const healedMs = this.#schedule.nowMs;
    let answered = false;
    this.#clients.probe(() => {
      answered = true;
    });
    await this.#until(healedMs + writeBoundMs, () => answered);
    if (this.#isBroken) return;
    if (!answered) {
      this.#isBeyondRepair = !this.#hasQuorum();
      if (!this.#isBeyondRepair)
        this.#violate("liveness", `no write was acknowledged within ${writeBoundMs} ms of healing`);
      return;
    }
    await this.#until(healedMs + agreeBoundMs, () => this.#agree());
    if (this.#isBroken) return;
    if (!this.#agree()) {
      this.#violate("liveness", `no agreement within ${agreeBoundMs} ms of healing: ${this.#states()}`);
      return;
    }
    const leader = this.#leader();
    for (const host of this.#members(leader)) {
      let done = false;
      this.#clients.readAll(host, () => {
        done = true;
      });
      await this.#until(this.#schedule.nowMs + writeBoundMs, () => done);
      if (!done && !this.#isBroken) this.#violate("liveness", `${host.name} answers no read`);
      if (this.#isBroken) return;
    }
  }

  #leader(): SimHost | undefined {
    const leaders = this.#hosts.filter(({ isUp, isLeader }) => isUp && isLeader);
    return leaders.toSorted((a, b) => (b.node?.status().term ?? 0) - (a.node?.status().term ?? 0))[0];
  }

  /** Hosts that are up and belong to the group as `leader` knows it. */
  #members(leader: SimHost | undefined): readonly SimHost[] {
    const configuration = leader?.node?.status().configuration;
    if (configuration === undefined) return [];
    return this.#hosts.filter((host) => host.isUp && isMember(configuration, host));
  }

  #agree(): boolean {
    const leader = this.#leader();
    const status = leader?.node?.status();
    if (leader === undefined || status === undefined) return false;
    if (status.commit !== status.lastIndex || leader.machine.index !== status.commit) return false;
    const members = this.#members(leader);
    if (this.#hosts.some((host) => host.state === "starting")) return false;
    return members.every(
      ({ machine, node }) =>
        machine.index === leader.machine.index &&
        machine.chain === leader.machine.chain &&
        node?.status().commit === status.commit,
    );
  }

  /** Whether the disks that are left can still decide anything. */
  #hasQuorum(): boolean {
    const sound = new Set(
      this.#hosts.flatMap((host) =>
        host.state === "up" && host.memberId !== undefined ? [host.memberId] : [],
      ),
    );
    return this.#hosts.every((host) => {
      const configuration = host.node?.status().configuration;
      return (
        configuration === undefined || configuration.voters.length === 0 || isQuorum(configuration, sound)
      );
    });
  }

  #states(): string {
    const texts = this.#hosts.map(({ name, state, node, machine }) => {
      if (node === undefined) return `${name} ${state}`;
      const { role, term, commit, lastIndex } = node.status();
      return `${name} ${state} ${role} t${term} c${commit} l${lastIndex} applied ${machine.index}`;
    });
    return texts.join(", ");
  }

  async #reach(what: string, check: () => boolean): Promise<void> {
    if (this.#isBroken) return;
    await this.#until(foundingBoundMs, check);
    if (!this.#isBroken && !check())
      this.#violate("liveness", `founding: waited in vain until ${what}: ${this.#states()}`);
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

  #violate(rule: string, text: string): void {
    this.#trace.note("all", "VIOLATION", rule, text);
    this.#violations.push({ rule, text });
  }
}
