/** Snapshots mounted for a while, for those who read or write a container's files from outside of it. */
import { mkdir, mkdtemp, readdir, rmdir, unlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { Mount } from "../../proto/gen/containerd/types.ts";
import { runTool } from "../mounts/tool.ts";

/**
 * "all": the container's files, read-only, which also holds while the container runs; "below": its image's
 * alone; "writable": the container's own layer, which nobody else may have mounted meanwhile.
 */
export type ViewKind = "all" | "below" | "writable";

export interface View {
  /** A directory of the host. */
  readonly path: string;
  close(): Promise<void>;
}

/**
 * @param directory - Below which the mounts are made.
 * @param mounts - Of the container's snapshot, as containerd has them.
 * @returns Undefined for "below" of a container without an image's layers.
 */
export async function openView(
  directory: string,
  mounts: readonly Mount[],
  kind: ViewKind,
): Promise<View | undefined> {
  const layers = layersOf(mounts);
  const { upper, lower } = layers;
  const shown = kind === "below" ? lower : [upper, ...lower];
  const [only] = shown;
  if (only === undefined) return undefined;
  if (shown.length === 1) return { path: only, close: async () => undefined };
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = await mkdtemp(join(directory, "view-"));
  try {
    await mountOverlay(path, kind === "writable" ? layers : { lower: shown });
  } catch (error) {
    await rmdir(path);
    throw error;
  }
  return {
    path,
    async close() {
      await runTool("umount", [path]);
      await rmdir(path);
    },
  };
}

/**
 * What a snapshot without a layer of its own shows, where nobody can write to it, whatever it is mounted as next.
 *
 * @param empty - A directory: the kernel wants two layers where none is written to.
 */
export async function mountLayers(path: string, mounts: readonly Mount[], empty: string): Promise<void> {
  const { upper, lower } = layersOf(mounts);
  await mountOverlay(path, { lower: lower.length > 0 ? [...lower, empty] : [upper, empty] });
}

/** The same layers without one that can be written to, for those who mount them in their turn. */
export function readOnlyMounts(mounts: readonly Mount[]): Mount[] {
  const { upper, lower } = layersOf(mounts);
  if (lower.length === 0) return [{ type: "bind", source: upper, target: "", options: ["ro", "rbind"] }];
  return [
    {
      type: "overlay",
      source: "overlay",
      target: "",
      options: [`lowerdir=${[upper, ...lower].join(":")}`],
    },
  ];
}

/** The image's layers alone; none for an image without. */
export function belowMounts(mounts: readonly Mount[]): Mount[] {
  const { lower } = layersOf(mounts);
  const [only = ""] = lower;
  if (lower.length === 0) return [];
  if (lower.length === 1) return [{ type: "bind", source: only, target: "", options: ["ro", "rbind"] }];
  return [{ type: "overlay", source: "overlay", target: "", options: [`lowerdir=${lower.join(":")}`] }];
}

/** The container's own layer on the host. */
export function upperDirectory(mounts: readonly Mount[]): string {
  return layersOf(mounts).upper;
}

/** Mounts that a former process left when it was ended. */
export async function clearViews(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []); // None was ever made.
  for (const name of names) {
    const path = join(directory, name);
    await runTool("umount", [path]).catch(() => undefined); // It was not mounted yet, or no longer.
    await rmdir(path).catch(async (error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ENOTDIR") throw error;
      await unlink(path); // A part of a volume that is a file.
    });
  }
}

interface Layers {
  readonly upper: string;
  readonly work: string;
  /** The highest first. */
  readonly lower: readonly string[];
}

function layersOf([mount, ...rest]: readonly Mount[]): Layers {
  if (mount === undefined || rest.length > 0)
    throw new ClusterError("internal", "a snapshot has no mount of one kind");
  if (mount.type === "bind") return { upper: mount.source, work: "", lower: [] };
  const option = (name: string): string =>
    mount.options.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  return {
    upper: option("upperdir"),
    work: option("workdir"),
    lower: option("lowerdir").split(":"),
  };
}

/** The kernel takes options of one page: paths are told from the directory that all layers are in. */
export async function mountOverlay(
  path: string,
  { lower, ...own }: { readonly lower: readonly string[] } & Partial<Layers>,
): Promise<void> {
  const base = dirname(dirname(lower[0] ?? "/"));
  const short = (each: string): string => (dirname(dirname(each)) === base ? relative(base, each) : each);
  const options = [`lowerdir=${lower.map(short).join(":")}`];
  if (own.upper === undefined) options.push("ro");
  else options.push(`upperdir=${short(own.upper)}`, `workdir=${short(own.work ?? "")}`, "index=off");
  await runTool("mount", ["-t", "overlay", "-o", options.join(","), "overlay", path], { cwd: base });
}
