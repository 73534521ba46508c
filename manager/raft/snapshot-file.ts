import { type Hash, createHash } from "node:crypto";
import type { SnapshotMeta } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import { SnapshotHeader } from "../../proto/gen/shoal/raft.ts";
import type { AppendFile, BlockDisk, BlockFile, ReadFile } from "../../runtime/disk.ts";
import { snapshotFromWire, snapshotToWire } from "./codec.ts";
import { crc32c } from "./crc32c.ts";
import { type Seal, sealOverheadBytes } from "./seal.ts";

/**
 * ```
 *  0  magic "SHSN"   4  format   8  key id   12  bytes of sealed header   16  its CRC-32C   20  bytes of a part
 * 24  CRC-32C of bytes 0..23   28  sealed header (index, term, configuration)
 *     each part, sealed: the seal binds it to its place, and vouches for every byte
 *     the end: sealed size and SHA-256 of the whole plain text
 * ```
 */
const magic = 0x4e534853; // "SHSN", little endian.
const format = 3;
/** Has a checksum before each part; the seal vouches for the same. */
const formatBefore = 2;
const partHeadBytes = 4;
const headerBytes = 28;
const trailerBytes = 8 + 32 + sealOverheadBytes;
/** Sealed, written and sent at a time, unless told otherwise: less than a millisecond of work, so that no heartbeat waits for a large snapshot. */
export const snapshotPartBytes = 256 * 1024;
/** Synced this often, so that the log's syncs never queue behind the whole of it. */
const syncEveryBytes = 8 * 1024 * 1024;

/** Two transfers with the same identity carry the same bytes. */
export interface SnapshotIdentity {
  readonly index: number;
  readonly term: number;
  readonly dataBytes: number;
  /** SHA-256 of the data, hexadecimal. */
  readonly digest: string;
}

export function sameSnapshot(a: SnapshotIdentity, b: SnapshotIdentity): boolean {
  return a.index === b.index && a.term === b.term && a.dataBytes === b.dataBytes && a.digest === b.digest;
}

/** Writes one snapshot as its data comes, in memory never more than a part. */
export class SnapshotWriter {
  readonly meta: SnapshotMeta;
  readonly path: string;
  readonly keyId: number;
  readonly #partBytes: number;
  readonly #disk: BlockDisk;
  readonly #seal: Seal;
  readonly #file: AppendFile;
  readonly #hash: Hash;
  /** Not written yet; less than a part. */
  #rest: Uint8Array[] = [];
  #restBytes = 0;
  #bytes: number;
  #parts: number;
  #unsyncedBytes = 0;
  /** For one sealed part after another. */
  #sealed: Uint8Array | undefined;
  #state: "open" | "closed" = "open";

  private constructor(
    { disk, seal, file }: { disk: BlockDisk; seal: Seal; file: AppendFile },
    options: { meta: SnapshotMeta; path: string; keyId: number; partBytes: number },
    done: { hash: Hash; bytes: number; parts: number } = { hash: createHash("sha256"), bytes: 0, parts: 0 },
  ) {
    this.#disk = disk;
    this.#seal = seal;
    this.#file = file;
    this.#hash = done.hash;
    this.#bytes = done.bytes;
    this.#parts = done.parts;
    this.meta = options.meta;
    this.path = options.path;
    this.keyId = options.keyId;
    this.#partBytes = options.partBytes;
  }

  /** Begins a file at `path`; what was there is removed. */
  static async create(
    { disk, seal }: { disk: BlockDisk; seal: Seal },
    options: { path: string; meta: SnapshotMeta; keyId: number; partBytes: number },
  ): Promise<SnapshotWriter> {
    const { path, meta, keyId, partBytes } = options;
    await disk.remove(path);
    const file = await disk.openAppend(path);
    const writer = new SnapshotWriter({ disk, seal, file }, options);
    try {
      const wire = SnapshotHeader.encode(snapshotToWire(meta)).finish();
      const sealed = seal.seal(wire, headerContext, keyId);
      const head = Buffer.alloc(headerBytes);
      head.writeUInt32LE(magic, 0);
      head.writeUInt32LE(format, 4);
      head.writeUInt32LE(keyId, 8);
      head.writeUInt32LE(sealed.byteLength, 12);
      head.writeUInt32LE(crc32c(sealed), 16);
      head.writeUInt32LE(partBytes, 20);
      head.writeUInt32LE(crc32c(head.subarray(0, 24)), 24);
      await file.append(Buffer.concat([head, sealed]));
      return writer;
    } catch (error) {
      await writer.abort();
      throw error;
    }
  }

