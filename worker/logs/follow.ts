/** Reads a container's output back: the last lines, from a time on, and as it comes. */
import { type FileHandle, open } from "node:fs/promises";

import type { OutputFile } from "./file.ts";
import type { IndexRecord } from "./index-file.ts";
import { LineCutter } from "./lines.ts";
import { type LogLine, logLineLimitBytes, type LogOptions, type LogReader } from "./reader.ts";

const blockBytes = 64 * 1024;
const newline = 10;
const streams = ["stdout", "stderr"] as const;
type Stream = (typeof streams)[number];

/** @param written - Settles once the last of a container that has ended is in the file; at once while it runs. Never rejects. */
export function outputReader(file: OutputFile, written: () => Promise<void>): LogReader {
  return {
    async *read(options, signal) {
      const all = written();
      // Whoever follows gets it as it comes.
      if (!options.follow) await all;
      file.look();
      const session = new ReadSession(file, options, signal);
      // Throughout, also while what was read is being taken.
      const unfollow = options.follow ? file.onChange(() => undefined) : () => undefined;
      try {
        yield* session.lines();
      } finally {
        unfollow();
        await session.close();
      }
    },
  };
}

class ReadSession {
  readonly #file: OutputFile;
  readonly #options: LogOptions;
  readonly #signal: AbortSignal;
  readonly #handles = new Map<Stream, FileHandle>();
  readonly #cutters = { stdout: new LineCutter(), stderr: new LineCutter() };
  /** How much of each stream has been read. */
  readonly #read = { stdout: 0, stderr: 0 };
  readonly #wanted: readonly Stream[];
  /** Lines before the tail that are still to be left out. */
  #early = 0;
  #generation = -1;
  #nextRecord = 0;
  #lastTimeMs = 0;
  /** The container has ended and all of its output was given. */
  #complete = false;

  constructor(file: OutputFile, options: LogOptions, signal: AbortSignal) {
    this.#file = file;
    this.#options = options;
    this.#signal = signal;
    this.#wanted = streams.filter((stream) => options[stream]);
  }

  async *lines(): AsyncGenerator<LogLine> {
    const records = await this.#newRecords();
    const start = await this.#startOf(records);
    await this.#seek(records[start] ?? this.#file.first);
    const first = this.#linesToNow(records.slice(start + 1));
    const { tail, follow } = this.#options;
    // A tail begins at a record, so lines of that record come before it. They are counted, not kept: it may be all there is.
    this.#early = tail === undefined ? 0 : (await this.#count(records, start)) - tail;
    for await (const line of first) if (--this.#early < 0) yield line;
    if (!follow) return;
    while (!this.#over() && !this.#complete) {
      await this.#change();
      yield* this.#linesToNow(await this.#newRecords());
    }
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
  }

  /** Aborted, or past the end of the time asked for. */
  #over(): boolean {
    const { untilMs = Infinity } = this.#options;
    return this.#signal.aborted || this.#lastTimeMs >= untilMs;
  }

  async #newRecords(): Promise<IndexRecord[]> {
    const file = this.#file;
    for (;;) {
      const { generation } = file;
      const same = generation === this.#generation;
      if (same && file.recordCount === this.#nextRecord) return [];
      const records = await file.records(same ? this.#nextRecord : 0);
      if (file.generation !== generation) continue;
      this.#nextRecord = (same ? this.#nextRecord : 0) + records.length;
      const known = !same && this.#generation >= 0;
      this.#generation = generation;
      if (!known) return records;
      // The index was rewritten: go on behind what was read.
      return records.filter(
        ({ stdoutBytes, stderrBytes }) => stdoutBytes > this.#read.stdout || stderrBytes > this.#read.stderr,
      );
    }
  }

  /** The record after which reading begins. */
  async #startOf(records: readonly IndexRecord[]): Promise<number> {
    const { sinceMs = -Infinity, untilMs = Infinity, tail } = this.#options;
    const since = records.findIndex(({ timeMs }, index) => index > 0 && timeMs >= sinceMs);
    const earliest = since < 0 ? records.length - 1 : since - 1;
    if (tail === undefined) return earliest;
    let count = 0;
    for (let index = records.length - 1; index > earliest; index--) {
      if (count >= tail) return index;
      const record = records[index];
      const before = records[index - 1];
      if (record === undefined || before === undefined || record.timeMs >= untilMs) continue;
      for (const stream of this.#wanted) {
        count += await this.#countLines(stream, offsetOf(before, stream), offsetOf(record, stream));
      }
    }
    return earliest;
  }

