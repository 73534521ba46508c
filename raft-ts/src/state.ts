import { ConfigurationHistory } from "./history.ts";
import { RaftLog } from "./log.ts";
import { type MemberId, type Message, invariant } from "./message.ts";
import type { Progress } from "./progress.ts";
import { addPromise } from "./promises.ts";
import { votersOf } from "./quorum.ts";
import type { ReadQueue, ReadState } from "./readindex.ts";
import type { Storage } from "./storage.ts";

/** Timing in ticks, limits in bytes or counts. */
export interface RaftOptions {
  readonly id: MemberId;
  readonly storage: Storage;
  /** A uniform integer `0 <= n < bound`; only election jitter asks for it. */
  readonly random: (bound: number) => number;
  /** Silence after which a follower may campaign; the actual wait is drawn from `[n, 2n)`. Default 8. */
  readonly electionTicks?: number;
  /** Default 2; must be less than `electionTicks`. */
  readonly heartbeatTicks?: number;
  /** One append message carries at most this much, or one entry. Default 1 MiB. */
  readonly maxMessageBytes?: number;
  /** Unacknowledged appends per peer. Default 256 messages. */
  readonly maxInflightCount?: number;
  /** Unacknowledged appends per peer. Default 8 MiB. */
  readonly maxInflightBytes?: number;
  /** Committed entries handed out and not yet reported as applied. Default 4 MiB. */
  readonly maxApplyingBytes?: number;
  /** Writes handed out and not yet reported as durable. Default 1: what comes meanwhile is written together. */
  readonly maxWritesUnderWay?: number;
  /** Proposals appended and not yet handed out as committed; more are refused. Default 64 MiB. */
  readonly maxUncommittedBytes?: number;
  /** Reads that wait for confirmation; more are refused. Default 16,384. */
  readonly maxPendingReads?: number;
}

const awaitedElections = 2_048;

export type ResolvedOptions = Required<RaftOptions>;

export type RoleKind = Role["kind"];

/** The role and what only that role knows. */
export type Role =
  | { readonly kind: "follower" }
  | { readonly kind: "pre-candidate"; readonly votes: Map<MemberId, boolean>; readonly round: number }
  | { readonly kind: "candidate"; readonly votes: Map<MemberId, boolean> }
  | LeaderRole;

export interface LeaderRole {
  readonly kind: "leader";
  readonly progress: Map<MemberId, Progress>;
  readonly reads: ReadQueue;
  /** Index of the empty entry this leadership began with; once committed, reads and changes may go on. */
  readonly termStartIndex: number;
  heartbeatElapsed: number;
  uncommittedBytes: number;
  transferTo: MemberId | undefined;
  transferElapsed: number;
  /** Something may be sendable; looked at once per `Ready`, so that proposals travel in batches. */
  flushDue: boolean;
}

/** All the mutable state of one member; the role files decide what happens to it. */
export class RaftState {
  readonly options: ResolvedOptions;
  readonly id: MemberId;
  readonly log: RaftLog;
  readonly history: ConfigurationHistory;
  term: number;
  /** The term that is known to be on disk; promises in it need not wait. */
  stableTerm: number;
  vote: MemberId | undefined;
  leader: MemberId | undefined;
  role: Role = { kind: "follower" };
  electionElapsed = 0;
  electionDeadline: number;
  /** May leave at once. */
  messages: Message[] = [];
  /** Promise something that no write has taken yet, or that the latest one under way makes durable. */
  promises: Message[] = [];
  readStates: ReadState[] = [];
  /** Transfers of snapshots asked for, of all leaderships: their reports may come at any time later. */
  snapshotTransfers = 0;
  /** Times that pre-votes were asked for; the term does not tell them apart. */
  preVoteRounds = 0;

  constructor(options: RaftOptions) {
    this.options = resolveOptions(options);
    this.id = options.id;
    const { storage } = options;
    this.log = new RaftLog(storage);
    const stored = storage.initialState();
    // A crash between a snapshot of a later term and the term itself: whoever acknowledged by the earlier one would speak of entries
    // that are not its leader's. There was no vote in the later term, or it would be stored.
    this.term = Math.max(stored.term, this.log.lastTerm());
    this.stableTerm = stored.term;
    this.vote = this.term === stored.term ? stored.vote : undefined;
    this.history = new ConfigurationHistory(storage.snapshot());
    this.history.appended(this.log.entriesFrom(this.log.firstIndex(), Number.MAX_SAFE_INTEGER) ?? []);
    this.electionDeadline = drawElectionDeadline(this.options);
  }

  /** Whether this member may stand for election. */
  get promotable(): boolean {
    // Who leads has to serve, which it could not before it has the state.
    if (this.log.pendingSnapshot !== undefined || this.log.isLoading) return false;
    if (votersOf(this.history.latest).has(this.id)) return true;
    // Until its removal is committed it may be the only one with a log that can win (thesis §4.2.2).
    return (
      this.history.latestIndex > this.log.commit && votersOf(this.history.at(this.log.commit)).has(this.id)
    );
  }

