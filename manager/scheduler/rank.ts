import { freeMemory, weighedFailures, type Demand, type NodeUse } from "./nodes.ts";

/** Negative when `a` is the better node for one more task. */
export type Ranking = (a: NodeUse, b: NodeUse) => number;

/** Fewer recent failures, then fewer tasks of the service, then fewer tasks, then more free memory, then the id. */
export function rankingFor(demand: Demand, nowMs: number): Ranking {
  // Failures do not change while tasks are placed, and on most nodes there are none.
  const failures = new Map<NodeUse, number>();
  const failuresOf = (use: NodeUse): number => {
    if (use.failures.size === 0) return 0;
    let known = failures.get(use);
    if (known === undefined) failures.set(use, (known = weighedFailures(use, demand.key, nowMs)));
    return known;
  };
  const ofService = (use: NodeUse): number => use.activeByService.get(demand.serviceId) ?? 0;
  return (a, b) =>
    failuresOf(a) - failuresOf(b) ||
    ofService(a) - ofService(b) ||
    a.active - b.active ||
    freeMemory(b) - freeMemory(a) ||
    (a.node.id < b.node.id ? -1 : 1);
}

/** A binary heap, best first. Only the best one's rank may change between two calls. */
export class Heap {
  readonly #items: NodeUse[];
  readonly #ranking: Ranking;

  constructor(items: readonly NodeUse[], ranking: Ranking) {
    this.#items = [...items];
    this.#ranking = ranking;
    for (let i = (this.#items.length >> 1) - 1; i >= 0; i -= 1) this.#sink(i);
  }

  get best(): NodeUse | undefined {
    return this.#items[0];
  }

  /** Puts the best one where it now belongs. */
  settleBest(): void {
    this.#sink(0);
  }

  dropBest(): void {
    const last = this.#items.pop();
    if (last === undefined || this.#items.length === 0) return;
    this.#items[0] = last;
    this.#sink(0);
  }

  #sink(start: number): void {
    const items = this.#items;
    const item = items[start];
    if (item === undefined) return;
    let at = start;
    for (;;) {
      let child = 2 * at + 1;
      let smaller = items[child];
      if (smaller === undefined) break;
      const right = items[child + 1];
      if (right !== undefined && this.#ranking(right, smaller) < 0) {
        smaller = right;
        child += 1;
      }
      if (this.#ranking(item, smaller) <= 0) break;
      items[at] = smaller;
      at = child;
    }
    items[at] = item;
  }
}
