import { crc32c } from "./crc32c.ts";

/**
 * A record in a segment, at a multiple of 32 bytes, so that a header never straddles two disk sectors and is
 * written whole or not at all:
 *
 * ```
 *  0  magic "SHWR"   4  payload bytes   8  sequence (u64)   16  chain: CRC of the record before
 * 20  CRC-32C of payload, continuing the chain   24  kind   28  CRC-32C of bytes 0..27   32  payload, zero padded
 * ```
 */
export const recordAlignBytes = 32;
export const recordHeaderBytes = 32;
const sectorBytes = 512;
const magic = 0x52574853; // "SHWR", little endian.

/** `start` opens a segment and repeats the hard state; `batch` is one round of work. */
export type RecordKind = "start" | "batch";

const kindNumbers: Record<RecordKind, number> = { start: 1, batch: 2 };

export interface WalRecord {
  readonly kind: RecordKind;
  readonly sequence: number;
  /** CRC of the record before, in whichever segment that is. */
  readonly chain: number;
  readonly crc: number;
  readonly payload: Uint8Array;
  /** Where the next record begins. */
  readonly end: number;
}

export function encodeRecord(
  kind: RecordKind,
  { sequence, chain }: { sequence: number; chain: number },
  payload: Uint8Array,
): { bytes: Uint8Array; crc: number } {
  const bytes = new Uint8Array(aligned(recordHeaderBytes + payload.byteLength));
  const view = new DataView(bytes.buffer);
  const crc = crc32c(payload, chain);
  view.setUint32(0, magic, true);
  view.setUint32(4, payload.byteLength, true);
  view.setBigUint64(8, BigInt(sequence), true);
  view.setUint32(16, chain, true);
  view.setUint32(20, crc, true);
  view.setUint32(24, kindNumbers[kind], true);
  view.setUint32(28, crc32c(bytes.subarray(0, 28)), true);
  bytes.set(payload, recordHeaderBytes);
  return { bytes, crc };
}

export type ReadResult =
  | { readonly kind: "record"; readonly record: WalRecord }
  /** Nothing but zeros from here to the end of the segment. */
  | { readonly kind: "end" }
  /** The last write did not reach the disk whole: some of its sectors are still the zeros they were before. */
  | { readonly kind: "torn"; readonly position: number }
  | { readonly kind: "damaged"; readonly position: number; readonly reason: string };

/** The record at `position`. `expected` is what must stand there; `undefined` accepts any valid record. */
export function readRecord(
  segment: Uint8Array,
  position: number,
  expected: { readonly sequence: number; readonly chain: number } | undefined,
): ReadResult {
  const header = readHeader(segment, position);
  if (header === undefined) return judgeBadHeader(segment, position);
  const bodyEnd = position + recordHeaderBytes + header.length;
  if (bodyEnd > segment.byteLength) return judgeBadBody(segment, position, "cut");
  const payload = segment.subarray(position + recordHeaderBytes, bodyEnd);
  if (crc32c(payload, header.chain) !== header.crc) return judgeBadBody(segment, position, bodyEnd);
  if (expected !== undefined && (header.sequence !== expected.sequence || header.chain !== expected.chain)) {
    return damaged(position, `record ${header.sequence} stands where ${expected.sequence} belongs`);
  }
  const { kind, sequence, chain, crc } = header;
  return {
    kind: "record",
    record: {
      kind,
      sequence,
      chain,
      crc,
      payload,
      end: position + aligned(recordHeaderBytes + header.length),
    },
  };
}

interface Header {
  readonly length: number;
  readonly sequence: number;
  readonly chain: number;
  readonly crc: number;
  readonly kind: RecordKind;
}

function readHeader(segment: Uint8Array, position: number): Header | undefined {
  if (position + recordHeaderBytes > segment.byteLength) return undefined;
  const view = new DataView(segment.buffer, segment.byteOffset + position, recordHeaderBytes);
  if (view.getUint32(0, true) !== magic) return undefined;
  if (view.getUint32(28, true) !== crc32c(segment.subarray(position, position + 28))) return undefined;
  const kind = view.getUint32(24, true) === kindNumbers.start ? "start" : "batch";
  return {
    length: view.getUint32(4, true),
    sequence: Number(view.getBigUint64(8, true)),
    chain: view.getUint32(16, true),
    crc: view.getUint32(20, true),
    kind,
  };
}

function judgeBadHeader(segment: Uint8Array, position: number): ReadResult {
  const headerEnd = Math.min(position + recordHeaderBytes, segment.byteLength);
  if (!isZero(segment, position, headerEnd)) return damaged(position, "the header's checksum does not match");
  if (isZero(segment, headerEnd, segment.byteLength)) return { kind: "end" };
  // The sector with the header did not make it, later ones of the same write did.
  return tornUnlessFollowed(segment, position);
}

function judgeBadBody(segment: Uint8Array, position: number, bodyEnd: number | "cut"): ReadResult {
  if (bodyEnd === "cut") return tornUnlessFollowed(segment, position); // The file itself did not grow in time.
  for (let sector = nextSector(position); sector < bodyEnd; sector += sectorBytes) {
    // A whole sector of zeros is what was there before the write: sealed bytes never look like that.
    if (isZero(segment, sector, Math.min(sector + sectorBytes, segment.byteLength))) {
      return tornUnlessFollowed(segment, position);
    }
  }
  return damaged(position, "the payload's checksum does not match");
}

/** Writes are awaited one by one, so anything valid after a bad record proves that the bad one was once whole. */
function tornUnlessFollowed(segment: Uint8Array, position: number): ReadResult {
  const from = aligned(position + recordAlignBytes);
  for (let at = from; at + recordHeaderBytes <= segment.byteLength; at += recordAlignBytes) {
    if (readHeader(segment, at) !== undefined) {
      return damaged(position, `it is not readable, and a later record stands at offset ${at}`);
    }
  }
  return { kind: "torn", position };
}

function damaged(position: number, reason: string): ReadResult {
  return { kind: "damaged", position, reason };
}

function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at += 1) if (bytes[at] !== 0) return false;
  return true;
}

function aligned(length: number): number {
  return Math.ceil(length / recordAlignBytes) * recordAlignBytes;
}

function nextSector(position: number): number {
  return Math.ceil(position / sectorBytes) * sectorBytes;
}
