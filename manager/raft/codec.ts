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
  HardStateRecord,
  LogRecord,
  RaftFrame,
  RaftMessage,
  RaftMessage_Type,
  SnapshotHeader,
  type LogEntry,
} from "../../proto/gen/shoal/raft.ts";
import { type NumberReader, encodeWith, readerOf } from "./wire.ts";

/** What one record of the log makes durable. */
export interface WalBatch {
  readonly hardState: HardState | undefined;
  readonly entries: readonly Entry[];
  /** A snapshot took the place of everything before this record. */
  readonly installed: SnapshotMeta | undefined;
}

export function encodeBatch({ hardState, entries, installed }: WalBatch): Uint8Array {
  const record: LogRecord = {
    hardState: hardState && { term: hardState.term, vote: hardState.vote ?? "", commit: hardState.commit },
    entries: entries.map(entryToWire),
    installed: installed && snapshotToWire(installed),
  };
  return encodeWith((writer) => LogRecord.encode(record, writer));
}

/** Field number and wire type (`raft.proto`), as they stand before each value. */
const recordTags = { hardState: 10, entry: 18, installed: 26 } as const;
const entryTags = { term: 8, index: 16, kind: 24, data: 34 } as const;
const noData = new Uint8Array();

/**
 * Reads a batch of `byteLength` bytes without the generated decoder's copies and objects in between: a member that starts
 * may have a million of them. What entries carry are views of what is read.
 *
 * @throws whatever the decoder finds wrong; {RangeError} when the batch does not end where it should.
 */
export function decodeBatch(reader: NumberReader, byteLength: number): WalBatch {
  const end = reader.pos + byteLength;
  const entries: Entry[] = [];
  let hardState: HardState | undefined;
  let installed: SnapshotMeta | undefined;
  while (reader.pos < end) {
    const position = reader.pos;
    const tag = reader.uint32();
    if (tag === recordTags.entry) {
      entries.push(decodeEntry(reader, reader.uint32()));
    } else if (tag === recordTags.hardState) {
      const { term, vote, commit } = HardStateRecord.decode(reader, reader.uint32());
      hardState = { term, vote: vote === "" ? undefined : vote, commit };
    } else if (tag === recordTags.installed) {
      installed = snapshotFromWire(SnapshotHeader.decode(reader, reader.uint32()));
    } else {
      passOver(reader, position);
    }
  }
  if (reader.pos !== end) throw new RangeError("a batch does not end where it should");
  return { hardState, entries, installed };
}

function decodeEntry(reader: NumberReader, byteLength: number): Entry {
  const end = reader.pos + byteLength;
  let term = 0;
  let index = 0;
  let kind: LogEntry_Kind = LogEntry_Kind.UNSPECIFIED;
  let data: Uint8Array = noData;
  while (reader.pos < end) {
    const position = reader.pos;
    const tag = reader.uint32();
    if (tag === entryTags.term) term = reader.number();
    else if (tag === entryTags.index) index = reader.number();
    else if (tag === entryTags.kind) kind = reader.int32() as LogEntry_Kind; // Judged below, whatever it is.
    else if (tag === entryTags.data) data = reader.bytes();
    else passOver(reader, position);
  }
  if (reader.pos !== end) throw new RangeError("an entry does not end where it should");
  return { term, index, kind: entryKind(kind), data };
}

/** A field of a later version, whose tag stands at `position`. */
function passOver(reader: NumberReader, position: number): void {
  reader.pos = position;
  const [field, type] = reader.tag();
  reader.skip(type, field);
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
  const wire = blankMessage(message);
  switch (message.type) {
    case "pre-vote":
    case "vote":
      wire.index = message.lastIndex;
      wire.logTerm = message.lastTerm;
      wire.transfer = message.transfer;
      wire.context = message.round ?? 0;
      return wire;
    case "pre-vote-reply":
    case "vote-reply":
      wire.rejected = !message.granted;
      wire.context = message.round ?? 0;
      return wire;
    case "append":
      wire.index = message.prevIndex;
      wire.logTerm = message.prevTerm;
      wire.entries = message.entries.map(entryToWire);
      wire.commit = message.commit;
      return wire;
    case "catch-up":
      wire.index = message.prevIndex;
      wire.logTerm = message.prevTerm;
      wire.entries = message.entries.map(entryToWire);
      return wire;
    case "append-reply":
      wire.index = message.index;
      wire.rejected = message.rejected;
      wire.hintIndex = message.hintIndex;
      wire.hintTerm = message.hintTerm;
      return wire;
    case "heartbeat":
      wire.commit = message.commit;
      wire.context = message.round;
      return wire;
    case "heartbeat-reply":
      wire.context = message.round;
      return wire;
    case "snapshot":
      wire.snapshot = snapshotToWire(message.snapshot);
      return wire;
    case "read":
      wire.context = message.ctx;
      return wire;
    case "read-reply":
      wire.context = message.ctx;
      wire.index = message.index;
      return wire;
    case "timeout-now":
      return wire;
  }
}

