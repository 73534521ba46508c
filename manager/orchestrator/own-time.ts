import type { Task } from "../../model/task.ts";

/** This leader's clock: now, and when it began to lead. */
export interface OwnTime {
  readonly nowMs: number;
  readonly leadsSinceMs: number;
}

/**
 * The task with times as this leader's clock can mean them. What lies in the future was written by a leader whose
 * clock runs ahead; it happened before this one took over, and waits for it begin again then. Without this, a leader
 * whose clock is an hour behind would wait an hour for every delay.
 */
export function inOwnTime(task: Task, { nowMs, leadsSinceMs }: OwnTime): Task {
  const { meta, status } = task;
  if (Math.max(meta.createdAtMs, status.atMs, status.appliedAtMs) <= nowMs) return task;
  const own = (atMs: number): number => (atMs > nowMs ? leadsSinceMs : atMs);
  return {
    ...task,
    meta: { ...meta, createdAtMs: own(meta.createdAtMs) },
    status: { ...status, atMs: own(status.atMs), appliedAtMs: own(status.appliedAtMs) },
  };
}
