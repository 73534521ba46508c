import type { HardState } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { BlockDisk, BlockFile } from "../../runtime/disk.ts";
import { type WalBatch, encodeBatch } from "./codec.ts";
import { type DiskSpace, fillWithZeros, isFull } from "./disk-space.ts";
import { type Seal, sealOverheadBytes } from "./seal.ts";
import { Watermark } from "./watermark.ts";
import { type RecordKind, encodeRecord, recordBytes } from "./wal-record.ts";
import {
  type Segment,
  type WalState,
  packBatches,
  packedBytes,
  scanLog,
  sealContext,
  segmentPath,
  watermarkPath,
} from "./wal-recovery.ts";

export type { WalState } from "./wal-recovery.ts";

/** Batches that wait are written together, up to about this much. */
const groupBytes = 1024 * 1024;
/** The watermark follows at the latest after this much. */
const markEveryBytes = 64 * 1024;

export interface WalOptions {
  readonly directory: string;
  readonly seal: Seal;
  readonly space: DiskSpace;
  readonly segmentBytes: number;
  /** Whether somebody calls {@link Wal.maintain} from the beginning, or only after {@link Wal.tended}. Default true. */
  readonly isTended?: boolean;
}

interface Waiting {
  readonly batch: WalBatch;
  readonly body: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * The log: segment files of sealed records, durable before `append` settles. Batches that come while a write is under way
 * share the next one, so groups grow with the load and nobody waits for a timer. A full disk makes it wait (see
 * {@link DiskSpace}); after any other failure of the disk it refuses everything, since what is on disk is then unknown.
 *
 * @see docs/decisions/0012-log-on-disk.md
 */
export class Wal {
  readonly #disk: BlockDisk;
  readonly #directory: string;
  readonly #seal: Seal;
  readonly #space: DiskSpace;
  readonly #segmentBytes: number;
  readonly #segments: Segment[] = [];
  #watermark: Watermark | undefined;
  #marking: Promise<void> = Promise.resolve();
  /** The watermark on the disk has at least this. */
  #marked = 0;
  #markedBytes = 0;
  #file: BlockFile | undefined;
  #position = 0;
  #sequence = 0;
  #chain = 0;
  #hardState: HardState = { term: 0, vote: undefined, commit: 0 };
  /** The next segment, filled with zeros ahead of time; gives undefined when there was no room for it. */
  #prepared: Promise<BlockFile | undefined> | undefined;
  #isRolling = false;
  /** The last segment has no first record yet that is surely on the disk. */
  #isBeginning = false;
  #isOpen = false;
  #isTended: boolean;
  #queue: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #upkeep: Promise<void> | undefined;
  #onRoom: (() => void)[] = [];
  #failure: ClusterError | undefined;

  private constructor(disk: BlockDisk, options: WalOptions) {
    this.#disk = disk;
    this.#directory = options.directory;
    this.#seal = options.seal;
    this.#space = options.space;
    this.#segmentBytes = options.segmentBytes;
    this.#isTended = options.isTended ?? true;
  }

  /**
   * Reads the log, repairs a torn tail, and makes it ready to be appended to.
   *
   * @throws {ClusterError} `data-loss` when it is damaged elsewhere: nothing is changed then. `resource-exhausted` when
   *   there is no room to begin one. `unavailable` when the disk does not let itself be read or written: to open it again
   *   proves as much as the first time.
   */
  static async open(
    { disk }: { disk: BlockDisk },
    options: WalOptions,
  ): Promise<{ wal: Wal; state: WalState }> {
    const wal = new Wal(disk, options);
    try {
      return { wal, state: await wal.#recover() };
    } catch (error) {
      const failure = wal.#diskFailure(error);
      wal.#failure = failure;
      await wal.close().catch(() => undefined); // The failure to report is the first one.
      throw failure;
    }
  }

  /**
   * Makes a batch durable. Others may be appended before it settles; they settle in order, none before those ahead of it.
   * On a full disk it settles once there is room; as long as nobody tends the log it is refused with `resource-exhausted`.
   */
  append(batch: WalBatch): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const body = encodeBatch(batch);
    return new Promise((resolve, reject) => {
      this.#queue.push({ batch, body, resolve, reject });
      this.#writing ??= this.#write();
    });
  }

