import { constants } from "node:fs";
import { type FileHandle, mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/** Durable files, small enough to fake. Paths are absolute; errors are Node's, with their `code`. */
export interface Disk {
  /** The whole file; undefined when there is none. */
  read(path: string): Promise<Uint8Array | undefined>;
  /** Names in a directory, in no order; empty when there is none. */
  list(directory: string): Promise<string[]>;
  makeDirectory(directory: string, mode?: number): Promise<void>;
  /** Replaces the file in one step that survives a crash: temporary file, fsync, rename, fsync of the directory. */
  replace(path: string, data: Uint8Array, mode?: number): Promise<void>;
  /** Removes a file or a whole directory; nothing to remove is fine. */
  remove(path: string): Promise<void>;
  /** Opens for appending; creates the file, durably in its directory. */
  openAppend(path: string, mode?: number): Promise<AppendFile>;
}

/** A disk that also writes at positions, as a log of fixed segments needs. */
export interface BlockDisk extends Disk {
  /** Opens for writing at positions; creates the file, durably in its directory. */
  openBlocks(path: string, mode?: number): Promise<BlockFile>;
}

/** A file written at positions; a gap reads as zeros. One call at a time. */
export interface BlockFile {
  /** In the system's cache; durable only after {@link sync}. */
  write(position: number, data: Uint8Array): Promise<void>;
  sync(): Promise<void>;
  /** Writes and settles when these bytes are on disk: one call where `write` and `sync` would be two. */
  commit(position: number, data: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface AppendFile {
  append(data: Uint8Array): Promise<void>;
  /** Settles when everything appended before is on disk. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

const privateMode = 0o600;

export const systemDisk: BlockDisk = {
  async read(path) {
    try {
      return await readFile(path);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  },

  async list(directory) {
    try {
      return await readdir(directory);
    } catch (error) {
      if (isMissing(error)) return [];
      throw error;
    }
  },

  async makeDirectory(directory, mode = 0o700) {
    await mkdir(directory, { recursive: true, mode });
  },

  async replace(path, data, mode = privateMode) {
    const temporary = `${path}.new`;
    const file = await open(temporary, "w", mode);
    try {
      await file.writeFile(data);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  },

  async remove(path) {
    await rm(path, { recursive: true, force: true });
  },

  async openAppend(path, mode = privateMode) {
    const file = await open(path, "a", mode);
    await syncDirectory(dirname(path));
    return {
      append: (data) => file.appendFile(data),
      sync: () => file.datasync(),
      close: () => file.close(),
    };
  },

  async openBlocks(path, mode = privateMode) {
    const { O_CREAT, O_DSYNC, O_RDWR } = constants;
    const plain = await open(path, O_CREAT | O_RDWR, mode);
    const synced = await open(path, O_RDWR | O_DSYNC);
    await syncDirectory(dirname(path));
    return {
      write: (position, data) => writeAll(plain, position, data),
      sync: () => plain.datasync(),
      commit: (position, data) => writeAll(synced, position, data),
      async close() {
        await Promise.all([plain.close(), synced.close()]);
      },
    };
  },
};

async function writeAll(file: FileHandle, position: number, data: Uint8Array): Promise<void> {
  let written = 0;
  while (written < data.byteLength) {
    const rest = data.byteLength - written;
    const { bytesWritten } = await file.write(data, written, rest, position + written);
    written += bytesWritten;
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
