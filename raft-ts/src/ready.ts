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
 * Work for the caller, in this order: send `messages` (at any moment); persist `snapshot`, then `entries`
 * and `hardState`, durably if `mustSync`; send `messagesAfterPersist`; install `snapshot`; apply `committed`;
 * answer `readStates` once their index is applied; call `advance()`.
 */
export interface Ready {
  /** Set when it changed. */
  readonly softState: SoftState | undefined;
  /** Set when it changed. */
  readonly hardState: HardState | undefined;
  /** The latest configuration when it changed, committed or not: who to be connected to. */
  readonly configuration: Configuration | undefined;
  /** Replaces log and state up to its index. */
  readonly snapshot: SnapshotMeta | undefined;
  /** To be put at their index; whatever was there and after is void. */
  readonly entries: readonly Entry[];
  /** Whether anything here backs a promise; a commit index alone does not. */
  readonly mustSync: boolean;
  readonly messages: readonly Message[];
  readonly messagesAfterPersist: readonly Message[];
  readonly committed: readonly Entry[];
  readonly readStates: readonly ReadState[];
}
