import { campaign } from "./candidate.ts";
import type { ConfChange } from "./confchange.ts";
import { leaderGone } from "./follower.ts";
import {
  type ProposeResult,
  addRead,
  advanceCommit,
  flush,
  onSnapshotSent,
  onUnreachable,
  proposeChange,
  proposeData,
  releaseUncommitted,
  startTransfer,
} from "./leader.ts";
import {
  type Configuration,
  type HardState,
  type MemberId,
  type Message,
  type SnapshotMessage,
  invariant,
  totalBytes,
} from "./message.ts";
import type { SnapshotState } from "./log.ts";
import { Inflights, type Progress, type ProgressState } from "./progress.ts";
import { addPromise } from "./promises.ts";
import { step, tick } from "./raft.ts";
import type { Ready, SoftState, Write } from "./ready.ts";
import { type RaftOptions, RaftState, type RoleKind } from "./state.ts";

/** What the leader knows of a peer. */
export interface PeerStatus {
  readonly id: MemberId;
  readonly state: ProgressState;
  /** Index up to which its log is known to be durable and the same as here; 0 before it has answered. */
  readonly match: number;
  /** Index of the next entry it is sent. */
  readonly next: number;
  /**
   * Heard from within the last election timeout, and a heartbeat's interval for the answer; also true for as long after a
   * leadership began or the peer came in, heard from or not.
   */
  readonly active: boolean;
  /**
   * Heard from within 2,048 election timeouts, so that it is worth keeping things for it: the log that it needs, and the
   * snapshot that it holds a part of, which the core gives up then.
   */
  readonly awaited: boolean;
  /** A transfer under way, or one that was broken off and will be resumed. */
  readonly snapshot: { readonly index: number; readonly ackedBytes: number } | undefined;
}

export interface RaftStatus {
  readonly id: MemberId;
  readonly role: RoleKind;
  readonly term: number;
  readonly leader: MemberId | undefined;
  /** Index up to which entries are known here to be committed. */
  readonly commit: number;
  /** Index up to which `applied(index)` was called, or that of the snapshot this member began with or received. */
  readonly applied: number;
  /** Of the oldest entry that is held; one more than {@link lastIndex} when there is none. */
  readonly firstIndex: number;
  /** Of the newest entry, durable or not. */
  readonly lastIndex: number;
  /** The latest, committed or not. */
  readonly configuration: Configuration;
  /** Whether {@link configuration} is committed. */
  readonly settled: boolean;
  /** Set while leadership is being handed over. */
  readonly transferTo: MemberId | undefined;
  /** Empty unless this member leads. */
  readonly peers: readonly PeerStatus[];
}

/**
 * One member of a Raft group, as a synchronous state machine: everything it wants done comes out of
 * {@link ready}. After any call, ask {@link hasReady}. Given the same calls it always does the same.
 */
export class RaftNode {
  readonly #s: RaftState;
  #soft: SoftState;
  #configuration: Configuration;
  /** Term and vote as the latest write has them. */
  #written: { readonly term: number; readonly vote: MemberId | undefined };
  #writeNumber = 0;
  /** Under way, oldest first, each with the messages that wait for it. */
  readonly #writes: { readonly write: Write; readonly promises: Message[] }[] = [];
  readonly #applying: Inflights;

  /**
   * Takes up what `storage` holds; a founder's holds `bootstrapEntry`, that of a member which joins nothing.
   *
   * @throws {RangeError} for options that make no sense.
   * @throws {RaftInvariantError} when the storage lacks entries that it says are committed.
   * @throws {Error} when an entry of kind `config` does not parse.
   */
  constructor(options: RaftOptions) {
    this.#s = new RaftState(options);
    this.#soft = this.#softState();
    this.#configuration = this.#s.history.latest;
    this.#written = options.storage.initialState();
    this.#applying = new Inflights({ maxCount: Infinity, maxBytes: this.#s.options.maxApplyingBytes });
  }

