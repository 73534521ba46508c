import { loseAll, loseContents, loseNames, loseNothing, loseSome, type CrashLoss } from "./disk.ts";
import type { SimHost } from "./raft-host.ts";
import type { SimNetwork } from "./raft-network.ts";
import type { Operator } from "./raft-operator.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

/** Drawn apart from the others, so that a day without them is as it was before there were any. */
export const laterFaultKinds = ["stop-at-new-segment", "stale-leader"] as const;

/** The same, on days of large states and short logs. */
export const transferFaultKinds = ["receiver-restart"] as const;

export const faultKinds = [
  "split",
  "one-way",
  "isolate-leader",
  "bridge",
  "constrained",
  "chain",
  "mend",
  "kill",
  "power",
  "power-all",
  "stop-in-call",
  "pause",
  "clock",
  "slow-disk",
  "full-disk",
  "failed-sync",
  "flip",
  "transfer",
  "orphan-change",
  ...laterFaultKinds,
  ...transferFaultKinds,
] as const;

const lookEveryMs = 20;
/** For the others to elect one of themselves. */
const staleBoundMs = 1_500;

export type FaultKind = (typeof faultKinds)[number];

export interface FaultPlan {
  readonly kinds: readonly FaultKind[];
  readonly everyMs: number;
  /** How long a process stays down, a network cut, a disk slow. */
  readonly lastsMs: number;
}

interface FaultDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly network: SimNetwork;
  readonly hosts: readonly SimHost[];
  readonly operator: Operator;
}

/** Makes things go wrong, one after another, until it is told to stop; what it broke it repairs in time or at the end. */
export class Faults {
  readonly #deps: FaultDeps;
  readonly #plan: FaultPlan;
  #stopped = false;
  /** Hosts that are to stop again, or to stand still, while they are being sent a snapshot. */
  readonly #receivers = new Map<SimHost, { times: number; parts: number }>();

  constructor(deps: FaultDeps, plan: FaultPlan) {
    this.#deps = deps;
    this.#plan = plan;
    for (const host of deps.hosts) host.onStopped = (how) => this.#crash(host, how);
    deps.network.onPart = (name) => this.#onPart(name);
  }

