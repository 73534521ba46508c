import {
  type Entry,
  type EntryKind,
  type HardState,
  type Message,
  type SnapshotMeta,
  decodeConfiguration,
  encodeConfiguration,
} from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import {
  LogEntry_Kind,
  LogRecord,
  RaftFrame,
  RaftMessage,
  RaftMessage_Type,
  type LogEntry,
  type SnapshotHeader,
} from "../../proto/gen/shoal/raft.ts";

/** What one record of the log makes durable. */
export interface WalBatch {
  readonly hardState: HardState | undefined;
  readonly entries: readonly Entry[];
  /** A snapshot took the place of everything before this record. */
  readonly installed: SnapshotMeta | undefined;
}

export function encodeBatch({ hardState, entries, installed }: WalBatch): Uint8Array {
  return LogRecord.encode({
    hardState: hardState && { term: hardState.term, vote: hardState.vote ?? "", commit: hardState.commit },
    entries: entries.map(entryToWire),
    installed: installed && snapshotToWire(installed),
  }).finish();
}

/** @throws whatever the decoder finds wrong. */
export function decodeBatch(bytes: Uint8Array): WalBatch {
  const { hardState, entries, installed } = LogRecord.decode(bytes);
  return {
    hardState: hardState && { ...hardState, vote: hardState.vote === "" ? undefined : hardState.vote },
    entries: entries.map(entryFromWire),
    installed: installed && snapshotFromWire(installed),
  };
}

const messageTypes = {
  "pre-vote": RaftMessage_Type.PRE_VOTE,
  "pre-vote-reply": RaftMessage_Type.PRE_VOTE_REPLY,
  vote: RaftMessage_Type.VOTE,
  "vote-reply": RaftMessage_Type.VOTE_REPLY,
  append: RaftMessage_Type.APPEND,
  "append-reply": RaftMessage_Type.APPEND_REPLY,
  heartbeat: RaftMessage_Type.HEARTBEAT,
  "heartbeat-reply": RaftMessage_Type.HEARTBEAT_REPLY,
  snapshot: RaftMessage_Type.SNAPSHOT,
  read: RaftMessage_Type.READ,
  "read-reply": RaftMessage_Type.READ_REPLY,
  "timeout-now": RaftMessage_Type.TIMEOUT_NOW,
  "catch-up": RaftMessage_Type.CATCH_UP,
} as const satisfies Record<Message["type"], RaftMessage_Type>;

export function messageToWire(message: Message): RaftMessage {
  const { from, to, term } = message;
  const wire = RaftMessage.fromPartial({ type: messageTypes[message.type], from, to, term });
  switch (message.type) {
    case "pre-vote":
    case "vote":
      return {
        ...wire,
        index: message.lastIndex,
        logTerm: message.lastTerm,
        transfer: message.transfer,
      };
    case "pre-vote-reply":
    case "vote-reply":
      return { ...wire, rejected: !message.granted };
    case "append":
      return {
        ...wire,
        index: message.prevIndex,
        logTerm: message.prevTerm,
        entries: message.entries.map(entryToWire),
        commit: message.commit,
      };
    case "catch-up":
      return {
        ...wire,
        index: message.prevIndex,
        logTerm: message.prevTerm,
        entries: message.entries.map(entryToWire),
      };
    case "append-reply":
      return {
        ...wire,
        index: message.index,
        rejected: message.rejected,
        hintIndex: message.hintIndex,
        hintTerm: message.hintTerm,
      };
    case "heartbeat":
      return { ...wire, commit: message.commit, context: message.round };
    case "heartbeat-reply":
      return { ...wire, context: message.round };
    case "snapshot":
      return { ...wire, snapshot: snapshotToWire(message.snapshot) };
    case "read":
      return { ...wire, context: message.ctx };
    case "read-reply":
      return { ...wire, context: message.ctx, index: message.index };
    case "timeout-now":
      return wire;
  }
}

export function encodeMessages(messages: readonly Message[]): Uint8Array {
  return RaftFrame.encode({ messages: messages.map(messageToWire) }).finish();
}

/** @throws whatever the decoder finds wrong; {ClusterError} as {@link messageFromWire}. */
export function decodeMessages(bytes: Uint8Array): readonly Message[] {
  return RaftFrame.decode(bytes).messages.map(messageFromWire);
}

