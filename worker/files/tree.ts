/**
 * The files of a container, walked name by name from its root. Every directory on the way is held open and
 * links are resolved here, within the root: whatever the container holds, and whatever it changes while we
 * look, nothing outside of it is reached.
 *
 * Node has no `openat`; `/proc/self/fd/N/name` is the same thing, since the kernel takes the open directory
 * itself and not its path. Names have one character for each of their bytes ("latin1"), so that none is lost.
 */
import { constants, type BigIntStats } from "node:fs";
import { type FileHandle, mkdir, open, readdir, readlink } from "node:fs/promises";

/** `O_PATH`: opens a name without touching what it stands for. */
const pathOnly = 0o10000000;
const linkLimit = 40;
/** Folders within one another, of what is read and of what is written. */
export const depthLimit = 1_000;

export type PlaceKind = "directory" | "file" | "link" | "fifo" | "character" | "block" | "socket";

/** Something in the tree, held open. */
export interface Place {
  readonly handle: FileHandle;
  readonly stats: BigIntStats;
  readonly kind: PlaceKind;
}

export type Refusal = "missing" | "no-directory" | "too-many-links" | "too-deep";

/** Why a path leads nowhere; whoever asked for it says so in words. */
export class PathError extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal, path: string) {
    super(`${refusal}: ${path}`);
    this.refusal = refusal;
  }
}

/** Another directory of the host that the container sees at a path, as a running one's kernel would show it. */
export interface TreeMount {
  readonly target: string;
  readonly source: string;
  readonly readOnly: boolean;
}

export interface WalkOptions {
  /** Whether a link at the end of the path is meant itself. */
  readonly last: "followed" | "kept";
  /** Missing directories are made, with this mode. */
  readonly make?: number;
  /** Told the names of each directory before it is made in there; throws where that may not be. */
  readonly beforeMake?: (parent: readonly string[]) => void;
}

/** A path that was walked, links resolved: all that is on it is held open until it is closed. */
export class Spot {
  readonly names: readonly string[];
  /** The root first. */
  readonly places: readonly Place[];

  constructor(names: readonly string[], places: readonly Place[]) {
    this.names = names;
    this.places = places;
  }

  get last(): Place {
    return this.places.at(-1) as Place; // The root is always there.
  }

  get parent(): Place | undefined {
    return this.places.at(-2);
  }

  /** Such as "/etc/hosts". */
  get path(): string {
    return `/${this.names.join("/")}`;
  }

  async close(): Promise<void> {
    // The root belongs to the tree.
    for (const { handle } of this.places.slice(1)) await handle.close();
  }
}

export class Tree {
  readonly root: Place;
  /** By their names, joined by slashes. */
  readonly #mounts = new Map<string, Omit<TreeMount, "target">>();
  readonly #readOnly: boolean;

  private constructor(root: Place, readOnly: boolean) {
    this.root = root;
    this.#readOnly = readOnly;
  }

  /** @param root - A directory of the host. */
  static async open(root: string, { readOnly = false } = {}): Promise<Tree> {
    const handle = await open(root, pathOnly | constants.O_DIRECTORY);
    return new Tree(await placeOf(handle), readOnly);
  }

  async close(): Promise<void> {
    await this.root.handle.close();
  }

  /** Shows `source` at `target`, whose parents are made if need be; the last one counts. */
  async mount({ target, ...mount }: TreeMount): Promise<void> {
    const above = parentOf(target);
    const spot = await this.walk(bytesOf(above.path), { last: "followed", make: 0o755 });
    try {
      this.#mounts.set([...spot.names, bytesOf(above.name)].join("/"), mount);
    } finally {
      await spot.close();
    }
  }

  /**
   * @param path - Relative to `from`, or to the root when it begins with a slash; one that ends in "/" or "/." is a directory's.
   * @throws {PathError}
   */
  async walk(path: string, { last, make, beforeMake }: WalkOptions, from?: Spot): Promise<Spot> {
    const isRelative = from !== undefined && !path.startsWith("/");
    const names = isRelative ? [...from.names] : [];
    const places: Place[] = [this.root];
    const todo = path.split("/").filter(isName).toReversed();
    const isDirectory = /(^|\/)\.?$/.test(path);
    let links = 0;
    try {
      // Held once more, so that each spot can be closed by itself.
      if (isRelative) for (const place of from.places.slice(1)) places.push(await reopened(place));
      while (todo.length > 0) {
        const name = todo.pop() ?? "";
        const here = places.at(-1) as Place;
        if (name === "..") {
          if (names.length > 0) await places.pop()?.handle.close();
          names.pop();
          continue;
        }
        if (here.kind !== "directory") throw new PathError("no-directory", path);
        if (names.length >= depthLimit) throw new PathError("too-deep", path);
        let next = await this.child(here, names, name);
        if (next === undefined && make !== undefined) {
          beforeMake?.(names);
          next = await made(here, name, make);
        }
        if (next === undefined) throw new PathError("missing", path);
        const isMeant = todo.length === 0 && last === "kept" && !isDirectory;
        if (next.kind === "link" && !isMeant) {
          await next.handle.close();
          if (++links > linkLimit) throw new PathError("too-many-links", path);
          const target = await linkOf(here, name);
          if (target.startsWith("/")) {
            for (const { handle } of places.splice(1)) await handle.close();
            names.length = 0;
          }
          todo.push(...target.split("/").filter(isName).toReversed());
          continue;
        }
        names.push(name);
        places.push(next);
      }
      if (isDirectory && places.at(-1)?.kind !== "directory") throw new PathError("no-directory", path);
      return new Spot(names, places);
    } catch (error) {
      await new Spot(names, places).close();
      throw error;
    }
  }