/** All fields at once, so that every message has the same shape. */
function blankMessage({ type, from, to, term }: Message): RaftMessage {
  return {
    type: messageTypes[type],
    from,
    to,
    term,
    index: 0,
    logTerm: 0,
    entries: [],
    commit: 0,
    rejected: false,
    hintIndex: 0,
    hintTerm: 0,
    context: 0,
    transfer: false,
    snapshot: undefined,
  };
}

export function encodeMessages(messages: readonly Message[]): Uint8Array {
  const frame = { messages: messages.map(messageToWire) };
  return encodeWith((writer) => RaftFrame.encode(frame, writer));
}

/** @throws whatever the decoder finds wrong; {ClusterError} as {@link messageFromWire}. */
export function decodeMessages(bytes: Uint8Array): readonly Message[] {
  return RaftFrame.decode(readerOf(bytes)).messages.map(messageFromWire);
}

/** @throws {ClusterError} `invalid-argument` for what no version of ours sends. */
export function messageFromWire(wire: RaftMessage): Message {
  const { from, to, term } = wire;
  switch (wire.type) {
    case RaftMessage_Type.PRE_VOTE:
    case RaftMessage_Type.VOTE:
      return {
        from,
        to,
        term,
        type: wire.type === RaftMessage_Type.VOTE ? "vote" : "pre-vote",
        lastIndex: wire.index,
        lastTerm: wire.logTerm,
        transfer: wire.transfer,
        ...roundOf(wire),
      };
    case RaftMessage_Type.PRE_VOTE_REPLY:
      return { from, to, term, type: "pre-vote-reply", granted: !wire.rejected, ...roundOf(wire) };
    case RaftMessage_Type.VOTE_REPLY:
      return { from, to, term, type: "vote-reply", granted: !wire.rejected };
    case RaftMessage_Type.APPEND:
      return {
        from,
        to,
        term,
        type: "append",
        prevIndex: wire.index,
        prevTerm: wire.logTerm,
        entries: wire.entries.map(entryFromWire),
        commit: wire.commit,
      };
    case RaftMessage_Type.APPEND_REPLY:
      return {
        from,
        to,
        term,
        type: "append-reply",
        index: wire.index,
        rejected: wire.rejected,
        hintIndex: wire.hintIndex,
        hintTerm: wire.hintTerm,
      };
    case RaftMessage_Type.HEARTBEAT:
      return { from, to, term, type: "heartbeat", commit: wire.commit, round: wire.context };
    case RaftMessage_Type.HEARTBEAT_REPLY:
      return { from, to, term, type: "heartbeat-reply", round: wire.context };
    case RaftMessage_Type.SNAPSHOT:
      if (wire.snapshot === undefined) throw unknownMessage("a snapshot message without a snapshot");
      return { from, to, term, type: "snapshot", snapshot: snapshotFromWire(wire.snapshot) };
    case RaftMessage_Type.READ:
      return { from, to, term, type: "read", ctx: wire.context };
    case RaftMessage_Type.READ_REPLY:
      return { from, to, term, type: "read-reply", ctx: wire.context, index: wire.index };
    case RaftMessage_Type.TIMEOUT_NOW:
      return { from, to, term, type: "timeout-now" };
    case RaftMessage_Type.CATCH_UP:
      return {
        from,
        to,
        term,
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

/** Of a question for pre-votes and its answer; versions of before there were rounds leave it out. */
function roundOf({ context }: RaftMessage): { readonly round?: number } {
  return context === 0 ? {} : { round: context };
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
