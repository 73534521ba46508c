/**
 * Where each line of a bundle comes from, in a form that is looked up without reading through it: the number of bytes of
 * the sources' names (UTF-8, a line each), these names, then a number a line of the bundle, little-endian 32 bits each as the
 * first: the source's place among the names, counted from 1, times 2^18, plus the line in it, counted from 1. 0 where nothing is known.
 */

export interface SourceLine {
  /** From the root of the repository, such as "worker/worker.ts". */
  readonly source: string;
  /** From 1. */
  readonly line: number;
}

const numberBytes = 4;
const lineLimit = 2 ** 18;
const sourceLimit = 2 ** 32 / lineLimit;

/**
 * @param rows - One for each line of the bundle.
 * @throws {RangeError} when a source has more than 262,143 lines, or there are more than 16,383 of them.
 */
export function encodeLineTable(rows: readonly (SourceLine | undefined)[]): Buffer {
  const places = new Map<string, number>();
  const numbers = Buffer.alloc(rows.length * numberBytes);
  for (const [at, row] of rows.entries()) {
    if (row === undefined) continue;
    const place = places.get(row.source) ?? places.size + 1;
    places.set(row.source, place);
    if (row.line >= lineLimit || place >= sourceLimit)
      throw new RangeError(`line ${row.line} of ${row.source} does not fit into a line table`);
    numbers.writeUInt32LE(place * lineLimit + row.line, at * numberBytes);
  }
  const names = Buffer.from([...places.keys()].join("\n"));
  const length = Buffer.alloc(numberBytes);
  length.writeUInt32LE(names.length);
  return Buffer.concat([length, names, numbers]);
}

/**
 * @param line - Of the bundle, from 1.
 * @returns Undefined where nothing is known of it.
 * @throws {RangeError} for what is no line table.
 */
export function sourceOf(table: Buffer, line: number): SourceLine | undefined {
  const namesEnd = numberBytes + table.readUInt32LE(0);
  const at = namesEnd + (line - 1) * numberBytes;
  if (line < 1 || at + numberBytes > table.length) return undefined;
  const number = table.readUInt32LE(at);
  if (number === 0) return undefined;
  const names = table.toString("utf8", numberBytes, namesEnd).split("\n");
  const source = names[Math.floor(number / lineLimit) - 1];
  return source === undefined ? undefined : { source, line: number % lineLimit };
}
