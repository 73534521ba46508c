import type { Entry, HardState, SnapshotMeta } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { BlockDisk, BlockFile } from "../../runtime/disk.ts";
import { type WalBatch, decodeBatch, encodeBatch } from "./codec.ts";
import type { Seal } from "./seal.ts";
import { type RecordKind, encodeRecord, readRecord } from "./wal-record.ts";

const defaultSegmentBytes = 8 * 1024 * 1024;
const fillBytes = 1024 * 1024;
const suffix = ".wal";

/** What the log on disk amounts to after all its records were replayed. */
export interface WalState {
  readonly hardState: HardState;
  /** Without holes; may begin below the latest snapshot. */
  readonly entries: readonly Entry[];
  /** The last snapshot that took the place of the log; its file must be there. */
  readonly installed: SnapshotMeta | undefined;
}

interface Segment {
  readonly number: number;
  /** Highest entry index in it; 0 when it has none. */
  lastIndex: number;
}

/**
 * The log: segment files, one sealed record for each round of work, each durable before `append` settles. After any
 * failure of the disk it refuses everything: what is on disk is then unknown (a failed fsync cannot be repeated).
 *
 * @see docs/decisions/0012-log-on-disk.md
 */
export class Wal {
  readonly #disk: BlockDisk;
  readonly #directory: string;
  readonly #seal: Seal;
  readonly #segmentBytes: number;
  readonly #segments: Segment[] = [];
  #file: BlockFile | undefined;
  #position = 0;
  #sequence = 0;
  #chain = 0;
  #hardState: HardState = { term: 0, vote: undefined, commit: 0 };
  /** The next segment, filled with zeros ahead of time. */
  #prepared: Promise<BlockFile | undefined> | undefined;
  #failure: ClusterError | undefined;

  private constructor(disk: BlockDisk, options: { directory: string; seal: Seal; segmentBytes: number }) {
    this.#disk = disk;
    this.#directory = options.directory;
    this.#seal = options.seal;
    this.#segmentBytes = options.segmentBytes;
  }

