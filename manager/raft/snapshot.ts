import type { SnapshotMeta } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { BlockDisk } from "../../runtime/disk.ts";
import type { Seal } from "./seal.ts";
import {
  SnapshotFile,
  type SnapshotIdentity,
  SnapshotWriter,
  sameSnapshot,
  snapshotPartBytes,
} from "./snapshot-file.ts";

const keep = 2;
/** Beside those, at most, for peers that hold a part of them. */
const maxHeld = 2;
const suffix = ".snap";
/** Of snapshots made here, or that arrive from the leader, until they are taken in. */
const unfinishedSuffix = ".part";

/** What a former process had received of a snapshot. */
interface Leftover {
  readonly name: string;
  readonly identity: SnapshotIdentity;
  /** Of that process's files. */
  readonly number: number;
}

/**
 * The snapshots of a member: files named by index and term, each written whole under another name, synced and renamed.
 * The newest two are kept, so that a damaged newest one is no loss; one that is known to be damaged is none of the two. Older
 * ones stay while they are being sent.
 */
export class SnapshotStore {
  readonly #disk: BlockDisk;
  readonly #directory: string;
  readonly #seal: Seal;
  readonly #partBytes: number;
  /** What is being written, and with which key; from before there is a file until it is kept or dropped. */
  readonly #unfinished = new Set<{ readonly keyId: number }>();
  /** Names of files that could not be read: they go once another one takes their place. */
  readonly #damaged = new Set<string>();
  #begun = 0;
  #leftover: Leftover | undefined;
  #isResuming = false;
  #heldIndexes: () => ReadonlySet<number> = () => new Set();
  /** There are more than the newest two. */
  #hasHeld = false;

  constructor(
    { disk }: { disk: BlockDisk },
    options: { readonly directory: string; readonly seal: Seal; readonly partBytes?: number },
  ) {
    this.#disk = disk;
    this.#directory = options.directory;
    this.#seal = options.seal;
    this.#partBytes = options.partBytes ?? snapshotPartBytes;
  }

  /**
   * Makes the directory and removes what a former process did not finish, but for the newest of what it was receiving, which
   * the leader may go on with.
   */
  async prepare(): Promise<void> {
    await this.#disk.makeDirectory(this.#directory);
    const names = await this.#disk.list(this.#directory);
    const [newest = ""] = newestFirst(names.filter((name) => name.endsWith(suffix)));
    const leftovers = names.flatMap((name) => parseIncoming(name) ?? []);
    // A leader of a later term may have sent an older one; which of them comes, nobody knows.
    const latest = leftovers.reduce<Leftover | undefined>(
      (a, b) => (a === undefined || b.identity.index > a.identity.index ? b : a),
      undefined,
    );
    if (latest !== undefined && fileName(latest.identity) > newest) this.#leftover = latest;
    this.#begun = Math.max(0, ...leftovers.map(({ number }) => number));
    for (const name of names) {
      const isUnfinished = name.endsWith(unfinishedSuffix) && name !== this.#leftover?.name;
      if (isUnfinished) await this.#disk.remove(this.#path(name));
    }
  }

  /** What there is of a snapshot that a former process was receiving, until it is gone on with or something else comes. */
  get leftover(): SnapshotIdentity | undefined {
    return this.#leftover?.identity;
  }

  async dropLeftover(): Promise<void> {
    const leftover = this.#leftover;
    this.#leftover = undefined;
    if (leftover !== undefined) await this.#disk.remove(this.#path(leftover.name));
  }

  /** Begins a file for the state of this member, that is to be given to {@link keep} or {@link drop}. */
  begin(meta: SnapshotMeta): Promise<SnapshotWriter> {
    this.#begun += 1;
    return this.#create(`own-${this.#begun}${unfinishedSuffix}`, meta);
  }

  /**
   * Begins a file for what the leader sends, or goes on with that of a former process: with as much of it as is sound. Whatever
   * else there is of such files is removed. To be given to {@link keep}, {@link drop} or {@link leave}.
   *
   * @param signal - Gives up while what is there is read; it stays then.
   */
  async receive(
    meta: SnapshotMeta,
    identity: SnapshotIdentity,
    signal: AbortSignal,
  ): Promise<SnapshotWriter> {
    const leftover = this.#leftover;
    if (leftover !== undefined && sameSnapshot(leftover.identity, identity)) {
      this.#leftover = undefined;
      const resumed = await this.#resume(leftover, meta, signal);
      if (resumed !== undefined) return resumed;
      await this.#disk.remove(this.#path(leftover.name));
    } else await this.dropLeftover();
    this.#begun += 1;
    return await this.#create(incomingName(identity, this.#begun), meta);
  }