  /** Time passes; call it at a steady pace. */
  tick(): void {
    tick(this.#s);
  }

  /**
   * A message from a peer. Of a `snapshot` message the caller must hold the data before it passes it on.
   *
   * @throws {RaftInvariantError} when going on could lose data; the member must stop.
   */
  step(message: Message): void {
    step(this.#s, message);
  }

  /**
   * Appends `data` if this member leads; it is safe once it comes back in `committed` with the same term. It is kept as it
   * is, not copied: it must not be changed any more.
   *
   * @throws {TypeError} when it is no Uint8Array, which only the compiler would see otherwise.
   */
  propose(data: Uint8Array): ProposeResult {
    if (!ArrayBuffer.isView(data)) throw new TypeError("propose takes a Uint8Array");
    const { role } = this.#s;
    return role.kind === "leader" ? proposeData(this.#s, role, data) : this.#notLeader();
  }

  /**
   * Appends the configuration after `change` if this member leads; it counts from now on, committed or not. The change is
   * made once an entry comes back in `committed` with the same index and term.
   */
  proposeConfChange(change: ConfChange): ProposeResult {
    const { role } = this.#s;
    return role.kind === "leader" ? proposeChange(this.#s, role, change) : this.#notLeader();
  }

  /**
   * Asks for a linearizable read. The answer is a read state with the same `ctx`; it may never come (the
   * leader changed, a message was lost), so the caller has a deadline and asks again. The index that comes with
   * `accepted` is not the read's.
   */
  readIndex(ctx: number): ProposeResult {
    const s = this.#s;
    if (s.role.kind === "leader") return addRead(s, s.role, ctx);
    if (s.leader === undefined) return this.#notLeader();
    s.send({ type: "read", from: s.id, to: s.leader, term: s.term, ctx });
    return { kind: "accepted", index: s.log.commit, term: s.term };
  }

  /** Begins to hand leadership over; it ends with a new leader, or after an election timeout with this one. */
  transferLeadership(to: MemberId): ProposeResult {
    const { role } = this.#s;
    return role.kind === "leader" ? startTransfer(this.#s, role, to) : this.#notLeader();
  }

  /** Stands for election now, by pre-vote; for the founder of a group that nobody else can be waiting for. */
  campaign(): void {
    if (this.#s.role.kind !== "leader") campaign(this.#s, "pre-vote");
  }

  /** The transport lost what it had for this peer. */
  reportUnreachable(id: MemberId): void {
    if (this.#s.role.kind === "leader") onUnreachable(this.#s.role, id);
  }

  /**
   * How the transfer that this `snapshot` message asked for has ended; each of them needs exactly one such report. After a
   * failure the core asks again once the peer gives a sign of life; if the same snapshot fails again and gets no further, after one
   * election timeout, then two, up to sixteen. A newer snapshot or `reportUnreachable` ends the wait. A report that comes late does not touch a later transfer.
   */
  reportSnapshot(message: SnapshotMessage, outcome: "sent" | "failed"): void {
    if (this.#s.role.kind === "leader") onSnapshotSent(this.#s, this.#s.role, message, outcome);
  }

  /**
   * The peer holds the first `ackedBytes` of what this `snapshot` message asked for safely. When that transfer breaks off,
   * the core asks for the same snapshot again while the log still continues it, and {@link snapshotTransfer} tells where to
   * resume.
   */
  reportSnapshotProgress({ to, transferId }: SnapshotMessage, ackedBytes: number): void {
    const { role } = this.#s;
    if (role.kind === "leader") role.progress.get(to)?.snapshotReached(transferId, ackedBytes);
  }

  /** The transfer to this peer that is under way, or was broken off and will be resumed. */
  snapshotTransfer(id: MemberId): { readonly index: number; readonly ackedBytes: number } | undefined {
    return this.#s.role.kind === "leader" ? transferOf(this.#s.role.progress.get(id)) : undefined;
  }

  /** Whether the member is known to have been removed for good; see `Configuration.departed`. */
  hasDeparted(id: MemberId): boolean {
    return this.#s.history.hasDeparted(id, this.#s.log.commit);
  }

  /** The process of this peer has ended, as far as its closed connection tells. */
  reportGone(id: MemberId): void {
    leaderGone(this.#s, id);
    this.reportUnreachable(id);
  }

  /** Whether {@link ready} has anything new. */
  hasReady(): boolean {
    const s = this.#s;
    return (
      s.messages.length > 0 ||
      s.readStates.length > 0 ||
      this.#writeIsDue() ||
      (s.promises.length > 0 && this.#writes.length === 0) ||
      (s.log.hasCommitted() && !this.#applying.full) ||
      (s.role.kind === "leader" && s.role.flushDue) ||
      this.#configuration !== s.history.latest ||
      !sameSoft(this.#soft, s)
    );
  }

  /** Takes the work at hand. It may be taken again while earlier writes are under way. */
  ready(): Ready {
    const s = this.#s;
    if (s.role.kind === "leader") flush(s, s.role);
    const write = this.#writeIsDue() ? this.#beginWrite() : undefined;
    this.#bindPromises();
    const committed = this.#applying.full ? [] : s.log.takeCommitted(s.options.maxApplyingBytes);
    const lastCommitted = committed.at(-1);
    if (lastCommitted !== undefined) this.#applying.add(lastCommitted.index, totalBytes(committed));
    if (s.role.kind === "leader") releaseUncommitted(s, s.role, committed);
    const ready: Ready = {
      softState: sameSoft(this.#soft, s) ? undefined : this.#softState(),
      configuration: this.#configuration === s.history.latest ? undefined : s.history.latest,
      messages: s.messages,
      write,
      committed,
      readStates: s.readStates,
    };
    s.messages = [];
    s.readStates = [];
    this.#soft = ready.softState ?? this.#soft;
    this.#configuration = s.history.latest;
    return ready;
  }

  /**
   * The write is durable, and storage gives its entries back. Writes are reported in order.
   *
   * @param snapshot - Of a write that carries one: `loading` when the state machine has not loaded it yet. Until
   *   {@link applied} is called with its index, nothing is handed out as `committed` and this member does not stand for
   *   election; it votes and acknowledges all the same, since those promise only what is durable.
   * @throws {RaftInvariantError} when it is not the oldest one under way.
   */
  persisted({ number, hardState }: Write, snapshot: SnapshotState = "loaded"): void {
    const [done] = this.#writes;
    invariant(
      done?.write.number === number,
      () => `write ${number} was reported durable, ${done?.write.number ?? "none"} is the oldest under way`,
    );
    this.#writes.shift();
    const s = this.#s;
    s.stableTerm = hardState.term;
    s.log.workDone(snapshot);
    for (const message of done.promises) if (!s.isVoid(message)) s.messages.push(message);
    if (s.role.kind === "leader") advanceCommit(s, s.role);
  }

  /**
   * The state machine has applied what was `committed` up to `index`, or loaded the snapshot of that index. Room for more comes with the last of each `committed`,
   * so reporting only that is enough.
   *
   * @throws {RaftInvariantError} when entries up to there were not handed out.
   */
  applied(index: number): void {
    this.#s.log.appliedTo(index);
    this.#applying.freeTo(index);
  }

  /**
   * The configuration in force at `index`, for the metadata of a snapshot made there. Those of before the latest snapshot
   * are not known; the oldest that is stands in for them.
   */
  configurationAt(index: number): Configuration {
    return this.#s.history.at(index);
  }

  /** Configurations older than `index` are not asked for any more: a snapshot was made there. */
  compacted(index: number): void {
    this.#s.history.forgetBefore(index);
  }

  /** A copy of this moment; of a leader with one element for each member, so not for every message. */
  status(): RaftStatus {
    const s = this.#s;
    return {
      id: s.id,
      role: s.role.kind,
      term: s.term,
      leader: s.leader,
      commit: s.log.commit,
      applied: s.log.applied,
      firstIndex: s.log.firstIndex(),
      lastIndex: s.log.lastIndex(),
      configuration: s.history.latest,
      settled: s.history.latestIndex <= s.log.commit,
      transferTo: s.role.kind === "leader" ? s.role.transferTo : undefined,
      peers: s.role.kind === "leader" ? [...s.role.progress].map(peerStatus) : [],
    };

    function peerStatus([id, progress]: [MemberId, Progress]): PeerStatus {
      const own = id === s.id;
      const { state, match, next, silentTicks } = progress;
      return {
        id,
        state: own ? "replicate" : state,
        match: own ? s.log.stableIndex() : match,
        next: own ? s.log.lastIndex() + 1 : next,
        active: own || silentTicks <= s.maxSilentTicks,
        awaited: own || silentTicks <= s.maxAwaitedTicks,
        snapshot: transferOf(progress),
      };
    }
  }

  #notLeader(): ProposeResult {
    const { leader, id } = this.#s;
    const text = leader === undefined ? "no leader is known" : `${id} does not lead, ${leader} does`;
    return { kind: "refused", reason: "not-leader", text };
  }

  #softState(): SoftState {
    return { role: this.#s.role.kind, leader: this.#s.leader, term: this.#s.term };
  }

  #hardState(): HardState {
    return { term: this.#s.term, vote: this.#s.vote, commit: this.#s.log.commit };
  }

  #isDirty(): boolean {
    const { term, vote, log } = this.#s;
    return log.hasWork || this.#written.term !== term || this.#written.vote !== vote;
  }

  #writeIsDue(): boolean {
    return this.#writes.length < this.#s.options.maxWritesUnderWay && this.#isDirty();
  }

  #beginWrite(): Write {
    const hardState = this.#hardState();
    this.#writeNumber += 1;
    const write = { number: this.#writeNumber, hardState, ...this.#s.log.takeWork() };
    this.#written = hardState;
    this.#writes.push({ write, promises: [] });
    return write;
  }

  /** What is promised lies in the latest write under way, unless there is something that none has taken yet. */
  #bindPromises(): void {
    const s = this.#s;
    if (s.promises.length === 0 || this.#isDirty()) return;
    const waiting = this.#writes.at(-1)?.promises ?? s.messages;
    for (const message of s.promises) if (!s.isVoid(message)) addPromise(waiting, message);
    s.promises = [];
  }
}

function sameSoft(soft: SoftState, s: RaftState): boolean {
  return soft.role === s.role.kind && soft.leader === s.leader && soft.term === s.term;
}

function transferOf(progress: Progress | undefined): PeerStatus["snapshot"] {
  const transfer = progress?.transfer;
  return transfer && { index: transfer.meta.index, ackedBytes: transfer.ackedBytes };
}
