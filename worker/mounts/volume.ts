/** Named and anonymous volumes of the local driver: `<directory>/<name>/_data` and a record beside it. */
import { mkdir, readdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { Clock } from "../../runtime/clock.ts";
import { mountPoints } from "./mountinfo.ts";
import { isVolumeName, requireVolumeName } from "./plan.ts";
import { runTool } from "./tool.ts";
import { volumeSource, type VolumeSource } from "./volume-options.ts";

export interface VolumeRecord {
  readonly name: string;
  readonly labels: Labels;
  /** Of the driver; empty for a plain directory. */
  readonly options: Labels;
  readonly createdAtMs: number;
  /** Made for one container; goes with it. */
  readonly anonymous: boolean;
  /** Path of the data on the host. */
  readonly mountpoint: string;
}

export interface VolumeSettings {
  readonly labels: Labels;
  readonly options?: Labels;
  readonly anonymous: boolean;
}

export interface Volumes {
  /** Makes it if need be; `fresh` when it did, or when nobody has filled it yet. @throws {ClusterError} `invalid-argument`. */
  create(name: string, settings: VolumeSettings): Promise<VolumeRecord & { readonly fresh: boolean }>;
  /**
   * Mounts what its options name, unless it is, and keeps it so until each user has released it. The same user
   * again is one. A plain directory needs none of it.
   *
   * @throws {ClusterError} `failed-precondition` when the mount fails.
   */
  use(name: string, user: string): Promise<void>;
  /** As `use` for what was mounted for this user by a former process; mounts nothing. */
  hold(name: string, user: string): Promise<void>;
  /** The last one's release takes the mount away. For whoever does not use it: no-op. */
  release(name: string, user: string): Promise<void>;
  /** Takes away the mounts that nobody uses, which a former process left. */
  releaseUnused(): Promise<void>;
  /** The image's content has been copied, or is not to be. */
  filled(name: string): Promise<void>;
  get(name: string): Promise<VolumeRecord | undefined>;
  list(): Promise<readonly VolumeRecord[]>;
  /** Bytes on disk; undefined for a mount of something else. */
  diskBytes(name: string): Promise<number | undefined>;
  /** It outlives the container it was made for. */
  keep(name: string): Promise<void>;
  remove(name: string): Promise<void>;
}

export interface VolumesDeps {
  readonly clock: Clock;
  /** `<stateDir>/volumes` */
  readonly directory: string;
}

/** By which Docker's clients tell volumes that nobody named. */
const anonymousLabel = "com.docker.volume.anonymous";

interface StoredVolume {
  readonly labels: Labels;
  /** Absent in records of older versions. */
  readonly options?: Labels;
  readonly createdAtMs: number;
  readonly anonymous: boolean;
  readonly filled: boolean;
}

export function openVolumes({ clock, directory }: VolumesDeps): Volumes {
  /** What is under way, by name: mounting and removing the same volume must not meet. */
  const busy = new Map<string, Promise<unknown>>();
  /** Of what is mounted for them, by name. */
  const users = new Map<string, Set<string>>();

  return {
    create: (name, settings) => alone(name, () => made(name, settings)),

    use: (name, user) =>
      alone(name, async () => {
        const options = (await load(name))?.options ?? {};
        if (Object.keys(options).length === 0) return;
        await mounted(name, options);
        addUser(name, user);
      }),

    hold: (name, user) =>
      alone(name, async () => {
        if (Object.keys((await load(name))?.options ?? {}).length > 0) addUser(name, user);
      }),

    async release(name, user) {
      if (users.get(name)?.has(user) !== true) return;
      await alone(name, async () => {
        users.get(name)?.delete(user);
        await unmountUnused(name);
      });
    },

    async releaseUnused() {
      for (const name of await readdir(directory).catch(noneIfMissing)) {
        await alone(name, async () => {
          const options = (await load(name))?.options ?? {};
          if (Object.keys(options).length > 0) await unmountUnused(name);
        });
      }
    },

    filled: (name) =>
      alone(name, async () => {
        const stored = await load(name);
        if (stored !== undefined && !stored.filled) await save(name, { ...stored, filled: true });
      }),

    async get(name) {
      const stored = await load(name);
      return stored && recordOf(name, stored);
    },

    async list() {
      const names = await readdir(directory).catch(noneIfMissing);
      const volumes = await Promise.all(
        names.map(async (name) => {
          const stored = await load(name);
          return stored && recordOf(name, stored);
        }),
      );
      return volumes.filter((volume) => volume !== undefined);
    },

    async diskBytes(name) {
      const stored = await load(name);
      if (stored === undefined || Object.keys(stored.options ?? {}).length > 0) return undefined;
      // Files may go while they are counted: du then says so and still prints the sum.
      const printed = await runTool("sh", [
        "-c",
        'du -sx -B1 -- "$1" 2>/dev/null || true',
        "sh",
        dataOf(name),
      ]);
      return Number.parseInt(printed, 10) || 0;
    },

    keep: (name) =>
      alone(name, async () => {
        const stored = await load(name);
        if (stored?.anonymous !== true) return;
        const labels = { ...stored.labels, [anonymousLabel]: "" };
        await save(name, { ...stored, labels, anonymous: false });
      }),

    remove: (name) =>
      alone(name, async () => {
        requireVolumeName(name);
        // Before anything is removed: what is mounted there is not ours to empty.
        users.delete(name);
        await unmountUnused(name);
        const inside = await mountsBelow(name);
        if (inside.length > 0)
          throw new ClusterError(
            "conflict",
            `remove ${name}: ${inside.join(", ")} is mounted inside the volume`,
          );
        await rm(join(directory, name), { recursive: true, force: true });
      }),
  };

  async function made(
    name: string,
    { labels, options = {}, anonymous }: VolumeSettings,
  ): Promise<VolumeRecord & { readonly fresh: boolean }> {
    requireVolumeName(name);
    const stored = await load(name);
    if (stored !== undefined) return { ...recordOf(name, stored), fresh: !stored.filled };
    volumeSource(options);
    const fresh: StoredVolume = { labels, options, createdAtMs: clock.now(), anonymous, filled: false };
    await mkdir(dataOf(name), { recursive: true });
    await save(name, fresh);
    return { ...recordOf(name, fresh), fresh: true };
  }

  async function mounted(name: string, options: Labels): Promise<void> {
    const source = volumeSource(options);
    if (source === undefined || (await isMounted(name))) return;
    const target = dataOf(name);
    const data = await resolvedOptions(source);
    try {
      // Without the programs of file systems, as Docker does it: the kernel alone decides.
      await runTool("mount", [
        "-i",
        "-t",
        source.type,
        ...(data === "" ? [] : ["-o", data]),
        "--",
        source.device,
        target,
      ]);
    } catch (cause) {
      throw new ClusterError(
        "failed-precondition",
        `failed to mount local volume: mount ${source.device}:${target}, data: ${data}: ${errorText(cause)}`,
        { cause },
      );
    }
  }

  function addUser(name: string, user: string): void {
    users.set(name, (users.get(name) ?? new Set()).add(user));
  }

  async function unmountUnused(name: string): Promise<void> {
    if ((users.get(name)?.size ?? 0) > 0) return;
    users.delete(name);
    while (await isMounted(name)) await runTool("umount", [dataOf(name)]);
  }

  async function isMounted(name: string): Promise<boolean> {
    const target = await realpath(dataOf(name)).catch(emptyIfMissing);
    return (await mountPoints()).includes(target);
  }

  async function mountsBelow(name: string): Promise<string[]> {
    const target = await realpath(join(directory, name)).catch(emptyIfMissing);
    return (await mountPoints()).filter((path) => target !== "" && path.startsWith(`${target}/`));
  }

  function recordOf(name: string, stored: StoredVolume): VolumeRecord {
    const { labels, options = {}, createdAtMs, anonymous } = stored;
    return { name, labels, options, createdAtMs, anonymous, mountpoint: dataOf(name) };
  }

  function dataOf(name: string): string {
    return join(directory, name, "_data");
  }

  async function load(name: string): Promise<StoredVolume | undefined> {
    if (!isVolumeName(name)) return undefined; // It could lead out of the directory.
    let text: string;
    try {
      text = await readFile(join(directory, name, "volume.json"), "utf8");
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
    try {
      return JSON.parse(text) as StoredVolume;
    } catch (cause) {
      throw new ClusterError(
        "data-loss",
        `the record of volume ${name} is damaged: remove ${join(directory, name, "volume.json")} to adopt its data again`,
        { cause },
      );
    }
  }

  async function save(name: string, volume: StoredVolume): Promise<void> {
    const path = join(directory, name, "volume.json");
    await writeFile(`${path}.new`, JSON.stringify(volume));
    await rename(`${path}.new`, path);
  }

  async function alone<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
    for (let other = busy.get(name); other !== undefined; other = busy.get(name)) {
      await other.catch(() => {}); // Whoever began it has its failure.
    }
    const mine = work();
    busy.set(name, mine);
    try {
      return await mine;
    } finally {
      busy.delete(name);
    }
  }
}

/** The kernel takes addresses only; names are looked up as late as this, since they may move. */
async function resolvedOptions({ options }: VolumeSource): Promise<string> {
  const parts = await Promise.all(
    options.split(",").map(async (part) => {
      const host = /^addr=(.+)$/.exec(part)?.[1];
      if (host === undefined || isIP(host) !== 0) return part;
      try {
        return `addr=${(await lookup(host)).address}`;
      } catch (cause) {
        throw new ClusterError(
          "failed-precondition",
          `error resolving passed in network volume address: ${errorText(cause)}`,
          { cause },
        );
      }
    }),
  );
  return parts.join(",");
}

function noneIfMissing(error: unknown): string[] {
  if (isMissing(error)) return [];
  throw error;
}

function emptyIfMissing(error: unknown): string {
  if (isMissing(error)) return "";
  throw error;
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
