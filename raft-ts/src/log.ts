import { type Entry, type SnapshotMeta, entryBytes, invariant } from "./message.ts";
import { type Storage, takeBytes } from "./storage.ts";

/** Outcome of a follower's append: where the log now agrees with the leader's, or where it may. */
export type AppendResult =
  | { readonly kind: "matched"; readonly lastIndex: number; readonly replacedFrom: number | undefined }
  | { readonly kind: "conflict"; readonly hintIndex: number; readonly hintTerm: number };

/**
 * The log as the member sees it: the stable part in storage, then the unstable part that is still to be
 * persisted. `applied <= commit <= lastIndex()` always.
 */
export class RaftLog {
  readonly #storage: Storage;
  /** Entries from `#unstableFrom` on; they hide whatever storage holds at those indexes. */
  #unstable: Entry[] = [];
  #unstableFrom: number;
  #pendingSnapshot: SnapshotMeta | undefined;
  #commit: number;
  #applied: number;

  constructor(storage: Storage) {
    this.#storage = storage;
    this.#unstableFrom = storage.lastIndex() + 1;
    const { commit } = storage.initialState();
    const snapshotIndex = storage.snapshot().index;
    invariant(
      commit <= storage.lastIndex(),
      () => `commit index ${commit} is beyond the log's end at ${storage.lastIndex()}: entries were lost`,
    );
    this.#commit = Math.max(commit, snapshotIndex);
    this.#applied = Math.max(snapshotIndex, storage.firstIndex() - 1);
  }

  get commit(): number {
    return this.#commit;
  }

  get applied(): number {
    return this.#applied;
  }

  get pendingSnapshot(): SnapshotMeta | undefined {
    return this.#pendingSnapshot;
  }

  firstIndex(): number {
    return this.#pendingSnapshot === undefined ? this.#storage.firstIndex() : this.#pendingSnapshot.index + 1;
  }

  lastIndex(): number {
    return this.#unstableFrom + this.#unstable.length - 1;
  }

  lastTerm(): number {
    return this.term(this.lastIndex()) ?? 0;
  }

  /** Everything up to here has been persisted. */
  stableIndex(): number {
    return this.#pendingSnapshot === undefined ? this.#unstableFrom - 1 : 0;
  }

