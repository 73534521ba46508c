/** Room on the disk that what comes from elsewhere never takes. */
import { statfs } from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";

/** Others write there as well. */
const reservedDiskBytes = 512 * 2 ** 20;
/** Whoever writes looks again after this much. */
const spaceCheckBytes = 64 * 2 ** 20;

/** Looks again after each so many bytes, of whatever number of files that are written there. */
export class RoomCheck {
  readonly #directory: string;
  #uncheckedBytes = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** @throws {ClusterError} as `requireRoom`. */
  async add(bytes: number): Promise<void> {
    this.#uncheckedBytes += bytes;
    if (this.#uncheckedBytes < spaceCheckBytes) return;
    this.#uncheckedBytes = 0;
    await this.look();
  }

  /** @throws {ClusterError} as `requireRoom`. */
  look(): Promise<void> {
    return requireRoom(this.#directory);
  }
}

/** More than the reserve is free where the directory lies. */
export async function hasRoom(directory: string): Promise<boolean> {
  return (await freeBytes(directory)) >= reservedDiskBytes;
}

/** @throws {ClusterError} `resource-exhausted` once no more than the reserve is free where the directory lies. */
export async function requireRoom(directory: string): Promise<void> {
  const free = await freeBytes(directory);
  if (free >= reservedDiskBytes) return;
  throw new ClusterError(
    "resource-exhausted",
    `no space left on device: ${free} bytes are free at ${directory}, ${reservedDiskBytes} are kept`,
  );
}

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}
