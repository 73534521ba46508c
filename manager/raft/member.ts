import {
  type Configuration,
  type Entry,
  type MemberId,
  type Message,
  RaftNode,
  type Ready,
  type SnapshotMessage,
  type SnapshotMeta,
  type Write,
  membersOf,
  totalBytes,
} from "raft-ts";
import { ClusterError, noLeaderText } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import { ChangeQueue } from "./changes.ts";
import { Departures } from "./departures.ts";
import type { MembershipChange, RaftGroupOptions } from "./group.ts";
import { Handover } from "./handover.ts";
import { groupMembers, nodeIdOf, planMembership, promotable, raftAddressOf } from "./membership.ts";
import { unpack } from "./pack.ts";
import { type ThreadCommand, type ThreadOutput, noProposal } from "./port.ts";
import type { Recovered } from "./recover.ts";
import { Proposals, Reads, asClusterError, diskFull, leadershipLost, packCommitted } from "./requests.ts";
import { MemberSnapshots } from "./member-snapshots.ts";
import type { SnapshotIdentity } from "./snapshot-file.ts";
import type { SnapshotIntake } from "./snapshot-inbox.ts";
import { groupStatus } from "./status.ts";
import { everyTick } from "./ticks.ts";
import type { MemberWire, TransportHandler } from "./transport.ts";

/**
 * A follower that hears nothing stands after 200 to 380 ms; the first of two does after 260 ms on average. The leader is
 * heard from every 40 ms, so four heartbeats in a row have to fail first.
 */
const defaults = { tickMs: 20, heartbeatTicks: 2, electionTicks: 10 } as const;
/** Reads and changes are given up after this many election timeouts. */
const boundElections = 10;
const statusTicks = 10;
/** What the main thread has not taken in; it is asked for an answer each time an eighth of that was handed over. */
const defaultMaxHandedBytes = 4 * 1024 * 1024;
const handedPerAnswer = 8;
/** Log and snapshots look after themselves about once a second. */
const maintainTicks = 50;
const firstCtxBound = 2 ** 40;

export interface MemberDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly wire: (handler: TransportHandler) => MemberWire;
  readonly emit: (output: ThreadOutput) => void;
}

/** Who waits for a read: a request of the main thread, or the question whether a stranger was removed. */
type ReadAsker =
  | { readonly kind: "request"; readonly id: number }
  | { readonly kind: "stranger"; readonly memberId: MemberId };

/**
 * Drives the core of one member: takes its work, sends and applies at once, and writes beside that. While one write is
 * under way, everything that arrives gathers for the next: that is the group commit.
 */
export class Member implements TransportHandler {
  readonly #deps: MemberDeps;
  readonly #options: RaftGroupOptions;
  readonly #state: Recovered;
  readonly #node: RaftNode;
  readonly #wire: MemberWire;
  readonly #electionTicks: number;
  readonly #proposals = new Proposals();
  readonly #reads: Reads<ReadAsker>;
  readonly #departures = new Departures();
  /** Strangers that a read has been asked for. */
  readonly #asked = new Set<MemberId>();
  readonly #changes: ChangeQueue;
  readonly #handover: Handover;
  #members: ReadonlySet<MemberId> = new Set();
  #wasMember = false;
  #leads = false;
  /** Index up to which everything was handed to the main thread; the core is told once that has taken it in. */
  #handed = 0;
  readonly #maxHandedBytes: number;
  /** Handed over behind the last that an answer was asked for. */
  #unaskedBytes = 0;
  #emittedLeader = "";
  readonly #snapshots: MemberSnapshots;
  #ticks = 0;
  #logSyncs = 0;
  #lastStatus = "";
  #stopped = false;
  #wake: () => void = () => {};
  #running: Promise<void> = Promise.resolve();
  #writing: Promise<void> = Promise.resolve();
  #maintaining: Promise<void> = Promise.resolve();
  /** States from the leader on their way to the main thread, one after another. */
  #loading: Promise<void> = Promise.resolve();
  #isMaintaining = false;
  #stopTicking: () => void = () => {};

