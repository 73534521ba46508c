/**
 * One container's output on disk. The shim appends to two plain files, whether we live or not, so a
 * container never blocks on us. This side only notes how long the files were at which time, and gives
 * the space of old output back to the file system.
 *
 *     stdout.log  stderr.log   written by the shim, never by us
 *     output.index             written by us alone, see index-file.ts
 *
 * Space is freed by punching holes, not by truncating: sizes only grow, so nothing that the shim writes
 * meanwhile can be lost. Lines written while we were away get the time at which we came back.
 */
import {
  closeSync,
  existsSync,
  type FSWatcher,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  watch,
  writeFileSync,
  writeSync,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import type { Clock } from "../../runtime/clock.ts";
import { hasRoom } from "../engine/room.ts";
import { runTool } from "../mounts/tool.ts";
import {
  decodeRecords,
  dropOldest,
  encodeRecords,
  type IndexRecord,
  recordBytes,
  thinOut,
  totalBytes,
} from "./index-file.ts";

export interface OutputLimits {
  readonly maxBytes: number;
  readonly maxFiles: number;
  /** Kept beyond that for those who are attached; absent: {@link heldLimitBytes}. */
  readonly heldBytes?: number;
}

export const defaultOutputLimits: OutputLimits = { maxBytes: 10 * 2 ** 20, maxFiles: 3 };

/** While output keeps coming, the files are looked at this often; it is also the precision of times. */
const sampleEveryMs = 40;
/** Where the kernel has no watches left, and while nothing can be written. */
const pollEveryMs = 1_000;
const recordLimit = 200_000;
/** What the slowest of those who are attached keeps on the disk beyond what is kept anyway (0107). */
export const heldLimitBytes = 4 * 2 ** 30;
const outputMode = 0o600;
/** Of a file's `blocks`. */
const blockBytes = 512;
/** Less is not worth a process that frees it. */
const leftBytes = 4 * 2 ** 20;

export interface OutputDeps {
  readonly clock: Clock;
  /** What failed in the background, such as freeing space. */
  readonly warn: (message: string, error: unknown) => void;
}

/** How far somebody who is attached has read; streams that it does not read are at Infinity. Changed by its owner. */
export interface Place {
  stdout: number;
  stderr: number;
}

export class OutputFile {
  readonly stdoutPath: string;
  readonly stderrPath: string;
  readonly #indexPath: string;
  readonly #directory: string;
  readonly #deps: OutputDeps;
  readonly #limits: OutputLimits;
  readonly #followers = new Set<() => void>();
  readonly #held = new Set<Readonly<Place>>();
  /** What lies before is a hole, or about to be one; never behind `first`. */
  #freed: Readonly<Place> = { stdout: 0, stderr: 0 };
  #first: IndexRecord = { timeMs: 0, stdoutBytes: 0, stderrBytes: 0 };
  #last: IndexRecord = { timeMs: 0, stdoutBytes: 0, stderrBytes: 0 };
  #count = 0;
  #generation = 0;
  #ended = false;
  #endings = 0;
  /** The index has only its first record, and no file yet: many containers never print anything. */
  #unwritten = false;
  #fd: number | undefined;
  #watcher: FSWatcher | undefined;
  #cancelTimer: (() => void) | undefined;
  #cancelPoll: (() => void) | undefined;
  #cancelRetry: (() => void) | undefined;
  /** The last look could not write down what it saw. */
  #refused = false;
  #dirty = false;
  #freeing = false;

  private constructor(deps: OutputDeps, directory: string, limits: OutputLimits) {
    this.#deps = deps;
    this.#directory = directory;
    this.#limits = limits;
    this.stdoutPath = join(directory, "stdout.log");
    this.stderrPath = join(directory, "stderr.log");
    this.#indexPath = join(directory, "output.index");
  }

  /** Makes the files of a new container. */
  static async create(deps: OutputDeps, directory: string, limits: OutputLimits): Promise<OutputFile> {
    const file = new OutputFile(deps, directory, limits);
    touch(file.stdoutPath);
    touch(file.stderrPath);
    file.#begin([{ timeMs: deps.clock.now(), stdoutBytes: 0, stderrBytes: 0 }]);
    file.#unwritten = true;
    return file;
  }

  /** Goes on with the files of a container that was there before us. */
  static async open(deps: OutputDeps, directory: string, limits: OutputLimits): Promise<OutputFile> {
    const file = new OutputFile(deps, directory, limits);
    const bytes = await readFile(file.#indexPath).catch(() => Buffer.alloc(0));
    const records = decodeRecords(bytes);
    // A torn record at the end would shift those appended after it.
    if (bytes.length > records.length * recordBytes)
      truncateSync(file.#indexPath, records.length * recordBytes);
    file.#unwritten = records.length === 0;
    file.#begin(
      records.length > 0 ? records : [{ timeMs: deps.clock.now(), stdoutBytes: 0, stderrBytes: 0 }],
    );
    file.#freed = { stdout: file.first.stdoutBytes, stderr: file.first.stderrBytes };
    file.look();
    file.#freeLeft();
    return file;
  }

  /** Output before these sizes is gone, but for those who hold it. */
  get first(): IndexRecord {
    return this.#first;
  }

  /** Output before these sizes is gone for everybody. */
  get freed(): Readonly<Place> {
    return this.#freed;
  }

  /** Nothing more will come. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Somebody reads it as it comes. */
  get isFollowed(): boolean {
    return this.#followers.size > 0;
  }

  /** How often it has ended: readers of the bytes themselves wait for the next time. */
  get endings(): number {
    return this.#endings;
  }

  /** Changes when the index was rewritten rather than appended to. */
  get generation(): number {
    return this.#generation;
  }

  get recordCount(): number {
    return this.#count;
  }

  /** Looks when something was written; costs nothing while nothing is. */
  watch(): void {
    if (this.#watcher !== undefined || this.#cancelPoll !== undefined || this.#ended) return;
    try {
      this.#watcher = watch(this.#directory, { persistent: false }, (_event, name) => {
        if (name === "stdout.log" || name === "stderr.log" || name === null) this.#touched();
      });
      this.#watcher.on("error", () => this.#poll());
    } catch {
      this.#poll();
    }
    this.look();
  }

  /** Notes new output now. Where that cannot be written, such as on a full disk, it is tried again until it can. */
  look(): void {
    if (this.#ended) return;
    try {
      this.#note();
      this.#refused = false;
    } catch (error) {
      if (!this.#refused) this.#deps.warn(`cannot note output in ${this.#directory}`, error);
      this.#refused = true;
      this.#cancelRetry?.();
      this.#cancelRetry = this.#deps.clock.after(pollEveryMs, () => this.look());
    }
  }

  #note(): void {
    // In this order: what was on stdout before a line on stderr is then noted no later than that line.
    const stderrBytes = sizeOf(this.stderrPath);
    const stdoutBytes = sizeOf(this.stdoutPath);
    const { timeMs } = this.#last;
    if (stdoutBytes < this.#last.stdoutBytes || stderrBytes < this.#last.stderrBytes) {
      // Somebody truncated the files: what is there now is all there is.
      this.#rewrite([{ timeMs: this.#deps.clock.now(), stdoutBytes: 0, stderrBytes: 0 }]);
      this.#freed = { stdout: 0, stderr: 0 };
    }
    if (stdoutBytes === this.#last.stdoutBytes && stderrBytes === this.#last.stderrBytes) return;
    this.#append({ timeMs: Math.max(timeMs, this.#deps.clock.now()), stdoutBytes, stderrBytes });
    this.#bound();
    this.#wake();
  }

  /** The container has ended and its shim has written everything. To be said again while `ended` stays false. */
  end(): void {
    this.look();
    if (this.#refused) return; // Its last lines are in the file, but not noted yet.
    this.#ended = true;
    this.#endings += 1;
    this.close();
    this.#wake();
  }

  /** The container runs again, and its output goes on behind what is there. */
  reopen(): void {
    this.#ended = false;
    this.#refused = false;
  }

  /** Stops looking; the files stay. */
  close(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#cancelPoll?.();
    this.#cancelPoll = undefined;
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  /** All records, or those from the `from`th on. */
  async records(from: number): Promise<IndexRecord[]> {
    if (this.#unwritten) return [this.#first].slice(from);
    const bytes = await readFile(this.#indexPath);
    return decodeRecords(bytes).slice(from);
  }

  /** Calls back at every change; the result ends it. */
  onChange(listener: () => void): () => void {
    this.#followers.add(listener);
    return () => void this.#followers.delete(listener);
  }

  /**
   * Nothing behind this place is freed, up to a bound: whoever is slower finds it `freed`. The result gives it up.
   */
  hold(place: Readonly<Place>): () => void {
    this.#held.add(place);
    return () => {
      if (this.#held.delete(place)) this.#freeUnheld();
    };
  }

  #begin(records: readonly IndexRecord[]): void {
    this.#first = records[0] ?? this.#first;
    this.#last = records.at(-1) ?? this.#last;
    this.#count = records.length;
  }

  #touched(): void {
    this.#dirty = true;
    if (this.#cancelTimer !== undefined) return;
    this.#dirty = false;
    this.look();
    this.#cancelTimer = this.#deps.clock.after(sampleEveryMs, () => {
      this.#cancelTimer = undefined;
      if (this.#dirty) this.#touched();
    });
  }

  #poll(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#cancelPoll ??= this.#deps.clock.every(pollEveryMs, () => this.look());
  }

  #append(record: IndexRecord): void {
    this.#fd ??= openSync(this.#indexPath, "a", outputMode);
    const bytes = encodeRecords(this.#unwritten ? [this.#first, record] : [record]);
    try {
      const written = writeSync(this.#fd, bytes);
      if (written < bytes.length) throw new Error(`${written} of ${bytes.length} bytes written`);
    } catch (error) {
      // Half a record would shift all that follow.
      ftruncateSync(this.#fd, this.#unwritten ? 0 : this.#count * recordBytes);
      throw error;
    }
    this.#unwritten = false;
    this.#last = record;
    this.#count++;
  }

  #rewrite(records: readonly IndexRecord[]): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    writeFileSync(`${this.#indexPath}.new`, encodeRecords(records), { mode: outputMode });
    renameSync(`${this.#indexPath}.new`, this.#indexPath);
    this.#unwritten = false;
    this.#generation++;
    this.#begin(records);
  }

  #bound(): void {
    const { maxBytes, maxFiles } = this.#limits;
    const tooMuch = totalBytes(this.#last) - totalBytes(this.#first) > maxBytes * maxFiles;
    if ((!tooMuch && this.#count <= recordLimit) || this.#freeing) return;
    this.#inBackground(() => this.#free(tooMuch));
  }

  #inBackground(freeing: () => Promise<void>): void {
    this.#freeing = true;
    void freeing()
      .then(
        () => "done" as const,
        (error: unknown) => {
          // Gone with its container, there is nothing to free.
          if (existsSync(this.#directory))
            this.#deps.warn(`cannot free old output in ${this.#directory}`, error);
        },
      )
      .then((done) => {
        this.#freeing = false;
        // More may have come meanwhile, and nothing after it.
        if (done !== undefined) this.#bound();
        this.#freeUnheld();
      });
  }

  /** Without output that comes, nothing else would free what was held by somebody who has gone. */
  #freeUnheld(): void {
    const { stdoutBytes, stderrBytes } = this.#first;
    const isFreed = this.#freed.stdout >= stdoutBytes && this.#freed.stderr >= stderrBytes;
    if (isFreed || this.#freeing || this.#isHeld()) return;
    this.#inBackground(() => this.#punch());
  }

  #isHeld(): boolean {
    return [...this.#held].some((place) => this.#behind(place) > 0);
  }

  /** Bytes that are kept for this place alone. */
  #behind({ stdout, stderr }: Readonly<Place>): number {
    return Math.max(0, this.#first.stdoutBytes - stdout) + Math.max(0, this.#first.stderrBytes - stderr);
  }

  async #free(tooMuch: boolean): Promise<void> {
    const { maxBytes, maxFiles } = this.#limits;
    // As if the oldest of `maxFiles` files were dropped; a single file is halved.
    const keepBytes = maxFiles > 1 ? maxBytes * (maxFiles - 1) : maxBytes / 2;
    // Read and replaced in one go, so that no record can come between.
    const before = decodeRecords(readFileSync(this.#indexPath));
    this.#rewrite(tooMuch ? dropOldest(before, keepBytes) : thinOut(before));
    if (tooMuch) await this.#punch();
  }

  /** Frees what is not kept, as far as nobody who is attached has yet to read it. */
  async #punch(): Promise<void> {
    if (this.#isHeld()) {
      const { heldBytes = heldLimitBytes } = this.#limits;
      const mayHoldBytes = (await hasRoom(this.#directory)) ? heldBytes : 0;
      for (const place of this.#held) if (this.#behind(place) > mayHoldBytes) this.#held.delete(place);
    }
    const { stdoutBytes, stderrBytes } = this.#first;
    const places = [...this.#held, { stdout: stdoutBytes, stderr: stderrBytes }];
    // Before it is done, so that nobody takes a hole for output.
    this.#freed = {
      stdout: Math.min(...places.map(({ stdout }) => stdout)),
      stderr: Math.min(...places.map(({ stderr }) => stderr)),
    };
    await punch(this.stdoutPath, this.#freed.stdout);
    await punch(this.stderrPath, this.#freed.stderr);
  }

  /** A worker that ended before us kept more than is kept, for somebody who was attached to it. */
  #freeLeft(): void {
    const { stdoutBytes, stderrBytes } = this.#first;
    const isLeft =
      allocatedBefore(this.stdoutPath, stdoutBytes) > leftBytes ||
      allocatedBefore(this.stderrPath, stderrBytes) > leftBytes;
    if (isLeft && !this.#freeing) this.#inBackground(() => this.#punch());
  }

  #wake(): void {
    for (const follower of this.#followers) follower();
  }
}

/** Frees all but the last byte before `end`, which tells a reader whether a line begins there. */
async function punch(path: string, end: number): Promise<void> {
  // Gone with its container, which is removed while somebody who is attached still reads.
  if (end < 2 || sizeOf(path) === 0) return;
  await runTool("fallocate", ["--punch-hole", "--offset", "0", "--length", String(end - 1), path]);
}

/** At least this much of what lies before `end` is on the disk. */
function allocatedBefore(path: string, end: number): number {
  const stats = end < leftBytes ? undefined : statSync(path, { throwIfNoEntry: false });
  return stats === undefined ? 0 : stats.blocks * blockBytes - (stats.size - end);
}

function touch(path: string): void {
  closeSync(openSync(path, "a", outputMode));
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
