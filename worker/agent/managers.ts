import type { Random } from "../../runtime/random.ts";

/** How well a manager answered lately; a fresh one is in the middle. */
const firstWeight = 10;
const bestWeight = 100;
const worstWeight = 1;

/**
 * Which manager to try next. The one that was named as leader comes first; after it all others,
 * each once before any is tried again, those that answered lately more likely first.
 */
export class ManagerPool {
  readonly #weights = new Map<string, number>();
  #leader: string | undefined;
  #untried = new Set<string>();
  #last: string | undefined;

  constructor(addresses: readonly string[]) {
    this.replace(addresses);
  }

  get addresses(): readonly string[] {
    return [...this.#weights.keys()];
  }

  /** The managers as the cluster knows them now. An empty list is not believed. */
  replace(addresses: readonly string[]): void {
    if (addresses.length === 0) return;
    const gone = [...this.#weights.keys()].filter((address) => !addresses.includes(address));
    for (const address of gone) this.#weights.delete(address);
    for (const address of addresses) {
      if (!this.#weights.has(address)) this.#weights.set(address, firstWeight);
    }
  }

  /** Somebody said who leads; it is tried first even if it was tried before. */
  hint(leader: string): void {
    this.#leader = leader;
  }

  /** Undefined when no manager is known at all. */
  next(random: Random): string | undefined {
    const leader = this.#leader;
    this.#leader = undefined;
    if (leader !== undefined) {
      this.#untried.delete(leader);
      this.#last = leader;
      return leader;
    }
    let candidates = [...this.#untried].filter((address) => this.#weights.has(address));
    if (candidates.length === 0) {
      const all = [...this.#weights.keys()];
      // A new round does not begin with the one that has just ended the last.
      candidates = all.length > 1 ? all.filter((address) => address !== this.#last) : all;
      this.#untried = new Set(all);
    }
    const chosen = this.#weighted(candidates, random);
    if (chosen !== undefined) this.#untried.delete(chosen);
    this.#last = chosen;
    return chosen;
  }

  succeeded(address: string): void {
    this.#weigh(address, bestWeight);
    this.#untried = new Set(this.#weights.keys());
  }

  failed(address: string): void {
    this.#weigh(address, worstWeight);
  }

  /** Half of what was, half of what is seen now. */
  #weigh(address: string, seen: number): void {
    const weight = this.#weights.get(address);
    if (weight !== undefined) this.#weights.set(address, Math.max(worstWeight, (weight + seen) / 2));
  }

  #weighted(candidates: readonly string[], random: Random): string | undefined {
    const total = candidates.reduce((sum, address) => sum + (this.#weights.get(address) ?? 0), 0);
    let left = random.next() * total;
    for (const address of candidates) {
      left -= this.#weights.get(address) ?? 0;
      if (left < 0) return address;
    }
    return candidates.at(-1);
  }
}
