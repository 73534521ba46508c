/**
 * Columns that one decision needs and the next may overwrite. New ones for each would be tens of kilobytes
 * outside the heap, whose collection costs more than the decision.
 */
export class Scratch {
  readonly #numbers = new Map<string, Int32Array>();
  readonly #flags = new Map<string, Uint8Array>();

  /** Zeros. The last column of that name is lost. */
  numbers(name: string, count: number): Int32Array {
    let column = this.#numbers.get(name);
    if (column === undefined || column.length < count) {
      this.#numbers.set(name, (column = new Int32Array(count * 2)));
    }
    return column.subarray(0, count).fill(0);
  }

  /** Zeros. The last column of that name is lost. */
  flags(name: string, count: number): Uint8Array {
    let column = this.#flags.get(name);
    if (column === undefined || column.length < count) {
      this.#flags.set(name, (column = new Uint8Array(count * 2)));
    }
    return column.subarray(0, count).fill(0);
  }
}
