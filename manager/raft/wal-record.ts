import { crc32c, crc32cWithin } from "./crc32c.ts";

/**
 * A record in a segment, at a multiple of 32 bytes, so that a header never straddles two disk sectors:
 *
 * ```
 *  0  magic "SHWR"   4  payload bytes   8  sequence (u64)   16  chain: CRC of the record before
 * 20  CRC-32C of payload, continuing the chain   24  kind (u8), format (u8), key id (u16)   28  CRC-32C of bytes 0..27
 * 32  payload   then 4 bytes of end mark, zero padded
 * ```
 *
 * The end mark tells a payload that was cut off from one that was damaged: one flipped bit cannot make it zero.
 */
export const recordAlignBytes = 32;
export const recordHeaderBytes = 32;
const endMark = 0xffffffff;
const endMarkBytes = 4;
const sectorBytes = 512;
const magic = 0x52574853; // "SHWR", little endian.
const format = 2;
/** `start` opens a segment and repeats the hard state; `batch` is one round of work. */
export type RecordKind = "start" | "batch";

const kindNumbers: Record<RecordKind, number> = { start: 1, batch: 2 };

export interface WalRecord {
  readonly kind: RecordKind;
  readonly sequence: number;
  /** CRC of the record before, in whichever segment that is. */
  readonly chain: number;
  readonly crc: number;
  readonly keyId: number;
  readonly payload: Uint8Array;
  /** Where the next record begins. */
  readonly end: number;
}

/** What a payload of this length takes on disk. */
export function recordBytes(payloadBytes: number): number {
  return aligned(recordHeaderBytes + payloadBytes + endMarkBytes);
}

export function encodeRecord(
  head: { kind: RecordKind; sequence: number; chain: number; keyId: number },
  payload: Uint8Array,
): { bytes: Uint8Array; crc: number } {
  const bytes = new Uint8Array(recordBytes(payload.byteLength));
  const view = new DataView(bytes.buffer);
  const crc = crc32c(payload, head.chain);
  view.setUint32(0, magic, true);
  view.setUint32(4, payload.byteLength, true);
  view.setBigUint64(8, BigInt(head.sequence), true);
  view.setUint32(16, head.chain, true);
  view.setUint32(20, crc, true);
  view.setUint8(24, kindNumbers[head.kind]);
  view.setUint8(25, format);
  view.setUint16(26, head.keyId, true);
  view.setUint32(28, crc32c(bytes.subarray(0, 28)), true);
  bytes.set(payload, recordHeaderBytes);
  view.setUint32(recordHeaderBytes + payload.byteLength, endMark, true);
  return { bytes, crc };
}

export type ReadResult =
  | { readonly kind: "record"; readonly record: WalRecord }
  /** Nothing but zeros from here to the end of the segment. */
  | { readonly kind: "end" }
  /** The last write did not reach the disk whole: some of it is still the zeros that were there before. */
  | { readonly kind: "torn" }
  | { readonly kind: "damaged"; readonly reason: string }
  | { readonly kind: "foreign"; readonly format: number };

