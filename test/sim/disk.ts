import type { Clock } from "../../runtime/clock.ts";
import type { AppendFile, BlockDisk, BlockFile, ReadFile } from "../../runtime/disk.ts";
import { diskOver } from "../../runtime/disk.ts";
import type { DiskCalls, OpenFile, OpenHow } from "../../runtime/disk-calls.ts";
import type { Random } from "../../runtime/random.ts";
import { type CrashLoss, SimFile, SimNames, parentOf } from "./disk-state.ts";

export type { CrashLoss } from "./disk-state.ts";
export { sectorBytes } from "./disk-state.ts";

/** One call of the system, as a fault plan sees it before it takes effect. */
export interface DiskCall {
  /** From 1, over the life of the disk. */
  readonly number: number;
  readonly kind:
    | "open"
    | "create"
    | "size"
    | "read"
    | "write"
    | "write-synced"
    | "sync"
    | "close"
    | "make-directory"
    | "list"
    | "rename"
    | "remove"
    | "sync-directory";
  readonly path: string;
  /** Of reads and writes. */
  readonly bytes: number;
}

export type DiskFault =
  /** The call fails. A failed sync leaves data readable, and not on the disk. */
  | { readonly kind: "fail"; readonly code: "EIO" | "ENOSPC" | "EDQUOT" | "EMFILE" }
  /** Power goes, or the process dies, during the call: of a write this many bytes had reached the cache. */
  | { readonly kind: "stop"; readonly writtenBytes?: number }
  /** It takes this long on the disk's clock; without a clock it has no effect. */
  | { readonly kind: "delay"; readonly ms: number };

export interface SimDiskOptions {
  readonly clock?: Clock;
  readonly capacityBytes?: number;
  /** Asked before every call. */
  readonly onCall?: (call: DiskCall) => DiskFault | undefined;
  /** What calls do once the disk has stopped, until it is up again. Default `reject`. */
  readonly whenStopped?: "reject" | "hang";
}

/** What a call of a dead process gets. */
export class DiskStopped extends Error {
  override readonly name = "DiskStopped";
}

/**
 * A disk in memory that runs the same sequences of calls as the real one and can do what disks do: stop between any two
 * calls or within a write, lose or keep each unsynced sector and name, fail, fill up, be slow, flip bits. Without a clock
 * every call settles at once; nothing in it draws chance of its own.
 */
export class SimDisk implements BlockDisk {
  onCall: (call: DiskCall) => DiskFault | undefined;
  /** Bytes that fit; sizes of files count, holes included. */
  capacityBytes: number;
  readonly #clock: Clock | undefined;
  readonly #whenStopped: "reject" | "hang";
  readonly #disk: BlockDisk;
  #names = new SimNames();
  #callCount = 0;
  /** Handles and calls of an earlier life are dead. */
  #life = 0;
  #stopped = false;

  constructor(options: SimDiskOptions = {}) {
    this.#clock = options.clock;
    this.#whenStopped = options.whenStopped ?? "reject";
    this.capacityBytes = options.capacityBytes ?? Number.MAX_SAFE_INTEGER;
    this.onCall = options.onCall ?? (() => undefined);
    this.#disk = diskOver(this.#calls());
  }

  /** Calls made so far. */
  get callCount(): number {
    return this.#callCount;
  }

  /** Whether a `stop` fault has struck. */
  get stopped(): boolean {
    return this.#stopped;
  }