  async #resume(
    { name, identity }: Leftover,
    meta: SnapshotMeta,
    signal: AbortSignal,
  ): Promise<SnapshotWriter | undefined> {
    const deps = { disk: this.#disk, seal: this.#seal };
    const found = { path: this.#path(name), meta, dataBytes: identity.dataBytes };
    this.#isResuming = true;
    try {
      const writer = await SnapshotWriter.resume(deps, found, signal);
      if (writer !== undefined) this.#unfinished.add(writer);
      return writer;
    } catch (error) {
      if (signal.aborted) throw error;
      return undefined; // Whatever is wrong with it or its disk: the leader sends it again, to another file.
    } finally {
      this.#isResuming = false;
    }
  }

  async #create(name: string, meta: SnapshotMeta): Promise<SnapshotWriter> {
    const path = this.#path(name);
    const deps = { disk: this.#disk, seal: this.#seal };
    const { keyId } = this.#seal;
    const beginning = { keyId }; // The key must not go while the file is being made.
    this.#unfinished.add(beginning);
    try {
      const writer = await SnapshotWriter.create(deps, { path, meta, keyId, partBytes: this.#partBytes });
      this.#unfinished.add(writer);
      return writer;
    } finally {
      this.#unfinished.delete(beginning);
    }
  }

  /**
   * Takes in a finished one, durably; older ones but the one before are removed. On a disk that has damaged one already it is
   * read first: until then the one that could be read stays, whatever comes after it.
   *
   * @throws {ClusterError} `data-loss` when it is not what was written to such a disk, `unavailable` when the system does not
   *   let it be read; nothing was removed.
   */
  async keep(writer: SnapshotWriter): Promise<void> {
    const name = fileName(writer.meta);
    await this.#disk.rename(writer.path, this.#path(name));
    this.#unfinished.delete(writer);
    if (this.#damaged.size > 0) {
      await this.#verify(name);
      this.#damaged.delete(name); // It has taken the place of the damaged one.
      await this.#removeDamaged();
    }
    await this.#removeOld();
  }

  /**
   * Says which older ones are not to go yet, by their indexes: what was sent of them would be lost.
   *
   * @param heldIndexes - Asked each time; the newest two of them stay, and none on a full disk.
   */
  holdWhile(heldIndexes: () => ReadonlySet<number>): void {
    this.#heldIndexes = heldIndexes;
  }

  /** Removes what nobody holds any more. */
  async tidy(): Promise<void> {
    if (this.#hasHeld) await this.#removeOld();
  }

  /** Closes it and leaves what there is to the next process. */
  async leave(writer: SnapshotWriter): Promise<void> {
    this.#unfinished.delete(writer);
    await writer.leave();
  }

  async drop(writer: SnapshotWriter): Promise<void> {
    this.#unfinished.delete(writer);
    await writer.abort();
  }

  /** Removes all but the newest that is not damaged, for room. @returns whether there were any. */
  async dropOlder(): Promise<boolean> {
    await this.dropLeftover();
    const [newest, ...older] = await this.#names();
    if (newest === undefined) return false;
    const removed = older.length + this.#damaged.size;
    await this.#removeDamaged();
    for (const name of older) await this.#disk.remove(this.#path(name));
    return removed > 0;
  }

  /**
   * The one at this index and term, or else the newest. Its contents are checked as they are read.
   *
   * @throws {Error} that says what is wrong with it; it counts as damaged then, unless the disk could not be read at all.
   */
  async open(wanted?: { readonly index: number; readonly term: number }): Promise<SnapshotFile | undefined> {
    const names = await this.#names();
    const name = names.find((known) => wanted !== undefined && known === fileName(wanted)) ?? names[0];
    if (name === undefined) return undefined;
    try {
      return await this.#open(name);
    } catch (error) {
      if (!isCallError(error)) this.#damaged.add(name);
      throw error;
    }
  }

  /** It was read and is not what was written: it is not opened again, and goes once another one takes its place. */
  damaged(meta: SnapshotMeta): void {
    this.#damaged.add(fileName(meta));
  }

  isDamaged(meta: SnapshotMeta): boolean {
    return this.#damaged.size > 0 && this.#damaged.has(fileName(meta)); // Asked in every round.
  }

  /**
   * The newest that can be read, all of which was read; it may be the one before the newest.
   *
   * @throws {ClusterError} When there are some and none can be read: `failed-precondition` where another version wrote one of
   *   them, which that version can read; else `data-loss`. `unavailable` when the system does not let one be read: that may
   *   pass, and says nothing of what is in it.
   */
  async newestReadable(): Promise<SnapshotFile | undefined> {
    const problems: string[] = [];
    let isForeign = false;
    for (const name of await this.#names()) {
      let file: SnapshotFile | undefined;
      try {
        file = await this.#open(name);
        await file?.verify();
        return file;
      } catch (error) {
        await file?.close();
        if (isCallError(error)) throw unreadable(this.#path(name), error);
        problems.push(`${this.#path(name)}: ${errorText(error)}`);
        isForeign ||= error instanceof ClusterError && error.code === "failed-precondition";
        this.#damaged.add(name);
      }
    }
    if (problems.length === 0) return undefined;
    const wayBack = isForeign ? "Start it with the version that wrote it; or remove" : "Remove";
    throw new ClusterError(
      isForeign ? "failed-precondition" : "data-loss",
      `cannot read any snapshot (${problems.join("; ")}). ${wayBack} this manager from the group on another manager, remove ` +
        "its state directory, and let it join again",
    );
  }

  /** Index up to which the log may be dropped without losing the fallback to the older snapshot; 0 for none. */
  async oldestIndex(): Promise<number> {
    const names = await this.#names();
    const oldest = names.slice(0, keep).at(-1);
    return oldest === undefined ? 0 : hexValue(oldest);
  }

  /** Keys that some snapshot was sealed with; undefined when a snapshot does not tell. */
  async keyIds(): Promise<ReadonlySet<number> | undefined> {
    // Whatever key they need, nothing is given up for them.
    if (this.#damaged.size > 0 || this.#isResuming) return undefined;
    const keyIds = new Set([...this.#unfinished].map(({ keyId }) => keyId));
    for (const name of await this.#names()) {
      try {
        const file = await this.#open(name);
        if (file !== undefined) keyIds.add(file.keyId);
        await file?.close();
      } catch {
        return undefined; // Damaged since.
      }
    }
    return keyIds;
  }

  async #open(name: string): Promise<SnapshotFile | undefined> {
    const file = await SnapshotFile.open({ disk: this.#disk, seal: this.#seal }, this.#path(name));
    if (file === undefined || fileName(file.meta) === name) return file;
    await file.close();
    throw new Error(`it is the one at ${file.meta.index}, term ${file.meta.term}`);
  }

  async #verify(name: string): Promise<void> {
    let file: SnapshotFile | undefined;
    try {
      file = await this.#open(name);
      await file?.verify();
    } catch (cause) {
      if (isCallError(cause)) throw unreadable(this.#path(name), cause);
      const text = `the snapshot ${this.#path(name)} cannot be read back: ${errorText(cause)}; replace the disk`;
      throw new ClusterError("data-loss", text, { cause });
    } finally {
      await file?.close();
    }
  }

  async #removeOld(): Promise<void> {
    const older = (await this.#names()).slice(keep);
    const heldIndexes = this.#heldIndexes();
    const held = older.filter((name) => heldIndexes.has(hexValue(name))).slice(0, maxHeld);
    for (const name of older) if (!held.includes(name)) await this.#disk.remove(this.#path(name));
    this.#hasHeld = held.length > 0;
  }

  async #removeDamaged(): Promise<void> {
    for (const name of this.#damaged) {
      await this.#disk.remove(this.#path(name));
      this.#damaged.delete(name);
    }
  }

  /** Newest first; none that is known to be damaged. */
  async #names(): Promise<string[]> {
    const names = await this.#disk.list(this.#directory);
    return newestFirst(names.filter((name) => name.endsWith(suffix) && !this.#damaged.has(name)));
  }

  #path(name: string): string {
    return `${this.#directory}/${name}`;
  }
}

/** Of the system, which says nothing of what is on the disk. */
function isCallError(error: unknown): boolean {
  return /^E[A-Z]+$/.test((error as NodeJS.ErrnoException).code ?? "");
}

function unreadable(path: string, cause: unknown): ClusterError {
  const text = `cannot read the snapshot ${path}: ${errorText(cause)}; check the disk. It is tried again from time to time`;
  return new ClusterError("unavailable", text, { cause });
}

function fileName({ index, term }: { readonly index: number; readonly term: number }): string {
  return `${hex(index)}-${hex(term)}${suffix}`;
}

function newestFirst(names: readonly string[]): string[] {
  return names.toSorted().toReversed();
}

/** Says which snapshot it is, so that nothing else is ever taken for its beginning. */
function incomingName({ index, term, dataBytes, digest }: SnapshotIdentity, number: number): string {
  return `incoming-${hex(index)}-${hex(term)}-${hex(dataBytes)}-${digest}-${number}${unfinishedSuffix}`;
}

function parseIncoming(name: string): Leftover | undefined {
  const found = /^incoming-([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]*)-(\d+)\.part$/.exec(name);
  if (found === null) return undefined;
  const [, index = "", term = "", dataBytes = "", digest = "", number = ""] = found;
  const identity = { index: hexValue(index), term: hexValue(term), dataBytes: hexValue(dataBytes), digest };
  return { name, identity, number: Number(number) };
}

function hexValue(text: string): number {
  return Number.parseInt(text, 16);
}

function hex(value: number): string {
  return value.toString(16).padStart(16, "0");
}
