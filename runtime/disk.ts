import { dirname } from "node:path";
import { type DiskCalls, type OpenFile, systemCalls } from "./disk-calls.ts";

/**
 * Durable files, small enough to fake. Paths are absolute; errors are Node's, with their `code`. What changes names
 * (make, replace, rename, remove) is durable when it settles.
 */
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

/** A disk that also reads and writes at positions, as a log of fixed segments and large snapshots need. */
export interface BlockDisk extends Disk {
  /** Opens for writing at positions; creates the file, durably in its directory. */
  openBlocks(path: string, mode?: number): Promise<BlockFile>;
  /** Opens for reading; undefined when there is none. What was opened stays readable after its name is gone. */
  openRead(path: string): Promise<ReadFile | undefined>;
  /** Takes the place of what was at `to`. The contents have to be synced before. */
  rename(from: string, to: string): Promise<void>;
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

export interface ReadFile {
  readonly bytes: number;
  /**
   * `length` bytes from `position`; fewer at the end of the file.
   *
   * @param into - Holds at least as many, and is read into; new memory when absent.
   */
  read(position: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

const privateMode = 0o600;
const privateDirectoryMode = 0o700;

/** The durable operations as sequences of single calls. */
export function diskOver(calls: DiskCalls): BlockDisk {
  async function openRead(path: string): Promise<ReadFile | undefined> {
    const file = await missingAsUndefined(calls.open(path, "read", privateMode));
    if (file === undefined) return undefined;
    return {
      bytes: await closedOnError(file, file.size()),
      read: (position, length, into = new Uint8Array(length)) =>
        readAll(file, position, into.subarray(0, length)),
      close: () => file.close(),
    };
  }

  return {
    openRead,

    async read(path) {
      const file = await openRead(path);
      if (file === undefined) return undefined;
      try {
        return await file.read(0, file.bytes);
      } finally {
        await file.close();
      }
    },

    async list(directory) {
      return (await missingAsUndefined(calls.list(directory))) ?? [];
    },

    async makeDirectory(directory, mode = privateDirectoryMode) {
      await calls.makeDirectory(directory, mode);
      // All the way up, also when it was there: whoever made it may have died before its name was durable.
      for (let child = directory; child !== dirname(child); child = dirname(child)) {
        const synced = await foreignAsUndefined(calls.syncDirectory(dirname(child)).then(() => true));
        if (synced === undefined) return;
      }
    },

    async replace(path, data, mode = privateMode) {
      const temporary = `${path}.new`;
      const file = await calls.open(temporary, "replace", mode);
      try {
        await writeAll(file, 0, data);
        await file.datasync();
      } finally {
        await file.close();
      }
      await calls.rename(temporary, path);
      await calls.syncDirectory(dirname(path));
    },

    async rename(from, to) {
      await calls.rename(from, to);
      await calls.syncDirectory(dirname(to));
    },

    async remove(path) {
      await calls.remove(path);
      await missingAsUndefined(calls.syncDirectory(dirname(path)));
    },

    async openAppend(path, mode = privateMode) {
      const file = await calls.open(path, "append", mode);
      await closedOnError(file, calls.syncDirectory(dirname(path)));
      return {
        append: (data) => writeAll(file, 0, data),
        sync: () => file.datasync(),
        close: () => file.close(),
      };
    },

    async openBlocks(path, mode = privateMode) {
      const plain = await calls.open(path, "write", mode);
      const synced = await closedOnError(plain, calls.open(path, "write-synced", mode));
      await closedOnError(plain, closedOnError(synced, calls.syncDirectory(dirname(path))));
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
}

export const systemDisk: BlockDisk = diskOver(systemCalls);

async function writeAll(file: OpenFile, position: number, data: Uint8Array): Promise<void> {
  let written = 0;
  while (written < data.byteLength) {
    written += await file.write(written === 0 ? data : data.subarray(written), position + written);
  }
}

async function readAll(file: OpenFile, position: number, bytes: Uint8Array): Promise<Uint8Array> {
  let filled = 0;
  while (filled < bytes.byteLength) {
    const read = await file.read(filled === 0 ? bytes : bytes.subarray(filled), position + filled);
    if (read === 0) return bytes.subarray(0, filled);
    filled += read;
  }
  return bytes;
}

/** What opening began must not leave a descriptor behind when a later step fails. */
async function closedOnError<T>(file: OpenFile, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (error) {
    await file.close().catch(() => undefined); // The failure to report is the first one.
    throw error;
  }
}

function missingAsUndefined<T>(call: Promise<T>): Promise<T | undefined> {
  return undefinedOn(["ENOENT"], call);
}

/** A directory that we may not open, or that cannot be synced, is not one that we made. */
function foreignAsUndefined<T>(call: Promise<T>): Promise<T | undefined> {
  return undefinedOn(["EACCES", "EPERM", "EROFS", "EINVAL"], call);
}

async function undefinedOn<T>(codes: readonly string[], call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (codes.includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}
