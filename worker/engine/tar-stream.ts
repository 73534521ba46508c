/** Tar archives as they arrive: decompressed, cut into entries, each with the names and sizes that its extended headers give. */
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";

import { ClusterError, errorText } from "../../model/errors.ts";
import {
  attributePrefix,
  type NameEncoding,
  parsePax,
  parseTarHeader,
  tarBlockBytes,
  type TarHeader,
} from "./tar.ts";

/** Of pax and long-name entries. */
const metadataLimitBytes = 1 << 20;

/** Seconds; beyond it file systems and Node disagree. */
const latestTime = 2 ** 36;

export interface TarEntry {
  readonly header: TarHeader;
  /** To be read before the next entry; what is left of it is skipped. */
  readonly content: AsyncIterable<Buffer>;
}

/**
 * The entries in their order; reads the source to its end, as clients expect all of it to be taken.
 *
 * @throws {ClusterError} `invalid-argument` for what is no such archive.
 */
export async function* readTar(
  source: AsyncIterable<Buffer>,
  encoding: NameEncoding = "utf8",
): AsyncGenerator<TarEntry> {
  const input = new ByteReader(source);
  let long: { name?: string; link?: string } = {};
  let pax = new Map<string, string>();
  for (;;) {
    const block = await input.take(tarBlockBytes);
    const plain = block === undefined ? undefined : parseTarHeader(block, encoding);
    if (plain === undefined) return input.drain();
    if (["x", "g", "L", "K"].includes(plain.type)) {
      const data = await small(input, plain);
      if (plain.type === "x") pax = parsePax(data, encoding);
      if (plain.type === "L") long = { ...long, name: untilZero(data, encoding) };
      if (plain.type === "K") long = { ...long, link: untilZero(data, encoding) };
      continue;
    }
    const attributes = encoding === "latin1" ? attributesOf(pax) : noAttributes;
    const header = { ...extended(plain, pax, long), ...(attributes.size > 0 && { attributes }) };
    [pax, long] = [new Map<string, string>(), {}];
    yield { header, content: input.content(header.sizeBytes) };
    await input.skipContent();
  }
}

const noAttributes: ReadonlyMap<string, string> = new Map();

function attributesOf(pax: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  if (pax.size === 0) return noAttributes;
  const own = [...pax].filter(([key]) => key.startsWith(attributePrefix));
  return new Map(own.map(([key, value]) => [key.slice(attributePrefix.length), value]));
}

function extended(
  header: TarHeader,
  pax: ReadonlyMap<string, string>,
  long: { readonly name?: string; readonly link?: string },
): TarHeader {
  const number = (key: string, before: number): number => {
    const text = pax.get(key);
    const value = text === undefined ? before : Number(text);
    if (!Number.isSafeInteger(value) || value < 0)
      throw new ClusterError("invalid-argument", `invalid ${key} in a pax header`);
    return value;
  };
  const mtime = Number(pax.get("mtime") ?? header.mtime);
  // Links and directories have no content, whatever their header says.
  const hasContent = header.type === "0" || header.type === "7" || !/^[1-6]$/.test(header.type);
  return {
    ...header,
    name: pax.get("path") ?? long.name ?? header.name,
    link: pax.get("linkpath") ?? long.link ?? header.link,
    sizeBytes: hasContent ? number("size", header.sizeBytes) : 0,
    uid: number("uid", header.uid),
    gid: number("gid", header.gid),
    mtime: Number.isFinite(mtime) ? Math.min(Math.max(0, mtime), latestTime) : 0,
  };
}

function untilZero(data: Buffer, encoding: NameEncoding): string {
  const end = data.indexOf(0);
  return data.toString(encoding, 0, end < 0 ? data.length : end);
}

async function small(input: ByteReader, { sizeBytes }: TarHeader): Promise<Buffer> {
  if (sizeBytes > metadataLimitBytes)
    throw new ClusterError("invalid-argument", `a name in the archive has ${sizeBytes} bytes`);
  const pieces: Buffer[] = [];
  for await (const piece of input.content(sizeBytes)) pieces.push(piece);
  await input.skipContent();
  return Buffer.concat(pieces);
}

