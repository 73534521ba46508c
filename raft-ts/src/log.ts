import { type Entry, type SnapshotMeta, entryBytes, invariant, totalBytes } from "./message.ts";
import { type Storage, takeBytes } from "./storage.ts";

/** Outcome of a follower's append: where the log now agrees with the leader's, or where it may. */
export type AppendResult =
  | { readonly kind: "matched"; readonly lastIndex: number; readonly replacedFrom: number | undefined }
  | { readonly kind: "conflict"; readonly hintIndex: number; readonly hintTerm: number };

/** How far the state machine is with a snapshot that is durable. */
export type SnapshotState = "loaded" | "loading";

/** What one write has to make durable of the log: a snapshot that replaces it, and entries. */
export interface LogWork {
  readonly snapshot: SnapshotMeta | undefined;
  readonly entries: readonly Entry[];
}

/**
 * The log as the member sees it.
 *
 * ```
 *   storage          | unstable: hides what storage holds from there on
 *   ─────────────────┼──────────────┬────────────────
 *   durable          | being written│ not handed out yet
 *                    stable         handed            last
 * ```
 *
 * `applied <= applying <= min(commit, stable)` and `commit <= last` always: nothing reaches the state machine here
 * before it is durable here. Behind a snapshot that is being loaded nothing does before that is loaded.
 */
export class RaftLog {
  readonly #storage: Storage;
  /** Entries from `#unstableFrom` on; they hide whatever storage holds at those indexes. */
  #unstable: Entry[] = [];
  #unstableFrom: number;
  /** Entries up to here are in storage or in a write under way. */
  #handed: number;
  /** Writes under way, oldest first: what each of them will make stable, unless it is replaced meanwhile. */
  readonly #writes: { lastIndex: number; readonly snapshotIndex: number }[] = [];
  #pendingSnapshot: SnapshotMeta | undefined;
  #snapshotHanded = false;
  #commit: number;
  /** Handed out to be applied. */
  #applying: number;
  #applied: number;
  /** Of a durable snapshot that the state machine has not loaded yet; 0 for none. */
  #loading = 0;

  constructor(storage: Storage) {
    this.#storage = storage;
    this.#unstableFrom = storage.lastIndex() + 1;
    this.#handed = storage.lastIndex();
    const { commit } = storage.initialState();
    const snapshotIndex = storage.snapshot().index;
    invariant(
      commit <= storage.lastIndex(),
      () => `commit index ${commit} is beyond the log's end at ${storage.lastIndex()}: entries were lost`,
    );
    this.#commit = Math.max(commit, snapshotIndex);
    this.#applied = Math.max(snapshotIndex, storage.firstIndex() - 1);
    this.#applying = this.#applied;
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

  /** Whether the state machine still lacks what a durable snapshot brings. */
  get isLoading(): boolean {
    return this.#loading > 0;
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

  /** Whether a log that ends with (`term`, `index`) holds more than this one. */
  isBehind(index: number, term: number): boolean {
    return this.isUpToDate(index, term) && !(term === this.lastTerm() && index === this.lastIndex());
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
    this.#snapshotHanded = false;
    this.#unstable = [];
    this.#unstableFrom = snapshot.index + 1;
    this.#handed = snapshot.index;
    for (const write of this.#writes) write.lastIndex = 0;
    this.#commit = snapshot.index;
  }

  /** Whether there is something that no write has taken yet. */
  get hasWork(): boolean {
    return this.lastIndex() > this.#handed || (this.#pendingSnapshot !== undefined && !this.#snapshotHanded);
  }

  /** Begins a write with all that no other has taken. */
  takeWork(): LogWork {
    const snapshot = this.#snapshotHanded ? undefined : this.#pendingSnapshot;
    const entries = this.#unstable.slice(this.#handed + 1 - this.#unstableFrom);
    this.#snapshotHanded = this.#pendingSnapshot !== undefined;
    this.#handed = this.lastIndex();
    this.#writes.push({ lastIndex: this.#handed, snapshotIndex: snapshot?.index ?? 0 });
    return { snapshot, entries };
  }

  /** The oldest write under way is durable, and storage gives it back. What was replaced meanwhile stays unstable. */
  workDone(state: SnapshotState): void {
    const write = this.#writes.shift();
    invariant(write !== undefined, () => "a write was reported durable, and none is under way");
    const { lastIndex, snapshotIndex } = write;
    if (snapshotIndex > 0) {
      if (this.#pendingSnapshot?.index === snapshotIndex) {
        this.#pendingSnapshot = undefined;
        this.#snapshotHanded = false;
      }
      this.#applying = Math.max(this.#applying, snapshotIndex);
      if (state === "loading") this.#loading = snapshotIndex;
      else this.#applied = Math.max(this.#applied, snapshotIndex);
    }
    if (lastIndex < this.#unstableFrom) return;
    this.#unstable = this.#unstable.slice(lastIndex + 1 - this.#unstableFrom);
    this.#unstableFrom = lastIndex + 1;
  }

  hasCommitted(): boolean {
    return !this.isLoading && Math.min(this.#commit, this.stableIndex()) > this.#applying;
  }

  /** Committed and durable entries that were not taken before, in order. */
  takeCommitted(maxBytes: number): readonly Entry[] {
    const to = Math.min(this.#commit, this.stableIndex());
    if (this.isLoading || to <= this.#applying) return [];
    const entries = this.#slice(this.#applying + 1, to + 1, maxBytes);
    this.#applying += entries.length;
    return entries;
  }

  appliedTo(index: number): void {
    invariant(
      index <= this.#applying,
      () => `applied ${index}: only entries up to ${this.#applying} were handed out`,
    );
    this.#applied = Math.max(this.#applied, index);
    if (index >= this.#loading) this.#loading = 0;
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
    this.#handed = Math.min(this.#handed, from - 1);
    for (const write of this.#writes) write.lastIndex = Math.min(write.lastIndex, from - 1);
  }

  #slice(from: number, to: number, maxBytes: number): readonly Entry[] {
    if (from >= this.#unstableFrom) {
      return takeBytes(this.#unstable, from - this.#unstableFrom, to - this.#unstableFrom, maxBytes);
    }
    const stableEnd = Math.min(to, this.#unstableFrom);
    const stable = this.#storage.entries(from, stableEnd, maxBytes);
    if (from + stable.length < stableEnd || to <= this.#unstableFrom) return stable;
    const left = maxBytes - totalBytes(stable);
    if (left <= 0) return stable;
    const rest = takeBytes(this.#unstable, 0, to - this.#unstableFrom, left);
    const first = rest[0];
    return first === undefined || entryBytes(first) > left ? stable : stable.concat(rest);
  }
}
