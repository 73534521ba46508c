import type { Entry, HardState, SnapshotMeta } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { BlockDisk } from "../../runtime/disk.ts";
import { type WalBatch, decodeBatch } from "./codec.ts";
import type { Seal } from "./seal.ts";
import { Watermark } from "./watermark.ts";
import { type WalRecord, readRecord, segmentBytes } from "./wal-record.ts";
import { type NumberReader, readerOf } from "./wire.ts";

const suffix = ".wal";
const lengthBytes = 4;

/** What the log on disk amounts to after all its records were replayed. */
export interface WalState {
  readonly hardState: HardState;
  /** Without holes; may begin below the latest snapshot. */
  readonly entries: readonly Entry[];
  /** The last snapshot that took the place of the log; its file must be there. */
  readonly installed: SnapshotMeta | undefined;
}

export interface Segment {
  readonly number: number;
  /** Of the file, all of it filled ahead of time. */
  readonly bytes: number;
  /** Highest entry index in it; 0 when it has none. */
  lastIndex: number;
  /** Keys that its records were sealed with. */
  readonly keyIds: Set<number>;
}

/** A log that was read and found whole; nothing was changed. */
export interface ScannedLog {
  readonly state: WalState;
  /** In order; the last one is the one to go on in. */
  readonly segments: readonly Segment[];
  /** Files that were prepared or begun, and hold nothing. */
  readonly unused: readonly string[];
  /** Where the last segment goes on. */
  readonly position: number;
  readonly sequence: number;
  readonly chain: number;
  /** The last record as it was read: it may be in the system's cache only. */
  readonly tail: { readonly position: number; readonly bytes: Uint8Array } | undefined;
  /** What a write that was cut off has left behind {@link position}. */
  readonly isTorn: boolean;
}

export function segmentPath(directory: string, number: number): string {
  return `${directory}/${number.toString(16).padStart(16, "0")}${suffix}`;
}

export function watermarkPath(directory: string): string {
  return `${directory}/watermark`;
}

/** Binds a record to its place in the log. */
export function sealContext(sequence: number): string {
  return `log record ${sequence}`;
}

/** What one record holds: batches, each with its length before it, in the order they were given. */
export function packBatches(bodies: readonly Uint8Array[]): Uint8Array {
  const payload = new Uint8Array(packedBytes(bodies));
  const view = new DataView(payload.buffer);
  let at = 0;
  for (const body of bodies) {
    view.setUint32(at, body.byteLength, true);
    payload.set(body, at + lengthBytes);
    at += lengthBytes + body.byteLength;
  }
  return payload;
}

export function packedBytes(bodies: readonly Uint8Array[]): number {
  return bodies.reduce((sum, { byteLength }) => sum + lengthBytes + byteLength, 0);
}

/**
 * Reads the log without changing it.
 *
 * @throws {ClusterError} `data-loss` when it is damaged, with the place and the way out; `failed-precondition` when
 *   another version wrote it.
 */
export async function scanLog(
  { disk }: { disk: BlockDisk },
  { directory, seal }: { directory: string; seal: Seal },
): Promise<ScannedLog> {
  const files = await disk.list(directory);
  const names = files.filter((name) => name.endsWith(suffix)).toSorted();
  const scan = new Scan(directory, seal);
  const read = (name: string | undefined): ReturnType<BlockDisk["read"]> =>
    name === undefined ? Promise.resolve(undefined) : disk.read(`${directory}/${name}`);
  let next = read(names[0]);
  for (const [at, name] of names.entries()) {
    const bytes = (await next) ?? new Uint8Array();
    next = read(names[at + 1]); // While this one is being replayed.
    next.catch(() => undefined); // Told in the next turn.
    scan.segment(name, bytes);
  }
  return scan.finish(await Watermark.read(disk, watermarkPath(directory)));
}

class Scan {
  readonly #directory: string;
  readonly #seal: Seal;
  readonly #replay = new Replay();
  readonly #segments: Segment[] = [];
  readonly #unused: string[] = [];
  #position = 0;
  #sequence = 0;
  #chain = 0;
  #isTorn = false;
  #last: { readonly position: number; readonly end: number; readonly bytes: Uint8Array } | undefined;

  constructor(directory: string, seal: Seal) {
    this.#directory = directory;
    this.#seal = seal;
  }

