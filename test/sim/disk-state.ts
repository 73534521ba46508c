/** A disk writes a sector wholly or not at all. */
export const sectorBytes = 512;

/** Which of the changes that were not synced are there after a power loss; asked in the order they were made. */
export interface CrashLoss {
  keepsSector(path: string, sector: number): boolean;
  keepsName(path: string): boolean;
}

/** One file: what a reader sees, what a power cut leaves, and the sectors in which they differ. */
export class SimFile {
  #current = Buffer.alloc(0);
  #durable = Buffer.alloc(0);
  #size = 0;
  #durableSize = 0;
  /** In the order they were last written. */
  readonly #dirty = new Set<number>();

  get size(): number {
    return this.#size;
  }

  get dirtySectors(): readonly number[] {
    return [...this.#dirty];
  }

  read(into: Uint8Array, position: number): number {
    const end = Math.min(this.#size, position + into.byteLength);
    if (position >= end) return 0;
    into.set(this.#current.subarray(position, end));
    return end - position;
  }

  contents(): Buffer {
    return Buffer.from(this.#current.subarray(0, this.#size));
  }

  write(data: Uint8Array, position: number): void {
    if (data.byteLength === 0) return;
    const end = position + data.byteLength;
    this.#current = grown(this.#current, end);
    this.#current.set(data, position);
    this.#size = Math.max(this.#size, end);
    for (const sector of sectorsOf(position, end)) {
      this.#dirty.delete(sector);
      this.#dirty.add(sector);
    }
  }

  truncate(): void {
    this.#size = 0;
    this.#durableSize = 0;
    this.#current.fill(0);
    this.#durable.fill(0);
    this.#dirty.clear();
  }

  sync(): void {
    for (const sector of this.#dirty) this.#store(sector);
    this.#dirty.clear();
    this.#durableSize = this.#size;
  }

  syncRange(position: number, end: number): void {
    for (const sector of sectorsOf(position, end)) if (this.#dirty.delete(sector)) this.#store(sector);
  }

  /** As Linux does after a failed writeback: pages count as clean, and what they hold is not on the disk. */
  forgetDirty(position = 0, end = this.#size): void {
    for (const sector of sectorsOf(position, end)) this.#dirty.delete(sector);
  }

  losePower(keeps: (sector: number) => boolean): void {
    for (const sector of this.#dirty) if (keeps(sector)) this.#store(sector);
    this.#dirty.clear();
    this.#size = this.#durableSize;
    this.#current = Buffer.alloc(this.#size);
    this.#current.set(this.#durable.subarray(0, this.#size));
  }

  /** Changes bytes behind everybody's back, as a failing disk does. */
  damage(change: (bytes: Uint8Array) => void): void {
    this.sync();
    change(this.#current.subarray(0, this.#size));
    this.#durable = Buffer.from(this.#current);
  }

  clone(): SimFile {
    const copy = new SimFile();
    copy.#current = Buffer.from(this.#current);
    copy.#durable = Buffer.from(this.#durable);
    copy.#size = this.#size;
    copy.#durableSize = this.#durableSize;
    for (const sector of this.#dirty) copy.#dirty.add(sector);
    return copy;
  }

  #store(sector: number): void {
    const from = sector * sectorBytes;
    const end = Math.min(this.#size, from + sectorBytes);
    this.#durable = grown(this.#durable, end);
    this.#durable.set(this.#current.subarray(from, end), from);
    this.#durableSize = Math.max(this.#durableSize, end);
  }
}

export type SimNode = { readonly kind: "file"; readonly file: SimFile } | { readonly kind: "directory" };

type NameChange =
  | { readonly kind: "link"; readonly path: string; readonly node: SimNode }
  | { readonly kind: "unlink"; readonly path: string }
  | { readonly kind: "rename"; readonly path: string; readonly from: string; readonly node: SimNode };

/** The names on a disk, which need a sync of their directory to survive a power cut. */
export class SimNames {
  #current = new Map<string, SimNode>();
  #durable = new Map<string, SimNode>();
  #pending: NameChange[] = [];

  get(path: string): SimNode | undefined {
    return path === "/" ? { kind: "directory" } : this.#current.get(path);
  }

  entries(): IterableIterator<[string, SimNode]> {
    return this.#current.entries();
  }

  childrenOf(directory: string): string[] {
    const prefix = directory === "/" ? "/" : `${directory}/`;
    return [...this.#current.keys()].filter(
      (path) => path.startsWith(prefix) && !path.slice(prefix.length).includes("/"),
    );
  }

  link(path: string, node: SimNode): void {
    this.#change({ kind: "link", path, node });
  }

  unlink(path: string): void {
    for (const name of this.#current.keys()) {
      if (name === path || name.startsWith(`${path}/`)) this.#change({ kind: "unlink", path: name });
    }
  }

  rename(from: string, path: string): void {
    const node = this.#current.get(from);
    if (node !== undefined) this.#change({ kind: "rename", path, from, node });
  }

  sync(directory: string): void {
    const rest: NameChange[] = [];
    for (const change of this.#pending) {
      if (parentOf(change.path) === directory) apply(this.#durable, change);
      else rest.push(change);
    }
    this.#pending = rest;
  }

  losePower(loss: CrashLoss): void {
    for (const change of this.#pending) if (loss.keepsName(change.path)) apply(this.#durable, change);
    this.#pending = [];
    for (const path of this.#durable.keys()) if (!this.#reachable(path)) this.#durable.delete(path);
    this.#current = new Map(this.#durable);
    for (const [path, node] of this.#current) {
      if (node.kind === "file") node.file.losePower((sector) => loss.keepsSector(path, sector));
    }
  }

  clone(): SimNames {
    const copies = new Map<SimNode, SimNode>();
    const copyOf = (node: SimNode): SimNode => {
      const known = copies.get(node);
      if (known !== undefined) return known;
      const made: SimNode = node.kind === "file" ? { kind: "file", file: node.file.clone() } : node;
      copies.set(node, made);
      return made;
    };
    const names = new SimNames();
    for (const [path, node] of this.#current) names.#current.set(path, copyOf(node));
    for (const [path, node] of this.#durable) names.#durable.set(path, copyOf(node));
    names.#pending = this.#pending.map((change) =>
      change.kind === "unlink" ? change : { ...change, node: copyOf(change.node) },
    );
    return names;
  }

  #change(change: NameChange): void {
    apply(this.#current, change);
    this.#pending.push(change);
  }

  #reachable(path: string): boolean {
    const parent = parentOf(path);
    return parent === "/" || (this.#durable.has(parent) && this.#reachable(parent));
  }
}

export function parentOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

function apply(names: Map<string, SimNode>, change: NameChange): void {
  if (change.kind === "unlink") names.delete(change.path);
  else names.set(change.path, change.node);
  if (change.kind === "rename") names.delete(change.from);
}

function* sectorsOf(position: number, end: number): Generator<number> {
  for (let sector = Math.floor(position / sectorBytes); sector * sectorBytes < end; sector += 1) yield sector;
}

function grown(buffer: Buffer<ArrayBuffer>, size: number): Buffer<ArrayBuffer> {
  if (size <= buffer.byteLength) return buffer;
  const larger = Buffer.alloc(Math.max(size, Math.min(buffer.byteLength * 2, buffer.byteLength + 2 ** 20)));
  larger.set(buffer);
  return larger;
}