  get usedBytes(): number {
    let bytes = 0;
    for (const [, node] of this.#names.entries()) bytes += node.kind === "file" ? node.file.size : 0;
    return bytes;
  }

  read(path: string): Promise<Uint8Array | undefined> {
    return this.#disk.read(path);
  }

  list(directory: string): Promise<string[]> {
    return this.#disk.list(directory);
  }

  makeDirectory(directory: string, mode?: number): Promise<void> {
    return this.#disk.makeDirectory(directory, mode);
  }

  replace(path: string, data: Uint8Array, mode?: number): Promise<void> {
    return this.#disk.replace(path, data, mode);
  }

  rename(from: string, to: string): Promise<void> {
    return this.#disk.rename(from, to);
  }

  remove(path: string): Promise<void> {
    return this.#disk.remove(path);
  }

  openAppend(path: string, mode?: number): Promise<AppendFile> {
    return this.#disk.openAppend(path, mode);
  }

  openBlocks(path: string, mode?: number): Promise<BlockFile> {
    return this.#disk.openBlocks(path, mode);
  }

  openRead(path: string): Promise<ReadFile | undefined> {
    return this.#disk.openRead(path);
  }

  /** The machine dies and comes back: of what was not synced, `loss` says what is there. */
  losePower(loss: CrashLoss): void {
    this.#names.losePower(loss);
    this.#begin();
  }

  /** The process dies and another one starts: the system's cache is as it was. */
  killProcess(): void {
    this.#begin();
  }

  /** Another disk with the same contents, synced or not, and no faults but those of `options`. */
  clone(options: SimDiskOptions = this.#sameOptions()): SimDisk {
    const copy = new SimDisk(options);
    copy.#names = this.#names.clone();
    return copy;
  }

  /** All files, sorted. */
  paths(): string[] {
    return [...this.#names.entries()]
      .filter(([, node]) => node.kind === "file")
      .map(([path]) => path)
      .toSorted();
  }

  /** What a reader sees now; not a call. */
  contents(path: string): Buffer {
    return this.#file(path).contents();
  }

  /** Sectors of a file that were written and not synced. */
  unsynced(path: string): readonly number[] {
    return this.#file(path).dirtySectors;
  }

  /** Changes bytes behind everybody's back. */
  damage(path: string, change: (bytes: Uint8Array) => void): void {
    this.#file(path).damage(change);
  }

  #sameOptions(): SimDiskOptions {
    return {
      capacityBytes: this.capacityBytes,
      whenStopped: this.#whenStopped,
      ...(this.#clock === undefined ? {} : { clock: this.#clock }),
    };
  }

  #begin(): void {
    this.#life += 1;
    this.#stopped = false;
  }

  #file(path: string): SimFile {
    const node = this.#names.get(path);
    if (node?.kind !== "file") throw systemError("ENOENT", `open ${path}`);
    return node.file;
  }

