/** Archives that clients send, put on disk entry by entry, so that their parts can be read in any order. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, open, readFile, rm } from "node:fs/promises";
import { join, posix } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { RoomCheck } from "./room.ts";
import { decompressed, readTar } from "./tar-stream.ts";

const entryLimit = 20_000;
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
    const room = new RoomCheck(own);
    await room.look();
    let count = 0;
    for await (const { header, content } of readTar(await decompressed(body))) {
      signal.throwIfAborted();
      if (++count > entryLimit)
        throw new ClusterError("resource-exhausted", `the archive has more than ${entryLimit} entries`);
      const name = insidePath(header.name);
      const { link } = header;
      switch (header.type) {
        case "0":
        case "7":
          files.set(name, await writeSpooled(join(own, String(count)), content, room, signal));
          break;
        case "1":
          links.set(name, insidePath(link));
          break;
        case "2":
          links.set(
            name,
            insidePath(link.startsWith("/") ? link : posix.join(posix.dirname(name), link), link),
          );
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
    if (count === 0) throw new ClusterError("invalid-argument", "the archive is empty");
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
    const file = await writeSpooled(join(own, "0"), body, new RoomCheck(own), signal);
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
  room: RoomCheck,
  signal: AbortSignal,
): Promise<SpooledFile> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const file = await open(path, "wx", 0o600);
  try {
    for await (const piece of content) {
      signal.throwIfAborted();
      sizeBytes += piece.length;
      await room.add(piece.length);
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

/** A path below the archive's root. */
export function insidePath(name: string, shown = name): string {
  const path = posix.normalize(name);
  if (name === "" || name.includes("\0") || path.startsWith("/") || path === ".." || path.startsWith("../")) {
    throw new ClusterError(
      "invalid-argument",
      `the archive has ${JSON.stringify(shown)}, which leads out of it`,
    );
  }
  return path.replace(/\/$/, "");
}
