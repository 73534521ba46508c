/** Name of one member of the group. Never reused: a member that lost its state comes back under a new id. */
export type MemberId = string;

/** `empty` is what a new leader appends first; `config` carries a whole {@link Configuration}. */
export type EntryKind = "data" | "config" | "empty";

/** One slot of the log. `index` starts at 1 and has no holes; `term` never falls as `index` grows. */
export interface Entry {
  readonly term: number;
  readonly index: number;
  readonly kind: EntryKind;
  readonly data: Uint8Array;
}

/**
 * Who takes part. `outgoing` is empty unless the group is between two configurations (joint consensus),
 * when a decision needs a majority of `voters` and a majority of `outgoing`.
 */
export interface Configuration {
  readonly voters: readonly MemberId[];
  readonly outgoing: readonly MemberId[];
  /** Receive the log, count for nothing. */
  readonly learners: readonly MemberId[];
  /** What the application wants to know of a member, such as its address; opaque here. */
  readonly contexts: Readonly<Record<MemberId, string>>;
  /** Joint only: voters of `outgoing` that become learners when the group leaves it; until then they vote. */
  readonly learnersNext?: readonly MemberId[];
  /** Joint only: whether the leader leaves by itself once the joint configuration is committed. */
  readonly leave?: "auto" | "explicit";
  /**
   * Members that were removed, the latest last, so that every member knows, also after a restart or from a snapshot
   * alone, whom it need not listen to. At most `maxDepartedCount`.
   */
  readonly departed?: readonly MemberId[];
}

/** Names the state a snapshot holds; the data itself travels beside the message and never enters the core. */
export interface SnapshotMeta {
  readonly index: number;
  readonly term: number;
  readonly configuration: Configuration;
}

/** What must survive a crash besides entries and snapshots. `commit` may be older than what was promised. */
export interface HardState {
  readonly term: number;
  readonly vote: MemberId | undefined;
  readonly commit: number;
}

interface Envelope {
  readonly from: MemberId;
  readonly to: MemberId;
  /** Term of the sender; in a (pre-)vote request, and in a granted pre-vote reply, the term asked for. */
  readonly term: number;
}

export interface VoteMessage extends Envelope {
  readonly type: "pre-vote" | "vote";
  readonly lastIndex: number;
  readonly lastTerm: number;
  /** Set when the leader itself asked for this election, so that its lease does not count. */
  readonly transfer: boolean;
  /** Pre-votes: which of the sender's questions; from 1. Absent from members of before there were any. */
  readonly round?: number;
}

export interface VoteReplyMessage extends Envelope {
  readonly type: "pre-vote-reply" | "vote-reply";
  readonly granted: boolean;
  /** Pre-votes: of the question, if it had one. */
  readonly round?: number;
}

export interface AppendMessage extends Envelope {
  readonly type: "append";
  readonly prevIndex: number;
  readonly prevTerm: number;
  readonly entries: readonly Entry[];
  readonly commit: number;
}

export interface AppendReplyMessage extends Envelope {
  readonly type: "append-reply";
  /** Accepted: last index known to match. Rejected: the `prevIndex` that did not. */
  readonly index: number;
  readonly rejected: boolean;
  /** Rejected only: the highest index, and its term, that could still match. */
  readonly hintIndex: number;
  readonly hintTerm: number;
}

export interface HeartbeatMessage extends Envelope {
  readonly type: "heartbeat";
  readonly commit: number;
  /** Latest round of read requests; the reply carries it back. */
  readonly round: number;
}

export interface HeartbeatReplyMessage extends Envelope {
  readonly type: "heartbeat-reply";
  readonly round: number;
}

export interface SnapshotMessage extends Envelope {
  readonly type: "snapshot";
  readonly snapshot: SnapshotMeta;
  /** Which of the transfers that the sender's core has asked for; it goes back in reports and does not travel. */
  readonly transferId?: number;
}

export interface ReadMessage extends Envelope {
  readonly type: "read";
  readonly ctx: number;
}

export interface ReadReplyMessage extends Envelope {
  readonly type: "read-reply";
  readonly ctx: number;
  readonly index: number;
}

export interface TimeoutNowMessage extends Envelope {
  readonly type: "timeout-now";
}

/**
 * Goes with the refusal of a pre-vote whose asker has the shorter log: what it lacks. Where only one member can reach a
 * majority, and that one is behind, nobody could ever be elected otherwise. It acknowledges nothing and commits nothing.
 */
export interface CatchUpMessage extends Envelope {
  readonly type: "catch-up";
  readonly prevIndex: number;
  readonly prevTerm: number;
  /** Never empty. */
  readonly entries: readonly Entry[];
}

/** Everything members say to each other. */
export type Message =
  | VoteMessage
  | VoteReplyMessage
  | AppendMessage
  | AppendReplyMessage
  | HeartbeatMessage
  | HeartbeatReplyMessage
  | SnapshotMessage
  | ReadMessage
  | ReadReplyMessage
  | TimeoutNowMessage
  | CatchUpMessage;

/** Bytes an entry adds to a message or to memory, beyond its data: a round figure for the envelope. */
export const entryOverheadBytes = 32;

/** Size in bytes used by every limit on entries: data and envelope. */
export function entryBytes(entry: Entry): number {
  return entry.data.byteLength + entryOverheadBytes;
}

/** As {@link entryBytes}, of all of them. */
export function totalBytes(entries: readonly Entry[]): number {
  let bytes = 0;
  for (const entry of entries) bytes += entryBytes(entry);
  return bytes;
}

/** A broken invariant: the member must stop, since going on could lose acknowledged data. */
export class RaftInvariantError extends Error {
  override readonly name = "RaftInvariantError";
}

/** Guards what cannot be; stays on in production. */
export function invariant(condition: boolean, text: () => string): asserts condition {
  if (!condition) throw new RaftInvariantError(text());
}