/** A segment as it was read, with one view for all its records: a log may have a million. */
export interface SegmentBytes {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export function segmentBytes(bytes: Uint8Array): SegmentBytes {
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
}

/** The record at `position`. `expected` is what must stand there; `undefined` accepts any valid record. */
export function readRecord(
  segment: SegmentBytes,
  position: number,
  expected: { readonly sequence: number; readonly chain: number } | undefined,
): ReadResult {
  const { bytes, view } = segment;
  const header = readHeader(segment, position);
  if (header === undefined) return judgeBadHeader(segment, position);
  if (header.format !== format) return { kind: "foreign", format: Math.max(1, header.format) };
  const payloadAt = position + recordHeaderBytes;
  const payloadEnd = payloadAt + header.length;
  const isWhole = payloadEnd <= bytes.byteLength;
  if (!isWhole || crc32cWithin(view, { from: payloadAt, to: payloadEnd }, header.chain) !== header.crc) {
    return judgeBadPayload(segment, position, payloadEnd);
  }
  if (expected !== undefined && (header.sequence !== expected.sequence || header.chain !== expected.chain)) {
    return damaged(`record ${header.sequence} stands where ${expected.sequence} belongs`);
  }
  const { kind, sequence, chain, crc, keyId, length } = header;
  const payload = bytes.subarray(payloadAt, payloadEnd);
  const end = position + recordBytes(length);
  return { kind: "record", record: { kind, sequence, chain, crc, keyId, payload, end } };
}

interface Header {
  readonly length: number;
  readonly sequence: number;
  readonly chain: number;
  readonly crc: number;
  readonly kind: RecordKind;
  readonly format: number;
  readonly keyId: number;
}

function readHeader({ view }: SegmentBytes, position: number): Header | undefined {
  if (position + recordHeaderBytes > view.byteLength) return undefined;
  if (view.getUint32(position, true) !== magic) return undefined;
  const crcAt = position + 28;
  if (view.getUint32(crcAt, true) !== crc32cWithin(view, { from: position, to: crcAt })) return undefined;
  return {
    length: view.getUint32(position + 4, true),
    sequence: view.getUint32(position + 12, true) * 2 ** 32 + view.getUint32(position + 8, true),
    chain: view.getUint32(position + 16, true),
    crc: view.getUint32(position + 20, true),
    kind: view.getUint8(position + 24) === kindNumbers.start ? "start" : "batch",
    format: view.getUint8(position + 25),
    keyId: view.getUint16(position + 26, true),
  };
}

function judgeBadHeader(segment: SegmentBytes, position: number): ReadResult {
  const { bytes } = segment;
  const headerEnd = Math.min(position + recordHeaderBytes, bytes.byteLength);
  const nothingFollows = isZero(bytes, headerEnd, bytes.byteLength);
  if (isZero(bytes, position, headerEnd)) {
    // Either nothing was written here, or the sector with the header did not make it and later ones did.
    return nothingFollows ? { kind: "end" } : tornUnlessFollowed(segment, position);
  }
  // A header is followed by a payload that is not zero: this write was cut off within its header.
  if (nothingFollows) return { kind: "torn" };
  return damaged("the header's checksum does not match");
}

function judgeBadPayload(segment: SegmentBytes, position: number, payloadEnd: number): ReadResult {
  const { bytes } = segment;
  const markEnd = payloadEnd + endMarkBytes;
  const cutOff = markEnd > bytes.byteLength || isZero(bytes, payloadEnd, markEnd);
  if (cutOff || someSectorMissing(bytes, position, payloadEnd)) {
    return tornUnlessFollowed(segment, position, payloadEnd);
  }
  return damaged("the payload's checksum does not match");
}

/** A whole sector of zeros is what was there before the write: sealed bytes never look like that. */
function someSectorMissing(segment: Uint8Array, position: number, payloadEnd: number): boolean {
  const markEnd = payloadEnd + endMarkBytes; // Never zero, so that a byte of payload which is zero misleads nobody.
  for (let sector = nextSector(position); sector < payloadEnd; sector += sectorBytes) {
    if (isZero(segment, sector, Math.min(sector + sectorBytes, markEnd))) return true;
  }
  return false;
}

/** One write at a time is under way, so anything behind a bad record proves that the bad one was once whole. */
function tornUnlessFollowed(segment: SegmentBytes, position: number, payloadEnd?: number): ReadResult {
  const { bytes } = segment;
  const from = aligned(position + recordAlignBytes);
  for (let at = from; at + recordHeaderBytes <= bytes.byteLength; at += recordAlignBytes) {
    if (readHeader(segment, at) !== undefined) {
      return damaged(`it is not readable, and a later record stands at offset ${at}`);
    }
  }
  const recordEnd = payloadEnd === undefined ? bytes.byteLength : aligned(payloadEnd + endMarkBytes);
  if (!isZero(bytes, recordEnd, bytes.byteLength)) {
    return damaged("it is not readable, and something was written behind it");
  }
  return { kind: "torn" };
}

function damaged(reason: string): ReadResult {
  return { kind: "damaged", reason };
}

export function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at += 1) if (bytes[at] !== 0) return false;
  return true;
}

function aligned(length: number): number {
  return Math.ceil(length / recordAlignBytes) * recordAlignBytes;
}

function nextSector(position: number): number {
  return Math.ceil(position / sectorBytes) * sectorBytes;
}
