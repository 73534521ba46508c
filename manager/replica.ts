import { ClusterError, errorText, outcomeUnknownText } from "../model/errors.ts";
import type { ClusterSpec } from "../model/cluster.ts";
import type { NodeId } from "../model/ids.ts";
import { LoopGroup, type LoopDeps } from "../runtime/loop.ts";
import { deadline, orAborted, within } from "../runtime/signal.ts";
import type { Dispatcher } from "./dispatcher/dispatcher.ts";
import { RemovedError } from "./failure.ts";
import { Leadership } from "./leader.ts";
import { clusterAddress } from "./membership/plan.ts";
import type { MembershipDeps } from "./membership/run.ts";
import type { GroupMember, RaftEvent, RaftGroup, SnapshotSource } from "./raft/group.ts";
import { Store } from "./store/store.ts";

const readBarrierTimeoutMs = 5_000;
/** Handing over takes one round to a follower; a group without quorum cannot. */
const transferTimeoutMs = 1_500;
const closeTimeoutMs = 3_000;

export interface ReplicaDeps extends LoopDeps {
  readonly nodeId: NodeId;
}

/**
 * What a manager is behind its doors: its copy of the store, kept by its member of the consensus group, and the
 * leader's loops while it leads. It knows no socket, file or process.
 */
