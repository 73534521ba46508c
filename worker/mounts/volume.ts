/** Named and anonymous volumes of the local driver: `<directory>/<name>/_data` and a record beside it. */
import { mkdir, open, readdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { Clock } from "../../runtime/clock.ts";
import { Turns } from "../../runtime/turns.ts";
import { diskBytes } from "./disk-bytes.ts";
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
  /** Container that will have it for as long as there is the container, as by `claim`. */
  readonly owner?: string;
}

export interface Volumes {
  /** Makes it if need be. @throws {ClusterError} `invalid-argument`. */
  create(name: string, settings: VolumeSettings): Promise<VolumeRecord>;
  /** A container has it, running or not: it cannot be removed. */
  claim(name: string, owner: string): void;
  /**
   * The end of a claim. An anonymous volume goes with the last one, or, "kept", outlives it under its name.
   */
  abandon(name: string, owner: string, anonymous: "kept" | "removed"): Promise<void>;
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
  /**
   * Gives an empty volume its first content; for each container that is to have it, before it has. What one that was cut short has left
   * goes first; nobody else gets the volume meanwhile.
   *
   * @param contentFor - What copies to a directory, or undefined when there is nothing to copy.
   */
  fill(name: string, owner: string, contentFor: () => Promise<VolumeContent | undefined>): Promise<void>;
  get(name: string): Promise<VolumeRecord | undefined>;
  list(): Promise<readonly VolumeRecord[]>;
  /** Bytes on disk; undefined for a mount of something else. */
  diskBytes(name: string): Promise<number | undefined>;
  /** @throws {ClusterError} `conflict` while a container has it, or something is mounted inside. */
  remove(name: string): Promise<void>;
}

export type VolumeContent = (directory: string) => Promise<void>;

export interface VolumesDeps {
  readonly clock: Clock;
  /** `<stateDir>/volumes` */
  readonly directory: string;
  readonly warn: (message: string, error: unknown) => void;
}

/** By which Docker's clients tell volumes that nobody named. */
const anonymousLabel = "com.docker.volume.anonymous";

interface StoredVolume {
  readonly labels: Labels;
  /** Absent in records of older versions. */
  readonly options?: Labels;
  readonly createdAtMs: number;
  readonly anonymous: boolean;
  /** What is there is a part of what the image has. */
  readonly filling?: boolean;
}

export function openVolumes({ clock, directory, warn }: VolumesDeps): Volumes {
  /** What is under way, by name: mounting and removing the same volume must not meet. */
  const turns = new Turns();
  /** Of what is mounted for them, by name. */
  const users = new Map<string, Set<string>>();
  /** Containers that have each, whether they run or not. */
  const owners = new Map<string, Set<string>>();

  return {
    create: (name, settings) =>
      alone(name, async () => {
        const volume = await made(name, settings);
        // Before anybody can remove it.
        if (settings.owner !== undefined) claim(name, settings.owner);
        return volume;
      }),

    claim,

    async abandon(name, owner, anonymous) {
      if (owners.get(name)?.has(owner) !== true) return;
      await alone(name, async () => {
        const stored = await load(name);
        if (stored?.anonymous === true && anonymous === "kept") {
          const labels = { ...stored.labels, [anonymousLabel]: "" };
          await save(name, { ...stored, labels, anonymous: false });
        }
        // Not before it is gone: whoever fails here tries again, and is still its owner.
        if (stored?.anonymous === true && anonymous === "removed" && isOnlyOwner(name, owner))
          await removed(name);
        owners.get(name)?.delete(owner);
        if (owners.get(name)?.size === 0) owners.delete(name);
      });
    },

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
        }).catch((error: unknown) => warn(`cannot unmount volume ${name}, which nobody uses`, error));
      }
    },

    fill: (name, owner, contentFor) =>
      alone(name, async () => {
        const stored = await load(name);
        if (stored === undefined) return;
        const { filling = false, ...whole } = stored;
        const data = dataOf(name);
        if (filling) {
          // What others may have written since is theirs. The mark ends here in any case: what is written from now on is no remainder.
          const isOurs = Object.keys(stored.options ?? {}).length === 0 && isOnlyOwner(name, owner);
          if (isOurs) await emptied(data);
          await save(name, whole);
        }
        if ((await readdir(data)).length > 0) return;
        const content = await contentFor();
        if (content === undefined) return;
        await save(name, { ...whole, filling: true });
        await content(data);
        await save(name, whole);
      }),

    async get(name) {
      const stored = await load(name);
      return stored && recordOf(name, stored);
    },

    async list() {
      const names = await readdir(directory).catch(noneIfMissing);
      const volumes = await Promise.all(
        names.map(async (name) => {
          const stored = await load(name).catch((error: unknown) => {
            warn(`volume ${name} is passed over`, error);
            return undefined;
          });
          return stored && recordOf(name, stored);
        }),
      );
      return volumes.filter((volume) => volume !== undefined);
    },

    async diskBytes(name) {
      const stored = await load(name);
      if (stored === undefined || Object.keys(stored.options ?? {}).length > 0) return undefined;
      return diskBytes(dataOf(name), warn);
    },

    async remove(name) {
      requireVolumeName(name);
      requireUnclaimed(name); // At once, however long a container fills it.
      await alone(name, async () => {
        requireUnclaimed(name);
        await removed(name);
      });
    },
  };

  function claim(name: string, owner: string): void {
    owners.set(name, (owners.get(name) ?? new Set()).add(owner));
  }

  function isOnlyOwner(name: string, owner: string): boolean {
    return [...(owners.get(name) ?? [])].every((each) => each === owner);
  }

  function requireUnclaimed(name: string): void {
    const claims = owners.get(name);
    if (claims === undefined || claims.size === 0) return;
    throw new ClusterError("conflict", `remove ${name}: volume is in use - [${[...claims].join(", ")}]`);
  }

  async function removed(name: string): Promise<void> {
    // Before anything is removed: what is mounted there is not ours to empty.
    users.delete(name);
    await unmountUnused(name);
    const inside = await mountsBelow(name);
    if (inside.length > 0) {
      const text = `remove ${name}: ${inside.join(", ")} is mounted inside the volume`;
      throw new ClusterError("conflict", text);
    }
    await rm(join(directory, name), { recursive: true, force: true });
  }

  async function made(
    name: string,
    { labels, options = {}, anonymous }: VolumeSettings,
  ): Promise<VolumeRecord> {
    requireVolumeName(name);
    const stored = await load(name);
    if (stored !== undefined) return recordOf(name, stored);
    volumeSource(options);
    const fresh: StoredVolume = { labels, options, createdAtMs: clock.now(), anonymous };
    await mkdir(dataOf(name), { recursive: true });
    await save(name, fresh);
    return recordOf(name, fresh);
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
      return parsed(text);
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
    await writeFile(`${path}.new`, JSON.stringify(volume), { flush: true });
    await rename(`${path}.new`, path);
    for (const each of [join(directory, name), directory]) await synced(each);
  }

  function alone<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
    return turns.take(name, work);
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

function parsed(text: string): StoredVolume {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) throw new Error("it is no object");
  return value as StoredVolume; // As `save` wrote it.
}

async function emptied(directory: string): Promise<void> {
  for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true });
}

/** What has been renamed in it stays so after a power cut. */
async function synced(directory: string): Promise<void> {
  const handle = await open(directory);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
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
