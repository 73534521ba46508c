/** Headers of tar archives (POSIX ustar, pax and GNU's long names): read and written. Pure. */
import { ClusterError } from "../../model/errors.ts";

export const tarBlockBytes = 512;

export interface TarHeader {
  readonly name: string;
  readonly sizeBytes: number;
  /** As in the header: "0" file, "1" hard link, "2" symbolic link, "5" directory, "x" and "g" pax, "L" and "K" GNU. */
  readonly type: string;
  readonly link: string;
}

/**
 * Undefined for a block of zeros, which ends an archive.
 *
 * @throws {ClusterError} `invalid-argument` for what is no header.
 */
export function parseTarHeader(block: Buffer): TarHeader | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  const stored = Number.parseInt(textOf(block, 148, 8).trim(), 8);
  let sum = 0;
  for (let index = 0; index < tarBlockBytes; index++)
    sum += index >= 148 && index < 156 ? 0x20 : (block[index] ?? 0);
  if (stored !== sum) throw new ClusterError("invalid-argument", "invalid tar header");
  const prefix = textOf(block, 257, 5) === "ustar" ? textOf(block, 345, 155) : "";
  const name = textOf(block, 0, 100);
  const type = String.fromCharCode(block[156] ?? 0);
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    sizeBytes: numberOf(block, 124, 12),
    type: type === "\0" ? "0" : type,
    link: textOf(block, 157, 100),
  };
}

/** The records of a pax header, such as "path" and "size". */
export function parsePax(data: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  let offset = 0;
  while (offset < data.length) {
    const space = data.indexOf(0x20, offset);
    const length = Number.parseInt(data.toString("latin1", offset, Math.max(offset, space)), 10);
    if (space < 0 || !(length > 0) || offset + length > data.length)
      throw new ClusterError("invalid-argument", "invalid pax header");
    const record = data.toString("utf8", space + 1, offset + length - 1);
    const split = record.indexOf("=");
    if (split > 0) records.set(record.slice(0, split), record.slice(split + 1));
    offset += length;
  }
  return records;
}

/** A file or directory of root's, time zero. @param name - At most 100 bytes. */
export function printTarHeader(name: string, sizeBytes: number, kind: "file" | "directory"): Buffer {
  const block = Buffer.alloc(tarBlockBytes);
  block.write(name, 0, 100, "utf8");
  block.write(kind === "file" ? "0000644\0" : "0000755\0", 100, "latin1");
  block.write("0000000\0", 108, "latin1");
  block.write("0000000\0", 116, "latin1");
  if (sizeBytes < 0o77777777777) block.write(`${sizeBytes.toString(8).padStart(11, "0")}\0`, 124, "latin1");
  else {
    block.writeBigUInt64BE(BigInt(sizeBytes), 128); // GNU's form for sizes beyond 8 GiB.
    block[124] = 0x80;
  }
  block.write("00000000000\0", 136, "latin1");
  block.write("        ", 148, "latin1");
  block.write(kind === "file" ? "0" : "5", 156, "latin1");
  block.write("ustar\x0000", 257, "latin1");
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** Zeros after content, up to the next block. */
export function tarPadding(sizeBytes: number): Buffer {
  return Buffer.alloc((tarBlockBytes - (sizeBytes % tarBlockBytes)) % tarBlockBytes);
}

function textOf(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString("utf8", start, end < 0 || end > start + length ? start + length : end);
}

function numberOf(block: Buffer, start: number, length: number): number {
  const isBinary = ((block[start] ?? 0) & 0x80) !== 0;
  const value = isBinary
    ? Number(block.readBigUInt64BE(start + length - 8))
    : Number.parseInt(textOf(block, start, length).trim() || "0", 8);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new ClusterError("invalid-argument", "invalid size in a tar header");
  return value;
}
