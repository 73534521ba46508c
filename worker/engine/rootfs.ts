/**
 * Reads files of an image without mounting it: path by path over its layer directories, the highest
 * first. Links are resolved within the image; nothing outside can be reached, whatever the image holds.
 */
import { constants } from "node:fs";
import { lstat, open, readlink } from "node:fs/promises";
import { join } from "node:path";

const linkLimit = 40;
const etcFileLimitBytes = 1 << 20;

export interface Found {
  /** On the host. */
  readonly path: string;
  readonly kind: "file" | "directory" | "other";
}

/** Where a path of the image lies on the host; undefined if the image has no such path. */
export async function findInLayers(layers: readonly string[], path: string): Promise<Found | undefined> {
  const todo = path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .toReversed();
  let done: string[] = [];
  let links = 0;
  let found: Found = { path: layers[0] ?? "", kind: "directory" };
  while (todo.length > 0) {
    const part = todo.pop() ?? "";
    if (part === "..") {
      done = done.slice(0, -1);
      found = { path: join(layers[0] ?? "", ...done), kind: "directory" };
      continue;
    }
    const next = await lookUp(layers, [...done, part]);
    if (next === undefined) return undefined;
    if (next.kind === "link") {
      if (++links > linkLimit) return undefined;
      if (next.target.startsWith("/")) done = [];
      todo.push(
        ...next.target
          .split("/")
          .filter((piece) => piece !== "" && piece !== ".")
          .toReversed(),
      );
      continue;
    }
    done.push(part);
    found = next;
  }
  return found;
}

/** Text of a small file of the image; empty if it has none. Anything but a regular file is none. */
export async function readInLayers(layers: readonly string[], path: string): Promise<string> {
  const found = await findInLayers(layers, path);
  if (found?.kind !== "file") return "";
  const file = await open(found.path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(etcFileLimitBytes), 0, etcFileLimitBytes, 0);
    return buffer.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
}

type Step = Found | { readonly kind: "link"; readonly target: string };

/** One path whose parents are known to be directories. Opaque directories are not looked for: passwd and group files do not hide below them. */
async function lookUp(layers: readonly string[], parts: readonly string[]): Promise<Step | undefined> {
  for (const layer of layers) {
    let path = layer;
    for (const [index, part] of parts.entries()) {
      path = join(path, part);
      const stats = await lstat(path).catch(() => undefined);
      if (stats === undefined) break;
      // An overlay's whiteout: a character device 0:0 hides what is below.
      if (stats.isCharacterDevice() && stats.rdev === 0) return undefined;
      if (index < parts.length - 1) {
        if (stats.isDirectory()) continue;
        break;
      }
      if (stats.isSymbolicLink()) return { kind: "link", target: await readlink(path) };
      return { path, kind: stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "other" };
    }
  }
  return undefined;
}
