import type { BlockDisk, BlockFile } from "../../runtime/disk.ts";
import { crc32c } from "./crc32c.ts";

const magic = 0x4d574853; // "SHWM", little endian.
const version = 1;
const slotBytes = 512;
const slots = 2;
const crcAt = 16;

/**
 * How far the log on disk is known to reach, kept beside it: without that, records at the end which the disk has turned
 * into zeros look like records that were never written. Two slots of a sector each, written in turn, so that a torn write
 * leaves the one before. It may lag behind the log; it is never ahead of it.
 */
export class Watermark {
  readonly #file: BlockFile;
  #slot = 0;

  private constructor(file: BlockFile) {
    this.#file = file;
  }

  /** @returns the sequence number of the last record known to be on disk; 0 when nothing is known. */
  static async read(disk: BlockDisk, path: string): Promise<number> {
    return latest((await disk.read(path)) ?? new Uint8Array()).sequence;
  }

  static async open(disk: BlockDisk, path: string): Promise<Watermark> {
    const known = (await disk.read(path)) ?? new Uint8Array();
    const file = await disk.openBlocks(path);
    const watermark = new Watermark(file);
    watermark.#slot = latest(known).slot;
    if (known.byteLength < slots * slotBytes) await file.commit(0, new Uint8Array(slots * slotBytes));
    return watermark;
  }

  /** Settles when it is durable; `lazy` leaves that to the system's cache. */
  async raise(sequence: number, when: "durable" | "lazy"): Promise<void> {
    this.#slot = (this.#slot + 1) % slots;
    const bytes = Buffer.alloc(slotBytes);
    bytes.writeUInt32LE(magic, 0);
    bytes.writeUInt32LE(version, 4);
    bytes.writeBigUInt64LE(BigInt(sequence), 8);
    bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcAt)), crcAt);
    const position = this.#slot * slotBytes;
    if (when === "durable") await this.#file.commit(position, bytes);
    else await this.#file.write(position, bytes);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function latest(data: Uint8Array): { slot: number; sequence: number } {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  let best = { slot: 0, sequence: 0 };
  for (let slot = 0; (slot + 1) * slotBytes <= bytes.byteLength; slot += 1) {
    const at = slot * slotBytes;
    if (bytes.readUInt32LE(at) !== magic || bytes.readUInt32LE(at + 4) !== version) continue;
    if (bytes.readUInt32LE(at + crcAt) !== crc32c(bytes.subarray(at, at + crcAt))) continue;
    const sequence = Number(bytes.readBigUInt64LE(at + 8));
    if (sequence > best.sequence) best = { slot, sequence };
  }
  return best;
}