  #calls(): DiskCalls {
    const names = (): SimNames => this.#names;
    return {
      open: (path, how) => {
        const isNew = names().get(path) === undefined;
        return this.#call(isNew && how !== "read" ? "create" : "open", path, 0, () => this.#open(path, how));
      },
      makeDirectory: (path) => this.#call("make-directory", path, 0, () => this.#makeDirectory(path)),
      list: (path) =>
        this.#call("list", path, 0, () => {
          if (names().get(path)?.kind !== "directory") throw systemError("ENOENT", `scandir ${path}`);
          return names()
            .childrenOf(path)
            .map((name) => name.slice(path.length + (path === "/" ? 0 : 1)));
        }),
      rename: (from, to) =>
        this.#call("rename", to, 0, () => {
          if (names().get(from) === undefined) throw systemError("ENOENT", `rename ${from}`);
          names().rename(from, to);
        }),
      remove: (path) => this.#call("remove", path, 0, () => names().unlink(path)),
      syncDirectory: (path) =>
        this.#call("sync-directory", path, 0, () => {
          if (names().get(path)?.kind !== "directory") throw systemError("ENOENT", `open ${path}`);
          names().sync(path);
        }),
    };
  }

  #makeDirectory(path: string): void {
    if (this.#names.get(path) !== undefined) return;
    this.#makeDirectory(parentOf(path));
    this.#names.link(path, { kind: "directory" });
  }

  #open(path: string, how: OpenHow): OpenFile {
    const known = this.#names.get(path);
    if (known?.kind === "directory") throw systemError("EISDIR", `open ${path}`);
    const missing = this.#names.get(parentOf(path)) === undefined;
    if ((known === undefined && how === "read") || missing) throw systemError("ENOENT", `open ${path}`);
    const file = known?.file ?? new SimFile();
    if (known === undefined) this.#names.link(path, { kind: "file", file });
    else if (how === "replace") file.truncate();
    const life = this.#life;
    const call = <T>(kind: DiskCall["kind"], bytes: number, effect: () => T, extra?: Extra): Promise<T> =>
      this.#call(kind, path, bytes, effect, { ...extra, life });
    return {
      size: () => call("size", 0, () => file.size),
      read: (into, position) => call("read", into.byteLength, () => file.read(into, position)),
      write: (data, position) => this.#write(call, file, how, data, position),
      datasync: () => call("sync", 0, () => file.sync(), { onFail: () => file.forgetDirty() }),
      close: () => (this.#life === life ? call("close", 0, () => undefined) : Promise.resolve()),
    };
  }

  #write(call: FileCall, file: SimFile, how: OpenHow, data: Uint8Array, position: number): Promise<number> {
    const copy = Buffer.from(data);
    const synced = how === "write-synced";
    const at = (): number => (how === "append" ? file.size : position);
    const effect = (): number => {
      const from = at();
      const growth = Math.max(0, from + copy.byteLength - file.size);
      const room = growth === 0 ? 0 : this.capacityBytes - this.usedBytes;
      const fits = growth <= room || growth === 0 ? copy.byteLength : copy.byteLength - growth + room;
      if (fits <= 0) throw systemError("ENOSPC", "write");
      file.write(copy.subarray(0, fits), from);
      if (synced) file.syncRange(from, from + fits);
      return fits;
    };
    return call(synced ? "write-synced" : "write", copy.byteLength, effect, {
      onFail: (code) => {
        if (!synced || code !== "EIO") return;
        file.write(copy, at());
        file.forgetDirty(at(), at() + copy.byteLength);
      },
      onStop: (writtenBytes) => file.write(copy.subarray(0, writtenBytes), at()),
    });
  }

  async #call<T>(
    kind: DiskCall["kind"],
    path: string,
    bytes: number,
    effect: () => T,
    { life = this.#life, onFail, onStop }: Extra & { life?: number } = {},
  ): Promise<T> {
    await this.#alive(life, kind, path);
    this.#callCount += 1;
    const fault = this.onCall({ number: this.#callCount, kind, path, bytes });
    switch (fault?.kind) {
      case undefined:
        return effect();
      case "fail":
        onFail?.(fault.code);
        throw systemError(fault.code, `${kind} ${path}`);
      case "stop":
        onStop?.(Math.min(bytes, fault.writtenBytes ?? 0));
        this.#stopped = true;
        await this.#alive(life, kind, path);
        throw new Error("assertion failed: a stopped disk went on");
      case "delay":
        await this.#clock?.sleep(fault.ms);
        await this.#alive(life, kind, path);
        return effect();
    }
  }

  async #alive(life: number, kind: string, path: string): Promise<void> {
    if (!this.#stopped && life === this.#life) return;
    if (this.#whenStopped === "hang") await new Promise<never>(() => {});
    throw new DiskStopped(`${kind} ${path}: the process that called this is dead`);
  }
}

type FileCall = <T>(kind: DiskCall["kind"], bytes: number, effect: () => T, extra?: Extra) => Promise<T>;

interface Extra {
  readonly onFail?: (code: string) => void;
  readonly onStop?: (writtenBytes: number) => void;
}

/** Nothing that was not synced is left. */
export const loseAll: CrashLoss = { keepsSector: () => false, keepsName: () => false };

/** Everything had just reached the disk. */
export const loseNothing: CrashLoss = { keepsSector: () => true, keepsName: () => true };

/** Contents are lost and names kept, or the other way round: file systems order them as they like. */
export const loseContents: CrashLoss = { keepsSector: () => false, keepsName: () => true };
export const loseNames: CrashLoss = { keepsSector: () => true, keepsName: () => false };

/** Each unsynced sector and name by itself, so that later ones can be there without earlier ones. */
export function loseSome(random: Random): CrashLoss {
  return { keepsSector: () => random.next() < 0.5, keepsName: () => random.next() < 0.5 };
}

/** Only the sectors for which `keeps` says so, counted from 0 in the order of writing; all names. */
export function keepSectors(keeps: (order: number) => boolean): CrashLoss {
  let order = -1;
  return {
    keepsSector: () => {
      order += 1;
      return keeps(order);
    },
    keepsName: () => true,
  };
}

function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}