  /** Term at `index`; `undefined` when it is compacted or beyond the end. */
  term(index: number): number | undefined {
    if (index >= this.#unstableFrom) return this.#unstable[index - this.#unstableFrom]?.term;
    if (this.#pendingSnapshot !== undefined) {
      return index === this.#pendingSnapshot.index ? this.#pendingSnapshot.term : undefined;
    }
    return this.#storage.term(index);
  }

  matches(index: number, term: number): boolean {
    return this.term(index) === term;
  }

  /** Whether a log that ends with (`term`, `index`) holds everything this one may have promised (§5.4.1). */
  isUpToDate(index: number, term: number): boolean {
    return term > this.lastTerm() || (term === this.lastTerm() && index >= this.lastIndex());
  }

  snapshot(): SnapshotMeta {
    return this.#pendingSnapshot ?? this.#storage.snapshot();
  }

  /** Entries from `from` on; `undefined` when they are compacted. */
  entriesFrom(from: number, maxBytes: number): readonly Entry[] | undefined {
    return from < this.firstIndex() ? undefined : this.#slice(from, this.lastIndex() + 1, maxBytes);
  }

  /** Leader's append at the end. */
  append(entries: readonly Entry[]): void {
    for (const entry of entries) {
      invariant(
        entry.index === this.lastIndex() + 1,
        () => `append at ${entry.index}: the log ends at ${this.lastIndex()}`,
      );
      this.#unstable.push(entry);
    }
  }

  /** Follower's append: keeps what agrees, replaces what does not, refuses when `prev` is not held. */
  appendAfter(prev: { index: number; term: number }, entries: readonly Entry[]): AppendResult {
    if (!this.matches(prev.index, prev.term)) return this.#conflict(prev.index, prev.term);
    const lastIndex = prev.index + entries.length;
    const at = entries.findIndex((entry) => !this.matches(entry.index, entry.term));
    if (at === -1) return { kind: "matched", lastIndex, replacedFrom: undefined };
    const fresh = entries.slice(at);
    const from = prev.index + at + 1;
    invariant(
      from > this.#commit,
      () => `append at ${from}: entries up to ${this.#commit} are committed and cannot be replaced`,
    );
    const replacedFrom = from <= this.lastIndex() ? from : undefined;
    this.#truncateTo(from);
    for (const entry of fresh) this.#unstable.push(entry);
    return { kind: "matched", lastIndex, replacedFrom };
  }

  /** Largest index at or below `index` whose term is not above `term`: nothing after it can match. */
  findConflict(index: number, term: number): { index: number; term: number } {
    let at = Math.min(index, this.lastIndex());
    for (; at >= this.firstIndex(); at -= 1) {
      const held = this.term(at);
      if (held === undefined || held <= term) break;
    }
    return { index: at, term: this.term(at) ?? 0 };
  }

  commitTo(index: number): void {
    if (index <= this.#commit) return;
    invariant(
      index <= this.lastIndex(),
      () =>
        `commit index ${index} is beyond this log's end at ${this.lastIndex()}: this member acknowledged ` +
        "entries it no longer has; remove its state and let it join as a new member",
    );
    this.#commit = index;
  }

  /** Replaces everything by a snapshot that is still to be persisted. */
  restore(snapshot: SnapshotMeta): void {
    this.#pendingSnapshot = snapshot;
    this.#unstable = [];
    this.#unstableFrom = snapshot.index + 1;
    this.#commit = snapshot.index;
  }

  unstableEntries(): readonly Entry[] {
    return this.#unstable.slice();
  }

  hasUnstable(): boolean {
    return this.#unstable.length > 0;
  }

  hasCommitted(): boolean {
    return this.#commit > Math.max(this.#applied, this.firstIndex() - 1);
  }

  /** Committed entries not yet applied, in order. */
  committedEntries(maxBytes: number): readonly Entry[] {
    const from = Math.max(this.#applied, this.firstIndex() - 1) + 1;
    return from > this.#commit ? [] : this.#slice(from, this.#commit + 1, maxBytes);
  }

  /** The entry (`index`, `term`) and all before it are persisted; stale when it was replaced meanwhile. */
  stableTo(index: number, term: number): void {
    if (index < this.#unstableFrom || !this.matches(index, term)) return;
    this.#unstable = this.#unstable.slice(index - this.#unstableFrom + 1);
    this.#unstableFrom = index + 1;
  }

  stableSnapshotTo(index: number): void {
    if (this.#pendingSnapshot?.index === index) this.#pendingSnapshot = undefined;
    this.#applied = Math.max(this.#applied, index);
  }

  appliedTo(index: number): void {
    invariant(
      index >= this.#applied && index <= this.#commit,
      () => `applied ${index}: already at ${this.#applied}, committed ${this.#commit}`,
    );
    this.#applied = index;
  }

  #conflict(index: number, term: number): AppendResult {
    const hint = this.findConflict(index, term);
    return { kind: "conflict", hintIndex: hint.index, hintTerm: hint.term };
  }

  #truncateTo(from: number): void {
    if (from >= this.#unstableFrom) {
      this.#unstable.length = from - this.#unstableFrom;
    } else {
      this.#unstable = [];
      this.#unstableFrom = from;
    }
  }

  #slice(from: number, to: number, maxBytes: number): readonly Entry[] {
    if (from >= this.#unstableFrom) {
      return takeBytes(this.#unstable, from - this.#unstableFrom, to - this.#unstableFrom, maxBytes);
    }
    const stableEnd = Math.min(to, this.#unstableFrom);
    const stable = this.#storage.entries(from, stableEnd, maxBytes);
    if (from + stable.length < stableEnd || to <= this.#unstableFrom) return stable;
    const left = maxBytes - stable.reduce((sum, entry) => sum + entryBytes(entry), 0);
    if (left <= 0) return stable;
    const rest = takeBytes(this.#unstable, 0, to - this.#unstableFrom, left);
    const first = rest[0];
    return first === undefined || entryBytes(first) > left ? stable : stable.concat(rest);
  }
}