  /** What has a name in a directory, links as they are; the caller closes it. Undefined when there is none. */
  async child(directory: Place, names: readonly string[], name: string): Promise<Place | undefined> {
    const source = this.#mounts.size === 0 ? undefined : this.#mounts.get([...names, name].join("/"))?.source;
    try {
      const place =
        source === undefined
          ? await open(inside(directory, name), pathOnly | constants.O_NOFOLLOW)
          : await open(source, pathOnly);
      return await placeOf(place);
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
      if ((error as NodeJS.ErrnoException).code === "ENAMETOOLONG") return undefined;
      throw error;
    }
  }

  /** Whether something is mounted at these names; a running container's own mounts are the kernel's matter. */
  isMount(names: readonly string[]): boolean {
    return this.#mounts.has(names.join("/"));
  }

  /** Whether these names are below something that is mounted, or it itself. */
  isInMount(names: readonly string[]): boolean {
    return names.some((_name, index) => this.#mounts.has(names.slice(0, index + 1).join("/")));
  }

  /** What may not be written to, and why; the kernel has its own word on a running container's. */
  readOnlyAt(names: readonly string[]): "root" | "mount" | undefined {
    for (let count = names.length; count > 0; count--) {
      const mount = this.#mounts.get(names.slice(0, count).join("/"));
      if (mount !== undefined) return mount.readOnly ? "mount" : undefined;
    }
    return this.#readOnly ? "root" : undefined;
  }

  /** In the order of their bytes. */
  async list(directory: Place, names: readonly string[]): Promise<string[]> {
    const own = await readdir(self(directory), "latin1");
    const prefix = names.map((name) => `${name}/`).join("");
    const mounted = [...this.#mounts.keys()]
      .filter((path) => path.startsWith(prefix) && !path.slice(prefix.length).includes("/"))
      .map((path) => path.slice(prefix.length));
    return [...new Set([...own, ...mounted])].toSorted((a, b) => (a < b ? -1 : 1));
  }
}

/** Where a link leads, as it is written. */
export async function linkOf(directory: Place, name: string): Promise<string> {
  return readlink(inside(directory, name), "latin1");
}

/** The path of a name in a directory that is held open, for calls that do not follow a link at its end. */
export function inside({ handle }: Place, name: string): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${handle.fd}/`), Buffer.from(name, "latin1")]);
}

/** The path of the place itself, whatever stands under its name by now; calls that follow links are meant for it. */
export function self({ handle }: Place): string {
  return `/proc/self/fd/${handle.fd}`;
}

/** A regular file to read, whatever stands under its name by now. */
export function openContent(place: Place): Promise<FileHandle> {
  return open(self(place), constants.O_RDONLY | constants.O_NONBLOCK);
}

export function bytesOf(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

export function textOf(bytes: string): string {
  return Buffer.from(bytes, "latin1").toString("utf8");
}

/** Of a path as clients write it: what is above its last name. */
function parentOf(path: string): { readonly path: string; readonly name: string } {
  const names = path.split("/").filter(isName);
  return { path: `/${names.slice(0, -1).join("/")}`, name: names.at(-1) ?? "" };
}

function isName(part: string): boolean {
  return part !== "" && part !== ".";
}

async function made(directory: Place, name: string, mode: number): Promise<Place> {
  try {
    await mkdir(inside(directory, name), { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error; // Somebody else was faster.
  }
  return placeOf(await open(inside(directory, name), pathOnly | constants.O_NOFOLLOW));
}

async function reopened(place: Place): Promise<Place> {
  return placeOf(await open(self(place), pathOnly));
}

async function placeOf(handle: FileHandle): Promise<Place> {
  try {
    const stats = await handle.stat({ bigint: true });
    return { handle, stats, kind: kindOf(stats) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function kindOf(stats: BigIntStats): PlaceKind {
  if (stats.isDirectory()) return "directory";
  if (stats.isFile()) return "file";
  if (stats.isSymbolicLink()) return "link";
  if (stats.isFIFO()) return "fifo";
  if (stats.isCharacterDevice()) return "character";
  if (stats.isBlockDevice()) return "block";
  return "socket";
}
