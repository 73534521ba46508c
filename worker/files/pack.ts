/** A part of a container's tree as a tar archive, the way `docker cp` takes files out. */
import { printTarEntry, tarBlockBytes, type TarHeader, tarPadding } from "../engine/tar.ts";
import { capabilitiesIn, capability, capabilityOf, capableDirectories, isText } from "./attributes.ts";
import { depthLimit, linkOf, openContent, type Place, type PlaceKind, type Spot, type Tree } from "./tree.ts";

const chunkBytes = 256 * 1024;
/** Of files with several names whose first one is remembered; later ones are whole copies. */
const knownLinksLimit = 100_000;

const types: Readonly<Record<PlaceKind, string>> = {
  file: "0",
  link: "2",
  character: "3",
  block: "4",
  directory: "5",
  fifo: "6",
  socket: "",
};

/**
 * The spot and all below it, names in order. Files that change meanwhile have the size they began with;
 * sockets are left out.
 *
 * @param base - What the spot is called in the archive, one character for each byte.
 */
export async function* pack(tree: Tree, spot: Spot, base: string): AsyncGenerator<Buffer> {
  const known = new Map<string, string>();
  const hinted = spot.last.kind === "directory" ? await capableDirectories(spot.last) : undefined;
  const ofLast = (): Promise<string | undefined> => capabilityOf(spot.last);
  yield* packed(spot.last, {
    parent: spot.parent ?? tree.root,
    names: spot.names,
    path: base,
    capable: ofLast,
  });
  yield Buffer.alloc(2 * tarBlockBytes);

  async function* packed(place: Place, { parent, names, path, capable }: Packed): AsyncGenerator<Buffer> {
    const { stats, kind } = place;
    switch (kind) {
      case "directory":
        yield printTarEntry({ ...headerOf(place, `${path}/`) });
        if (names.length < depthLimit) yield* children(place, names, path);
        return;
      case "link":
        yield printTarEntry({
          ...headerOf(place, path),
          link: await linkOf(parent, names.at(-1) ?? ""),
        });
        return;
      case "file": {
        const key = `${stats.dev}:${stats.ino}`;
        const first = stats.nlink > 1n ? known.get(key) : undefined;
        if (first !== undefined) {
          yield printTarEntry({ ...headerOf(place, path), type: "1", link: first });
          return;
        }
        if (stats.nlink > 1n && known.size < knownLinksLimit) known.set(key, path);
        const sizeBytes = Number(stats.size);
        // What nobody may execute is not asked for any: it would be without effect.
        const value = (stats.mode & 0o111n) === 0n ? undefined : await capable();
        const attributes = value !== undefined && { attributes: new Map([[capability, value]]) };
        yield printTarEntry({ ...headerOf(place, path), sizeBytes, ...attributes });
        yield* contentOf(place, sizeBytes);
        yield tarPadding(sizeBytes);
        return;
      }
      case "character":
      case "block":
      case "fifo":
        yield printTarEntry(headerOf(place, path));
        return;
      case "socket":
        return;
    }
  }

  async function* children(directory: Place, names: readonly string[], path: string): AsyncGenerator<Buffer> {
    const all = await tree.list(directory, names);
    const isAsked =
      hinted === undefined || hinted.has(names.slice(spot.names.length).join("/")) || tree.isInMount(names);
    let asked: ReturnType<typeof capabilitiesIn> | undefined;
    for (const name of all) {
      const place = await tree.child(directory, names, name);
      if (place === undefined) continue; // Removed meanwhile.
      const below = [...names, name];
      const capable = async (): Promise<string | undefined> => {
        if (tree.isMount(below)) return capabilityOf(place);
        if (!isAsked) return undefined;
        if (!isText(name)) return capabilityOf(place);
        // Of all in the directory at once, when the first of them needs it: a process for each would be slow.
        asked ??= capabilitiesIn(directory, all);
        return (await asked).get(name);
      };
      try {
        yield* packed(place, { parent: directory, names: below, path: `${path}/${name}`, capable });
      } finally {
        await place.handle.close();
      }
    }
  }
}

interface Packed {
  readonly parent: Place;
  readonly names: readonly string[];
  /** In the archive. */
  readonly path: string;
  /** What a program may do beyond others, of a file. */
  readonly capable: () => Promise<string | undefined>;
}

/** Exactly so many bytes: zeros for what is no longer there. */
async function* contentOf(place: Place, sizeBytes: number): AsyncGenerator<Buffer> {
  if (sizeBytes === 0) return;
  const file = await openContent(place);
  try {
    let left = sizeBytes;
    while (left > 0) {
      const piece = Buffer.allocUnsafe(Math.min(left, chunkBytes));
      const { bytesRead } = await file.read(piece, 0, piece.length, null);
      if (bytesRead === 0) break;
      left -= bytesRead;
      yield piece.subarray(0, bytesRead);
    }
    while (left > 0) {
      const zeros = Buffer.alloc(Math.min(left, chunkBytes));
      left -= zeros.length;
      yield zeros;
    }
  } finally {
    await file.close();
  }
}

function headerOf({ stats, kind }: Place, name: string): TarHeader {
  const isDevice = kind === "character" || kind === "block";
  const { major, minor } = isDevice ? deviceOf(stats.rdev) : { major: 0, minor: 0 };
  return {
    name,
    type: types[kind],
    link: "",
    sizeBytes: 0,
    mode: Number(stats.mode) & 0o7777,
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    mtime: Number(stats.mtimeMs / 1_000n),
    major,
    minor,
  };
}

/** As glibc's `major` and `minor` take a number apart. */
export function deviceOf(rdev: bigint): { readonly major: number; readonly minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & ~0xffn)),
  };
}