/** @throws {ClusterError} `invalid-argument` for what no version of ours sends. */
export function messageFromWire(wire: RaftMessage): Message {
  const { from, to, term } = wire;
  const head = { from, to, term };
  switch (wire.type) {
    case RaftMessage_Type.PRE_VOTE:
    case RaftMessage_Type.VOTE:
      return {
        ...head,
        type: wire.type === RaftMessage_Type.VOTE ? "vote" : "pre-vote",
        lastIndex: wire.index,
        lastTerm: wire.logTerm,
        transfer: wire.transfer,
      };
    case RaftMessage_Type.PRE_VOTE_REPLY:
      return { ...head, type: "pre-vote-reply", granted: !wire.rejected };
    case RaftMessage_Type.VOTE_REPLY:
      return { ...head, type: "vote-reply", granted: !wire.rejected };
    case RaftMessage_Type.APPEND:
      return {
        ...head,
        type: "append",
        prevIndex: wire.index,
        prevTerm: wire.logTerm,
        entries: wire.entries.map(entryFromWire),
        commit: wire.commit,
      };
    case RaftMessage_Type.APPEND_REPLY:
      return {
        ...head,
        type: "append-reply",
        index: wire.index,
        rejected: wire.rejected,
        hintIndex: wire.hintIndex,
        hintTerm: wire.hintTerm,
      };
    case RaftMessage_Type.HEARTBEAT:
      return { ...head, type: "heartbeat", commit: wire.commit, round: wire.context };
    case RaftMessage_Type.HEARTBEAT_REPLY:
      return { ...head, type: "heartbeat-reply", round: wire.context };
    case RaftMessage_Type.SNAPSHOT:
      if (wire.snapshot === undefined) throw unknownMessage("a snapshot message without a snapshot");
      return { ...head, type: "snapshot", snapshot: snapshotFromWire(wire.snapshot) };
    case RaftMessage_Type.READ:
      return { ...head, type: "read", ctx: wire.context };
    case RaftMessage_Type.READ_REPLY:
      return { ...head, type: "read-reply", ctx: wire.context, index: wire.index };
    case RaftMessage_Type.TIMEOUT_NOW:
      return { ...head, type: "timeout-now" };
    case RaftMessage_Type.CATCH_UP:
      return {
        ...head,
        type: "catch-up",
        prevIndex: wire.index,
        prevTerm: wire.logTerm,
        entries: wire.entries.map(entryFromWire),
      };
    case RaftMessage_Type.UNSPECIFIED:
    case RaftMessage_Type.UNRECOGNIZED:
      break;
  }
  throw unknownMessage(`a message of type ${wire.type}`);
}

export function snapshotToWire(
  meta: SnapshotMeta,
  { dataBytes, digest }: { readonly dataBytes: number; readonly digest: string } = {
    dataBytes: 0,
    digest: "",
  },
): SnapshotHeader {
  const configuration = Buffer.from(encodeConfiguration(meta.configuration));
  const { index, term } = meta;
  return { index, term, configuration, dataBytes, digest: Buffer.from(digest, "hex") };
}

export function snapshotFromWire({ index, term, configuration }: SnapshotHeader): SnapshotMeta {
  return { index, term, configuration: decodeConfiguration(configuration) };
}

const entryKinds = {
  data: LogEntry_Kind.DATA,
  config: LogEntry_Kind.CONFIG,
  empty: LogEntry_Kind.EMPTY,
} as const satisfies Record<EntryKind, LogEntry_Kind>;

function entryToWire({ term, index, kind, data }: Entry): LogEntry {
  // A view, not a copy: the encoder only reads it.
  const view = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return { term, index, kind: entryKinds[kind], data: view };
}

function entryFromWire({ term, index, kind, data }: LogEntry): Entry {
  return { term, index, kind: entryKind(kind), data };
}

function entryKind(kind: LogEntry_Kind): EntryKind {
  switch (kind) {
    case LogEntry_Kind.DATA:
      return "data";
    case LogEntry_Kind.CONFIG:
      return "config";
    case LogEntry_Kind.EMPTY:
      return "empty";
    case LogEntry_Kind.UNSPECIFIED:
    case LogEntry_Kind.UNRECOGNIZED:
      break;
  }
  throw unknownMessage(`an entry of kind ${kind}`);
}

function unknownMessage(what: string): ClusterError {
  return new ClusterError("invalid-argument", `raft: ${what} arrived, which this version does not know`);
}
