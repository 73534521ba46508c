import { type KeyObject, createCipheriv, createDecipheriv, createSecretKey } from "node:crypto";
import { ClusterError } from "../../model/errors.ts";
import type { Disk } from "../../runtime/disk.ts";
import type { Random } from "../../runtime/random.ts";
import { crc32c } from "./crc32c.ts";

const algorithm = "aes-256-gcm";
const keyBytes = 32;
const nonceBytes = 12;
/** Drawn by chance once per process and again when the counter behind it is used up: no nonce comes twice. */
const noncePrefixBytes = 8;
const counterLimit = 2 ** 32;
const tagBytes = 16;

/** What {@link Seal.seal} adds to a length. */
export const sealOverheadBytes = nonceBytes + tagBytes;

const magic = 0x4b524853; // "SHRK", little endian.
const version = 2;
const headerBytes = 16;
const slotBytes = 4 + keyBytes;
const crcBytes = 4;
/** The first format: one bare key. */
const firstFormatBytes = 32;
const maxKeys = 1024;
/** Ids have two bytes in the records of the log. */
const maxKeyId = 2 ** 16 - 1;

/** Encrypts and authenticates what goes to disk (AES-256-GCM). `context` binds a text to its place. */
export interface Seal {
  /** Of the key that new texts are sealed with; whoever stores a text stores this beside it. */
  readonly keyId: number;
  /**
   * With the newest key, unless another one is named.
   *
   * @param into - Has room for the sealed text, which is then a view of it; new memory when absent.
   */
  seal(plain: Uint8Array, context: string, keyId?: number, into?: Uint8Array): Uint8Array;
  /** @throws {ClusterError} `data-loss` when key, text or place is not the one it was sealed with. */
  open(sealed: Uint8Array, keyId: number, context: string): Uint8Array;
}

/**
 * The data keys of this member, readable only by their owner: the newest seals, older ones stay as long as something on
 * the disk was sealed with them.
 *
 * ```
 *  0  magic "SHRK"   4  version   8  id of the newest key   12  number of keys
 * 16  for each: id, 32 bytes of key   then CRC-32C of all before
 * ```
 */
export class Keyring implements Seal {
  readonly #disk: Disk;
  readonly #random: Random;
  readonly #path: string;
  #keys: ReadonlyMap<number, KeyObject>;
  #keyId: number;
  #nonce: { prefix: Uint8Array; counter: number } = { prefix: new Uint8Array(), counter: counterLimit };
  #lastChange: Promise<unknown> = Promise.resolve();

  private constructor(
    { disk, random }: { disk: Disk; random: Random },
    { path, keys, keyId }: { path: string; keys: ReadonlyMap<number, KeyObject>; keyId: number },
  ) {
    this.#disk = disk;
    this.#random = random;
    this.#path = path;
    this.#keys = keys;
    this.#keyId = keyId;
  }

  /**
   * Reads the keys; the first one is made when there are none and `onMissing` allows it.
   *
   * @throws {ClusterError} `data-loss` when they cannot be read.
   */
  static async load(
    deps: { disk: Disk; random: Random },
    path: string,
    onMissing: "create" | "refuse",
  ): Promise<Keyring> {
    const known = await deps.disk.read(path);
    if (known !== undefined) return new Keyring(deps, { path, ...decodeKeys(known, path) });
    if (onMissing === "refuse") throw unreadable(path, "it is not there, but a log is");
    const keyring = new Keyring(deps, { path, keys: new Map(), keyId: 0 });
    await keyring.rotate();
    return keyring;
  }

  get keyId(): number {
    return this.#keyId;
  }

