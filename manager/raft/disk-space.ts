import type { BlockDisk } from "../../runtime/disk.ts";
import type { Log } from "../../runtime/log.ts";

const fillBytes = 1024 * 1024;

/** Whether writes may be taken in: `short` once the disk was found full, until the reserve is whole again. */
export type SpaceState = "ample" | "short";

/**
 * Room set aside so that a full disk can be got out of: with the reserve given up, the log can go on while a snapshot is
 * made that lets old segments go.
 */
export class DiskSpace {
  readonly #disk: BlockDisk;
  readonly #log: Pick<Log, "info" | "warn">;
  readonly #path: string;
  readonly #bytes: number;
  #state: SpaceState = "ample";

  constructor(
    { disk, log }: { readonly disk: BlockDisk; readonly log: Pick<Log, "info" | "warn"> },
    { path, bytes }: { readonly path: string; readonly bytes: number },
  ) {
    this.#disk = disk;
    this.#log = log;
    this.#path = path;
    this.#bytes = bytes;
  }

  get state(): SpaceState {
    return this.#state;
  }

  /** The disk was found full: gives the reserve up. @throws what the disk says, other than that it is full. */
  async spend(): Promise<void> {
    this.#become("short");
    try {
      await this.#disk.remove(this.#path);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
  }

  /** Makes the reserve whole, if there is room for it. @throws what the disk says, other than that it is full. */
  async restore(): Promise<SpaceState> {
    try {
      const known = await this.#disk.openRead(this.#path);
      await known?.close();
      if (known?.bytes !== this.#bytes) {
        const file = await fillWithZeros(this.#disk, this.#path, this.#bytes);
        await file.close();
      }
    } catch (error) {
      if (!isFull(error)) throw error;
      await this.spend();
      return this.#state;
    }
    this.#become("ample");
    return this.#state;
  }

  #become(state: SpaceState): void {
    if (state === this.#state) return;
    this.#state = state;
    if (state === "ample") this.#log.info({}, "the disk has room again");
    else
      this.#log.warn({ path: this.#path }, "the disk is full: this manager waits for room; free some space");
  }
}

/** Real zeros rather than a hole: later writes need no room, and their syncs no block map. */
export async function fillWithZeros(
  disk: BlockDisk,
  path: string,
  bytes: number,
): ReturnType<BlockDisk["openBlocks"]> {
  const file = await disk.openBlocks(path);
  try {
    const zeros = new Uint8Array(Math.min(bytes, fillBytes));
    for (let at = 0; at < bytes; at += fillBytes) {
      await file.write(at, zeros.subarray(0, Math.min(fillBytes, bytes - at)));
    }
    await file.sync();
    return file;
  } catch (error) {
    await file.close().catch(() => undefined); // The failure to report is the first one.
    throw error;
  }
}

export function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOSPC" || code === "EDQUOT";
}