  constructor(deps: MemberDeps, options: RaftGroupOptions, state: Recovered) {
    this.#deps = deps;
    this.#options = options;
    this.#state = state;
    const { electionTicks = defaults.electionTicks, heartbeatTicks = defaults.heartbeatTicks } = options;
    this.#electionTicks = electionTicks;
    const { maxHandedBytes = defaultMaxHandedBytes } = options;
    this.#maxHandedBytes = maxHandedBytes;
    const boundTicks = boundElections * electionTicks;
    this.#reads = new Reads(
      { retryTicks: electionTicks, boundTicks, inFlight: 4 },
      deps.random.integer(firstCtxBound),
    );
    this.#node = new RaftNode({
      id: state.memberId,
      storage: state.storage,
      random: (bound) => deps.random.integer(bound),
      electionTicks,
      heartbeatTicks,
      maxApplyingBytes: maxHandedBytes,
      ...options.coreLimits,
    });
    this.#wire = deps.wire(this);
    this.#snapshots = new MemberSnapshots(
      {
        log: deps.log,
        node: this.#node,
        emit: deps.emit,
        send: (message, file, onProgress) => this.#wire.sendSnapshot(message, file, onProgress),
        guarded: (action) => this.#guarded(action),
        fail: (error) => this.#fail(error, "failed"),
      },
      options,
      state,
    );
    this.#handover = new Handover({
      log: deps.log,
      memberId: state.memberId,
      node: this.#node,
      boundTicks: 2 * electionTicks,
      isConnected: (id) => this.#wire.isConnected(id),
      done: (id, term) => deps.emit({ kind: "reply", id, value: term }),
      refuse: (id, error) => this.#refuse(id, error),
    });
    this.#changes = new ChangeQueue({
      plan: (change) =>
        planMembership(
          change,
          this.#node.status().configuration,
          (id) => id === state.memberId || this.#wire.isConnected(id),
        ),
      propose: (step) => this.#node.proposeConfChange(step),
      termAt: (index) => state.storage.term(index),
      done: (id) => deps.emit({ kind: "reply", id, value: 0 }),
      refuse: (id, error) => this.#refuse(id, error),
    });
  }

  start(): void {
    this.#running = this.#run();
  }

  /** Ends after the write under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopTicking();
    this.#wake();
    try {
      await this.#snapshots.stop();
    } finally {
      const closed = this.#state.wal.close(); // On a full disk a write would not end otherwise.
      closed.catch(() => undefined); // Told below.
      await this.#running;
      await this.#writing;
      await this.#loading;
      await this.#maintaining;
      await closed;
    }
  }

  /** A command from the main thread, other than `identity` and `stop`. */
  command(command: Exclude<ThreadCommand, { kind: "identity" | "stop" }>): void {
    this.#guarded(() => {
      switch (command.kind) {
        case "propose":
          for (const [at, data] of unpack(command).entries())
            this.#propose(command.ids[at] ?? noProposal, data);
          return;
        case "read":
          this.#reads.add({ kind: "request", id: command.id });
          return;
        case "change":
          this.#startChange(command.id, command.change);
          return;
        case "transfer":
          this.#startTransfer(command.id, command.to);
          return;
        case "snapshot":
          this.#snapshots.part(command);
          return;
        case "no-snapshot":
          this.#snapshots.none(command.text);
          return;
        case "applied":
          this.#node.applied(command.index);
          return;
        case "snapshot-taken":
          this.#snapshots.taken();
          return;
        case "rotate-key":
          void this.#rotateKey(command.id);
          return;
        case "log-limits":
          this.#snapshots.limit(command.limits);
          return;
      }
    });
  }

  onMessages(messages: readonly Message[]): void {
    this.#guarded(() => {
      for (const message of messages) if (message.type !== "snapshot") this.#node.step(message);
    });
  }

  onSnapshotOffer(message: SnapshotMessage, identity: SnapshotIdentity): Promise<SnapshotIntake> {
    if (this.#stopped) return Promise.reject(new ClusterError("unavailable", "this manager is stopping"));
    return this.#snapshots.offer(message, identity);
  }

  onUnreachable(id: MemberId): void {
    this.#guarded(() => this.#node.reportUnreachable(id));
  }

  onGone(id: MemberId): void {
    this.#guarded(() => this.#node.reportGone(id));
  }

  onRemoved(): void {
    this.#fail(
      new ClusterError("failed-precondition", "this manager was removed from the group of managers"),
      "removed",
    );
  }

  isRemoved(id: MemberId): boolean {
    if (this.#members.has(id)) return false;
    if (this.#departures.has(id)) return true;
    // Gone since before this member can tell, or new and known to others only: a read tells which.
    if (this.#leadsSettled() && !this.#asked.has(id)) {
      this.#asked.add(id);
      this.#reads.add({ kind: "stranger", memberId: id });
      this.#wake();
    }
    return false;
  }

  /** A read was confirmed after a stranger had spoken: whoever knew of it before then, this leader would too. */
  #judgeStranger(memberId: MemberId): void {
    this.#asked.delete(memberId);
    if (this.#leadsSettled() && !this.#members.has(memberId)) this.#departures.add(memberId);
  }

  #leadsSettled(): boolean {
    const { role, settled } = this.#node.status();
    return role === "leader" && settled;
  }

  async #run(): Promise<void> {
    try {
      await this.#begin();
      while (!this.#stopped) {
        this.#reads.ask((ctx) => this.#node.readIndex(ctx).kind === "accepted");
        if (!this.#node.hasReady()) {
          await new Promise<void>((resolve) => (this.#wake = resolve));
          continue;
        }
        const ready = this.#node.ready();
        this.#carryOut(ready);
        this.#afterRound(ready);
      }
    } catch (error) {
      this.#fail(error, "failed");
    }
  }

  /** The state first, and only then the part of a member. */
  async #begin(): Promise<void> {
    const { snapshot, memberId } = this.#state;
    if (snapshot !== undefined) {
      await this.#snapshots.deliver(snapshot);
      this.#handed = snapshot.meta.index;
      this.#tellMembership(snapshot.meta.configuration);
    }
    if (this.#stopped) return;
    this.#followConfiguration();
    const { voters } = this.#node.status().configuration;
    if (voters.length === 1 && voters[0] === memberId) this.#node.campaign();
    const { tickMs = defaults.tickMs } = this.#options;
    this.#stopTicking = everyTick(this.#deps.clock, tickMs, () => this.#tick());
  }

  /**
   * The record of a write is encoded and sealed here. At a leader that comes last: by then the peers have their messages,
   * and whoever proposed an answer. At a follower it comes first: the leader waits for it, and nobody for what is applied.
   */
  #carryOut(ready: Ready): void {
    if (ready.configuration !== undefined) this.#followConfiguration();
    this.#send(ready.messages);
    const leads = this.#leads; // Before this round, which may tell that it changed.
    if (!leads) this.#beginWrite(ready);
    this.#handOver(ready);
    if (leads) this.#beginWrite(ready);
  }

  #handOver(ready: Ready): void {
    if (ready.committed.length > 0) this.#apply(ready.committed);
    if (ready.softState !== undefined) this.#onSoftState(); // After what was still committed.
    for (const { ctx, index } of ready.readStates) {
      for (const asker of this.#reads.answered(ctx)) {
        if (asker.kind === "request") this.#deps.emit({ kind: "reply", id: asker.id, value: index });
        else this.#judgeStranger(asker.memberId);
      }
    }
  }

  #beginWrite({ write }: Ready): void {
    if (write !== undefined) this.#writing = this.#write(write);
  }

  /** Messages, proposals and entries to apply go on beside it; never two at once. */
  async #write(write: Write): Promise<void> {
    try {
      await this.#persist(write);
      this.#node.persisted(write, "loading");
      if (write.snapshot !== undefined) this.#load(write.snapshot);
    } catch (error) {
      this.#fail(error, "failed");
    }
    this.#wake();
  }

  async #persist({ hardState, snapshot, entries }: Write): Promise<void> {
    const { storage, wal } = this.#state;
    if (snapshot !== undefined) await this.#snapshots.install(snapshot);
    await wal.append({ hardState, entries, installed: snapshot });
    this.#logSyncs += 1;
    if (snapshot !== undefined) storage.installSnapshot(snapshot);
    storage.append(entries);
    storage.setHardState(hardState);
  }

  /**
   * The main thread takes in a state at its own pace, beside all else here: a vote or an acknowledgement promises only what is
   * durable, and what is committed behind the state waits in the core.
   */
  #load(snapshot: SnapshotMeta): void {
    const deliver = async (): Promise<void> => {
      if (this.#stopped || snapshot.index < this.#state.storage.snapshot().index) return; // A newer one waits behind it.
      await this.#snapshots.installed(snapshot);
      this.#guarded(() => {
        this.#handed = snapshot.index;
        this.#tellMembership(snapshot.configuration);
        this.#node.applied(snapshot.index);
      });
    };
    this.#loading = this.#loading.then(deliver).catch((error: unknown) => this.#fail(error, "failed"));
  }

  #apply(committed: readonly Entry[]): void {
    const lost: number[] = [];
    const output = packCommitted(committed, (entry) => {
      const settled = this.#proposals.settle(entry);
      if (settled?.outcome === "lost") lost.push(settled.id);
      return settled?.outcome === "committed" ? settled.id : undefined;
    });
    this.#handed = output.index;
    const bytes = totalBytes(committed);
    this.#unaskedBytes += bytes;
    const acknowledge = this.#unaskedBytes * handedPerAnswer >= this.#maxHandedBytes;
    if (acknowledge) this.#unaskedBytes = 0;
    this.#deps.emit({ ...output, acknowledge });
    for (const id of lost) this.#refuse(id, leadershipLost());
    for (const entry of committed) if (entry.kind === "config") this.#onMembership(entry.index);
    this.#snapshots.applied(committed.length, bytes);
  }

  #afterRound(ready: Ready): void {
    this.#emitLeader();
    if (ready.softState !== undefined || ready.configuration !== undefined) this.#emitStatus();
    this.#changes.continue(this.#handed);
    this.#snapshots.want(this.#handed);
    const { memberId } = this.#state;
    if (this.#members.has(memberId)) return;
    const hasLeft = this.#wasMember || this.#node.hasDeparted(memberId);
    if (hasLeft && this.#node.status().settled) this.onRemoved();
  }

  #followConfiguration(): void {
    const { configuration, commit } = this.#node.status();
    const { memberId } = this.#state;
    const committed = this.#node.configurationAt(commit);
    // One that was taken back before it was committed made nobody a member: whoever asked for it may ask again.
    if (memberId in committed.contexts) this.#wasMember = true;
    this.#members = membersOf(configuration);
    // A leader whose removal is not committed yet still needs our answers.
    const addresses = new Map<MemberId, string>();
    for (const known of [committed, configuration]) {
      for (const id of membersOf(known)) addresses.set(id, raftAddressOf(known, id));
    }
    addresses.delete(memberId);
    this.#wire.setPeers(addresses);
  }

  #send(messages: readonly Message[]): void {
    this.#wire.send(messages.filter(({ type }) => type !== "snapshot"));
    for (const message of messages) if (message.type === "snapshot") void this.#snapshots.send(message);
  }

  #onSoftState(): void {
    const { role, term, leader, commit } = this.#node.status();
    this.#leads = role === "leader";
    this.#deps.log.info({ role, term, leader }, "raft role");
    // It may have been lost and won again while the last round was being written.
    const firstTerm = this.#leads ? term : Infinity;
    this.#refuseAll(this.#proposals.abandonBefore(firstTerm));
    this.#changes.abandonBefore(firstTerm, this.#handed, commit);
    this.#handover.followRole();
    this.#reads.askAgain();
  }

  /** Self counts as leader only once its first entry is handed over, and with it all of earlier terms. */
  #emitLeader(): void {
    const { role, leader, term } = this.#node.status();
    const isSelf = role === "leader";
    if (isSelf && this.#state.storage.term(this.#handed) !== term) return;
    const key = `${leader ?? ""} ${term}`;
    if (key === this.#emittedLeader) return;
    this.#emittedLeader = key;
    const leaderId = leader === undefined ? undefined : nodeIdOf(leader);
    this.#deps.emit({ kind: "leader", leaderId, term, isSelf });
  }

  #onMembership(index: number): void {
    this.#tellMembership(this.#node.configurationAt(index));
    this.#followConfiguration();
  }

  /** The committed configuration has changed. */
  #tellMembership(configuration: Configuration): void {
    this.#departures.committed(configuration);
    this.#deps.emit({ kind: "membership", members: groupMembers(configuration) });
  }

  #propose(id: number, data: Uint8Array): void {
    if (this.#state.space.state === "short" && this.#node.status().role === "leader") {
      this.#refuse(id, diskFull(this.#options.directory));
      return;
    }
    const result = this.#node.propose(data);
    switch (result.kind) {
      case "accepted":
        this.#refuseAll([this.#proposals.add(id, result)]);
        return;
      case "refused":
        this.#refuse(
          id,
          result.reason === "too-much-uncommitted"
            ? new ClusterError("resource-exhausted", `the change was not proposed: ${result.text}`)
            : this.#notLeading(),
        );
        return;
    }
  }

  #notLeading(): ClusterError {
    const { leader } = this.#node.status();
    return new ClusterError(
      "no-leader",
      leader === undefined ? noLeaderText : "this manager does not lead: nothing was proposed",
    );
  }

  #startChange(id: number, change: MembershipChange): void {
    const { role, term } = this.#node.status();
    if (role !== "leader") {
      this.#refuse(id, this.#notLeading());
      return;
    }
    this.#changes.add(id, term, change);
    this.#changes.continue(this.#handed);
  }

  #startTransfer(id: number, to: NodeId | undefined): void {
    if (this.#node.status().role === "leader") this.#handover.start(id, to);
    else this.#refuse(id, this.#notLeading());
  }

  #tick(): void {
    this.#guarded(() => {
      this.#node.tick();
      this.#ticks += 1;
      for (const asker of this.#reads.tick()) {
        if (asker.kind === "request") this.#refuse(asker.id, new ClusterError("no-leader", noLeaderText));
        else this.#asked.delete(asker.memberId);
      }
      this.#handover.tick();
      this.#tickLeader();
      if (this.#ticks % statusTicks === 0) this.#emitStatus();
      if (this.#ticks % maintainTicks === 0 && !this.#isMaintaining) this.#maintaining = this.#maintain();
    });
  }

  #tickLeader(): void {
    const { role, configuration, settled, commit, peers } = this.#node.status();
    if (role !== "leader") return;
    this.#changes.tick(boundElections * this.#electionTicks);
    this.#changes.continue(this.#handed);
    if (!this.#changes.isEmpty || !settled) return;
    const learner = promotable(configuration, commit, peers);
    if (learner !== undefined) this.#node.proposeConfChange({ kind: "promote", id: learner });
  }

  async #maintain(): Promise<void> {
    this.#isMaintaining = true;
    try {
      await this.#snapshots.maintain(() => this.#handed);
    } catch (error) {
      this.#fail(error, "failed");
    }
    this.#isMaintaining = false;
    this.#guarded(() => this.#handover.yieldWhen(this.#state.space.state));
  }

  async #rotateKey(id: number): Promise<void> {
    try {
      const keyId = await this.#snapshots.rotateKey();
      this.#deps.emit({ kind: "reply", id, value: keyId });
    } catch (error) {
      this.#refuse(id, asClusterError(error));
    }
  }

  #emitStatus(): void {
    const status = groupStatus(this.#node.status(), {
      handedIndex: this.#handed,
      logSyncs: this.#logSyncs,
      configuration: this.#node.configurationAt(this.#handed),
      isConnected: (id) => this.#wire.isConnected(id),
    });
    const text = JSON.stringify(status);
    if (text === this.#lastStatus) return;
    this.#lastStatus = text;
    this.#deps.emit({ kind: "status", status });
  }

  #refuse(id: number, { code, message }: ClusterError): void {
    this.#deps.emit({ kind: "refused", id, failure: { code, message } });
  }

  /** Of a leadership that is gone. */
  #refuseAll(ids: readonly (number | undefined)[]): void {
    for (const id of ids) if (id !== undefined) this.#refuse(id, leadershipLost());
  }

  /** Runs one event against the core and lets the rounds go on. */
  #guarded(action: () => void): void {
    if (this.#stopped) return;
    try {
      action();
    } catch (error) {
      this.#fail(error, "failed");
    }
    this.#wake();
  }

  #fail(reason: unknown, how: "failed" | "removed"): void {
    if (this.#stopped) {
      // Told to stop, or failed before: what breaks on the way out changes nothing.
      this.#deps.log.debug({ error: reason }, "raft member was already stopping");
      return;
    }
    this.#stopped = true;
    this.#stopTicking();
    this.#wake();
    const error = asClusterError(reason);
    if (how === "removed") this.#deps.log.info({}, "raft member was removed from the group");
    else this.#deps.log.error({ error: reason }, "raft member stopped");
    const failure = { code: error.code, message: error.message };
    this.#deps.emit({ kind: "failed", failure, removed: how === "removed" });
  }
}