  /** How many lines there are behind a record, as a reader is given them. */
  async #count(records: readonly IndexRecord[], start: number): Promise<number> {
    const counter = new ReadSession(this.#file, this.#options, this.#signal);
    let count = 0;
    try {
      await counter.#seek(records[start] ?? this.#file.first);
      const lines = counter.#linesOf(records.slice(start + 1));
      while ((await lines.next()).done !== true) count++;
      if (!this.#file.ended || counter.#over()) return count;
      for (const stream of this.#wanted) count += [...counter.#cutters[stream].rest()].length;
      return count;
    } finally {
      await counter.close();
    }
  }

  /** Puts both streams at a record; a line that began before it is taken along. */
  async #seek(record: IndexRecord): Promise<void> {
    for (const stream of this.#wanted) {
      const offset = offsetOf(record, stream);
      const kept = offsetOf(this.#file.first, stream);
      this.#read[stream] = offset;
      const from = Math.max(kept - 1, offset - logLineLimitBytes, 0);
      const before = await this.#bytes(stream, from, offset);
      const lineStart = before.lastIndexOf(newline) + 1;
      // Without a newline in reach, the line's beginning is gone or it is a piece of a very long one.
      if (lineStart === 0 && from > 0) await this.#skipLine(stream);
      else this.#cutters[stream].begin(before.subarray(lineStart));
    }
  }

  async #skipLine(stream: Stream): Promise<void> {
    const block = await this.#bytes(stream, this.#read[stream], this.#read[stream] + logLineLimitBytes);
    this.#read[stream] += block.indexOf(newline) + 1;
  }

  /** Lines of these records; after the container's end also those that came since, and an unfinished last one. */
  async *#linesToNow(records: readonly IndexRecord[]): AsyncGenerator<LogLine> {
    const { ended } = this.#file;
    yield* this.#linesOf(records);
    if (!ended) return;
    yield* this.#linesOf(await this.#newRecords());
    this.#complete = true;
    if (this.#over()) return;
    for (const stream of this.#wanted) {
      for (const cut of this.#cutters[stream].rest()) yield { stream, timeMs: this.#lastTimeMs, ...cut };
    }
  }

  async *#linesOf(records: readonly IndexRecord[]): AsyncGenerator<LogLine> {
    const { untilMs = Infinity } = this.#options;
    for (const record of records) {
      this.#lastTimeMs = record.timeMs;
      if (record.timeMs >= untilMs || this.#signal.aborted) return;
      for (const stream of this.#wanted)
        yield* this.#linesUpTo(stream, offsetOf(record, stream), record.timeMs);
    }
  }

  async *#linesUpTo(stream: Stream, end: number, timeMs: number): AsyncGenerator<LogLine> {
    const kept = offsetOf(this.#file.first, stream);
    if (this.#read[stream] < kept) {
      // Slower than the rotation: the oldest is gone, and with it what a tail leaves out.
      this.#early = 0;
      this.#cutters[stream].forget();
      this.#read[stream] = kept;
      await this.#skipLine(stream);
    }
    while (this.#read[stream] < end) {
      const block = await this.#bytes(stream, this.#read[stream], end);
      if (block.length === 0) return;
      this.#read[stream] += block.length;
      for (const cut of this.#cutters[stream].cut(block)) yield { stream, timeMs, ...cut };
      if (this.#signal.aborted) return;
    }
  }

  async #countLines(stream: Stream, start: number, end: number): Promise<number> {
    let count = 0;
    for (let offset = start; offset < end;) {
      const block = await this.#bytes(stream, offset, end);
      if (block.length === 0) break;
      for (let at = block.indexOf(newline); at >= 0; at = block.indexOf(newline, at + 1)) count++;
      offset += block.length;
    }
    return count;
  }

  /** At most a block of what lies between two offsets. */
  async #bytes(stream: Stream, start: number, end: number): Promise<Buffer> {
    let handle = this.#handles.get(stream);
    if (handle === undefined) {
      handle = await open(stream === "stdout" ? this.#file.stdoutPath : this.#file.stderrPath, "r");
      this.#handles.set(stream, handle);
    }
    const length = Math.max(0, Math.min(blockBytes, end - start));
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(length), 0, length, start);
    return buffer.subarray(0, bytesRead);
  }

  /** Settles at the next change, when the reader gives up, or when the time asked for is over. */
  async #change(): Promise<void> {
    const file = this.#file;
    const signal = this.#signal;
    if (file.ended || file.recordCount !== this.#nextRecord || file.generation !== this.#generation) return;
    await new Promise<void>((resolve) => {
      const stop = file.onChange(done);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
      function done(): void {
        stop();
        signal.removeEventListener("abort", done);
        resolve();
      }
    });
  }
}

function offsetOf(record: IndexRecord, stream: Stream): number {
  return stream === "stdout" ? record.stdoutBytes : record.stderrBytes;
}
