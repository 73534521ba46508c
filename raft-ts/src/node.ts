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
  releaseApplied,
  startTransfer,
} from "./leader.ts";
import { type Configuration, type HardState, type MemberId, type Message, invariant } from "./message.ts";
import type { ProgressState } from "./progress.ts";
import { step, tick } from "./raft.ts";
import type { Ready, SoftState } from "./ready.ts";
import { type RaftOptions, RaftState, type RoleKind } from "./state.ts";

/** What the leader knows of a peer. */
export interface PeerStatus {
  readonly id: MemberId;
  readonly state: ProgressState;
  readonly match: number;
  readonly next: number;
  /** Heard from within the last election timeout. */
  readonly active: boolean;
}

export interface RaftStatus {
  readonly id: MemberId;
  readonly role: RoleKind;
  readonly term: number;
  readonly leader: MemberId | undefined;
  readonly commit: number;
  readonly applied: number;
  readonly firstIndex: number;
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
  #hard: HardState;
  #configuration: Configuration;
  #outstanding: Ready | undefined;

  constructor(options: RaftOptions) {
    this.#s = new RaftState(options);
    this.#soft = this.#softState();
    this.#hard = this.#hardState();
    this.#configuration = this.#s.history.latest;
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

  /** Appends `data` if this member leads; it is safe once it comes back in `committed` with the same term. */
  propose(data: Uint8Array): ProposeResult {
    const { role } = this.#s;
    return role.kind === "leader" ? proposeData(this.#s, role, data) : this.#notLeader();
  }

  proposeConfChange(change: ConfChange): ProposeResult {
    const { role } = this.#s;
    return role.kind === "leader" ? proposeChange(this.#s, role, change) : this.#notLeader();
  }

  /**
   * Asks for a linearizable read. The answer is a read state with the same `ctx`; it may never come (the
   * leader changed, a message was lost), so the caller has a deadline and asks again.
   */
  readIndex(ctx: number): ProposeResult {
    const s = this.#s;
    if (s.role.kind === "leader") return addRead(s, s.role, ctx);
    if (s.leader === undefined) return this.#notLeader();
    s.send({ type: "read", from: s.id, to: s.leader, term: s.term, ctx });
    return { kind: "accepted", index: s.log.commit, term: s.term };
  }

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

  reportSnapshot(id: MemberId, outcome: "sent" | "failed"): void {
    if (this.#s.role.kind === "leader") onSnapshotSent(this.#s.role, id, outcome);
  }

  /** The process of this peer has ended, as far as its closed connection tells. */
  reportGone(id: MemberId): void {
    leaderGone(this.#s, id);
    this.reportUnreachable(id);
  }

  hasReady(): boolean {
    const s = this.#s;
    return (
      this.#outstanding === undefined &&
      (s.messages.length > 0 ||
        s.messagesAfterPersist.length > 0 ||
        s.readStates.length > 0 ||
        s.log.hasUnstable() ||
        s.log.pendingSnapshot !== undefined ||
        s.log.hasCommitted() ||
        (s.role.kind === "leader" && s.role.flushDue) ||
        this.#configuration !== s.history.latest ||
        !sameSoft(this.#soft, s) ||
        !sameHard(this.#hard, s))
    );
  }

  /** The work at hand. One at a time: {@link advance} comes before the next. */
  ready(): Ready {
    invariant(this.#outstanding === undefined, () => "ready() was called twice without advance()");
    const s = this.#s;
    if (s.role.kind === "leader") flush(s, s.role);
    const entries = s.log.unstableEntries();
    const hard = sameHard(this.#hard, s) ? undefined : this.#hardState();
    const soft = sameSoft(this.#soft, s) ? undefined : this.#softState();
    const ready: Ready = {
      softState: soft,
      hardState: hard,
      configuration: this.#configuration === s.history.latest ? undefined : s.history.latest,
      snapshot: s.log.pendingSnapshot,
      entries,
      mustSync:
        entries.length > 0 ||
        s.log.pendingSnapshot !== undefined ||
        (hard !== undefined && (hard.term !== this.#hard.term || hard.vote !== this.#hard.vote)),
      messages: s.messages,
      messagesAfterPersist: s.messagesAfterPersist,
      committed: s.log.committedEntries(s.options.maxCommittedBytes),
      readStates: s.readStates,
    };
    s.messages = [];
    s.messagesAfterPersist = [];
    s.readStates = [];
    this.#hard = hard ?? this.#hard;
    this.#soft = soft ?? this.#soft;
    this.#configuration = s.history.latest;
    this.#outstanding = ready;
    return ready;
  }

  /**
   * Messages that may leave at once, while the last {@link ready} is still being persisted: heartbeats and their
   * answers must not wait for a slow disk.
   */
  takeMessages(): readonly Message[] {
    const { messages } = this.#s;
    this.#s.messages = [];
    return messages;
  }

  /** The last {@link ready} has been carried out: persisted, and handed on to be applied. */
  advance(): void {
    const ready = this.#outstanding;
    invariant(ready !== undefined, () => "advance() was called without ready()");
    this.#outstanding = undefined;
    const s = this.#s;
    if (ready.hardState !== undefined) s.stableTerm = ready.hardState.term;
    if (ready.snapshot !== undefined) s.log.stableSnapshotTo(ready.snapshot.index);
    const lastEntry = ready.entries.at(-1);
    if (lastEntry !== undefined) s.log.stableTo(lastEntry.index, lastEntry.term);
    const lastCommitted = ready.committed.at(-1);
    if (lastCommitted !== undefined && lastCommitted.index > s.log.applied) {
      s.log.appliedTo(lastCommitted.index);
    }
    if (s.role.kind === "leader") {
      releaseApplied(s, s.role, ready.committed);
      advanceCommit(s, s.role);
    }
  }

  /** The configuration in force at `index`, for the metadata of a snapshot made there. */
  configurationAt(index: number): Configuration {
    return this.#s.history.at(index);
  }

  /** Configurations older than `index` are not asked for any more: a snapshot was made there. */
  compacted(index: number): void {
    this.#s.history.forgetBefore(index);
  }

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

    function peerStatus([id, progress]: [
      MemberId,
      { state: ProgressState; match: number; next: number; recentActive: boolean },
    ]): PeerStatus {
      const own = id === s.id;
      const { state, match, next, recentActive } = progress;
      return {
        id,
        state: own ? "replicate" : state,
        match: own ? s.log.stableIndex() : match,
        next: own ? s.log.lastIndex() + 1 : next,
        active: own || recentActive,
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
}

function sameSoft(soft: SoftState, s: RaftState): boolean {
  return soft.role === s.role.kind && soft.leader === s.leader && soft.term === s.term;
}

function sameHard(hard: HardState, s: RaftState): boolean {
  return hard.term === s.term && hard.vote === s.vote && hard.commit === s.log.commit;
}
