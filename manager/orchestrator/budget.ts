/** Replacements for tasks of nodes that are down, all services together. */
export const replacementsPerSecond = 1_000;

/**
 * How many replacements may begin now. Should half the cluster vanish at once, what is left is not drowned in
 * new tasks, and nodes that come back soon keep theirs.
 */
export class ReplacementBudget {
  #left = replacementsPerSecond;
  #filledAtMs: number;

  constructor(nowMs: number) {
    this.#filledAtMs = nowMs;
  }

  /** @param nowMs - Never runs backwards. @returns False when none is left; ask again after `retryMs`. */
  take(nowMs: number): boolean {
    const earned = ((nowMs - this.#filledAtMs) * replacementsPerSecond) / 1_000;
    this.#left = Math.min(replacementsPerSecond, this.#left + earned);
    this.#filledAtMs = nowMs;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}

export const retryMs = 100;
