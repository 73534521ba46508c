/** Headers of tar archives (POSIX ustar, pax and GNU's long names): read and written. Pure. */
import { ClusterError } from "../../model/errors.ts";

export const tarBlockBytes = 512;

/** "0" file, "1" hard link, "2" symbolic link, "3" and "4" devices, "5" directory, "6" FIFO, "x" and "g" pax, "L" and "K" GNU. */
export interface TarHeader {
  readonly name: string;
  readonly sizeBytes: number;
  /** As in the header; "7" counts as a file. */
  readonly type: string;
  readonly link: string;
  /** Permissions with the set-id and sticky bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds; never negative. */
  readonly mtime: number;
  /** Of devices. */
  readonly major: number;
  readonly minor: number;
  /** Extended attributes by name, one character for each byte of name and value; only where names are read so. */
  readonly attributes?: ReadonlyMap<string, string>;
}

/** By which pax records of extended attributes begin. */
export const attributePrefix = "SCHILY.xattr.";

/** How names are to be read: as text, or with one character for each byte, so that none is lost. */
export type NameEncoding = "utf8" | "latin1";

/**
 * Undefined for a block of zeros, which ends an archive.
 *
 * @throws {ClusterError} `invalid-argument` for what is no header.
 */
export function parseTarHeader(block: Buffer, encoding: NameEncoding = "utf8"): TarHeader | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  const stored = Number.parseInt(textOf(block, 148, 8).trim(), 8);
  let sum = 0;
  for (let index = 0; index < tarBlockBytes; index++)
    sum += index >= 148 && index < 156 ? 0x20 : (block[index] ?? 0);
  if (stored !== sum) throw new ClusterError("invalid-argument", "invalid tar header");
  // GNU's own form has other things where the prefix is.
  const prefix = block.toString("latin1", 257, 263) === "ustar\0" ? textOf(block, 345, 155, encoding) : "";
  const name = textOf(block, 0, 100, encoding);
  const type = String.fromCharCode(block[156] ?? 0);
  const isDevice = type === "3" || type === "4";
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    sizeBytes: numberOf(block, 124, 12),
    type: type === "\0" ? "0" : type,
    link: textOf(block, 157, 100, encoding),
    mode: numberOf(block, 100, 8) & 0o7777,
    uid: numberOf(block, 108, 8),
    gid: numberOf(block, 116, 8),
    mtime: timeOf(block),
    major: isDevice ? numberOf(block, 329, 8) : 0,
    minor: isDevice ? numberOf(block, 337, 8) : 0,
  };
}

/** Of a pax record's length, far beyond any header that is read. */
const lengthDigits = 10;
const newline = 0x0a;

/** The records of a pax header, such as "path" and "size". @throws {ClusterError} `invalid-argument` for what is none. */
export function parsePax(data: Buffer, encoding: NameEncoding = "utf8"): Map<string, string> {
  const records = new Map<string, string>();
  let offset = 0;
  while (offset < data.length) {
    // Looked for no further than a length can be: each record of a hostile one would else be looked for to the end.
    const head = data.toString("latin1", offset, offset + lengthDigits + 1);
    const [, digits = "0"] = /^(\d+) /.exec(head) ?? [];
    const [start, end] = [offset + digits.length + 1, offset + Number(digits)];
    if (end <= start || end > data.length || data[end - 1] !== newline)
      throw new ClusterError("invalid-argument", "invalid pax header");
    const record = data.toString(encoding, start, end - 1);
    const split = record.indexOf("=");
    if (split > 0) records.set(record.slice(0, split), record.slice(split + 1));
    offset = end;
  }
  return records;
}

/** A file or directory of root's, time zero. @param name - At most 100 bytes. */
export function printTarHeader(name: string, sizeBytes: number, kind: "file" | "directory"): Buffer {
  const [type, mode] = kind === "file" ? (["0", 0o644] as const) : (["5", 0o755] as const);
  const owner = { uid: 0, gid: 0, mtime: 0, link: "", major: 0, minor: 0 };
  return printBlock({ name: Buffer.from(name).toString("latin1"), sizeBytes, type, mode, ...owner });
}

