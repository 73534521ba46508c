/**
 * The index of a container's output: fixed records of (time, end of stdout, end of stderr), appended
 * whenever the worker saw that output had come. The first record is where what is kept begins. Pure
 * but for reading and writing whole files by its callers.
 */

/** Sizes are of the whole streams since the container's start, so they only grow. */
export interface IndexRecord {
  readonly timeMs: number;
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

export const recordBytes = 24;

export function encodeRecords(records: readonly IndexRecord[]): Buffer {
  const buffer = Buffer.allocUnsafe(records.length * recordBytes);
  for (const [index, { timeMs, stdoutBytes, stderrBytes }] of records.entries()) {
    buffer.writeDoubleLE(timeMs, index * recordBytes);
    buffer.writeDoubleLE(stdoutBytes, index * recordBytes + 8);
    buffer.writeDoubleLE(stderrBytes, index * recordBytes + 16);
  }
  return buffer;
}

/** Whole records only; a torn last one is left out, its output is seen again by the next look. */
export function decodeRecords(buffer: Buffer): IndexRecord[] {
  const count = Math.floor(buffer.length / recordBytes);
  return Array.from({ length: count }, (_unused, index) => ({
    timeMs: buffer.readDoubleLE(index * recordBytes),
    stdoutBytes: buffer.readDoubleLE(index * recordBytes + 8),
    stderrBytes: buffer.readDoubleLE(index * recordBytes + 16),
  }));
}

/**
 * The records that keep the newest `keepBytes` of output; the last one always stays. Where the cut falls inside
 * one record, as after a burst between two looks, what is kept begins inside it: at the same share of both streams,
 * as nobody knows in which order they came.
 */
export function dropOldest(records: readonly IndexRecord[], keepBytes: number): IndexRecord[] {
  const last = records.at(-1);
  if (last === undefined) return [];
  const cutAt = Math.ceil(totalBytes(last) - keepBytes); // Half of an odd bound may be kept.
  const start = records.findIndex((record) => totalBytes(record) >= cutAt);
  const kept = records.slice(start);
  const [before, next] = [records[start - 1], records[start]];
  if (before === undefined || next === undefined || totalBytes(next) === cutAt) return kept;
  const share = (cutAt - totalBytes(before)) / (totalBytes(next) - totalBytes(before));
  const stdoutBytes = before.stdoutBytes + Math.round((next.stdoutBytes - before.stdoutBytes) * share);
  return [{ timeMs: next.timeMs, stdoutBytes, stderrBytes: cutAt - stdoutBytes }, ...kept];
}

/** Halves the precision of the older half, for output that comes in very small pieces. */
export function thinOut(records: readonly IndexRecord[]): IndexRecord[] {
  const half = Math.floor(records.length / 2);
  return records.filter((_record, index) => index === 0 || index >= half || index % 2 === 1);
}

export function totalBytes({ stdoutBytes, stderrBytes }: IndexRecord): number {
  return stdoutBytes + stderrBytes;
}
