/**
 * Parts of volumes for containers that mount no more than that. Who writes to the volume may put a link where a
 * directory was, at any time: so the part is found anew at each start, over open directories, and what was found is
 * bound to a place of ours, which the runtime then mounts (docs/decisions/0101-files-by-open-directories.md).
 */
import { mkdir, readdir, rmdir, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { PathError, type Spot, Tree } from "../files/tree.ts";
import type { MountRecord } from "../engine/engine.ts";
import { mountPoints } from "./mountinfo.ts";
import { cleanPath } from "./plan.ts";
import { runTool } from "./tool.ts";

/** @param index - Of the mount among the container's. */
export function subpathPlace(directory: string, containerId: string, index: number): string {
  return join(directory, `${containerId}-${index}`);
}

/** @throws {ClusterError} `invalid-argument` when there is no such part. */
export async function requireSubpath(mountpoint: string, subpath: string): Promise<void> {
  await using found = await find(mountpoint, subpath);
  void found;
}

/** Parts of a container's volumes, bound until they are released, which takes nothing from whoever mounted them meanwhile. */
export interface BoundParts {
  /** Where each is, by its target in the container. */
  readonly places: ReadonlyMap<string, string>;
  release(): Promise<void>;
}

/**
 * Binds each part to its place.
 *
 * @param directory - Below which the places are; `clearSubpaths` takes away what a killed process left.
 * @throws {ClusterError} `invalid-argument` when a part is no longer there.
 */
export async function bindSubpaths(
  directory: string,
  containerId: string,
  mounts: readonly MountRecord[],
): Promise<BoundParts> {
  const places = new Map<string, string>();
  const release = async (): Promise<void> => {
    const bound = [...places.values()];
    places.clear(); // Once: another start may have them next.
    for (const place of bound) await removePlace(place);
  };
  try {
    for (const [index, { type, source, subpath, target }] of mounts.entries()) {
      if (type !== "volume" || subpath === undefined) continue;
      const place = subpathPlace(directory, containerId, index);
      await mkdir(directory, { recursive: true, mode: 0o700 });
      await bindPart(place, source, subpath);
      places.set(target, place);
    }
    return { places, release };
  } catch (error) {
    await release();
    throw error;
  }
}

async function bindPart(place: string, source: string, subpath: string): Promise<void> {
  await using found = await find(source, subpath);
  const { handle, kind } = found.spot.last;
  await removePlace(place); // An earlier start may have been unable to.
  if (kind === "directory") await mkdir(place);
  else await writeFile(place, "");
  try {
    // By the open file itself: mount would otherwise look up what its path leads to by now.
    const open = `/proc/${process.pid}/fd/${handle.fd}`;
    await runTool("mount", ["--no-canonicalize", "--bind", "--", open, place]);
  } catch (error) {
    await removePlace(place);
    throw error;
  }
}

/** What is mounted there, and the place itself; never what is in it. */
async function removePlace(place: string): Promise<void> {
  while ((await mountPoints()).includes(place)) await runTool("umount", [place]);
  try {
    await rmdir(place);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOTDIR") await unlink(place);
    else if (code !== "ENOENT") throw error;
  }
}

/** Those that a former process left when it was ended in the middle of a start. */
export async function clearSubpaths(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []); // None was ever made.
  for (const name of names) await removePlace(join(directory, name));
}

interface Found extends AsyncDisposable {
  readonly spot: Spot;
}

async function find(mountpoint: string, subpath: string): Promise<Found> {
  const tree = await Tree.open(mountpoint);
  const path = cleanPath(`/${subpath}`);
  try {
    const spot = await tree.walk(Buffer.from(path).toString("latin1"), { last: "followed" });
    return {
      spot,
      async [Symbol.asyncDispose]() {
        await spot.close();
        await tree.close();
      },
    };
  } catch (cause) {
    await tree.close();
    if (!(cause instanceof PathError)) throw cause;
    const text = `cannot access path ${path} of the volume: ${cause.refusal === "missing" ? "it does not exist" : cause.refusal}`;
    throw new ClusterError("invalid-argument", text, { cause });
  }
}