/** A header with its pax records before it, where the plain form is too small. Names have one character for each byte. */
export function printTarEntry(entry: TarHeader): Buffer {
  const { name, link, sizeBytes, uid, gid, attributes = [] } = entry;
  const records = [
    ...(isPlain(name) ? [] : [["path", name] as const]),
    ...(isPlain(link) ? [] : [["linkpath", link] as const]),
    ...(sizeBytes < 0o77777777777 ? [] : [["size", String(sizeBytes)] as const]),
    ...(uid <= idMost ? [] : [["uid", String(uid)] as const]),
    ...(gid <= idMost ? [] : [["gid", String(gid)] as const]),
    ...[...attributes].map(([key, value]) => [`${attributePrefix}${key}`, value] as const),
  ];
  const short = { name: name.slice(0, nameBytes), link: link.slice(0, nameBytes) };
  const block = printBlock({ ...entry, ...short, uid: Math.min(uid, idMost), gid: Math.min(gid, idMost) });
  if (records.length === 0) return block;
  const data = Buffer.from(records.map(([key, value]) => paxRecord(key, value)).join(""), "latin1");
  const pax = { ...entry, name: "PaxHeaders/entry", type: "x", link: "", sizeBytes: data.length };
  return Buffer.concat([
    printBlock({ ...pax, mode: 0o644, uid: 0, gid: 0, major: 0, minor: 0 }),
    data,
    tarPadding(data.length),
    block,
  ]);
}

const nameBytes = 100;
const idMost = 0o7777777;

/** Bytes beyond ASCII go into a pax record, as their meaning in a plain header is nowhere written. */
function isPlain(text: string): boolean {
  // oxlint-disable-next-line no-control-regex
  return text.length <= nameBytes && /^[\x00-\x7f]*$/.test(text);
}

/** Its length counts itself. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

function printBlock(entry: TarHeader): Buffer {
  const block = Buffer.alloc(tarBlockBytes);
  const octal = (value: number, start: number, width: number): void => {
    block.write(`${value.toString(8).padStart(width - 1, "0")}\0`, start, "latin1");
  };
  block.write(entry.name, 0, nameBytes, "latin1");
  octal(entry.mode, 100, 8);
  octal(entry.uid, 108, 8);
  octal(entry.gid, 116, 8);
  if (entry.sizeBytes < 0o77777777777) octal(entry.sizeBytes, 124, 12);
  else {
    block.writeBigUInt64BE(BigInt(entry.sizeBytes), 128); // GNU's form for sizes beyond 8 GiB.
    block[124] = 0x80;
  }
  octal(Math.min(Math.max(0, Math.floor(entry.mtime)), 0o77777777777), 136, 12);
  block.write("        ", 148, "latin1");
  block.write(entry.type, 156, "latin1");
  block.write(entry.link, 157, nameBytes, "latin1");
  block.write("ustar\x0000", 257, "latin1");
  if (entry.type === "3" || entry.type === "4") {
    octal(entry.major, 329, 8);
    octal(entry.minor, 337, 8);
  }
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** Zeros after content, up to the next block. */
export function tarPadding(sizeBytes: number): Buffer {
  return Buffer.alloc((tarBlockBytes - (sizeBytes % tarBlockBytes)) % tarBlockBytes);
}

function textOf(block: Buffer, start: number, length: number, encoding: NameEncoding = "latin1"): string {
  const end = block.indexOf(0, start);
  return block.toString(encoding, start, end < 0 || end > start + length ? start + length : end);
}

function numberOf(block: Buffer, start: number, length: number): number {
  const isBinary = ((block[start] ?? 0) & 0x80) !== 0;
  const value = isBinary
    ? Number(BigInt.asUintN(63, block.readBigUInt64BE(start + length - 8))) // Without the mark itself.
    : Number.parseInt(textOf(block, start, length).trim() || "0", 8);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new ClusterError("invalid-argument", "invalid number in a tar header");
  return value;
}

/** Times before 1970 count as its beginning. */
function timeOf(block: Buffer): number {
  if (((block[136] ?? 0) & 0x80) === 0) return numberOf(block, 136, 12);
  return Math.min(Math.max(0, Number(block.readBigInt64BE(140))), Number.MAX_SAFE_INTEGER);
}
