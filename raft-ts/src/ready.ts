import type { Configuration, Entry, HardState, MemberId, Message, SnapshotMeta } from "./message.ts";
import type { ReadState } from "./readindex.ts";
import type { RoleKind } from "./state.ts";

/** Who leads, as far as this member knows. */
export interface SoftState {
  readonly role: RoleKind;
  readonly leader: MemberId | undefined;
  readonly term: number;
}

/**
 * What has to be durable before `persisted(write)` is called, all of it together. Messages that promise any of it
 * come out only after that call.
 */
export interface Write {
  /** Counts up from 1; writes are reported in this order. */
  readonly number: number;
  /** Always in full. Its commit index backs no promise: a write for its sake alone never comes. */
  readonly hardState: HardState;
  /** Replaces log and state up to its index; the state machine loads it before the write is reported, or beside all else. */
  readonly snapshot: SnapshotMeta | undefined;
  /** To be put at their index; whatever was there and after is void. */
  readonly entries: readonly Entry[];
}

/**
 * Work for the caller, for four hands that need not wait for each other: `messages` for the wire, `write` for the
 * disk, `committed` for the state machine, `readStates` for those who wait for a read.
 */
export interface Ready {
  /** Set when it changed. */
  readonly softState: SoftState | undefined;
  /** The latest configuration when it changed, committed or not: who to be connected to. */
  readonly configuration: Configuration | undefined;
  /** May leave at once. */
  readonly messages: readonly Message[];
  /**
   * Answer with `persisted(write)` once it is durable. While it is under way everything new gathers for the next one,
   * which is the group commit; see `maxWritesUnderWay`.
   */
  readonly write: Write | undefined;
  /** Durable here and committed: apply in order, and report with `applied(index)`. */
  readonly committed: readonly Entry[];
  /** Each to be answered once everything up to its index is applied. */
  readonly readStates: readonly ReadState[];
}
