import type { VolumeRecord, Volumes, VolumeSettings } from "../../worker/mounts/volume.ts";

/** Volumes without a disk. */
export class FakeVolumes implements Volumes {
  readonly #volumes = new Map<string, VolumeRecord>();

  async create(name: string, { labels, options = {}, anonymous }: VolumeSettings): Promise<VolumeRecord> {
    const before = this.#volumes.get(name);
    if (before !== undefined) return before;
    const made = { name, labels, options, anonymous, createdAtMs: 0, mountpoint: `/volumes/${name}/_data` };
    this.#volumes.set(name, made);
    return made;
  }

  async use(): Promise<void> {}

  async hold(): Promise<void> {}

  async release(): Promise<void> {}

  async releaseUnused(): Promise<void> {}

  claim(): void {}

  async fill(): Promise<void> {}

  async get(name: string): Promise<VolumeRecord | undefined> {
    return this.#volumes.get(name);
  }

  async list(): Promise<VolumeRecord[]> {
    return [...this.#volumes.values()];
  }

  async diskBytes(): Promise<number> {
    return 0;
  }

  async abandon(name: string, _owner: string, anonymous: "kept" | "removed"): Promise<void> {
    const volume = this.#volumes.get(name);
    if (volume?.anonymous !== true) return;
    if (anonymous === "kept") this.#volumes.set(name, { ...volume, anonymous: false });
    else this.#volumes.delete(name);
  }

  async remove(name: string): Promise<void> {
    this.#volumes.delete(name);
  }
}
