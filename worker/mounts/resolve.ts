/** Planned mounts made real: sources checked, volumes made and filled from the image. */
import { chmod, chown, lstat, mkdir, mkdtemp, readdir, realpath, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import type { MountRecord } from "../engine/engine.ts";
import type { OciMount } from "../engine/oci.ts";
import { findInLayers } from "../engine/rootfs.ts";
import { mountOverlay } from "../engine/views.ts";
import { bindOptions, cleanPath, type PlannedMount, propagated } from "./plan.ts";
import { requireSubpath } from "./subpath.ts";
import { runTool } from "./tool.ts";
import type { VolumeContent, Volumes } from "./volume.ts";

export interface ResolveDeps {
  readonly random: Random;
  readonly volumes: Volumes;
  /** Id of the container, which holds what is mounted until it releases it. */
  readonly user: string;
  /** Mounts an image for this container. @throws {ClusterError} `not-found`. */
  readonly mountImage: (reference: string) => Promise<{ readonly path: string; readonly imageId: string }>;
  /** For the short life of mounts while an image's content is copied. */
  readonly temporaryDirectory: string;
  /** Where the part of a volume will be bound at each start, if this mount shows no more. */
  readonly subpathPlace: string;
  /** What the engine mounts is below these. */
  readonly ownDirectories: readonly string[];
  /** Ends the copying of an image's content. */
  readonly signal: AbortSignal;
}

export interface ResolvedMount {
  readonly oci: OciMount;
  readonly record: MountRecord;
}

/** @param layers - Layer directories of the image, highest first; asked for only when a volume is filled. */
export async function resolveMount(
  deps: ResolveDeps,
  mount: PlannedMount,
  layers: () => Promise<readonly string[]>,
): Promise<ResolvedMount> {
  const { target, readOnly } = mount;
  switch (mount.type) {
    case "bind": {
      const { source, createSource } = mount;
      const options = propagated(mount, deps.ownDirectories);
      await requireSource(source, createSource);
      return {
        oci: { destination: target, type: "bind", source, options },
        record: { type: "bind", source, options, createSource, target, readOnly, anonymous: false },
      };
    }
    case "tmpfs": {
      const { options } = mount;
      return {
        oci: { destination: target, type: "tmpfs", source: "tmpfs", options },
        record: { type: "tmpfs", source: "", options, target, readOnly, anonymous: false },
      };
    }
    case "image": {
      const { reference, subpath } = mount;
      const { path, imageId } = await deps.mountImage(reference);
      const source = await subpathOf(path, subpath);
      return {
        oci: { destination: target, type: "bind", source, options: bindOptions(readOnly) },
        record: {
          type: "image",
          name: reference,
          imageId,
          ...(subpath !== "" && { subpath }),
          source: path,
          target,
          readOnly,
          anonymous: false,
        },
      };
    }
    case "volume":
      return resolveVolume(deps, mount, layers);
  }
}

async function resolveVolume(
  deps: ResolveDeps,
  mount: Extract<PlannedMount, { type: "volume" }>,
  layers: () => Promise<readonly string[]>,
): Promise<ResolvedMount> {
  const { volumes, random, user } = deps;
  const { target, readOnly, volume } = mount;
  const anonymous = mount.name === "";
  const name = anonymous ? newContainerId(random) : mount.name;
  const { mountpoint } = await volumes.create(name, {
    labels: volume.labels ?? {},
    options: volume.driverOptions ?? {},
    anonymous,
    owner: user,
  });
  try {
    await volumes.use(name, user);
    await volumes.fill(name, user, async () =>
      volume.noCopy === true ? undefined : contentAt(deps, target, await layers()),
    );
    const { subpath = "" } = volume;
    if (subpath !== "") await requireSubpath(mountpoint, subpath);
    const source = subpath === "" ? mountpoint : deps.subpathPlace;
    return {
      oci: { destination: target, type: "bind", source, options: bindOptions(readOnly) },
      record: {
        type: "volume",
        name,
        ...(subpath !== "" && { subpath }),
        source: mountpoint,
        target,
        readOnly,
        anonymous,
      },
    };
  } catch (error) {
    await volumes.release(name, user);
    await volumes.abandon(name, user, "removed");
    throw error;
  }
}

/** As it was when the container was made, or is made again. @throws {ClusterError} `invalid-argument` when a bind's source is missing. */
export async function requireSources(mounts: readonly MountRecord[]): Promise<void> {
  for (const { type, source, createSource = false } of mounts)
    if (type === "bind") await requireSource(source, createSource);
}

async function requireSource(source: string, create: boolean): Promise<void> {
  try {
    await stat(source);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
    if (create) {
      await mkdir(source, { recursive: true });
      return;
    }
    throw new ClusterError(
      "invalid-argument",
      `invalid mount config for type "bind": bind source path does not exist: ${source}`,
      { cause },
    );
  }
}

/** What the image has at the target becomes the first content of an empty volume, owner and mode included. */
async function contentAt(
  { temporaryDirectory, signal }: ResolveDeps,
  target: string,
  layers: readonly string[],
): Promise<VolumeContent | undefined> {
  if ((await findInLayers(layers, target))?.kind !== "directory") return undefined;
  return async (directory) => {
    if (layers.length === 1) return copyContent(layers, target, directory, signal);
    // Several layers are merged by the kernel, for just as long as the copying takes.
    await mkdir(temporaryDirectory, { recursive: true });
    const merged = await mkdtemp(join(temporaryDirectory, "image-"));
    try {
      await mountOverlay(merged, { lower: layers });
      try {
        await copyContent([merged], target, directory, signal);
      } finally {
        await runTool("umount", [merged]);
      }
    } finally {
      await rmdir(merged);
    }
  };
}

/** Mounts that a former process left when it was ended in the middle of filling a volume. */
export async function clearFills(temporaryDirectory: string): Promise<void> {
  const names = await readdir(temporaryDirectory).catch(() => []); // None was ever made.
  for (const name of names) {
    const path = join(temporaryDirectory, name);
    await runTool("umount", [path]).catch(() => undefined); // It was not mounted yet, or no longer.
    await rmdir(path);
  }
}

async function copyContent(
  layers: readonly string[],
  target: string,
  mountpoint: string,
  signal: AbortSignal,
): Promise<void> {
  const found = await findInLayers(layers, target);
  if (found?.kind !== "directory") return;
  await runTool("cp", ["-a", "-T", "--", found.path, mountpoint], { signal });
  const { mode, uid, gid } = await lstat(found.path);
  await chown(mountpoint, uid, gid);
  await chmod(mountpoint, mode & 0o7777);
}

/** What is inside of an image, which nobody can change; links that lead out of it are refused. */
async function subpathOf(mountpoint: string, subpath: string): Promise<string> {
  if (subpath === "") return mountpoint;
  const inside = cleanPath(`/${subpath}`);
  const path = await realpath(join(mountpoint, inside)).catch((cause: unknown) => {
    throw new ClusterError(
      "invalid-argument",
      `cannot access path ${inside} of the image: it does not exist`,
      { cause },
    );
  });
  const root = await realpath(mountpoint);
  if (path !== root && !path.startsWith(`${root}/`)) {
    throw new ClusterError("invalid-argument", `invalid subpath ${subpath}: it leads out of the image`);
  }
  return path;
}