export class Replica {
  readonly store: Store;
  readonly #deps: ReplicaDeps;
  readonly #loops: LoopGroup;
  readonly #memberListeners = new Set<() => void>();
  #group: RaftGroup | undefined;
  #leadership: Leadership | undefined;
  #leadershipEnd: Promise<void> = Promise.resolve();
  #leaderId: NodeId | undefined;
  /** The last leader known, and the end of its being that. */
  #askedLeader: { readonly id: NodeId | undefined; readonly replaced: AbortController } = {
    id: undefined,
    replaced: new AbortController(),
  };
  #members: readonly GroupMember[] = [];
  #isStopping = false;
  #failed: (reason: unknown) => void = () => {};
  /** Rejects when the manager cannot go on. */
  readonly failure: Promise<never>;

  constructor(deps: ReplicaDeps) {
    this.#deps = deps;
    this.#loops = new LoopGroup(deps);
    this.store = new Store({
      clock: deps.clock,
      random: deps.random,
      proposer: {
        propose: (data, signal) => this.group.propose(data, signal),
        confirmLeader: () => this.readBarrier(),
      },
    });
    this.failure = new Promise((_resolve, reject) => (this.#failed = reject));
    this.failure.catch(() => undefined); // Whoever opened us looks at it; until then it is not unhandled.
  }

  /** Joins in; from then on the store follows the group. */
  async start(open: (source: SnapshotSource) => Promise<RaftGroup>): Promise<void> {
    const group = await open((atLeast) => this.#snapshot(atLeast));
    this.#group = group;
    this.#loops.background(
      "consensus",
      this.#follow(group).catch((error: unknown) => this.#failed(error)),
    );
    this.#loops.background("log limits", this.#followLogLimits(group));
  }

  /** Ends with {@link stop}. */
  get signal(): AbortSignal {
    return this.#loops.signal;
  }

  /** @throws {ClusterError} `unavailable` before {@link start} has settled. */
  get group(): RaftGroup {
    if (this.#group === undefined) throw new ClusterError("unavailable", "this manager is still starting");
    return this.#group;
  }

  get hasStarted(): boolean {
    return this.#group !== undefined;
  }

  get isLeader(): boolean {
    return this.store.leadingTerm !== undefined;
  }

  get leaderId(): NodeId | undefined {
    return this.#leaderId;
  }

  /** Aborts when another leader has taken the place of the one known now: it will not answer any more. */
  get leaderReplaced(): AbortSignal {
    return this.#askedLeader.replaced.signal;
  }

  /** Present while this manager leads. */
  get dispatcher(): Dispatcher | undefined {
    return this.#leadership?.dispatcher;
  }

  /** The committed members; empty while they are not known. */
  get members(): readonly GroupMember[] {
    return this.#members.length > 0 ? this.#members : (this.#group?.status().members ?? []);
  }

  /** "ip:port" of the leader's cluster port, where it is another manager. */
  get leaderAddress(): string | undefined {
    const leaderId = this.#leaderId;
    if (leaderId === undefined) return undefined;
    const stored = this.store.view((view) => view.nodes.get(leaderId)?.member?.address);
    if (stored !== undefined) return stored;
    const member = this.members.find(({ nodeId }) => nodeId === leaderId);
    return member && clusterAddress(member.raftAddress);
  }

  isReachable(nodeId: NodeId): boolean {
    if (nodeId === this.#deps.nodeId) return true;
    return this.#group?.status().members.find((member) => member.nodeId === nodeId)?.reachable ?? false;
  }

  get membershipDeps(): MembershipDeps {
    const { clock, log, nodeId } = this.#deps;
    return {
      store: this.store,
      group: {
        changeMembership: (...args: Parameters<RaftGroup["changeMembership"]>) =>
          this.group.changeMembership(...args),
        transferLeadership: (...args: Parameters<RaftGroup["transferLeadership"]>) =>
          this.group.transferLeadership(...args),
      },
      clock,
      log: log.child({ part: "membership" }),
      nodeId,
      members: () => this.members,
      onMembers: (listener: () => void) => {
        this.#memberListeners.add(listener);
        return () => void this.#memberListeners.delete(listener);
      },
    };
  }

  /**
   * Settles when the store holds everything that was acknowledged anywhere before the call.
   * @throws {ClusterError} `no-leader`, or `unavailable` when this manager does not catch up in time.
   */
  async readBarrier(signal?: AbortSignal): Promise<void> {
    using limit = deadline(this.#deps.clock, readBarrierTimeoutMs, "a linearizable read", signal);
    const index = await this.group.readIndex(limit.signal);
    try {
      await this.store.waitApplied(index, limit.signal);
    } catch (cause) {
      if (!limit.signal.aborted || signal?.aborted === true) throw cause;
      const text = `this manager is behind the others and did not catch up within ${readBarrierTimeoutMs / 1000} s`;
      throw new ClusterError("unavailable", `${text}: ask another one, and see its log`, { cause });
    }
  }

  /** A leader that goes on purpose spares everybody an election timeout. Bounded; never fails. */
  async handOver(signal?: AbortSignal): Promise<void> {
    if (!this.isLeader || this.members.length < 2) return;
    using limit = deadline(this.#deps.clock, transferTimeoutMs, "transferring the leadership", signal);
    await orAborted(this.group.transferLeadership(undefined, limit.signal), limit.signal).catch(
      (error: unknown) => this.#deps.log.warn({ error: errorText(error) }, "cannot hand over the leadership"),
    );
  }

  /** Ends the leader's loops and sessions, whatever the group says from now on. */
  async endLeading(): Promise<void> {
    this.#isStopping = true;
    this.#lead(undefined);
    await this.#leadershipEnd;
  }

  /** Ends the part in the group. Bounded. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    const { clock, log } = this.#deps;
    if (this.#group !== undefined) {
      await within(clock, closeTimeoutMs, "ending consensus", this.#group.stop()).catch((error: unknown) =>
        log.warn({ error: errorText(error) }, "did not end in order"),
      );
    }
    await this.#loops.stop("the manager is stopping", closeTimeoutMs);
  }

  /** The cluster's spec says how long the log of every manager may get. */
  async #followLogLimits(group: RaftGroup): Promise<void> {
    using watch = this.store.watch(["cluster"], this.#loops.signal);
    let current: ClusterSpec | undefined;
    do {
      watch.take();
      const spec = this.store.view((view) => view.cluster?.spec);
      if (spec === undefined || spec === current) continue;
      current = spec;
      const { snapshotIntervalEntries: snapshotEntries, slowFollowerEntries: keepEntries } = spec;
      group.updateLogLimits({ snapshotEntries, keepEntries });
    } while (await watch.ready());
  }

  /** Everything the group says, in order. Ends with the group. */
  async #follow(group: RaftGroup): Promise<void> {
    for await (const event of group.events) await this.#take(event);
    if (!this.#isStopping) throw new ClusterError("internal", "the consensus thread ended");
  }

  async #take(event: RaftEvent): Promise<void> {
    switch (event.kind) {
      case "committed":
        for (const { index, data } of event.entries) this.store.apply(index, data);
        if (event.index > this.store.appliedIndex) this.store.apply(event.index, new Uint8Array());
        return;
      case "snapshot":
        await this.store.restoreFrom(event.data);
        return;
      case "leader":
        this.#followLeader(event.leaderId);
        this.#lead(event.isSelf ? event.term : undefined);
        return;
      case "membership":
        this.#members = event.members;
        for (const listener of this.#memberListeners) listener();
        return;
      case "failed":
        throw event.removed ? new RemovedError() : event.error;
    }
  }

  /** Requests under way at a leader that another has replaced get no answer any more: whoever waits is told so. */
  #followLeader(leaderId: NodeId | undefined): void {
    this.#leaderId = leaderId;
    if (leaderId === undefined || leaderId === this.#askedLeader.id) return;
    this.#askedLeader.replaced.abort(new ClusterError("unavailable", outcomeUnknownText));
    this.#askedLeader = { id: leaderId, replaced: new AbortController() };
  }

  #lead(term: number | undefined): void {
    const { clock, random, log } = this.#deps;
    if (term !== undefined && term === this.store.leadingTerm) return;
    const before = this.#leadership;
    this.#leadership = undefined;
    this.store.setLeading(term);
    if (before !== undefined) {
      log.info({}, "this manager does not lead any more");
      // One that was lost before it began has nothing to end, and the one it waited for may still be ending.
      this.#leadershipEnd = Promise.all([this.#leadershipEnd, before.stop()]).then(() => undefined);
    }
    if (term === undefined) return;
    log.info({ term }, "this manager leads");
    const deps = { clock, random, log, store: this.store, membership: this.membershipDeps };
    this.#leadership = new Leadership(deps, this.#leadershipEnd);
  }

  /** The store as one applied entry left it, in pieces; other work gets its turn between two of them. */
  async #snapshot(atLeast: number): ReturnType<SnapshotSource> {
    await this.store.waitApplied(atLeast, this.#loops.signal);
    const { clock } = this.#deps;
    const { signal } = this.#loops;
    return { index: this.store.appliedIndex, data: oneByOne(this.store.snapshot()) };

    async function* oneByOne(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for (const piece of pieces) {
        yield piece;
        await clock.sleep(0, signal);
      }
    }
  }
}
