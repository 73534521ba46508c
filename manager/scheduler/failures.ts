import type { NodeId } from "../../model/ids.ts";

/** Failures older than this are forgotten. */
export const failureWindowMs = 300_000;
/** From so many recent failures on, a node is ranked behind for the revision that failed. */
export const failureThreshold = 5;
/** Revisions that failures are kept of; the one that failed longest ago is forgotten first. */
const revisionLimit = 1_000;

/** Recent failures of each revision on each node. More than the threshold weigh no more, so none is shunned for ever. */
export class Failures {
  /** Times by demand key and node, oldest first. The keys are in the order of their last failure. */
  readonly #times = new Map<string, Map<NodeId, number[]>>();

  note(id: NodeId, key: string, nowMs: number): void {
    const byNode = this.#times.get(key) ?? new Map<NodeId, number[]>();
    this.#times.delete(key);
    this.#times.set(key, byNode);
    const recent = (byNode.get(id) ?? []).filter((atMs) => nowMs - atMs < failureWindowMs);
    byNode.set(id, [...recent.slice(1 - failureThreshold), nowMs]);
    if (this.#times.size <= revisionLimit) return;
    for (const oldest of this.#times.keys()) {
      this.#times.delete(oldest);
      break;
    }
  }

  /** Nodes on which the revision failed so often of late that others come first. */
  *nodesBehind(key: string, nowMs: number): Iterable<NodeId> {
    for (const [id, times] of this.#times.get(key) ?? []) {
      const [first = -Infinity] = times;
      if (times.length >= failureThreshold && nowMs - first < failureWindowMs) yield id;
    }
  }
}