  segment(name: string, bytes: Uint8Array): void {
    const path = `${this.#directory}/${name}`;
    const number = Number.parseInt(name, 16);
    const segment: Segment = { number, bytes: bytes.byteLength, lastIndex: 0, keyIds: new Set() };
    const { end, isTorn } = this.#replaySegment(path, bytes, segment);
    if (end === 0) {
      // Prepared and not used yet, or torn before its first record. That was the last write, if it is the only one.
      if (isTorn && this.#isTorn) throw damaged(path, 0, "it and the segment before it are both cut off");
      this.#unused.push(path);
      return;
    }
    const [unused] = this.#unused;
    if (unused !== undefined) throw damaged(unused, 0, "it is empty, and a later segment is not");
    const previous = this.#segments.at(-1);
    if (previous !== undefined && previous.number + 1 !== number) {
      throw damaged(path, 0, `segment ${previous.number + 1}, which comes before it, is missing`);
    }
    if (this.#isTorn) {
      const before = segmentPath(this.#directory, number - 1);
      throw damaged(before, this.#position, "a record is incomplete, and a later segment follows");
    }
    this.#segments.push(segment);
    this.#position = end;
    this.#isTorn = isTorn;
  }

  /** @param watermark - Sequence number of a record that is known to have been on disk. */
  finish(watermark: number): ScannedLog {
    if (this.#sequence < watermark) {
      const last = this.#segments.at(-1);
      const path = last === undefined ? this.#directory : segmentPath(this.#directory, last.number);
      throw damaged(
        path,
        this.#position,
        `the log ends at record ${this.#sequence}, and was on disk up to record ${watermark}`,
      );
    }
    return {
      state: this.#replay,
      segments: this.#segments,
      unused: this.#unused,
      position: this.#position,
      sequence: this.#sequence,
      chain: this.#chain,
      tail: this.#tail(),
      isTorn: this.#isTorn,
    };
  }

  #tail(): ScannedLog["tail"] {
    if (this.#last === undefined) return undefined;
    const { position, end, bytes } = this.#last;
    return { position, bytes: bytes.subarray(position, end) };
  }

  /** @returns where the good records end; 0 when there is none. */
  #replaySegment(path: string, bytes: Uint8Array, segment: Segment): { end: number; isTorn: boolean } {
    const read = segmentBytes(bytes);
    const plain = new PlainRecords(bytes.byteLength);
    for (let position = 0; ;) {
      // What comes before the oldest segment was released, so its first record is taken as it is.
      const first = position === 0 && this.#segments.length === 0;
      const expected = first ? undefined : { sequence: this.#sequence + 1, chain: this.#chain };
      const result = readRecord(read, position, expected);
      switch (result.kind) {
        case "end":
          return { end: position, isTorn: false };
        case "torn":
          return { end: position, isTorn: true };
        case "foreign":
          throw new ClusterError(
            "failed-precondition",
            `cannot read the log: ${path} has format ${result.format}, this version reads 2. Start it with the version ` +
              "that wrote it; or remove this manager from the group on another manager, remove its state directory " +
              `${this.#directory}, and let it join again`,
          );
        case "damaged":
          throw damaged(path, position, result.reason);
        case "record": {
          const { record } = result;
          if ((position === 0) !== (record.kind === "start")) {
            throw damaged(path, position, `a record of kind ${record.kind} does not belong there`);
          }
          this.#take(path, position, record, { segment, plain });
          this.#last = { position, end: record.end, bytes };
          position = record.end;
        }
      }
    }
  }

  #take(
    path: string,
    position: number,
    record: WalRecord,
    { segment, plain }: { segment: Segment; plain: PlainRecords },
  ): void {
    try {
      plain.begin(this.#seal.open(record.payload, record.keyId, sealContext(record.sequence)));
      for (let batch = plain.next(); batch !== undefined; batch = plain.next()) {
        this.#replay.add(batch);
        segment.lastIndex = Math.max(segment.lastIndex, batch.entries.at(-1)?.index ?? 0);
      }
    } catch (error) {
      throw damaged(path, position, errorText(error));
    }
    segment.keyIds.add(record.keyId);
    this.#sequence = record.sequence;
    this.#chain = record.crc;
  }
}

/**
 * What the records of one segment hold, gathered in one stretch of memory that all their entries point into: a buffer for
 * each of a million records takes the collector longer than everything else.
 */
class PlainRecords {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #reader: NumberReader;
  #end = 0;

  /** @param bytes - Of the segment: sealed, its records take more than what they hold. */
  constructor(bytes: number) {
    this.#bytes = new Uint8Array(bytes);
    this.#view = new DataView(this.#bytes.buffer);
    this.#reader = readerOf(this.#bytes);
  }

  /** Goes on behind the record before. */
  begin(plain: Uint8Array): void {
    this.#bytes.set(plain, this.#end);
    this.#reader.pos = this.#end;
    this.#end += plain.byteLength;
  }

  /** The next batch of this record (see {@link packBatches}); undefined after the last. */
  next(): WalBatch | undefined {
    const from = this.#reader.pos + lengthBytes;
    if (from > this.#end) {
      if (this.#reader.pos < this.#end) throw new Error("a batch is cut off");
      return undefined;
    }
    const byteLength = this.#view.getUint32(from - lengthBytes, true);
    if (from + byteLength > this.#end) throw new Error("a batch is longer than its record");
    this.#reader.pos = from;
    return decodeBatch(this.#reader, byteLength);
  }
}

/** Builds the log from its batches in order. */
class Replay implements WalState {
  hardState: HardState = { term: 0, vote: undefined, commit: 0 };
  entries: Entry[] = [];
  installed: SnapshotMeta | undefined;

  add(batch: WalBatch): void {
    if (batch.hardState !== undefined) this.hardState = batch.hardState;
    if (batch.installed !== undefined) {
      this.installed = batch.installed;
      this.entries = [];
    }
    const [first] = batch.entries;
    if (first === undefined) return;
    const base = this.entries[0]?.index ?? first.index;
    if (first.index > base + this.entries.length) {
      throw new Error(`entry ${first.index} follows entry ${base + this.entries.length - 1}`);
    }
    this.entries.length = Math.max(0, first.index - base);
    for (const entry of batch.entries) this.entries.push(entry);
  }
}

function damaged(path: string, position: number, reason: string): ClusterError {
  const directory = path.endsWith(suffix) ? path.slice(0, path.lastIndexOf("/")) : path;
  return new ClusterError(
    "data-loss",
    `cannot read the log: ${path} is damaged at offset ${position} (${reason}). Nothing was changed, because what ` +
      "follows may have been acknowledged. Remove this manager from the group on another manager, remove its state " +
      `directory ${directory}, and let it join again`,
  );
}
