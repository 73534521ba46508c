import type { MemoryStorage, SnapshotMeta } from "raft-ts";
import type { WalBatch } from "../../manager/raft/codec.ts";

/** Term, vote and the terms of a log, as a disk holds them. */
interface LogView {
  readonly term: number;
  readonly vote: string | undefined;
  readonly base: { readonly index: number; readonly term: number };
  /** Of the entries after `base`. */
  readonly terms: readonly number[];
}

const emptyView: LogView = { term: 0, vote: undefined, base: { index: 0, term: 0 }, terms: [] };

/**
 * What one member must find on its disk, kept beside the real log: every batch whose write has settled, and those
 * under way, of which a crash may leave the first few.
 */
export class Ledger {
  #durable: LogView = emptyView;
  #underWay: WalBatch[] = [];
  /** Snapshots that were begun: their files may be there. */
  readonly #snapshots = new Set<string>();

  get term(): number {
    return this.#durable.term;
  }

  get vote(): string | undefined {
    return this.#durable.vote;
  }

  get lastIndex(): number {
    return lastIndexOf(this.#durable);
  }

  get baseIndex(): number {
    return this.#durable.base.index;
  }

  get isWriting(): boolean {
    return this.#underWay.length > 0;
  }

  /** Nothing was ever promised. */
  get isEmpty(): boolean {
    return this.#durable.term === 0 && this.lastIndex === 0 && this.#underWay.length === 0;
  }

  /** Term of a durable entry; undefined beyond the end and below the base. */
  termAt(index: number): number | undefined {
    return termIn(this.#durable, index);
  }

  /** Whether it holds the entry, be it as part of a snapshot. */
  holds(index: number, term: number): boolean {
    return index < this.#durable.base.index || this.termAt(index) === term;
  }

  /** Term of an entry that is being written; undefined when none is. */
  termUnderWay(index: number): number | undefined {
    for (const { entries } of this.#underWay.toReversed()) {
      const entry = entries.find((candidate) => candidate.index === index);
      if (entry !== undefined) return entry.term;
    }
    return undefined;
  }

  begin(batch: WalBatch): void {
    this.#underWay.push(batch);
  }

  settled(batch: WalBatch): void {
    // Batches settle in order; what came before this one is durable with it.
    const at = this.#underWay.indexOf(batch);
    for (const done of this.#underWay.splice(0, at + 1)) this.#durable = withBatch(this.#durable, done);
  }

  snapshotBegun({ index, term }: SnapshotMeta): void {
    this.#snapshots.add(`${index}/${term}`);
  }

  /**
   * Compares with what was read back after a crash and goes on from there.
   *
   * @returns what is missing or different; undefined when all is as promised.
   */
  recovered(storage: MemoryStorage): string | undefined {
    let problem: string | undefined;
    let view = this.#durable;
    for (let taken = 0; ; taken += 1) {
      const difference = this.#difference(view, storage);
      if (difference === undefined) {
        this.#adopt(storage);
        return undefined;
      }
      problem ??= difference;
      const next = this.#underWay[taken];
      if (next === undefined) return problem;
      view = withBatch(view, next);
    }
  }

  /** The first state of a member, which nobody promised. */
  founded(storage: MemoryStorage): void {
    this.#adopt(storage);
  }

  #adopt(storage: MemoryStorage): void {
    const { term, vote } = storage.initialState();
    const base = storage.firstIndex() - 1;
    const terms: number[] = [];
    for (let index = base + 1; index <= storage.lastIndex(); index += 1) terms.push(storage.term(index) ?? 0);
    this.#durable = { term, vote, base: { index: base, term: storage.term(base) ?? 0 }, terms };
    this.#underWay = [];
  }

  #difference(view: LogView, storage: MemoryStorage): string | undefined {
    const { term, vote } = storage.initialState();
    if (term !== view.term) return `term ${term} was read back, ${view.term} was durable`;
    if (vote !== view.vote) return `vote ${vote} was read back, ${view.vote} was durable`;
    const snapshot = storage.snapshot();
    const last = storage.lastIndex();
    const expectedLast = lastIndexOf(view);
    const isNewBase =
      snapshot.index > view.base.index && this.#snapshots.has(`${snapshot.index}/${snapshot.term}`);
    const goesOn = termIn(view, snapshot.index) === snapshot.term;
    if (isNewBase && !goesOn) {
      // It replaces a log that it does not continue.
      return last === snapshot.index
        ? undefined
        : `the log ends at ${last}, its snapshot at ${snapshot.index}`;
    }
    if (last !== expectedLast) return `the log read back ends at ${last}, ${expectedLast} was durable`;
    for (let index = Math.max(storage.firstIndex(), view.base.index + 1); index <= last; index += 1) {
      const read = storage.term(index);
      const expected = termIn(view, index);
      if (read !== expected) return `entry ${index} read back has term ${read}, ${expected} was durable`;
    }
    return undefined;
  }
}

function withBatch(view: LogView, { hardState, entries, installed }: WalBatch): LogView {
  const { term, vote } = hardState ?? view;
  let { base, terms } = view;
  if (installed !== undefined) {
    base = { index: installed.index, term: installed.term };
    terms = [];
  }
  const first = entries[0];
  if (first !== undefined) {
    terms = [
      ...terms.slice(0, Math.max(0, first.index - base.index - 1)),
      ...entries.map((entry) => entry.term),
    ];
  }
  return { term, vote, base, terms };
}

function lastIndexOf({ base, terms }: LogView): number {
  return base.index + terms.length;
}

function termIn({ base, terms }: LogView, index: number): number | undefined {
  return index === base.index ? base.term : terms[index - base.index - 1];
}
