/** A tar archive put into a container's tree, the way `docker cp` brings files in. */
import { constants } from "node:fs";
import {
  chmod,
  chown,
  lchown,
  link,
  lutimes,
  mkdir,
  open,
  rmdir,
  symlink,
  unlink,
  utimes,
} from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";
import type { TarHeader } from "../engine/tar.ts";
import type { TarEntry } from "../engine/tar-stream.ts";
import { runTool } from "../mounts/tool.ts";
import { setAttributes, settableAttributes } from "./attributes.ts";
import { depthLimit, inside, PathError, type Place, self, type Spot, textOf, type Tree } from "./tree.ts";

const pathLimitBytes = 4_096;

export interface UnpackOptions {
  /** Whether a directory may take the place of something else, or the other way around. */
  readonly kinds: "kept" | "replaced";
  /** Whom everything belongs to, in place of what the archive says. */
  readonly owner?: { readonly uid: number; readonly gid: number };
}

/**
 * Each entry is put below `target`, and links on the way to it lead within the tree only. What is there under
 * an entry's name is replaced, directories excepted, which are merged.
 *
 * @throws {ClusterError} `invalid-argument` for names and hard links that lead out of `target`, for attributes that are not
 * the container's to set, and for what `kinds` keeps;
 * `permission-denied` for what is read-only, at `target` or below it.
 */
export async function unpack(
  tree: Tree,
  target: Spot,
  entries: AsyncIterable<TarEntry>,
  { kinds, owner }: UnpackOptions,
  signal: AbortSignal,
): Promise<void> {
  /** Their times are set last: what is put into them changes these. */
  const directories = new Map<string, number>();
  /** Of the last entry: the next is most often its neighbour. */
  let above: { readonly path: string; readonly spot: Spot } | undefined;
  try {
    for await (const { header, content } of entries) {
      signal.throwIfAborted();
      const names = namesOf(header.name);
      const name = names.at(-1);
      if (name === undefined) continue; // The directory itself stays as it is.
      const parent = await parentAt(names.slice(0, -1));
      const { uid, gid } = owner ?? header;
      await put(parent, name, { ...header, uid, gid }, content);
      if (header.type === "5") directories.set(names.join("/"), header.mtime);
    }
    for (const [path, mtime] of [...directories].toReversed()) {
      const spot = await walked(path);
      try {
        await utimes(self(spot.last), mtime, mtime);
      } finally {
        await spot.close();
      }
    }
  } finally {
    await above?.spot.close();
  }

  async function parentAt(names: readonly string[]): Promise<Spot> {
    const path = names.join("/");
    if (above?.path === path) return above.spot;
    const spot = await walked(path, 0o755);
    await above?.spot.close();
    above = { path, spot };
    return spot;
  }

  async function walked(path: string, make?: number): Promise<Spot> {
    try {
      const beforeMake = (parent: readonly string[]): void => requireWritable(tree, parent);
      const options = { last: "followed", ...(make !== undefined && { make, beforeMake }) } as const;
      return await tree.walk(path === "" ? "." : `${path}/.`, options, target);
    } catch (error) {
      if (!(error instanceof PathError)) throw error;
      const seen = `cannot put a file into ${shown(path)}: ${error.refusal}`;
      throw new ClusterError("invalid-argument", seen, { cause: error });
    }
  }

  async function put(
    parent: Spot,
    name: string,
    header: TarHeader,
    content: AsyncIterable<Buffer>,
  ): Promise<void> {
    // Of a directory that is there, only it itself is changed.
    requireWritable(tree, header.type === "5" ? [...parent.names, name] : parent.names);
    const attributes = settableAttributes(header); // Refused before anything is replaced.
    await makeRoom(parent, name, header);
    const path = inside(parent.last, name);
    const { uid, gid, mtime, mode } = header;
    switch (header.type) {
      case "5":
        return putDirectory(parent, name, header, attributes);
      case "0":
      case "7": {
        const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
        const file = await open(path, flags, 0o600);
        try {
          for await (const piece of content) {
            signal.throwIfAborted();
            await file.writeFile(piece);
          }
          await file.chown(uid, gid);
          await file.chmod(mode);
          await setAttributes(file, shown(header.name), attributes);
          await file.utimes(mtime, mtime);
        } finally {
          await file.close();
        }
        return;
      }
      case "1": {
        const names = namesOf(header.link);
        const source = await walked(names.slice(0, -1).join("/"));
        try {
          await link(inside(source.last, names.at(-1) ?? "."), path);
        } finally {
          await source.close();
        }
        return;
      }
      case "2":
        await symlink(Buffer.from(header.link, "latin1"), path);
        await lchown(path, uid, gid);
        await lutimes(path, mtime, mtime);
        return;
      case "3":
      case "4":
      case "6":
        return putNode(parent, name, header);
      default:
        throw new ClusterError(
          "invalid-argument",
          `unhandled tar header type ${JSON.stringify(header.type)} of ${shown(header.name)}`,
        );
    }
  }

  /** Whatever has the name goes, unless it is a directory and is to be one. */
  async function makeRoom(parent: Spot, name: string, { type }: TarHeader): Promise<void> {
    const before = await tree.child(parent.last, parent.names, name);
    if (before === undefined) return;
    await before.handle.close();
    const [was, willBe] = [before.kind === "directory", type === "5"];
    if (was && willBe) return;
    if (kinds === "kept" && was !== willBe) {
      const [old, fresh] = was ? ["directory", "non-directory"] : ["non-directory", "directory"];
      throw new ClusterError(
        "invalid-argument",
        `cannot overwrite ${old} ${shown(name)} with ${fresh} ${shown(target.path)}`,
      );
    }
    await removeAt(tree, parent.last, parent.names, name);
  }

  async function putDirectory(
    parent: Spot,
    name: string,
    header: TarHeader,
    attributes: ReturnType<typeof settableAttributes>,
  ): Promise<void> {
    const there = await tree.child(parent.last, parent.names, name);
    if (there === undefined) await mkdir(inside(parent.last, name), { mode: 0o700 });
    const own = there ?? (await tree.child(parent.last, parent.names, name));
    if (own === undefined) throw changed(header.name);
    try {
      if (own.kind !== "directory") throw changed(header.name);
      await chown(self(own), header.uid, header.gid);
      await chmod(self(own), header.mode);
      await setAttributes(own.handle, shown(header.name), attributes);
    } finally {
      await own.handle.close();
    }
  }

  /** A pipe or a device; whether a container may use one is its device rules' matter. */
  async function putNode(parent: Spot, name: string, header: TarHeader): Promise<void> {
    const path = `/proc/${process.pid}/fd/${parent.last.handle.fd}/${textOf(name)}`;
    const kind = { "3": "c", "4": "b" }[header.type];
    const device = kind === undefined ? ["p"] : [kind, String(header.major), String(header.minor)];
    await runTool("mknod", ["-m", "600", path, ...device]);
    const own = await tree.child(parent.last, parent.names, name);
    if (own === undefined) throw changed(header.name);
    try {
      if (["directory", "file", "link"].includes(own.kind)) throw changed(header.name);
      await chown(self(own), header.uid, header.gid);
      await chmod(self(own), header.mode);
      await utimes(self(own), header.mtime, header.mtime);
    } finally {
      await own.handle.close();
    }
  }

  /** The names below the target; "." and doubled slashes count for nothing, an absolute name is as a relative one. */
  function namesOf(path: string): string[] {
    const names: string[] = [];
    if (path.length > pathLimitBytes || path.includes("\0"))
      throw new ClusterError("invalid-argument", `a name in the archive has ${path.length} bytes`);
    for (const name of path.split("/")) {
      if (name === "" || name === ".") continue;
      if (name !== "..") names.push(name);
      else if (names.pop() === undefined)
        throw new ClusterError("invalid-argument", `${shown(path)} is outside of ${shown(target.path)}`);
    }
    return names;
  }
}