  /**
   * Goes on with what a former process left at `path`: with all parts that follow each other from the first on and are what
   * was sealed for their place. They are written again, in place, since what is read may be in the system's cache and nowhere
   * else, behind a sync that has failed.
   *
   * @returns undefined when there is no such file, or it cannot be the beginning of this snapshot.
   * @throws {Error} that says what is wrong with its head; the system's; the signal's reason.
   */
  static async resume(
    { disk, seal }: { disk: BlockDisk; seal: Seal },
    { path, meta, dataBytes }: { path: string; meta: SnapshotMeta; dataBytes: number },
    signal: AbortSignal,
  ): Promise<SnapshotWriter | undefined> {
    const source = await disk.openRead(path);
    if (source === undefined) return undefined;
    let target: BlockFile | undefined;
    try {
      const head = await readHead(seal, source);
      const { keyId, partBytes, dataAt } = head;
      const isSame = sameHeader(head.meta, meta) && head.partHeadBytes === 0;
      if (!isSame || source.bytes > dataAt + sealedBytes(dataBytes, partBytes) + trailerBytes)
        return undefined;
      target = await disk.openBlocks(path);
      await target.write(0, await source.read(0, dataAt));
      const hash = createHash("sha256");
      const stride = partBytes + sealOverheadBytes;
      const read = new Uint8Array(Math.min(partBytes, dataBytes) + sealOverheadBytes); // For one after another.
      let bytes = 0;
      let parts = 0;
      let unsyncedBytes = 0;
      while (bytes < dataBytes) {
        signal.throwIfAborted();
        const at = dataAt + parts * stride;
        const plainBytes = Math.min(partBytes, dataBytes - bytes);
        const sealed = await source.read(at, plainBytes + sealOverheadBytes, read);
        const plain = unsealed(seal, sealed, { keyId, meta, part: parts });
        if (plain?.byteLength !== plainBytes) break; // From here on it is sent again.
        await target.write(at, sealed);
        hash.update(plain);
        parts += 1;
        bytes += plain.byteLength;
        unsyncedBytes += sealed.byteLength;
        if (unsyncedBytes < syncEveryBytes) continue;
        unsyncedBytes = 0;
        await target.sync();
      }
      return new SnapshotWriter(
        { disk, seal, file: appendFrom(target, dataAt + sealedBytes(bytes, partBytes)) },
        { meta, path, keyId, partBytes },
        { hash, bytes, parts },
      );
    } catch (error) {
      await target?.close();
      throw error;
    } finally {
      await source.close();
    }
  }

  /** Data that was taken in, written or not. */
  get bytes(): number {
    return this.#bytes;
  }

