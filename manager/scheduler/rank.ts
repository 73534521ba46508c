/** Negative when row `a` is better than row `b` for one more task. */
export type Ranking = (a: number, b: number) => number;

/** Rows, best first. Only the best one's rank may change between two calls. */
export interface Shortlist {
  /** -1 when there is none. */
  best(): number;
  /** Puts the best one where it now belongs. */
  settleBest(): void;
  dropBest(): void;
}

/** For few tasks a walk over all rows is cheaper than putting them in order. */
const scanLimit = 4;

export function shortlist(rows: Int32Array, tasks: number, ranking: Ranking): Shortlist {
  return tasks <= scanLimit ? new Scan(rows, ranking) : new Heap(rows, ranking);
}

class Scan implements Shortlist {
  readonly #rows: Int32Array;
  readonly #ranking: Ranking;
  #count: number;
  /** Where the best one is; -1 while unknown. */
  #at = -1;

  constructor(rows: Int32Array, ranking: Ranking) {
    this.#rows = rows;
    this.#ranking = ranking;
    this.#count = rows.length;
  }

  best(): number {
    if (this.#count === 0) return -1;
    if (this.#at < 0) {
      let at = 0;
      for (let i = 1; i < this.#count; i += 1) {
        if (this.#ranking(this.#rows[i] ?? 0, this.#rows[at] ?? 0) < 0) at = i;
      }
      this.#at = at;
    }
    return this.#rows[this.#at] ?? -1;
  }

  settleBest(): void {
    this.#at = -1;
  }

  dropBest(): void {
    if (this.best() < 0) return;
    this.#count -= 1;
    this.#rows[this.#at] = this.#rows[this.#count] ?? 0;
    this.#at = -1;
  }
}

/** A binary heap over the rows it is given, in place. */
class Heap implements Shortlist {
  readonly #rows: Int32Array;
  readonly #ranking: Ranking;
  #count: number;

  constructor(rows: Int32Array, ranking: Ranking) {
    this.#rows = rows;
    this.#ranking = ranking;
    this.#count = rows.length;
    for (let i = (this.#count >> 1) - 1; i >= 0; i -= 1) this.#sink(i);
  }

  best(): number {
    return this.#count === 0 ? -1 : (this.#rows[0] ?? -1);
  }

  settleBest(): void {
    this.#sink(0);
  }

  dropBest(): void {
    if (this.#count === 0) return;
    this.#count -= 1;
    this.#rows[0] = this.#rows[this.#count] ?? 0;
    this.#sink(0);
  }

  #sink(start: number): void {
    const rows = this.#rows;
    const row = rows[start] ?? 0;
    let at = start;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#count) break;
      let smaller = rows[child] ?? 0;
      const right = rows[child + 1] ?? 0;
      if (child + 1 < this.#count && this.#ranking(right, smaller) < 0) {
        smaller = right;
        child += 1;
      }
      if (this.#ranking(row, smaller) <= 0) break;
      rows[at] = smaller;
      at = child;
    }
    rows[at] = row;
  }
}
