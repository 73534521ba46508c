import type { ErrorCode } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { LogLevel } from "../../runtime/log.ts";
import type {
  GroupMember,
  GroupStatus,
  LogLimits,
  MembershipChange,
  PeerIdentity,
  RaftGroupOptions,
} from "./group.ts";
import type { Packed } from "./pack.ts";

/** What crosses between the main thread and the raft thread. Large bytes are transferred, never copied. */
export interface ThreadStart {
  readonly options: RaftGroupOptions;
  readonly logLevel: LogLevel;
}

export type ThreadCommand =
  /** One id for each piece of the data. */
  | (Packed & { readonly kind: "propose"; readonly ids: readonly number[] })
  | { readonly kind: "read"; readonly id: number }
  | { readonly kind: "change"; readonly id: number; readonly change: MembershipChange }
  | { readonly kind: "transfer"; readonly id: number; readonly to: NodeId | undefined }
  /** A part of the state that was wanted, in order; the next but a few after each `snapshot-more`. */
  | {
      readonly kind: "snapshot";
      readonly id: number;
      readonly index: number;
      readonly data: Uint8Array;
      readonly isLast: boolean;
    }
  /** Instead of a first or a next part. */
  | { readonly kind: "no-snapshot"; readonly id: number; readonly text: string }
  | { readonly kind: "log-limits"; readonly limits: Required<LogLimits> }
  /** Everything up to here has been taken in; sent for a `committed` that asks for it. */
  | { readonly kind: "applied"; readonly index: number }
  /** A part of a snapshot has been taken in. */
  | { readonly kind: "snapshot-taken" }
  | { readonly kind: "rotate-key"; readonly id: number }
  | { readonly kind: "identity"; readonly identity: PeerIdentity }
  | { readonly kind: "stop" };

/** A snapshot crosses in parts of at most this size, of which this many are under way. */
export const snapshotPart = { bytes: 256 * 1024, window: 4 } as const;

/** Entries by columns: lists of numbers cross for much less than as many objects. */
export interface PackedEntries extends Packed {
  readonly indexes: readonly number[];
  readonly terms: readonly number[];
  /** Who waits for it, or {@link noProposal}. */
  readonly proposalIds: readonly number[];
}

/** No proposal has this id. */
export const noProposal = 0;

export interface ThreadFailure {
  readonly code: ErrorCode;
  readonly message: string;
}

export type ThreadOutput =
  | { readonly kind: "started"; readonly memberId: string; readonly port: number }
  /** `index` is that of the last one, which may be an entry without data. */
  | (PackedEntries & {
      readonly kind: "committed";
      readonly index: number;
      /** The thread waits for `applied` with this index, sooner or later: what was not taken in has a bound. */
      readonly acknowledge: boolean;
    })
  /** A part of a snapshot that replaces everything, in order; a few ahead of `snapshot-taken`. */
  | {
      readonly kind: "snapshot";
      readonly index: number;
      readonly data: Uint8Array;
      readonly isLast: boolean;
    }
  | {
      readonly kind: "leader";
      readonly leaderId: NodeId | undefined;
      readonly term: number;
      readonly isSelf: boolean;
    }
  | { readonly kind: "membership"; readonly members: readonly GroupMember[] }
  | { readonly kind: "status"; readonly status: GroupStatus }
  | { readonly kind: "reply"; readonly id: number; readonly value: number }
  | { readonly kind: "refused"; readonly id: number; readonly failure: ThreadFailure }
  | { readonly kind: "snapshot-wanted"; readonly id: number; readonly atLeast: number }
  /** There is room for another part. */
  | { readonly kind: "snapshot-more"; readonly id: number }
  | { readonly kind: "failed"; readonly failure: ThreadFailure; readonly removed: boolean };

/** Buffers of an output that go over instead of being copied. */
export function transfersOf(output: ThreadOutput): readonly ArrayBuffer[] {
  if (output.kind !== "committed" && output.kind !== "snapshot") return [];
  const { buffer, byteLength } = output.data;
  return buffer instanceof ArrayBuffer && byteLength > 0 && buffer.byteLength === byteLength ? [buffer] : [];
}