  /** One call at a time. After a failure only {@link abort} is left. */
  async append(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.byteLength;) {
      const piece = data.subarray(at, at + this.#partBytes - this.#restBytes);
      at += piece.byteLength;
      this.#bytes += piece.byteLength;
      this.#rest.push(piece);
      this.#restBytes += piece.byteLength;
      if (this.#restBytes === this.#partBytes) await this.#writePart();
    }
  }

  /** Durable under its temporary name when it settles. */
  async finish(): Promise<SnapshotIdentity> {
    if (this.#restBytes > 0) await this.#writePart();
    const digest = this.#hash.digest();
    const plain = Buffer.alloc(8 + digest.byteLength);
    plain.writeBigUInt64LE(BigInt(this.#bytes), 0);
    plain.set(digest, 8);
    await this.#file.append(this.#seal.seal(plain, endContext(this.meta), this.keyId));
    await this.#file.sync();
    this.#state = "closed";
    await this.#file.close();
    const { index, term } = this.meta;
    return { index, term, dataBytes: this.#bytes, digest: digest.toString("hex") };
  }

  /** Closes and removes what was written so far. */
  async abort(): Promise<void> {
    await this.leave();
    await this.#disk.remove(this.path);
  }

  /** Closes it; what was written so far stays, for {@link resume}. */
  async leave(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    await this.#file.close();
  }

  async #writePart(): Promise<void> {
    const [only] = this.#rest;
    const plain = this.#rest.length === 1 && only !== undefined ? only : Buffer.concat(this.#rest);
    this.#rest = [];
    this.#restBytes = 0;
    this.#hash.update(plain);
    this.#sealed ??= new Uint8Array(this.#partBytes + sealOverheadBytes);
    const sealed = this.#seal.seal(plain, partContext(this.meta, this.#parts), this.keyId, this.#sealed);
    this.#parts += 1;
    await this.#file.append(sealed);
    this.#unsyncedBytes += sealed.byteLength;
    if (this.#unsyncedBytes < syncEveryBytes) return;
    this.#unsyncedBytes = 0;
    await this.#file.sync();
  }
}

/** A snapshot on disk, open for reading. It stays readable after newer ones have taken its place. */
export class SnapshotFile {
  readonly meta: SnapshotMeta;
  readonly identity: SnapshotIdentity;
  readonly keyId: number;
  readonly #seal: Seal;
  readonly #file: ReadFile;
  readonly #dataAt: number;
  readonly #partBytes: number;
  readonly #partHeadBytes: number;
  #isDamaged = false;

  private constructor(
    seal: Seal,
    file: ReadFile,
    found: {
      meta: SnapshotMeta;
      identity: SnapshotIdentity;
      keyId: number;
      dataAt: number;
      partBytes: number;
      partHeadBytes: number;
    },
  ) {
    this.#seal = seal;
    this.#file = file;
    this.meta = found.meta;
    this.identity = found.identity;
    this.keyId = found.keyId;
    this.#dataAt = found.dataAt;
    this.#partBytes = found.partBytes;
    this.#partHeadBytes = found.partHeadBytes;
  }

  /** Reads both ends. @throws {Error} that says what is wrong with it; a {ClusterError} `failed-precondition` of another version's. */
  static async open(
    { disk, seal }: { disk: BlockDisk; seal: Seal },
    path: string,
  ): Promise<SnapshotFile | undefined> {
    const file = await disk.openRead(path);
    if (file === undefined) return undefined;
    try {
      return await SnapshotFile.#read(seal, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  static async #read(seal: Seal, file: ReadFile): Promise<SnapshotFile> {
    const { meta, keyId, dataAt, partBytes, partHeadBytes: headOfPart } = await readHead(seal, file);
    const end = await file.read(Math.max(0, file.bytes - trailerBytes), trailerBytes);
    const plain = asBuffer(seal.open(end, keyId, endContext(meta)));
    const dataBytes = Number(plain.readBigUInt64LE(0));
    const parts = Math.ceil(dataBytes / partBytes);
    const expected = dataAt + sealedBytes(dataBytes, partBytes) + parts * headOfPart + trailerBytes;
    if (file.bytes !== expected) throw new Error(`it has ${file.bytes} bytes, ${expected} are expected`);
    const { index, term } = meta;
    const identity = { index, term, dataBytes, digest: plain.subarray(8).toString("hex") };
    const place = { dataAt, partBytes, partHeadBytes: headOfPart };
    return new SnapshotFile(seal, file, { meta, identity, keyId, ...place });
  }

  /** A part that was read is not what was written. */
  get isDamaged(): boolean {
    return this.#isDamaged;
  }

  /** From `offset` on, part by part. @throws {Error} at the first damaged one. */
  async *parts(offset = 0): AsyncGenerator<{ readonly offset: number; readonly data: Uint8Array }> {
    const { dataBytes } = this.identity;
    const stride = this.#partHeadBytes + this.#partBytes + sealOverheadBytes;
    const read = new Uint8Array(Math.min(this.#partBytes, dataBytes) + sealOverheadBytes); // For one after another.
    for (let at = offset; at < dataBytes;) {
      const part = Math.floor(at / this.#partBytes);
      const from = part * this.#partBytes;
      const plainBytes = Math.min(this.#partBytes, dataBytes - from);
      const position = this.#dataAt + part * stride + this.#partHeadBytes;
      const sealed = await this.#file.read(position, plainBytes + sealOverheadBytes, read);
      yield { offset: at, data: this.#openPart(sealed, part).subarray(at - from) };
      at = from + plainBytes;
    }
  }

  #openPart(sealed: Uint8Array, part: number): Uint8Array {
    try {
      return this.#seal.open(sealed, this.keyId, partContext(this.meta, part));
    } catch (error) {
      this.#isDamaged = true;
      throw error;
    }
  }

  /** Reads all of it. @throws {Error} that says what is wrong with it. */
  async verify(): Promise<void> {
    const hash = createHash("sha256");
    for await (const { data } of this.parts()) hash.update(data);
    if (hash.digest("hex") !== this.identity.digest) throw new Error("its digest does not match");
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

interface Head {
  readonly meta: SnapshotMeta;
  readonly keyId: number;
  /** Where the first part begins. */
  readonly dataAt: number;
  readonly partBytes: number;
  readonly partHeadBytes: number;
}

/** @throws {Error} that says what is wrong with it; a {ClusterError} `failed-precondition` of another version's. */
async function readHead(seal: Seal, file: ReadFile): Promise<Head> {
  const head = asBuffer(await file.read(0, headerBytes));
  if (head.byteLength < headerBytes) throw new Error("it is too short");
  if (head.readUInt32LE(0) !== magic) throw new Error("it is not a snapshot");
  const seen = head.readUInt32LE(4);
  if (seen !== format && seen !== formatBefore) {
    // Nothing is wrong with it; whoever wrote it can read it.
    throw new ClusterError(
      "failed-precondition",
      `it has format ${seen}, this version reads ${formatBefore} and ${format}`,
    );
  }
  const headOfPart = seen === formatBefore ? partHeadBytes : 0;
  if (crc32c(head.subarray(0, 24)) !== head.readUInt32LE(24)) {
    throw new Error("the checksum of its head does not match");
  }
  const keyId = head.readUInt32LE(8);
  const sealedHeaderBytes = head.readUInt32LE(12);
  const sealed = await file.read(headerBytes, sealedHeaderBytes);
  if (crc32c(sealed) !== head.readUInt32LE(16)) throw new Error("the checksum of its header does not match");
  const meta = snapshotFromWire(SnapshotHeader.decode(seal.open(sealed, keyId, headerContext)));
  return {
    meta,
    keyId,
    dataAt: headerBytes + sealedHeaderBytes,
    partBytes: head.readUInt32LE(20),
    partHeadBytes: headOfPart,
  };
}

/** Of so much data in parts. */
function sealedBytes(dataBytes: number, partBytes: number): number {
  return dataBytes + Math.ceil(dataBytes / partBytes) * sealOverheadBytes;
}

function sameHeader(a: SnapshotMeta, b: SnapshotMeta): boolean {
  const [one, other] = [a, b].map((meta) => SnapshotHeader.encode(snapshotToWire(meta)).finish());
  return one !== undefined && other !== undefined && Buffer.compare(one, other) === 0;
}

/** Undefined when it is not what was sealed for this place, or not all of it. */
function unsealed(
  seal: Seal,
  sealed: Uint8Array,
  { keyId, meta, part }: { keyId: number; meta: SnapshotMeta; part: number },
): Uint8Array | undefined {
  try {
    return seal.open(sealed, keyId, partContext(meta, part));
  } catch (error) {
    if (error instanceof ClusterError && error.code === "data-loss") return undefined;
    throw error;
  }
}

function appendFrom(file: BlockFile, position: number): AppendFile {
  let end = position;
  return {
    async append(data) {
      await file.write(end, data);
      end += data.byteLength;
    },
    sync: () => file.sync(),
    close: () => file.close(),
  };
}

/** The header says itself which snapshot it is of; the rest is bound to that. */
const headerContext = "header of a snapshot";

/** Binds a part to its place, so that none can be left out, repeated, swapped, or taken from another snapshot. */
function partContext({ index, term }: SnapshotMeta, part: number): string {
  return `part ${part} of the snapshot at ${index}, term ${term}`;
}

function endContext({ index, term }: SnapshotMeta): string {
  return `end of the snapshot at ${index}, term ${term}`;
}

function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