  start(): void {
    const { schedule, random } = this.#deps;
    schedule.after(random.next() * 2 * this.#plan.everyMs, () => {
      if (this.#stopped) return;
      const kind = random.pick(this.#plan.kinds);
      if (kind !== undefined) this.strike(kind);
      this.start();
    });
  }

  /** No more faults, and everything that can be repaired is. */
  heal(): void {
    const { network, hosts, trace } = this.#deps;
    this.#stopped = true;
    this.#receivers.clear();
    trace.note("all", "heals");
    network.mend();
    network.faulty = false;
    for (const host of hosts) {
      host.clockRate = 1;
      host.slowDisk = 1;
      host.disk.capacityBytes = Number.MAX_SAFE_INTEGER;
      host.failNextSync = false;
      host.stopInCalls = undefined;
      host.stopAtNewSegment = undefined;
      if (host.state === "down") host.start("join");
    }
  }

  strike(kind: FaultKind): void {
    const { random, trace, network, hosts } = this.#deps;
    const members = hosts.filter(({ state }) => state !== "unused");
    const host = this.#target(members);
    if (host === undefined) return;
    const leader = members.find(({ isLeader, isUp }) => isLeader && isUp);
    trace.note("all", "fault", kind, host.name);
    switch (kind) {
      case "split": {
        const side = new Set(members.filter(() => random.chance(0.5)));
        this.#cutWhere((a, b) => side.has(a) !== side.has(b));
        return;
      }
      case "one-way":
        this.#cutWhere((a, b) => (a === host || random.chance(0.2)) && random.chance(0.6) && a !== b);
        return;
      case "isolate-leader":
        this.#cutWhere((a, b) => (a === leader) !== (b === leader));
        // One whose ticks are slow believes in itself for longer than the others do.
        if (leader !== undefined && random.chance(0.5)) leader.clockRate = 2 + random.next() * 2;
        return;
      case "transfer":
        leader?.transfer(host.nodeId, () => {});
        return;
      case "orphan-change": {
        // A configuration that is appended and, as like as not, never committed.
        const newcomer = random.pick(hosts);
        this.#cutWhere((a, b) => a === leader && b !== newcomer);
        if (leader === undefined || newcomer === undefined) return;
        const id = newcomer.memberId ?? `${newcomer.name}.00`;
        leader.onCore((node) => {
          const kinds = [
            { kind: "remove", id },
            { kind: "demote", id },
            { kind: "add-learner", id: `${newcomer.name}.${random.integer(1000)}`, context: "" },
          ] as const;
          const change = random.pick(kinds);
          if (change !== undefined) node.proposeConfChange(change);
        });
        return;
      }
      case "bridge":
        this.#cutWhere((a, b) => a !== host && b !== host);
        return;
      case "constrained":
        // The one that will be in the middle falls behind first.
        this.#cutWhere((a, b) => (a === leader && b === host) || (a === host && b === leader));
        this.#deps.schedule.after(random.next() * 600, () => {
          if (!this.#stopped)
            this.#cutWhere((a, b) => a === leader || b === leader || (a !== host && b !== host));
        });
        return;
      case "chain":
        this.#cutWhere((a, b) => Math.abs(members.indexOf(a) - members.indexOf(b)) > 1);
        return;
      case "mend":
        network.mend();
        return;
      case "kill":
        this.#crash(host, "process");
        return;
      case "power":
        this.#crash(host, "power");
        return;
      case "power-all":
        for (const each of members) this.#crash(each, "power");
        return;
      case "stop-in-call":
        host.stopInCalls = { left: 1 + random.integer(30), how: random.chance(0.5) ? "power" : "process" };
        return;
      case "stop-at-new-segment":
        host.stopAtNewSegment = random.chance(0.5) ? "power" : "process";
        return;
      case "stale-leader":
        this.#staleLeader(members, leader);
        return;
      case "receiver-restart":
        // It falls behind first.
        this.#receivers.set(host, { times: 1 + random.integer(3), parts: 1 + random.integer(12) });
        this.#crash(host, random.chance(0.5) ? "process" : "power");
        return;
      case "pause":
        host.pause(
          random.pick(["raft", "main", "both"] as const) ?? "both",
          random.next() * 2 * this.#plan.lastsMs,
        );
        return;
      case "clock":
        host.clockRate = 0.5 + random.next() * 1.5;
        return;
      case "slow-disk":
        host.slowDisk = 5 + random.integer(200);
        this.#afterwards(() => {
          host.slowDisk = 1;
        });
        return;
      case "full-disk":
        host.disk.capacityBytes = host.disk.usedBytes + random.integer(4096);
        this.#afterwards(() => {
          host.disk.capacityBytes = Number.MAX_SAFE_INTEGER;
        });
        return;
      case "failed-sync":
        host.failNextSync = true;
        return;
      case "flip":
        this.#flip(host);
        return;
    }
  }

  /**
   * A leader that nobody hears but a host outside the group, and that believes in itself for as long as can be; the
   * others elect one of themselves, which takes the newcomer in and hands it the leadership: it speaks to all it knows.
   */
  #staleLeader(members: readonly SimHost[], leader: SimHost | undefined): void {
    const { random, hosts, operator, schedule } = this.#deps;
    const newcomer = random.pick(hosts.filter(({ state }) => state === "unused"));
    if (leader === undefined || newcomer === undefined || operator.isBusy) return;
    this.#cutWhere((a, b) => (a === leader || b === leader) && a !== newcomer && b !== newcomer);
    leader.clockRate = 4;
    const look = (leftMs: number): void => {
      if (this.#stopped || leftMs <= 0) return;
      const next = members.find((host) => host !== leader && host.isUp && host.isLeader);
      if (next === undefined) return void schedule.after(lookEveryMs, () => look(leftMs - lookEveryMs));
      operator.joinBy(next, newcomer, () => handOver(next, staleBoundMs));
    };
    // Again and again: it is a learner first, and takes the leadership only once it votes.
    const handOver = (next: SimHost, leftMs: number): void => {
      if (this.#stopped || leftMs <= 0 || newcomer.isLeader) return;
      next.transfer(newcomer.nodeId, () => {});
      schedule.after(lookEveryMs, () => handOver(next, leftMs - lookEveryMs));
    };
    look(staleBoundMs);
  }

  /** A part of a snapshot has arrived at this host. */
  #onPart(name: string): void {
    const { random, schedule, hosts } = this.#deps;
    const host = hosts.find((each) => each.name === name);
    const plan = host && this.#receivers.get(host);
    if (host === undefined || plan === undefined) return;
    plan.parts -= 1;
    if (plan.parts > 0) return;
    plan.times -= 1;
    plan.parts = 1 + random.integer(12);
    if (plan.times === 0) this.#receivers.delete(host);
    if (random.chance(0.4)) {
      host.pause("main", random.next() * 2 * this.#plan.lastsMs); // It takes the state in only after a while.
      return;
    }
    const how = random.chance(0.7) ? "process" : "power";
    schedule.after(0, () => {
      if (!this.#stopped) this.#crash(host, how);
    });
  }

  /** Leaders are where most can go wrong. */
  #target(members: readonly SimHost[]): SimHost | undefined {
    const { random } = this.#deps;
    const leaders = members.filter(({ isLeader, isUp }) => isLeader && isUp);
    return random.chance(0.4) && leaders.length > 0 ? random.pick(leaders) : random.pick(members);
  }

  #cutWhere(separates: (a: SimHost, b: SimHost) => boolean): void {
    const { network, hosts, trace } = this.#deps;
    network.mend();
    const cuts: string[] = [];
    for (const a of hosts) {
      for (const b of hosts) {
        if (a === b || !separates(a, b)) continue;
        network.cut(a.name, b.name);
        cuts.push(`${a.name}>${b.name}`);
      }
    }
    trace.note("all", "cuts", cuts.join(" "));
    this.#afterwards(() => network.mend());
  }

  #crash(host: SimHost, how: "process" | "power"): void {
    if (host.state !== "up" && host.state !== "starting") return;
    const { random } = this.#deps;
    host.crash(how, how === "power" ? this.#loss() : undefined);
    const wait = random.chance(0.3) ? 0.05 : 1;
    this.#afterwards(() => {
      if (host.state === "down") host.start("join");
    }, wait);
  }

  #loss(): CrashLoss {
    const { random } = this.#deps;
    return (
      random.pick([loseAll, loseNothing, loseContents, loseNames, loseSome(random), loseSome(random)]) ??
      loseAll
    );
  }

  /** One bit of one file, unless the group could not do without this disk. */
  #flip(host: SimHost): void {
    const { random, trace, hosts, operator } = this.#deps;
    const leader = hosts.find(({ isLeader, isUp }) => isLeader && isUp)?.node?.status();
    if (leader === undefined || !leader.settled || leader.configuration.voters.length < 3) return;
    if (operator.isBusy || hosts.some(({ tampered }) => tampered)) return;
    const path = random.pick(host.disk.paths().filter((name) => !name.endsWith("/member")));
    if (path === undefined) return;
    const size = host.disk.contents(path).byteLength;
    if (size === 0) return;
    // Most of a segment is empty: look for a place that is written.
    const contents = host.disk.contents(path);
    let at = random.integer(size);
    for (let tries = 0; tries < 20 && contents[at] === 0; tries += 1) at = random.integer(size);
    host.tampered = true;
    host.disk.damage(path, (bytes) => {
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.integer(8));
    });
    trace.note(host.name, "bit flips", path, at);
    if (random.chance(0.7)) this.#crash(host, random.chance(0.5) ? "process" : "power");
  }

  #afterwards(repair: () => void, factor = 1): void {
    const { schedule, random } = this.#deps;
    schedule.after(factor * (0.2 + random.next()) * this.#plan.lastsMs, () => {
      if (!this.#stopped) repair();
    });
  }
}
