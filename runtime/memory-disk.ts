import type { AppendFile, BlockDisk, BlockFile } from "./disk.ts";

const sectorBytes = 512;

/** What happens to bytes that were written and not synced when the machine dies. */
export type CrashLoss = "all" | "none" | { readonly keepBytes: number };

interface MemoryFile {
  /** What a reader sees. */
  current: Uint8Array;
  /** What a crash leaves, plus the changes since, in order. */
  durable: Uint8Array;
  pending: { readonly position: number; readonly data: Uint8Array }[];
}

/**
 * A disk in memory that can lose power and fill up or fail. Directory operations are durable at once; file contents
 * only after a sync.
 */
export class MemoryDisk implements BlockDisk {
  readonly #files = new Map<string, MemoryFile>();
  /** Called before each effect; what it throws is the failure of that call. */
  onEffect: (effect: "write" | "sync" | "replace" | "remove" | "create", path: string) => void = () => {};

  async read(path: string): Promise<Uint8Array | undefined> {
    return this.#files.get(path)?.current.slice();
  }

  async list(directory: string): Promise<string[]> {
    const prefix = `${directory}/`;
    return [...this.#files.keys()]
      .filter((path) => path.startsWith(prefix) && !path.slice(prefix.length).includes("/"))
      .map((path) => path.slice(prefix.length));
  }

  async makeDirectory(): Promise<void> {
    // Directories are only prefixes here.
  }

  async replace(path: string, data: Uint8Array): Promise<void> {
    this.onEffect("replace", path);
    this.#files.set(path, { current: data.slice(), durable: data.slice(), pending: [] });
  }

  async remove(path: string): Promise<void> {
    this.onEffect("remove", path);
    for (const name of this.#files.keys()) {
      if (name === path || name.startsWith(`${path}/`)) this.#files.delete(name);
    }
  }

  async openAppend(path: string): Promise<AppendFile> {
    const file = this.#open(path);
    return {
      append: async (data) => this.#write(path, file, file.current.byteLength, data),
      sync: async () => this.#sync(path, file),
      close: async () => {},
    };
  }

  async openBlocks(path: string): Promise<BlockFile> {
    const file = this.#open(path);
    return {
      write: async (position, data) => this.#write(path, file, position, data),
      sync: async () => this.#sync(path, file),
      commit: async (position, data) => {
        this.#write(path, file, position, data);
        this.#sync(path, file);
      },
      close: async () => {},
    };
  }

  /** Power goes: of each file the synced bytes stay and, of the others, what `loss` says. */
  crash(loss: CrashLoss): void {
    for (const file of this.#files.values()) {
      let left: number = loss === "all" ? 0 : loss === "none" ? Number.MAX_SAFE_INTEGER : loss.keepBytes;
      for (const { position, data } of file.pending) {
        const kept = data.subarray(
          0,
          wholeSectors(position, Math.min(left, data.byteLength), data.byteLength),
        );
        left -= data.byteLength;
        file.durable = withBytes(file.durable, position, kept);
      }
      file.pending = [];
      file.current = file.durable.slice();
    }
  }

  /** Changes bytes behind everybody's back, as a failing disk does. */
  damage(path: string, change: (bytes: Uint8Array) => void): void {
    const file = this.#files.get(path);
    if (file === undefined) throw new Error(`no file ${path} on this disk`);
    change(file.current);
    file.durable = file.current.slice();
    file.pending = [];
  }

  #open(path: string): MemoryFile {
    const known = this.#files.get(path);
    if (known !== undefined) return known;
    this.onEffect("create", path);
    const file: MemoryFile = { current: new Uint8Array(), durable: new Uint8Array(), pending: [] };
    this.#files.set(path, file);
    return file;
  }

  #write(path: string, file: MemoryFile, position: number, data: Uint8Array): void {
    const copy = data.slice();
    file.pending.push({ position, data: copy });
    file.current = withBytes(file.current, position, copy);
    this.onEffect("write", path);
  }

  #sync(path: string, file: MemoryFile): void {
    this.onEffect("sync", path);
    file.durable = file.current.slice();
    file.pending = [];
  }
}

/** A disk writes a sector wholly or not at all. */
function wholeSectors(position: number, keepBytes: number, allBytes: number): number {
  if (keepBytes <= 0 || keepBytes >= allBytes) return Math.max(0, keepBytes);
  const end = Math.floor((position + keepBytes) / sectorBytes) * sectorBytes;
  return Math.max(0, end - position);
}

function withBytes(bytes: Uint8Array, position: number, data: Uint8Array): Uint8Array {
  const end = position + data.byteLength;
  if (end <= bytes.byteLength) {
    const changed = bytes.slice();
    changed.set(data, position);
    return changed;
  }
  const grown = new Uint8Array(end);
  grown.set(bytes);
  grown.set(data, position);
  return grown;
}
