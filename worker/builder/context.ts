/** The files of a build, out of the archive that a client sends, in a directory of their own. */
import { chmod, link, mkdir, open, readFile, stat, symlink, unlink, utimes } from "node:fs/promises";
import { join, posix } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { RoomCheck } from "../engine/room.ts";
import { insidePath } from "../engine/spool.ts";
import { decompressed, readTar, type TarEntry } from "../engine/tar-stream.ts";

const entryLimit = 1_000_000;
const linkLimit = 16;

type Kind = "file" | "directory" | "link";

export interface BuildContext {
  /** The whole of a file; links inside the context are followed. Undefined when there is none. */
  text(name: string, limitBytes: number): Promise<string | undefined>;
}

/**
 * Everything is created below `directory`, which must be empty. Symbolic links come last, when nothing is created through
 * them any more; they may point anywhere, as whoever reads the files later resolves them below the directory.
 *
 * @param limitBytes - Of all files together.
 * @throws {ClusterError} `invalid-argument` for what is no archive, names that lead out of it, and devices;
 *   `too-large` beyond the limit; `resource-exhausted` with too many entries or too little room on the disk.
 */
export async function unpackContext(
  directory: string,
  body: AsyncIterable<Buffer>,
  limitBytes: number,
  signal: AbortSignal,
): Promise<BuildContext> {
  const kinds = new Map<string, Kind>([[".", "directory"]]);
  const targets = new Map<string, string>();
  const directoryTimes = new Map<string, number>();
  let totalBytes = 0;
  const room = new RoomCheck(directory);
  await room.look();
  let entries = 0;
  for await (const entry of readTar(await decompressed(body))) {
    signal.throwIfAborted();
    entries++;
    if (entries > entryLimit)
      throw new ClusterError("resource-exhausted", `the build context has more than ${entryLimit} entries`);
    await unpack(entry);
  }
  if (entries === 0) throw new ClusterError("invalid-argument", "the archive is empty");
  for (const [name, target] of targets) await symlink(target, join(directory, name));
  // Last, as each file that is created changes the time of its directory.
  for (const [name, seconds] of directoryTimes)
    if (kinds.get(name) === "directory") await utimes(join(directory, name), seconds, seconds);
  return {
    async text(name, textLimitBytes) {
      const path = find(insidePath(name));
      if (path === undefined) return undefined;
      const file = join(directory, path);
      const { size: sizeBytes } = await stat(file);
      if (sizeBytes > textLimitBytes)
        throw new ClusterError(
          "invalid-argument",
          `${name} has ${sizeBytes} bytes, at most ${textLimitBytes} are accepted`,
        );
      return readFile(file, "utf8");
    },
  };

  async function unpack({ header, content }: TarEntry): Promise<void> {
    const { type, link: target, mode, mtime: seconds } = header;
    const name = insidePath(header.name);
    const path = join(directory, name);
    switch (type) {
      case "0":
      case "7": {
        await makeWay(name, "file");
        const file = await open(path, "wx", 0o600);
        try {
          for await (const piece of content) {
            await count(piece.length);
            await file.writeFile(piece);
          }
          await file.chmod(mode);
          await file.utimes(seconds, seconds);
        } finally {
          await file.close();
        }
        return;
      }
      case "5":
        if (kinds.get(name) !== "directory") {
          await makeWay(name, "directory");
          await mkdir(path);
        }
        await chmod(path, name === "." ? 0o755 : mode);
        directoryTimes.set(name, seconds);
        return;
      case "1": {
        const existing = insidePath(target);
        if (kinds.get(existing) !== "file")
          throw refused(name, `a link to ${JSON.stringify(target)}, which is no file before it`);
        if (existing === name) return;
        await makeWay(name, "file");
        await link(join(directory, existing), path);
        return;
      }
      case "2":
        if (target === "" || target.includes("\0")) throw refused(name, "a link to nowhere");
        await makeWay(name, "link");
        targets.set(name, target);
        return;
      default:
        throw refused(name, `of type ${JSON.stringify(type)}: files, directories and links are accepted`);
    }
  }

  /** Directories above it are there and real, and nothing has its name; then the name is taken. */
  async function makeWay(name: string, kind: Kind): Promise<void> {
    const parts = name.split("/");
    for (let depth = 1; depth < parts.length; depth++) {
      const above = parts.slice(0, depth).join("/");
      const there = kinds.get(above);
      if (there === "directory") continue;
      if (there !== undefined) throw refused(name, `below ${JSON.stringify(above)}, which is no directory`);
      await mkdir(join(directory, above), { mode: 0o755 });
      kinds.set(above, "directory");
    }
    switch (kinds.get(name)) {
      case "file":
        await unlink(join(directory, name));
        break;
      case "link":
        targets.delete(name);
        break;
      case "directory":
        throw refused(name, "twice, as a directory and as something else");
      case undefined:
    }
    kinds.set(name, kind);
  }

  async function count(bytes: number): Promise<void> {
    signal.throwIfAborted();
    totalBytes += bytes;
    if (totalBytes > limitBytes)
      throw new ClusterError("too-large", `the build context has more than ${limitBytes} bytes`);
    await room.add(bytes);
  }

  function find(name: string): string | undefined {
    let path = name;
    for (let hops = 0; hops < linkLimit; hops++) {
      if (kinds.get(path) === "file") return path;
      const target = targets.get(path);
      if (target === undefined) return undefined;
      const next = posix.join(target.startsWith("/") ? "." : posix.dirname(path), `./${target}`);
      if (next === ".." || next.startsWith("../")) return undefined;
      path = next;
    }
    return undefined;
  }
}

function refused(name: string, seen: string): ClusterError {
  return new ClusterError("invalid-argument", `the build context has ${JSON.stringify(name)} ${seen}`);
}