  get keyIds(): readonly number[] {
    return [...this.#keys.keys()];
  }

  /** Makes a new key, durably, that seals from then on. @returns its number. */
  rotate(): Promise<number> {
    return this.#inTurn(() => this.#rotate());
  }

  /**
   * Forgets the keys that nothing needs any more; the newest always stays.
   *
   * @param needed - Asked when it is its turn, so that no key has been replaced by then that `needed` does not know of;
   *   undefined when that cannot be told.
   */
  retain(needed: () => Promise<ReadonlySet<number> | undefined>): Promise<void> {
    return this.#inTurn(async () => {
      const ids = await needed();
      if (ids !== undefined) await this.#retain(ids);
    });
  }

  /** Two changes at once would give one number to two keys, or write the file without the other's key. */
  #inTurn<Result>(change: () => Promise<Result>): Promise<Result> {
    const turn = this.#lastChange.then(change);
    this.#lastChange = turn.catch(() => undefined); // Whoever asked for the change is told.
    return turn;
  }

  async #rotate(): Promise<number> {
    if (this.#keys.size >= maxKeys || this.#keyId >= maxKeyId) {
      const seen = `${this.#keys.size} keys are in use, the newest has number ${this.#keyId}`;
      throw new ClusterError("resource-exhausted", `cannot rotate the data key: ${seen}`);
    }
    const keyId = this.#keyId + 1;
    const keys = new Map(this.#keys).set(keyId, createSecretKey(this.#random.bytes(keyBytes)));
    await this.#disk.replace(this.#path, encodeKeys(keys, keyId));
    this.#keys = keys;
    this.#keyId = keyId;
    this.#nonce.counter = counterLimit;
    return keyId;
  }

  async #retain(needed: ReadonlySet<number>): Promise<void> {
    const keys = new Map([...this.#keys].filter(([id]) => id === this.#keyId || needed.has(id)));
    if (keys.size === this.#keys.size) return;
    await this.#disk.replace(this.#path, encodeKeys(keys, this.#keyId));
    this.#keys = keys;
  }

  seal(
    plain: Uint8Array,
    context: string,
    keyId = this.#keyId,
    into: Uint8Array = Buffer.allocUnsafe(plain.byteLength + sealOverheadBytes),
  ): Uint8Array {
    const nonce = this.#nextNonce();
    const cipher = createCipheriv(algorithm, this.#key(keyId, context), nonce);
    cipher.setAAD(Buffer.from(context));
    const text = cipher.update(plain);
    cipher.final();
    into.set(nonce);
    into.set(text, nonceBytes);
    into.set(cipher.getAuthTag(), nonceBytes + text.byteLength);
    return into.subarray(0, text.byteLength + sealOverheadBytes);
  }

  open(sealed: Uint8Array, keyId: number, context: string): Uint8Array {
    if (sealed.byteLength < sealOverheadBytes) throw unsealable(context);
    const end = sealed.byteLength - tagBytes;
    const key = this.#key(keyId, context);
    const decipher = createDecipheriv(algorithm, key, sealed.subarray(0, nonceBytes));
    decipher.setAAD(Buffer.from(context));
    decipher.setAuthTag(sealed.subarray(end));
    try {
      const plain = decipher.update(sealed.subarray(nonceBytes, end));
      decipher.final();
      return plain;
    } catch (cause) {
      throw unsealable(context, cause);
    }
  }

  #key(keyId: number, context: string): KeyObject {
    const key = this.#keys.get(keyId);
    if (key !== undefined) return key;
    throw new ClusterError(
      "data-loss",
      `cannot decrypt ${context}: it was sealed with key ${keyId}, which ${this.#path} does not hold`,
    );
  }

  #nextNonce(): Uint8Array {
    if (this.#nonce.counter >= counterLimit) {
      this.#nonce = { prefix: this.#random.bytes(noncePrefixBytes), counter: 0 };
    }
    const nonce = new Uint8Array(nonceBytes);
    nonce.set(this.#nonce.prefix);
    new DataView(nonce.buffer).setUint32(noncePrefixBytes, this.#nonce.counter);
    this.#nonce.counter += 1;
    return nonce;
  }
}

function encodeKeys(keys: ReadonlyMap<number, KeyObject>, keyId: number): Uint8Array {
  const bytes = Buffer.alloc(headerBytes + keys.size * slotBytes + crcBytes);
  bytes.writeUInt32LE(magic, 0);
  bytes.writeUInt32LE(version, 4);
  bytes.writeUInt32LE(keyId, 8);
  bytes.writeUInt32LE(keys.size, 12);
  let at = headerBytes;
  for (const [id, key] of keys) {
    bytes.writeUInt32LE(id, at);
    bytes.set(key.export(), at + 4);
    at += slotBytes;
  }
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, at)), at);
  return bytes;
}

function decodeKeys(data: Uint8Array, path: string): { keys: Map<number, KeyObject>; keyId: number } {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  if (bytes.byteLength === firstFormatBytes) throw unreadable(path, "it has format 1, this version reads 2");
  if (bytes.byteLength < headerBytes + crcBytes || bytes.readUInt32LE(0) !== magic) {
    throw unreadable(path, "it is no file of data keys");
  }
  const end = bytes.byteLength - crcBytes;
  if (crc32c(bytes.subarray(0, end)) !== bytes.readUInt32LE(end)) {
    throw unreadable(path, "its checksum does not match");
  }
  const seen = bytes.readUInt32LE(4);
  if (seen !== version) throw unreadable(path, `it has format ${seen}, this version reads ${version}`);
  const keys = new Map<number, KeyObject>();
  for (let at = headerBytes; at < end; at += slotBytes) {
    keys.set(bytes.readUInt32LE(at), createSecretKey(bytes.subarray(at + 4, at + slotBytes)));
  }
  return { keys, keyId: bytes.readUInt32LE(8) };
}

function unreadable(path: string, seen: string): ClusterError {
  return new ClusterError(
    "data-loss",
    `cannot read the data keys ${path}: ${seen}; restore the file from a backup, or remove this member's state and ` +
      "join again",
  );
}

function unsealable(context: string, cause?: unknown): ClusterError {
  const text = `cannot decrypt ${context}: it was changed, or sealed with another key`;
  return new ClusterError("data-loss", text, { cause });
}