  /** Removes segments in which every entry is at or below `index`. */
  async release(index: number): Promise<void> {
    await this.#guarded(async () => {
      for (;;) {
        const [oldest] = this.#segments;
        // One that is only being begun holds nothing yet, not even term and vote: the one before it may be all there is.
        const needed = this.#isBeginning ? 2 : 1;
        if (oldest === undefined || this.#segments.length <= needed || oldest.lastIndex > index) return;
        const path = segmentPath(this.#directory, oldest.number);
        if (!(await unlessFull(this.#disk.remove(path)))) return; // The next release tries again.
        if (this.#segments[0] === oldest) this.#segments.shift();
      }
    });
  }

  /** From now on somebody calls {@link maintain}, so that room on a full disk can be waited for. */
  tended(): void {
    this.#isTended = true;
  }

  /**
   * Once a second or so: makes the watermark follow, on the disk and not only in the system's cache, which keeps it back for half a
   * minute; and looks whether a disk that was full has room again.
   */
  async maintain(): Promise<void> {
    if (this.#failure !== undefined || this.#upkeep !== undefined) return;
    this.#upkeep = this.#guarded(async () => {
      if (this.#marked < this.#sequence) await unlessFull(this.#mark("durable"));
      if (this.#space.state === "short" && !this.#isRolling && (await this.#prepareNext()) !== undefined) {
        await this.#space.restore();
      }
      this.#tellRoom();
    });
    try {
      await this.#upkeep;
    } finally {
      this.#upkeep = undefined;
    }
  }

  /** Keys that something in the log was sealed with. */
  get keyIds(): ReadonlySet<number> {
    return new Set(this.#segments.flatMap(({ keyIds }) => [...keyIds]));
  }

  /** Writes under way are finished, those that wait for room are refused. */
  async close(): Promise<void> {
    const isSound = this.#failure === undefined;
    this.#failure ??= new ClusterError("unavailable", "the log is closed");
    this.#tellRoom();
    await this.#writing;
    await this.#upkeep?.catch(() => undefined); // It failed because of the closing.
    await (await this.#prepared)?.close();
    try {
      if (isSound && this.#sequence > 0) await unlessFull(this.#mark("durable"));
    } finally {
      await this.#watermark?.close();
      await this.#file?.close();
    }
  }

  async #recover(): Promise<WalState> {
    await this.#disk.makeDirectory(this.#directory);
    const scan = await scanLog({ disk: this.#disk }, { directory: this.#directory, seal: this.#seal });
    this.#segments.push(...scan.segments);
    this.#position = scan.position;
    this.#sequence = scan.sequence;
    this.#chain = scan.chain;
    this.#hardState = scan.state.hardState;
    for (const path of scan.unused) await this.#disk.remove(path);
    const last = this.#segments.at(-1);
    if (last !== undefined) {
      this.#file = await this.#disk.openBlocks(segmentPath(this.#directory, last.number));
      const { tail } = scan;
      // Whether what was read is on the disk, only a new write can tell: a sync that failed once succeeds the next time
      // without having written anything.
      if (tail !== undefined) await this.#file.commit(tail.position, tail.bytes);
      if (scan.isTorn) await this.#file.commit(this.#position, new Uint8Array(last.bytes - this.#position));
    }
    this.#watermark = await Watermark.open(this.#disk, watermarkPath(this.#directory));
    if (last === undefined) await this.#startSegment(1, await this.#fill(1, this.#segmentBytes));
    else await this.#mark("durable");
    this.#isOpen = true;
    void this.#prepareNext();
    // Beside what goes on; a failure is told by the next append.
    const restoring = this.#guarded(async () => void (await this.#space.restore()));
    this.#upkeep = restoring.catch(() => undefined).then(() => (this.#upkeep = undefined));
    return scan.state;
  }

  /**
   * One group after another, until nothing waits. Never rejects: whoever waits is told. The first one is on its way to the
   * disk when this returns, unless a new segment has to be begun.
   */
  async #write(): Promise<void> {
    let group: readonly Waiting[] = [];
    try {
      while (this.#queue.length > 0) {
        if (this.#failure !== undefined) throw this.#failure;
        const firstBytes = this.#firstBytes();
        if (firstBytes > this.#room()) await this.#roll(firstBytes);
        group = this.#takeGroup();
        await this.#writeGroup(group);
        for (const { resolve } of group) resolve();
        group = [];
      }
    } catch (error) {
      this.#fail(error);
      for (const { reject } of [...group, ...this.#queue]) reject(this.#failure);
      this.#queue = [];
    }
    this.#writing = undefined;
  }

  /** What the batch that has waited longest takes on disk. */
  #firstBytes(): number {
    const [first] = this.#queue;
    if (first === undefined) throw new Error("assertion failed: no batch waits");
    return payloadRecordBytes(packedBytes([first.body]));
  }

  /** As many as fit into the segment, at least one. */
  #takeGroup(): readonly Waiting[] {
    const limit = this.#room();
    let bytes = 0;
    let count = 0;
    for (const { body } of this.#queue) {
      bytes += packedBytes([body]);
      if (count > 0 && (bytes > groupBytes || payloadRecordBytes(bytes) > limit)) break;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }

  async #writeGroup(group: readonly Waiting[]): Promise<void> {
    const segment = this.#segments.at(-1);
    await this.#commit("batch", packBatches(group.map(({ body }) => body)));
    // Not before: a new segment begins with it, and may be all that a crash leaves. It must not speak of entries that
    // only these batches bring.
    for (const { batch } of group) {
      this.#hardState = batch.hardState ?? this.#hardState;
      const last = batch.entries.at(-1);
      if (segment !== undefined && last !== undefined) {
        segment.lastIndex = Math.max(segment.lastIndex, last.index);
      }
    }
    if (this.#markedBytes >= markEveryBytes) {
      void unlessFull(this.#mark("lazy")).catch((error: unknown) => this.#fail(error));
    }
  }

  async #commit(kind: RecordKind, payload: Uint8Array): Promise<void> {
    const file = this.#file;
    if (file === undefined) throw new Error("assertion failed: the log has no open segment");
    const sequence = this.#sequence + 1;
    const { keyId } = this.#seal;
    const sealed = this.#seal.seal(payload, sealContext(sequence));
    const { bytes, crc } = encodeRecord({ kind, sequence, chain: this.#chain, keyId }, sealed);
    this.#segments.at(-1)?.keyIds.add(keyId); // Before it is there: no key goes while something may need it.
    // The same bytes at the same place, as often as it takes: whatever an attempt left is written over.
    await this.#onceThereIsRoom(() => file.commit(this.#position, bytes));
    this.#position += bytes.byteLength;
    this.#markedBytes += bytes.byteLength;
    this.#sequence = sequence;
    this.#chain = crc;
  }

  #room(): number {
    return (this.#segments.at(-1)?.bytes ?? 0) - this.#position;
  }

  /** Goes on in a new segment that has room for a record of this size. */
  async #roll(recordBytes: number): Promise<void> {
    this.#isRolling = true;
    const number = this.#nextNumber();
    let file = await this.#onceThereIsRoom(() => this.#takePrepared());
    const bytes = Math.max(this.#segmentBytes, recordBytes + this.#startBytes());
    if (bytes > this.#segmentBytes) {
      await file.close();
      file = await this.#onceThereIsRoom(() => this.#fill(number, bytes));
    }
    const old = this.#file;
    await this.#startSegment(number, file, bytes);
    await old?.close();
    this.#isRolling = false;
    void this.#prepareNext();
  }

  /** A segment begins with the hard state, so that older ones can go. */
  async #startSegment(number: number, file: BlockFile, bytes = this.#segmentBytes): Promise<void> {
    this.#file = file;
    this.#position = 0;
    this.#isBeginning = true;
    this.#segments.push({ number, bytes, lastIndex: 0, keyIds: new Set() });
    await this.#commit("start", this.#startPayload());
    // Before anything in it is acknowledged: a segment that turns into zeros must not pass for a prepared one.
    await this.#onceThereIsRoom(() => this.#mark("durable"));
    this.#isBeginning = false;
  }

  #startPayload(): Uint8Array {
    return packBatches([encodeBatch({ hardState: this.#hardState, entries: [], installed: undefined })]);
  }

  #startBytes(): number {
    return payloadRecordBytes(this.#startPayload().byteLength);
  }

  async #takePrepared(): Promise<BlockFile> {
    const file = await this.#prepareNext();
    if (this.#failure !== undefined) throw this.#failure;
    if (file === undefined) throw Object.assign(new Error("no room for a segment"), { code: "ENOSPC" });
    this.#prepared = undefined;
    return file;
  }

  /** Never rejects: a failure is told by the next append, before anything is at risk. */
  #prepareNext(): Promise<BlockFile | undefined> {
    this.#prepared ??= this.#prepare(this.#nextNumber()).catch((error: unknown) => {
      this.#prepared = undefined;
      if (!isFull(error)) this.#fail(error);
      return undefined;
    });
    return this.#prepared;
  }

  async #prepare(number: number): Promise<BlockFile> {
    try {
      return await this.#fill(number, this.#segmentBytes);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    const isSpent = this.#space.state === "short";
    await this.#space.spend();
    try {
      if (!isSpent) return await this.#fill(number, this.#segmentBytes);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    await this.#disk.remove(segmentPath(this.#directory, number)); // What little it took is of use elsewhere.
    throw Object.assign(new Error("no room for a segment"), { code: "ENOSPC" });
  }

  #nextNumber(): number {
    return (this.#segments.at(-1)?.number ?? 0) + 1;
  }

  #fill(number: number, bytes: number): Promise<BlockFile> {
    return fillWithZeros(this.#disk, segmentPath(this.#directory, number), bytes);
  }

  /** Again and again while the disk is full, each time after something may have made room. */
  async #onceThereIsRoom<T>(action: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await action();
      } catch (error) {
        if (!isFull(error) || !this.#isOpen) throw error; // Nobody looks for room while it is being opened.
        if (this.#space.state !== "short") await this.#space.spend();
        else if (this.#isTended) await new Promise<void>((resolve) => this.#onRoom.push(resolve));
        else throw error;
        if (this.#failure !== undefined) throw this.#failure;
      }
    }
  }

  #tellRoom(): void {
    for (const resolve of this.#onRoom.splice(0)) resolve();
  }

  /** One after another, so that an older mark never takes the place of a newer one. */
  #mark(when: "durable" | "lazy"): Promise<void> {
    const sequence = this.#sequence;
    this.#markedBytes = 0;
    const marking = this.#marking.then(async () => {
      await this.#watermark?.raise(sequence, when);
      if (when === "durable") this.#marked = Math.max(this.#marked, sequence);
    });
    this.#marking = marking.catch(() => undefined); // Whoever asked is told.
    return marking;
  }

  async #guarded(action: () => Promise<void>): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await action();
    } catch (error) {
      this.#fail(error);
      throw this.#failure;
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= this.#diskFailure(error);
    this.#tellRoom();
  }

  #diskFailure(cause: unknown): ClusterError {
    if (cause instanceof ClusterError) return cause;
    if (isFull(cause)) {
      return new ClusterError(
        "resource-exhausted",
        `cannot write the log in ${this.#directory}: the disk is full; free some space. It is tried again from time to time`,
        { cause },
      );
    }
    if (!this.#isOpen) {
      return new ClusterError(
        "unavailable",
        `cannot open the log in ${this.#directory}: ${errorText(cause)}; check the disk. It is tried again from time to time`,
        { cause },
      );
    }
    if (isOutOfFiles(cause)) {
      return new ClusterError(
        "unavailable",
        `cannot go on with the log in ${this.#directory}: ${errorText(cause)}; nothing is wrong with the disk. The manager starts ` +
          "again; raise the limit of open files (LimitNOFILE of the service)",
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
}

/** A file could not be opened, so nothing was written: no proof against the disk. */
function isOutOfFiles(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "EMFILE" || code === "ENFILE";
}

/** @returns false when the disk was full; what was tried can wait. */
async function unlessFull(action: Promise<void>): Promise<boolean> {
  try {
    await action;
    return true;
  } catch (error) {
    if (!isFull(error)) throw error;
    return false;
  }
}

function payloadRecordBytes(payloadBytes: number): number {
  return recordBytes(payloadBytes + sealOverheadBytes);
}