/** @throws {ClusterError} `permission-denied` when what has these names, or is to have them, may not be written to. */
export function requireWritable(tree: Tree, names: readonly string[]): void {
  const place = tree.readOnlyAt(names);
  if (place !== undefined) throw readOnly(place);
}

export function readOnly(place: "root" | "mount"): ClusterError {
  const what = place === "root" ? "container rootfs" : "mounted volume";
  return new ClusterError("permission-denied", `${what} is marked read-only`);
}

/** With all that is below it. */
async function removeAt(tree: Tree, parent: Place, names: readonly string[], name: string): Promise<void> {
  const place = await tree.child(parent, names, name);
  if (place === undefined) return;
  const below = [...names, name];
  try {
    if (tree.isMount(below)) {
      throw new ClusterError(
        "conflict",
        `cannot replace ${shown(below.join("/"))}: a volume is mounted there`,
      );
    }
    if (below.length > depthLimit)
      throw new ClusterError("invalid-argument", "directories are nested too deep to be removed");
    if (place.kind !== "directory") {
      await unlink(inside(parent, name));
      return;
    }
    for (const each of await tree.list(place, below)) await removeAt(tree, place, below, each);
  } finally {
    await place.handle.close();
  }
  await rmdir(inside(parent, name));
}

function changed(path: string): ClusterError {
  return new ClusterError("conflict", `${shown(path)} was changed by the container while it was written`);
}

function shown(bytes: string): string {
  return JSON.stringify(textOf(bytes));
}
