import { constants } from "node:fs";
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";

/**
 * How a file is opened: to read what is there; to write at positions, made when it is missing; the same with every
 * write durable when it settles (`O_DSYNC`); emptied first; to write at its end.
 */
export type OpenHow = "read" | "write" | "write-synced" | "replace" | "append";

/**
 * The system's calls, one each: what a power cut can come between, and what can fail. Errors are Node's, with their
 * `code`. {@link diskOver} makes durable operations of them, so that a simulated disk runs the same sequences.
 */
export interface DiskCalls {
  /** Fails with `ENOENT` when it is to be read and not there. A new name is durable only after `syncDirectory`. */
  open(path: string, how: OpenHow, mode: number): Promise<OpenFile>;
  /** With missing parents; one that is there is fine. */
  makeDirectory(path: string, mode: number): Promise<void>;
  /** Fails with `ENOENT` when there is none. */
  list(directory: string): Promise<string[]>;
  rename(from: string, to: string): Promise<void>;
  /** A file, or a directory with all that is in it; nothing to remove is fine. */
  remove(path: string): Promise<void>;
  syncDirectory(directory: string): Promise<void>;
}

/** An open file; positions and sizes in bytes. */
export interface OpenFile {
  size(): Promise<number>;
  /** Bytes read into `into`; fewer than fit only at the end. */
  read(into: Uint8Array, position: number): Promise<number>;
  /** Bytes written, which may be fewer than given. A file opened to append ignores `position`. */
  write(data: Uint8Array, position: number): Promise<number>;
  /** As fdatasync(2): the contents, and what is needed to find them again. */
  datasync(): Promise<void>;
  close(): Promise<void>;
}

const { O_APPEND, O_CREAT, O_DSYNC, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = constants;

const openFlags: Record<OpenHow, number> = {
  read: O_RDONLY,
  write: O_CREAT | O_RDWR,
  "write-synced": O_CREAT | O_RDWR | O_DSYNC,
  replace: O_CREAT | O_TRUNC | O_WRONLY,
  append: O_CREAT | O_APPEND | O_WRONLY,
};

export const systemCalls: DiskCalls = {
  async open(path, how, mode) {
    const handle = await open(path, openFlags[how], mode);
    return {
      size: async () => (await handle.stat()).size,
      read: async (into, position) => (await handle.read(into, 0, into.byteLength, position)).bytesRead,
      write: async (data, position) => {
        const at = how === "append" ? null : position;
        return (await handle.write(data, 0, data.byteLength, at)).bytesWritten;
      },
      datasync: () => handle.datasync(),
      close: () => handle.close(),
    };
  },

  async makeDirectory(path, mode) {
    await mkdir(path, { recursive: true, mode });
  },

  list: (directory) => readdir(directory),

  rename: (from, to) => rename(from, to),

  remove: (path) => rm(path, { recursive: true, force: true }),

  async syncDirectory(directory) {
    const handle = await open(directory, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
};
