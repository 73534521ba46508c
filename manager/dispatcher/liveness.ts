import type { NodeId } from "../../model/ids.ts";

/** Longest that one look at the clock may count for; see `Liveness`. */
export const tickLimitMs = 250;

/**
 * Until when each node must be heard. Time here is the time in which this manager could have heard them: a look at
 * the clock that comes late, because the process was stopped or its event loop was busy, counts as `tickLimitMs` and
 * no more. So a pause of a manager makes no node look dead, and a dead node is found that much later.
 */
export class Liveness {
  readonly #deadlines = new Map<NodeId, number>();
  #lastMs: number;
  #awakeMs = 0;

  /** @param monotonicMs - As all times here: from the monotonic clock. */
  constructor(monotonicMs: number) {
    this.#lastMs = monotonicMs;
  }

  /** Call it at least every `tickLimitMs`. @returns How much of the time since the last call did not count. */
  tick(monotonicMs: number): number {
    const passedMs = Math.max(0, monotonicMs - this.#lastMs);
    const countedMs = Math.min(passedMs, tickLimitMs);
    this.#lastMs = monotonicMs;
    this.#awakeMs += countedMs;
    return passedMs - countedMs;
  }

  /** The node was heard, or is given time: it is due `graceMs` from now. */
  expect(nodeId: NodeId, graceMs: number): void {
    this.#deadlines.set(nodeId, this.#awakeMs + graceMs);
  }

  forget(nodeId: NodeId): void {
    this.#deadlines.delete(nodeId);
  }

  isExpected(nodeId: NodeId): boolean {
    return this.#deadlines.has(nodeId);
  }

  /** Nodes that are overdue; they are forgotten. */
  takeOverdue(): NodeId[] {
    const overdue: NodeId[] = [];
    for (const [nodeId, dueMs] of this.#deadlines) {
      if (dueMs > this.#awakeMs) continue;
      this.#deadlines.delete(nodeId);
      overdue.push(nodeId);
    }
    return overdue;
  }
}
