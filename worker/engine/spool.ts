/** Archives that clients send, put on disk entry by entry, so that their parts can be read in any order. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, open, readFile, rm, statfs } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";

import { ClusterError, errorText } from "../../model/errors.ts";
import { parsePax, parseTarHeader, tarBlockBytes, type TarHeader } from "./tar.ts";

const entryLimit = 20_000;
/** Of pax and long-name entries. */
const metadataLimitBytes = 1 << 20;
/** An archive never takes the last of the disk; others write there as well. */
const reservedDiskBytes = 512 * 2 ** 20;
const spaceCheckBytes = 64 * 2 ** 20;
const linkLimit = 16;

export interface SpooledFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly digest: string;
}

export interface Spool extends AsyncDisposable {
  /** A file by its path in the archive; links inside the archive are followed. */
  file(name: string): SpooledFile | undefined;
  /** The whole of a small file; `failed-precondition` when it is larger. */
  text(name: string, limitBytes: number): Promise<Buffer | undefined>;
}

/**
 * Reads a tar archive, plain or gzipped, into a directory of its own. Nothing is created under the names that the
 * archive uses, so that they cannot lead anywhere.
 *
 * @throws {ClusterError} `invalid-argument` for what is no such archive, paths or links that lead out of it and devices;
 *   `resource-exhausted` when it has too many entries or the disk too little room.
 */
export async function spoolArchive(
  directory: string,
  body: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<Spool> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const own = await mkdtemp(join(directory, "archive-"));
  const files = new Map<string, SpooledFile>();
  const links = new Map<string, string>();
  try {
    await read();
  } catch (error) {
    await rm(own, { recursive: true, force: true });
    signal.throwIfAborted();
    throw error;
  }
  const find = (name: string): SpooledFile | undefined => {
    let path = posix.normalize(name);
    for (let hops = 0; hops < linkLimit; hops++) {
      const found = files.get(path);
      if (found !== undefined) return found;
      const target = links.get(path);
      if (target === undefined) return undefined;
      path = target;
    }
    return undefined;
  };
  return {
    file: find,
    async text(name, limitBytes) {
      const found = find(name);
      if (found === undefined) return undefined;
      if (found.sizeBytes > limitBytes) {
        throw new ClusterError(
          "failed-precondition",
          `${name} in the archive has ${found.sizeBytes} bytes, at most ${limitBytes} are accepted`,
        );
      }
      return readFile(found.path);
    },
    [Symbol.asyncDispose]: () => rm(own, { recursive: true, force: true }),
  };

  async function read(): Promise<void> {
    const input = new ByteReader(await decompressed(body));
    await requireRoom(own);
    let longName: string | undefined;
    let longLink: string | undefined;
    let pax = new Map<string, string>();
    for (let count = 0; ; count++) {
      signal.throwIfAborted();
      if (count > entryLimit)
        throw new ClusterError("resource-exhausted", `the archive has more than ${entryLimit} entries`);
      const block = await input.take(tarBlockBytes);
      const header = block === undefined ? undefined : parseTarHeader(block);
      if (header === undefined) {
        if (count === 0) throw new ClusterError("invalid-argument", "the archive is empty");
        return input.drain();
      }
      if (["x", "g", "L", "K"].includes(header.type)) {
        const data = await small(input, header);
        if (header.type === "x") pax = parsePax(data);
        if (header.type === "L") longName = data.toString("utf8").replace(/\0.*$/s, "");
        if (header.type === "K") longLink = data.toString("utf8").replace(/\0.*$/s, "");
        continue;
      }
      const name = inside(pax.get("path") ?? longName ?? header.name);
      const link = pax.get("linkpath") ?? longLink ?? header.link;
      const paxSize = pax.get("size");
      const sizeBytes = paxSize === undefined ? header.sizeBytes : Number(paxSize);
      if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
        throw new ClusterError("invalid-argument", "invalid size in a pax header");
      [pax, longName, longLink] = [new Map<string, string>(), undefined, undefined];
      switch (header.type) {
        case "0":
        case "7":
          files.set(name, await writeSpooled(join(own, String(count)), input.pieces(sizeBytes), signal));
          break;
        case "1":
          links.set(name, inside(link));
          break;
        case "2":
          links.set(name, inside(link.startsWith("/") ? link : posix.join(posix.dirname(name), link), link));
          break;
        case "5":
          break;
        default:
          throw new ClusterError(
            "invalid-argument",
            `the archive has ${JSON.stringify(name)} of type ${JSON.stringify(header.type)}: files, directories and links are accepted`,
          );
      }
    }
  }
}

