import type { Configuration } from "raft-ts";
import { encodeContext, nodeIdOf } from "../../manager/raft/membership.ts";
import type { SimHost } from "./raft-host.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

const patienceMs = 3_000;

/** Whoever adds, promotes and removes managers, hands over leadership and replaces damaged disks. */
export class Operator {
  readonly #deps: { readonly schedule: Schedule; readonly random: SimRandom; readonly trace: Trace };
  readonly #hosts: readonly SimHost[];
  readonly #everyMs: number;
  readonly #wasMember: (id: string) => boolean;
  #busy = false;
  #stopped = false;

  constructor(
    deps: { readonly schedule: Schedule; readonly random: SimRandom; readonly trace: Trace },
    options: {
      readonly hosts: readonly SimHost[];
      readonly everyMs: number;
      readonly wasMember: (id: string) => boolean;
    },
  ) {
    this.#wasMember = options.wasMember;
    this.#deps = deps;
    this.#hosts = options.hosts;
    this.#everyMs = options.everyMs;
  }

  get isBusy(): boolean {
    return this.#busy;
  }

  start(): void {
    const { schedule, random } = this.#deps;
    schedule.after(this.#everyMs * (0.5 + random.next()), () => {
      if (this.#stopped) return;
      this.#step();
      this.start();
    });
  }

  stop(): void {
    this.#stopped = true;
  }

  leader(): SimHost | undefined {
    return this.#deps.random.pick(this.#hosts.filter(({ isLeader, isUp }) => isLeader && isUp));
  }

  /** Adds a host that holds nothing yet: it starts, and then the leader is told. */
  join(host: SimHost, kind: "add" | "add-learner", done: (how: "added" | "not added") => void): void {
    this.#join({ host, kind, leaderOf: () => this.leader() }, done);
  }

  /** The same, by this one of several that may believe they lead. */
  joinBy(leader: SimHost, host: SimHost, done: (how: "added" | "not added") => void): void {
    this.#join({ host, kind: "add", leaderOf: () => leader }, done);
  }

  #join(
    {
      host,
      kind,
      leaderOf,
    }: { host: SimHost; kind: "add" | "add-learner"; leaderOf: () => SimHost | undefined },
    done: (how: "added" | "not added") => void,
  ): void {
    if (host.state === "unused") host.start("join");
    this.#when(
      () => host.isUp && host.memberId !== undefined,
      patienceMs,
      (isUp) => {
        const leader = leaderOf();
        if (!isUp || leader === undefined || host.memberId === undefined) return done("not added");
        const { nodeId, memberId, address: raftAddress } = host;
        leader.change({ kind, nodeId, memberId, raftAddress }, (failure) => {
          this.#deps.trace.note("op", kind, host.name, failure === undefined ? "done" : "failed");
          done(failure === undefined ? "added" : "not added");
        });
      },
    );
  }

  #step(): void {
    if (this.#busy) return;
    const { random, trace } = this.#deps;
    const leader = this.leader();
    const configuration = leader?.node?.status().configuration;
    for (const host of this.#hosts) if (host.state === "removed") host.wipe();
    if (leader === undefined || configuration === undefined) return;
    const broken = this.#hosts.find(({ state }) => state === "damaged");
    const waiting = broken ?? this.#hosts.find((host) => host.isUp && this.#isNew(host, configuration));
    const finish = (): void => {
      this.#busy = false;
    };
    this.#busy = true;
    this.#deps.schedule.after(patienceMs * 2, finish); // Whatever was asked of a process that died.
    if (broken !== undefined) broken.wipe();
    if (waiting !== undefined) return this.join(waiting, "add", finish);
    if (this.#hosts.some(({ tampered }) => tampered)) return finish();
    const unused = random.pick(this.#hosts.filter(({ state }) => state === "unused"));
    const choice = random.integer(10);
    if (configuration.outgoing.length > 0) {
      trace.note("op", "leaves the joint configuration");
      leader.onCore((node) => node.proposeConfChange({ kind: "leave" }));
      return finish();
    }
    if (choice < 2) {
      this.#reconfigure(leader, configuration);
      return finish();
    }
    if (choice < 6 && unused !== undefined) {
      return this.join(unused, random.chance(0.3) ? "add-learner" : "add", finish);
    }
    const learner = random.pick(configuration.learners);
    if (learner !== undefined && random.chance(0.5)) {
      trace.note("op", "promotes", nodeIdOf(learner));
      return leader.change({ kind: "promote", nodeId: nodeIdOf(learner) }, finish);
    }
    const member = random.pick([...configuration.voters, ...configuration.learners]);
    if (member === undefined) return finish();
    trace.note("op", "removes", nodeIdOf(member));
    leader.change({ kind: "remove", nodeId: nodeIdOf(member) }, finish);
  }

  /** A member that was taken out is told so by the others; its id is never added again. */
  #isNew(host: SimHost, configuration: Configuration): boolean {
    return !isMember(configuration, host) && host.memberId !== undefined && !this.#wasMember(host.memberId);
  }

  /** Any set of those that run, by way of a joint configuration. */
  #reconfigure(leader: SimHost, configuration: Configuration): void {
    const { random, trace } = this.#deps;
    const able = this.#hosts.filter(
      (host) => host.isUp && (isMember(configuration, host) || this.#isNew(host, configuration)),
    );
    const chosen = able.filter(() => random.chance(0.7));
    const voters = chosen.filter(() => random.chance(0.8));
    if (voters.length === 0) return;
    const learners = chosen.filter((host) => !voters.includes(host));
    const contexts = Object.fromEntries(
      chosen.map(({ memberId, address: raftAddress }) => [
        memberId ?? "",
        encodeContext({ raftAddress, promote: false }),
      ]),
    );
    const idsOf = (hosts: readonly SimHost[]): string[] => hosts.map(({ memberId }) => memberId ?? "");
    const leave = random.chance(0.7) ? "auto" : "explicit";
    trace.note("op", "reconfigures", voters.map(({ name }) => name).join("+"), leave);
    leader.onCore((node) =>
      node.proposeConfChange({
        kind: "reconfigure",
        voters: idsOf(voters),
        learners: idsOf(learners),
        contexts,
        leave,
      }),
    );
  }

  #when(check: () => boolean, boundMs: number, then: (outcome: boolean) => void): void {
    if (check()) return then(true);
    if (boundMs <= 0) return then(false);
    this.#deps.schedule.after(20, () => this.#when(check, boundMs - 20, then));
  }
}

export function isMember({ voters, outgoing, learners }: Configuration, { memberId }: SimHost): boolean {
  return memberId !== undefined && [...voters, ...outgoing, ...learners].includes(memberId);
}