  /** A peer that was silent for longer counts as lost: an answer may take as long as the next heartbeat. */
  get maxSilentTicks(): number {
    return this.options.electionTicks + this.options.heartbeatTicks;
  }

  /** Of a peer that was silent for longer nothing is kept: minutes with usual timeouts, as a host takes to start again. */
  get maxAwaitedTicks(): number {
    return awaitedElections * this.options.electionTicks;
  }

  /** Whether a leader was heard from recently enough that elections are none of our business (§6 lease). */
  get leaseHolds(): boolean {
    return this.leader !== undefined && this.electionElapsed < this.options.electionTicks;
  }

  send(message: Message): void {
    if (this.#isBacked(message)) this.messages.push(message);
    else addPromise(this.promises, message);
  }

  /**
   * An acknowledgement that a new term has overtaken on its way to the disk: a later leader may have replaced what it
   * speaks of before that was ever written, and the one it goes to would count it.
   */
  isVoid(message: Message): boolean {
    return message.type === "append-reply" && !message.rejected && message.term < this.term;
  }

  /** Whether everything that the message promises is durable already. */
  #isBacked(message: Message): boolean {
    switch (message.type) {
      case "pre-vote":
      case "pre-vote-reply":
      case "read":
      case "read-reply":
      case "timeout-now":
      case "catch-up":
        return true; // They promise nothing.
      case "vote":
        return false; // The own vote counts, so it must be on disk.
      case "vote-reply":
        return !message.granted && message.term === this.stableTerm;
      case "append-reply":
        if (message.term !== this.stableTerm) return false;
        return message.rejected || message.index <= this.log.stableIndex();
      case "heartbeat-reply":
      case "append":
      case "heartbeat":
      case "snapshot":
        // They promise the term and nothing else, and a slow disk must not look like a dead member. The term itself
        // must be on disk: a lone voter that crashed would win it again and give its indexes to other entries.
        return message.term === this.stableTerm;
    }
  }

  becomeFollower(term: number, leader: MemberId | undefined): void {
    this.#enterTerm(term);
    this.role = { kind: "follower" };
    this.leader = leader;
  }

  /** Asks whether an election could be won, without touching the term (thesis §9.6). */
  becomePreCandidate(): void {
    invariant(this.role.kind !== "leader", () => "a leader cannot become a candidate");
    this.resetElectionTimer();
    this.preVoteRounds += 1;
    this.role = { kind: "pre-candidate", votes: new Map(), round: this.preVoteRounds };
    this.leader = undefined;
  }

  becomeCandidate(): void {
    invariant(this.role.kind !== "leader", () => "a leader cannot become a candidate");
    this.#enterTerm(this.term + 1);
    this.vote = this.id;
    this.role = { kind: "candidate", votes: new Map() };
    this.leader = undefined;
  }

  /** On every change of role, every word of a leader, and every vote given. */
  resetElectionTimer(): void {
    this.electionElapsed = 0;
    this.electionDeadline = drawElectionDeadline(this.options);
  }

  #enterTerm(term: number): void {
    invariant(term >= this.term, () => `term ${term}: already at ${this.term}`);
    if (term > this.term) {
      this.term = term;
      this.vote = undefined;
    }
    this.resetElectionTimer();
  }
}

function drawElectionDeadline({ electionTicks, random }: ResolvedOptions): number {
  return electionTicks + random(electionTicks);
}

/** @throws {RangeError} when a number makes no sense. */
function resolveOptions(options: RaftOptions): ResolvedOptions {
  const { id, storage, random } = options;
  // One by one, so that an option given as undefined is one that was not given.
  const ticks = { electionTicks: options.electionTicks ?? 8, heartbeatTicks: options.heartbeatTicks ?? 2 };
  const limits = {
    maxMessageBytes: options.maxMessageBytes ?? 1024 * 1024,
    maxInflightCount: options.maxInflightCount ?? 256,
    maxInflightBytes: options.maxInflightBytes ?? 8 * 1024 * 1024,
    maxApplyingBytes: options.maxApplyingBytes ?? 4 * 1024 * 1024,
    maxWritesUnderWay: options.maxWritesUnderWay ?? 1,
    maxUncommittedBytes: options.maxUncommittedBytes ?? 64 * 1024 * 1024,
    maxPendingReads: options.maxPendingReads ?? 16_384,
  };
  const { electionTicks, heartbeatTicks } = ticks;
  const areWhole = Number.isSafeInteger(heartbeatTicks) && Number.isSafeInteger(electionTicks);
  if (!areWhole || heartbeatTicks < 1 || heartbeatTicks >= electionTicks) {
    throw new RangeError(
      `raft options: heartbeatTicks is ${heartbeatTicks}, electionTicks is ${electionTicks}; ` +
        "both must be whole, heartbeatTicks at least 1 and less than electionTicks",
    );
  }
  for (const [name, limit] of Object.entries(limits)) {
    if (!(limit >= 1)) throw new RangeError(`raft options: ${name} is ${limit}; it must be at least 1`); // NaN too.
  }
  return { id, storage, random, ...ticks, ...limits };
}