/** One body as one file. */
export async function spoolFile(
  directory: string,
  body: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly file: SpooledFile }> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const own = await mkdtemp(join(directory, "file-"));
  try {
    const file = await writeSpooled(join(own, "0"), body, signal);
    return { file, [Symbol.asyncDispose]: () => rm(own, { recursive: true, force: true }) };
  } catch (error) {
    await rm(own, { recursive: true, force: true });
    signal.throwIfAborted();
    throw error;
  }
}

async function writeSpooled(
  path: string,
  content: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<SpooledFile> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  let uncheckedBytes = 0;
  const file = await open(path, "wx", 0o600);
  try {
    for await (const piece of content) {
      signal.throwIfAborted();
      sizeBytes += piece.length;
      uncheckedBytes += piece.length;
      if (uncheckedBytes >= spaceCheckBytes) {
        uncheckedBytes = 0;
        await requireRoom(dirname(path));
      }
      hash.update(piece);
      await file.writeFile(piece);
    }
  } finally {
    await file.close();
  }
  return { path, sizeBytes, digest: `sha256:${hash.digest("hex")}` };
}

/** A spooled file from an offset on. */
export async function* readSpooled({ path }: SpooledFile, offset: number): AsyncGenerator<Buffer> {
  for await (const piece of createReadStream(path, { start: offset })) yield piece as Buffer;
}

async function requireRoom(directory: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < reservedDiskBytes) {
    throw new ClusterError(
      "resource-exhausted",
      `no space left for the archive: ${bavail * bsize} bytes are free at ${directory}, ${reservedDiskBytes} are kept`,
    );
  }
}

async function small(input: ByteReader, { sizeBytes }: TarHeader): Promise<Buffer> {
  if (sizeBytes > metadataLimitBytes)
    throw new ClusterError("invalid-argument", `a name in the archive has ${sizeBytes} bytes`);
  const pieces: Buffer[] = [];
  for await (const piece of input.pieces(sizeBytes)) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** A path below the archive's root. */
function inside(name: string, shown = name): string {
  const path = posix.normalize(name);
  if (name === "" || name.includes("\0") || path.startsWith("/") || path === ".." || path.startsWith("../")) {
    throw new ClusterError(
      "invalid-argument",
      `the archive has ${JSON.stringify(shown)}, which leads out of it`,
    );
  }
  return path.replace(/\/$/, "");
}

/** Plain, or unpacked when it begins as gzip does; other compressions are refused by name. */
async function decompressed(body: AsyncIterable<Buffer>): Promise<AsyncIterable<Buffer>> {
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

  /** The content of an entry, without the zeros after it. */
  async *pieces(sizeBytes: number): AsyncGenerator<Buffer> {
    let left = sizeBytes;
    while (left > 0) {
      const piece = await this.#next();
      if (piece === undefined)
        throw new ClusterError("invalid-argument", "the archive ends in the middle of an entry");
      const taken = piece.subarray(0, left);
      this.#rest = piece.subarray(taken.length);
      left -= taken.length;
      yield taken;
    }
    await this.take((tarBlockBytes - (sizeBytes % tarBlockBytes)) % tarBlockBytes);
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
