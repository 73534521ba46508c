import type { SnapshotMeta } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { BlockDisk } from "../../runtime/disk.ts";
import type { Seal } from "./seal.ts";
import { SnapshotFile, SnapshotWriter, snapshotPartBytes } from "./snapshot-file.ts";

const keep = 2;
const suffix = ".snap";
/** Of snapshots made here, or that arrive from the leader, until they are taken in. */
const unfinishedSuffix = ".part";

/**
 * The snapshots of a member: files named by index and term, each written whole under another name, synced and renamed.
 * The newest two are kept, so that a damaged newest one is no loss.
 */
export class SnapshotStore {
  readonly #disk: BlockDisk;
  readonly #directory: string;
  readonly #seal: Seal;
  readonly #partBytes: number;
  readonly #writers = new Set<SnapshotWriter>();
  #begun = 0;

  constructor(
    { disk }: { disk: BlockDisk },
    options: { readonly directory: string; readonly seal: Seal; readonly partBytes?: number },
  ) {
    this.#disk = disk;
    this.#directory = options.directory;
    this.#seal = options.seal;
    this.#partBytes = options.partBytes ?? snapshotPartBytes;
  }

  /** Makes the directory and removes what a former process did not finish. */
  async prepare(): Promise<void> {
    await this.#disk.makeDirectory(this.#directory);
    for (const name of await this.#disk.list(this.#directory)) {
      if (name.endsWith(unfinishedSuffix)) await this.#disk.remove(this.#path(name));
    }
  }

  /** Begins a file that is to be given to {@link keep} or {@link drop}. */
  async begin(kind: "own" | "incoming", meta: SnapshotMeta): Promise<SnapshotWriter> {
    this.#begun += 1;
    const path = this.#path(`${kind}-${this.#begun}${unfinishedSuffix}`);
    const deps = { disk: this.#disk, seal: this.#seal };
    const writer = await SnapshotWriter.create(deps, { path, meta, partBytes: this.#partBytes });
    this.#writers.add(writer);
    return writer;
  }

  /** Takes in a finished one, durably; older ones but the one before are removed. */
  async keep(writer: SnapshotWriter): Promise<void> {
    await this.#disk.rename(writer.path, this.#path(fileName(writer.meta)));
    this.#writers.delete(writer);
    for (const old of (await this.#names()).slice(keep)) await this.#disk.remove(this.#path(old));
  }

  async drop(writer: SnapshotWriter): Promise<void> {
    this.#writers.delete(writer);
    await writer.abort();
  }

  /** Removes all but the newest, for room. @returns whether there were any. */
  async dropOlder(): Promise<boolean> {
    const older = (await this.#names()).slice(1);
    for (const name of older) await this.#disk.remove(this.#path(name));
    return older.length > 0;
  }

  /** The one at this index and term, or else the newest. Its contents are checked as they are read. */
  async open(wanted?: { readonly index: number; readonly term: number }): Promise<SnapshotFile | undefined> {
    const names = await this.#names();
    const name = names.find((known) => wanted !== undefined && known === fileName(wanted)) ?? names[0];
    return name === undefined ? undefined : await this.#open(name);
  }

  /**
   * The newest that can be read, all of which was read; it may be the one before the newest.
   *
   * @throws {ClusterError} `data-loss` when there are some and none can be read.
   */
  async newestReadable(): Promise<SnapshotFile | undefined> {
    const problems: string[] = [];
    for (const name of await this.#names()) {
      let file: SnapshotFile | undefined;
      try {
        file = await this.#open(name);
        await file?.verify();
        return file;
      } catch (error) {
        await file?.close();
        problems.push(`${this.#path(name)}: ${errorText(error)}`);
      }
    }
    if (problems.length === 0) return undefined;
    throw new ClusterError(
      "data-loss",
      `cannot read any snapshot (${problems.join("; ")}). Remove this manager from the group on another manager, remove ` +
        "its state directory, and let it join again",
    );
  }

  /** Index up to which the log may be dropped without losing the fallback to the older snapshot; 0 for none. */
  async oldestIndex(): Promise<number> {
    const names = await this.#names();
    const oldest = names.at(-1);
    return oldest === undefined ? 0 : Number.parseInt(oldest, 16);
  }

  /** Keys that some snapshot was sealed with; undefined when a snapshot does not tell. */
  async keyIds(): Promise<ReadonlySet<number> | undefined> {
    const keyIds = new Set([...this.#writers].map(({ keyId }) => keyId));
    for (const name of await this.#names()) {
      try {
        const file = await this.#open(name);
        if (file !== undefined) keyIds.add(file.keyId);
        await file?.close();
      } catch {
        return undefined; // A damaged one: whatever key it needs, nothing is given up for it.
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

  /** Newest first. */
  async #names(): Promise<string[]> {
    const names = await this.#disk.list(this.#directory);
    return names
      .filter((name) => name.endsWith(suffix))
      .toSorted()
      .toReversed();
  }

  #path(name: string): string {
    return `${this.#directory}/${name}`;
  }
}

function fileName({ index, term }: { readonly index: number; readonly term: number }): string {
  return `${hex(index)}-${hex(term)}${suffix}`;
}

function hex(value: number): string {
  return value.toString(16).padStart(16, "0");
}