  /**
   * Reads the log, repairs a torn tail, and makes it ready to be appended to.
   *
   * @throws {ClusterError} `data-loss` when it is damaged elsewhere: nothing is changed then.
   */
  static async open(
    { disk }: { disk: BlockDisk },
    options: { directory: string; seal: Seal; segmentBytes?: number },
  ): Promise<{ wal: Wal; state: WalState }> {
    const wal = new Wal(disk, { segmentBytes: defaultSegmentBytes, ...options });
    await disk.makeDirectory(options.directory);
    const state = await wal.#recover();
    if (wal.#segments.length === 0) await wal.#startSegment(1, await wal.#fill(1));
    wal.#prepareNext();
    return { wal, state };
  }

  /** Makes a batch durable. One at a time. */
  async append(batch: WalBatch): Promise<void> {
    await this.#guarded(async () => {
      const bytes = this.#record("batch", batch);
      if (this.#position > 0 && this.#position + bytes.byteLength > this.#segmentBytes) {
        await this.#roll();
        // The record carries the chain, so it has to be made again behind the new segment's first one.
        await this.#commit(this.#record("batch", batch));
      } else {
        await this.#commit(bytes);
      }
      // Not before: a new segment begins with it, and may be all that a crash leaves. It must not speak of entries
      // that only this batch brings.
      this.#hardState = batch.hardState ?? this.#hardState;
      const segment = this.#segments.at(-1);
      const last = batch.entries.at(-1);
      if (segment !== undefined && last !== undefined) {
        segment.lastIndex = Math.max(segment.lastIndex, last.index);
      }
    });
  }

  /** Removes segments in which every entry is at or below `index`. */
  async release(index: number): Promise<void> {
    await this.#guarded(async () => {
      for (;;) {
        const [oldest] = this.#segments;
        if (oldest === undefined || this.#segments.length < 2 || oldest.lastIndex > index) return;
        await this.#disk.remove(this.#path(oldest.number));
        this.#segments.shift();
      }
    });
  }

  async close(): Promise<void> {
    const prepared = await this.#prepared;
    this.#failure ??= new ClusterError("unavailable", "the log is closed");
    await prepared?.close();
    await this.#file?.close();
  }

  async #recover(): Promise<WalState> {
    const names = (await this.#disk.list(this.#directory)).filter((name) => name.endsWith(suffix)).toSorted();
    const replay = new Replay();
    let emptyFrom: string | undefined;
    for (const name of names) {
      const path = `${this.#directory}/${name}`;
      const bytes = (await this.#disk.read(path)) ?? new Uint8Array();
      const segment: Segment = { number: Number.parseInt(name, 16), lastIndex: 0 };
      const last = name === names.at(-1);
      const { end, torn } = this.#replaySegment(path, bytes, segment, replay);
      if (end === 0) {
        emptyFrom ??= name;
        await this.#disk.remove(path); // Prepared and not used yet, or torn before its first record.
        continue;
      }
      if (emptyFrom !== undefined) {
        throw this.#damaged(`${this.#directory}/${emptyFrom}`, 0, "it is empty, and a later segment is not");
      }
      const previous = this.#segments.at(-1);
      if (previous !== undefined && previous.number + 1 !== segment.number) {
        throw this.#damaged(path, 0, `segment ${previous.number + 1}, which comes before it, is missing`);
      }
      this.#segments.push(segment);
      this.#position = end;
      if (torn && !last && !(await this.#onlyEmptyAfter(names, name))) {
        throw this.#damaged(path, end, "a record is incomplete, and a later segment follows");
      }
      if (torn) await this.#zeroTail(path, end, bytes.byteLength);
    }
    const active = this.#segments.at(-1);
    if (active !== undefined) this.#file = await this.#disk.openBlocks(this.#path(active.number));
    this.#hardState = replay.hardState;
    return { hardState: replay.hardState, entries: replay.entries, installed: replay.installed };
  }

  /** @returns where the good records end; 0 when there is none. */
  #replaySegment(
    path: string,
    bytes: Uint8Array,
    segment: Segment,
    replay: Replay,
  ): { end: number; torn: boolean } {
    for (let position = 0; ;) {
      // What comes before the oldest segment was released, so its first record is taken as it is.
      const first = position === 0 && this.#segments.length === 0;
      const expected = first ? undefined : { sequence: this.#sequence + 1, chain: this.#chain };
      const result = readRecord(bytes, position, expected);
      switch (result.kind) {
        case "end":
          return { end: position, torn: false };
        case "torn":
          return { end: position, torn: true };
        case "damaged":
          throw this.#damaged(path, result.position, result.reason);
        case "record": {
          const { record } = result;
          try {
            const batch = decodeBatch(this.#seal.open(record.payload, sealContext(record.sequence)));
            replay.add(batch);
            segment.lastIndex = Math.max(segment.lastIndex, batch.entries.at(-1)?.index ?? 0);
          } catch (error) {
            throw this.#damaged(path, position, errorText(error));
          }
          this.#sequence = record.sequence;
          this.#chain = record.crc;
          position = record.end;
        }
      }
    }
  }

  async #onlyEmptyAfter(names: readonly string[], name: string): Promise<boolean> {
    for (const later of names.slice(names.indexOf(name) + 1)) {
      const bytes = (await this.#disk.read(`${this.#directory}/${later}`)) ?? new Uint8Array();
      if (readRecord(bytes, 0, undefined).kind === "record") return false;
    }
    return true;
  }

  async #zeroTail(path: string, from: number, to: number): Promise<void> {
    const file = await this.#disk.openBlocks(path);
    try {
      await file.commit(from, new Uint8Array(to - from));
    } finally {
      await file.close();
    }
  }

  #record(kind: RecordKind, batch: WalBatch): Uint8Array {
    const sequence = this.#sequence + 1;
    const payload = this.#seal.seal(encodeBatch(batch), sealContext(sequence));
    const { bytes, crc } = encodeRecord(kind, { sequence, chain: this.#chain }, payload);
    this.#pendingCrc = crc;
    return bytes;
  }

  /** CRC of the record that was made last; becomes the chain when it is written. */
  #pendingCrc = 0;

  async #commit(bytes: Uint8Array): Promise<void> {
    const file = this.#file;
    if (file === undefined) throw new Error("assertion failed: the log has no open segment");
    await file.commit(this.#position, bytes);
    this.#position += bytes.byteLength;
    this.#sequence += 1;
    this.#chain = this.#pendingCrc;
  }

  async #roll(): Promise<void> {
    const number = (this.#segments.at(-1)?.number ?? 0) + 1;
    const file = await this.#prepared;
    if (this.#failure !== undefined) throw this.#failure;
    await this.#startSegment(number, file ?? (await this.#fill(number)));
    this.#prepareNext();
  }

  /** A segment begins with the hard state, so that older ones can go. */
  async #startSegment(number: number, file: BlockFile): Promise<void> {
    await this.#file?.close();
    this.#file = file;
    this.#position = 0;
    this.#segments.push({ number, lastIndex: 0 });
    await this.#commit(
      this.#record("start", { hardState: this.#hardState, entries: [], installed: undefined }),
    );
  }

  #prepareNext(): void {
    const number = (this.#segments.at(-1)?.number ?? 0) + 1;
    this.#prepared = this.#fill(number).catch((error: unknown) => {
      this.#failure ??= this.#diskFailure(error); // Told by the next append, before anything is at risk.
      return undefined;
    });
  }

  /** Real zeros rather than a hole: later syncs then write data only, no block map. */
  async #fill(number: number): Promise<BlockFile> {
    const file = await this.#disk.openBlocks(this.#path(number));
    const zeros = new Uint8Array(fillBytes);
    for (let at = 0; at < this.#segmentBytes; at += fillBytes) {
      await file.write(at, zeros.subarray(0, Math.min(fillBytes, this.#segmentBytes - at)));
    }
    await file.sync();
    return file;
  }

  async #guarded(action: () => Promise<void>): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await action();
    } catch (error) {
      this.#failure ??= this.#diskFailure(error);
      throw this.#failure;
    }
  }

  #diskFailure(cause: unknown): ClusterError {
    if (cause instanceof ClusterError) return cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOSPC") {
      return new ClusterError(
        "resource-exhausted",
        `cannot write the log in ${this.#directory}: the disk is full; free some space and restart the manager`,
        { cause },
      );
    }
    return new ClusterError(
      "data-loss",
      `cannot write the log in ${this.#directory}: ${errorText(cause)}; this member has stopped, since what is on the ` +
        "disk is unknown. Check the disk and restart the manager",
      { cause },
    );
  }

  #damaged(path: string, position: number, reason: string): ClusterError {
    return new ClusterError(
      "data-loss",
      `cannot read the log: ${path} is damaged at offset ${position} (${reason}). Nothing was changed, because what ` +
        "follows may have been acknowledged. Remove this manager from the group on another manager, remove its state " +
        `directory ${this.#directory}, and let it join again`,
    );
  }

  #path(number: number): string {
    return `${this.#directory}/${number.toString(16).padStart(16, "0")}${suffix}`;
  }
}

/** Builds the log from its batches in order. */
class Replay {
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

function sealContext(sequence: number): string {
  return `log record ${sequence}`;
}
