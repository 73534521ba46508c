import { taskStates } from "../../model/task.ts";
import type { TaskId } from "../../model/ids.ts";
import type { TaskStatus } from "../../model/task.ts";

export interface Report {
  readonly taskId: TaskId;
  readonly status: TaskStatus;
}

/**
 * The latest status of every task and which of them the leader has not acknowledged. It never goes
 * backwards: a status below the one it holds is dropped. Synchronous and without a clock; whoever
 * has a session takes batches from it.
 */
export class Reporter {
  readonly #latest = new Map<TaskId, TaskStatus>();
  readonly #unsent = new Set<TaskId>();
  #inFlight: { readonly sequence: number; readonly reports: readonly Report[] } | undefined;
  readonly #onUnsent: () => void;
  #sequence = 0;

  /** @param onUnsent - Called whenever there is something to take; may be called again before it was. */
  constructor(onUnsent: () => void) {
    this.#onUnsent = onUnsent;
  }

  /** True when the status was taken; false when a later one is known. */
  report(taskId: TaskId, status: TaskStatus): boolean {
    const known = this.#latest.get(taskId);
    if (known !== undefined && taskStates[status.state] < taskStates[known.state]) return false;
    this.#latest.set(taskId, status);
    this.#unsent.add(taskId);
    this.#tellUnsent();
    return true;
  }

  /** The task is gone for good; nothing about it is sent any more. */
  forget(taskId: TaskId): void {
    this.#latest.delete(taskId);
    this.#unsent.delete(taskId);
  }

  latest(taskId: TaskId): TaskStatus | undefined {
    return this.#latest.get(taskId);
  }

  /** A session opened: its leader may have missed anything, so everything is sent again. */
  restart(): void {
    this.#inFlight = undefined;
    for (const taskId of this.#latest.keys()) this.#unsent.add(taskId);
    this.#tellUnsent();
  }

  /**
   * Up to `limit` statuses as one batch with its number; undefined when nothing waits. Nor does it give one while an
   * earlier batch is not acknowledged: a busy leader gets fewer and fuller batches, and no status that is outdated.
   */
  take(limit: number): { readonly sequence: number; readonly reports: readonly Report[] } | undefined {
    if (this.#inFlight !== undefined) return undefined;
    const reports: Report[] = [];
    for (const taskId of this.#unsent) {
      if (reports.length >= limit) break;
      this.#unsent.delete(taskId);
      const status = this.#latest.get(taskId);
      if (status !== undefined) reports.push({ taskId, status });
    }
    if (reports.length === 0) return undefined;
    this.#sequence += 1;
    this.#inFlight = { sequence: this.#sequence, reports };
    return this.#inFlight;
  }

  /** The leader has stored every batch up to this number. */
  acknowledge(sequence: number): void {
    if (this.#inFlight === undefined || this.#inFlight.sequence > sequence) return;
    this.#inFlight = undefined;
    this.#tellUnsent();
  }

  /** Statuses that no leader has acknowledged, sent or not. */
  get unacknowledgedCount(): number {
    return this.#unsent.size + (this.#inFlight?.reports.length ?? 0);
  }

  #tellUnsent(): void {
    if (this.#inFlight === undefined && this.#unsent.size > 0) this.#onUnsent();
  }
}
