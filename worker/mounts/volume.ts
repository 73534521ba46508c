/** Volumes of the local driver: a directory each, `<stateDir>/volumes/<name>/_data`, with `volume.json` beside it. */
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { Clock } from "../../runtime/clock.ts";
import { requireVolumeName } from "./plan.ts";

export interface VolumeRecord {
  readonly name: string;
  readonly labels: Labels;
  readonly createdAtMs: number;
  /** Made for one container; goes with it. */
  readonly anonymous: boolean;
  /** Path of the data on the host. */
  readonly mountpoint: string;
}

export interface Volumes {
  /** Makes it if need be; `fresh` when it did, or when nobody has filled it yet. */
  ensure(
    name: string,
    settings: { labels: Labels; anonymous: boolean },
  ): Promise<VolumeRecord & { readonly fresh: boolean }>;
  /** The image's content has been copied, or is not to be. */
  filled(name: string): Promise<void>;
  get(name: string): Promise<VolumeRecord | undefined>;
  list(): Promise<readonly VolumeRecord[]>;
  remove(name: string): Promise<void>;
}

export interface VolumesDeps {
  readonly clock: Clock;
  /** `<stateDir>/volumes` */
  readonly directory: string;
}

interface StoredVolume {
  readonly labels: Labels;
  readonly createdAtMs: number;
  readonly anonymous: boolean;
  readonly filled: boolean;
}

export function openVolumes({ clock, directory }: VolumesDeps): Volumes {
  return {
    async ensure(name, { labels, anonymous }) {
      requireVolumeName(name);
      const stored = await load(name);
      if (stored !== undefined) return { ...recordOf(name, stored), fresh: !stored.filled };
      const made: StoredVolume = { labels, createdAtMs: clock.now(), anonymous, filled: false };
      await mkdir(join(directory, name, "_data"), { recursive: true });
      await save(name, made);
      return { ...recordOf(name, made), fresh: true };
    },

    async filled(name) {
      const stored = await load(name);
      if (stored !== undefined && !stored.filled) await save(name, { ...stored, filled: true });
    },

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

    async remove(name) {
      requireVolumeName(name);
      await rm(join(directory, name), { recursive: true, force: true });
    },
  };

  function recordOf(name: string, { labels, createdAtMs, anonymous }: StoredVolume): VolumeRecord {
    return { name, labels, createdAtMs, anonymous, mountpoint: join(directory, name, "_data") };
  }

  async function load(name: string): Promise<StoredVolume | undefined> {
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
}

function noneIfMissing(error: unknown): string[] {
  if (isMissing(error)) return [];
  throw error;
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
