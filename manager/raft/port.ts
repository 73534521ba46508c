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

/** What crosses between the main thread and the raft thread. Large bytes are transferred, never copied. */
export interface ThreadStart {
  readonly options: RaftGroupOptions;
  readonly logLevel: LogLevel;
}

export type ThreadCommand =
  | {
      readonly kind: "propose";
      readonly proposals: readonly { readonly id: number; readonly data: Uint8Array }[];
    }
  | { readonly kind: "read"; readonly id: number }
  | { readonly kind: "change"; readonly id: number; readonly change: MembershipChange }
  | { readonly kind: "transfer"; readonly id: number; readonly to: NodeId | undefined }
  | { readonly kind: "snapshot"; readonly id: number; readonly index: number; readonly data: Uint8Array }
  | { readonly kind: "no-snapshot"; readonly id: number; readonly text: string }
  | { readonly kind: "log-limits"; readonly limits: Required<LogLimits> }
  | { readonly kind: "identity"; readonly identity: PeerIdentity }
  | { readonly kind: "stop" };

export interface PackedEntry {
  readonly index: number;
  readonly term: number;
  readonly offset: number;
  readonly bytes: number;
  readonly proposalId: number | undefined;
}

export interface ThreadFailure {
  readonly code: ErrorCode;
  readonly message: string;
}

export type ThreadOutput =
  | { readonly kind: "started"; readonly memberId: string; readonly port: number }
  /** All data in one buffer; the entries are slices of it. */
  | {
      readonly kind: "committed";
      readonly index: number;
      readonly entries: readonly PackedEntry[];
      readonly data: Uint8Array;
    }
  | { readonly kind: "snapshot"; readonly index: number; readonly data: Uint8Array }
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
  | { readonly kind: "failed"; readonly failure: ThreadFailure; readonly removed: boolean };

/** Buffers of an output that go over instead of being copied. */
export function transfersOf(output: ThreadOutput): readonly ArrayBuffer[] {
  if (output.kind !== "committed" && output.kind !== "snapshot") return [];
  const { buffer, byteLength } = output.data;
  return buffer instanceof ArrayBuffer && byteLength > 0 && buffer.byteLength === byteLength ? [buffer] : [];
}
