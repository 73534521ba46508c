import { type Entry, type HardState, type SnapshotMeta, entryBytes, invariant } from "./message.ts";

/**
 * What the core reads back of what it asked to persist. Synchronous: the caller keeps the tail of the log
 * in memory (see {@link MemoryStorage}) and writes it to disk on its own.
 */
export interface Storage {
  /** As it was written last; term 0, no vote and commit 0 of a new member. */
  initialState(): HardState;
  /** Index of the oldest entry held; one more than the snapshot's or the last compacted index. */
  firstIndex(): number;
  /** Index of the newest entry held; `firstIndex() - 1` when there is none. */
  lastIndex(): number;
  /** Term at `index`, also for `firstIndex() - 1`; `undefined` when compacted or not there yet. */
  term(index: number): number | undefined;
  /** Entries `from <= index < to`, stopping once `maxBytes` is passed, but never returning none of some. Not asked for compacted ones. */
  entries(from: number, to: number, maxBytes: number): readonly Entry[];
  /** The latest snapshot; index 0 when there was none. */
  snapshot(): SnapshotMeta;
}

/** The configuration of a member that has not heard of any group yet. */
export const emptySnapshot: SnapshotMeta = {
  index: 0,
  term: 0,
  configuration: { voters: [], outgoing: [], learners: [], contexts: {} },
};

/** Storage in memory: the working copy beside a log on disk, and the whole of it in tests. */
export class MemoryStorage implements Storage {
  #hardState: HardState = { term: 0, vote: undefined, commit: 0 };
  #snapshot: SnapshotMeta = emptySnapshot;
  /** Index and term just before `#entries[0]`. */
  #base = { index: 0, term: 0 };
  #entries: Entry[] = [];

  initialState(): HardState {
    return this.#hardState;
  }

  firstIndex(): number {
    return this.#base.index + 1;
  }

  lastIndex(): number {
    return this.#base.index + this.#entries.length;
  }

  term(index: number): number | undefined {
    if (index === this.#base.index) return this.#base.term;
    if (index < this.#base.index) return undefined;
    return this.#entries[index - this.#base.index - 1]?.term;
  }

  entries(from: number, to: number, maxBytes: number): readonly Entry[] {
    invariant(from >= this.firstIndex(), () => `read of entry ${from}: compacted below ${this.firstIndex()}`);
    return takeBytes(this.#entries, from - this.firstIndex(), to - this.firstIndex(), maxBytes);
  }

  snapshot(): SnapshotMeta {
    return this.#snapshot;
  }

  setHardState(hardState: HardState): void {
    this.#hardState = hardState;
  }

  /**
   * Puts `entries` in place, replacing whatever was at their indexes and after.
   *
   * @throws {RaftInvariantError} when they would leave a gap, or begin among compacted ones.
   */
  append(entries: readonly Entry[]): void {
    const first = entries[0];
    if (first === undefined) return;
    invariant(
      first.index >= this.firstIndex() && first.index <= this.lastIndex() + 1,
      () => `append at ${first.index}: the log holds ${this.firstIndex()}..${this.lastIndex()}`,
    );
    if (first.index === this.firstIndex()) {
      this.#entries = entries.slice(); // At once: a member that starts brings a whole log.
      return;
    }
    this.#entries.length = first.index - this.firstIndex();
    for (const entry of entries) this.#entries.push(entry);
  }

  /** Replaces everything by a snapshot received from the leader. */
  installSnapshot(snapshot: SnapshotMeta): void {
    this.#snapshot = snapshot;
    this.#base = { index: snapshot.index, term: snapshot.term };
    this.#entries = [];
  }

  /** Records a snapshot made here; entries stay until {@link compact}. */
  setSnapshot(snapshot: SnapshotMeta): void {
    if (snapshot.index > this.#snapshot.index) this.#snapshot = snapshot;
  }

  /** The lowest index whose later entries take at most `maxBytes` in all. */
  indexWithin(maxBytes: number): number {
    let left = maxBytes;
    let at = this.#entries.length;
    for (; at > 0; at -= 1) {
      const entry = this.#entries[at - 1];
      if (entry === undefined) break;
      left -= entryBytes(entry);
      if (left < 0) break;
    }
    return this.#base.index + at;
  }

  /**
   * Forgets entries up to and including `index`; there is nothing to do where none are held.
   *
   * @throws {RaftInvariantError} when the snapshot does not cover them.
   */
  compact(index: number): void {
    const term = this.term(index);
    if (term === undefined || index <= this.#base.index) return;
    invariant(
      index <= this.#snapshot.index,
      () => `compaction to ${index}: the snapshot ends at ${this.#snapshot.index}`,
    );
    this.#entries = this.#entries.slice(index - this.#base.index);
    this.#base = { index, term };
  }
}

/** Slice `[from, to)` of `entries`, cut once more than `maxBytes` would be taken; at least one if there is one. */
export function takeBytes(
  entries: readonly Entry[],
  from: number,
  to: number,
  maxBytes: number,
): readonly Entry[] {
  const limit = Math.min(to, entries.length);
  let bytes = 0;
  let end = from;
  while (end < limit) {
    const entry = entries[end];
    if (entry === undefined) break;
    bytes += entryBytes(entry);
    if (end > from && bytes > maxBytes) break;
    end += 1;
  }
  return entries.slice(from, end);
}