/** Plain, or unpacked when it begins as gzip does; other compressions are refused by name. */
export async function decompressed(body: AsyncIterable<Buffer>): Promise<AsyncIterable<Buffer>> {
  const iterator = body[Symbol.asyncIterator]();
  let head = Buffer.alloc(0);
  while (head.length < 6) {
    const next = await iterator.next();
    if (next.done === true) break;
    head = Buffer.concat([head, next.value]);
  }
  const whole = (async function* () {
    yield head;
    for (;;) {
      const next = await iterator.next();
      if (next.done === true) return;
      yield next.value;
    }
  })();
  const kind = compressionOf(head);
  if (kind === "none") return whole;
  if (kind !== "gzip") {
    throw new ClusterError(
      "invalid-argument",
      `the archive is compressed with ${kind}: plain or gzip is accepted`,
    );
  }
  return gunzipped(whole);
}

export async function* gunzipped(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const unpacked = createGunzip();
  const input = Readable.from(source);
  input.on("error", (error) => unpacked.destroy(error));
  input.pipe(unpacked);
  try {
    for await (const piece of unpacked) yield piece as Buffer;
  } catch (cause) {
    throw new ClusterError("invalid-argument", `the archive is damaged: ${errorText(cause)}`, { cause });
  } finally {
    input.destroy();
    unpacked.destroy();
  }
}

export function compressionOf(head: Buffer): "none" | "gzip" | "zstd" | "bzip2" | "xz" {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head.subarray(0, 4).equals(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]))) return "zstd";
  if (head.toString("latin1", 0, 3) === "BZh") return "bzip2";
  if (head.subarray(0, 6).equals(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]))) return "xz";
  return "none";
}

/** Cuts a stream into the lengths that a tar archive has. */
class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);
  /** Of the current entry's content and the zeros after it. */
  #left = 0;
  #padding = 0;

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Undefined at the end of the stream. */
  async take(count: number): Promise<Buffer | undefined> {
    const pieces: Buffer[] = [];
    let left = count;
    while (left > 0) {
      const piece = await this.#next();
      if (piece === undefined) {
        if (left === count) return undefined;
        throw new ClusterError("invalid-argument", "the archive ends in the middle of an entry");
      }
      const taken = piece.subarray(0, left);
      this.#rest = piece.subarray(taken.length);
      pieces.push(taken);
      left -= taken.length;
    }
    return Buffer.concat(pieces, count);
  }

  /** The content of the entry that begins here, as far as it is wanted; `skipContent` comes after it. */
  content(sizeBytes: number): AsyncGenerator<Buffer> {
    this.#left = sizeBytes;
    this.#padding = (tarBlockBytes - (sizeBytes % tarBlockBytes)) % tarBlockBytes;
    return this.#parts();
  }

  async *#parts(): AsyncGenerator<Buffer> {
    while (this.#left > 0) yield await this.#part();
  }

  /** What nobody read of an entry, and the zeros after it. */
  async skipContent(): Promise<void> {
    while (this.#left > 0) await this.#part();
    await this.take(this.#padding);
    this.#padding = 0;
  }

  async #part(): Promise<Buffer> {
    const piece = await this.#next();
    if (piece === undefined)
      throw new ClusterError("invalid-argument", "the archive ends in the middle of an entry");
    const taken = piece.subarray(0, this.#left);
    this.#rest = piece.subarray(taken.length);
    this.#left -= taken.length;
    return taken;
  }

  /** Reads what follows the end of the archive, as clients expect all of it to be taken. */
  async drain(): Promise<void> {
    this.#rest = Buffer.alloc(0);
    for (;;) {
      const next = await this.#source.next();
      if (next.done === true) return;
    }
  }

  async #next(): Promise<Buffer | undefined> {
    if (this.#rest.length > 0) return this.#rest;
    for (;;) {
      const next = await this.#source.next();
      if (next.done === true) return undefined;
      if (next.value.length > 0) return next.value;
    }
  }
}
