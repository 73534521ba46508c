import { isTerminal, type TaskStatus } from "../../model/task.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Assignment } from "./assignment.ts";

/** A node in a session notes the time this often while it has tasks that a silence would end. */
export const sessionNotePeriodMs = 5_000;

interface Isolated {
  readonly assignment: Pick<Assignment, "taskId" | "stopAfterMs">;
  readonly status: TaskStatus;
}

export interface IsolationPlan {
  /** Tasks to end now: managers may have replaced them. */
  readonly stop: readonly TaskId[];
  /** How long until the next one is due, if the silence lasts; `undefined` when none is left. */
  readonly nextMs: number | undefined;
}

/**
 * What becomes of this node's tasks when no manager was heard for `silentMs`: those of services with
 * `shoal.on-unreachable=stop` end when their time is over, all others run on.
 */
export function planIsolation(tasks: Iterable<Isolated>, silentMs: number): IsolationPlan {
  const stop: TaskId[] = [];
  let nextMs: number | undefined;
  for (const { assignment, status } of tasks) {
    if (assignment.stopAfterMs === undefined || isTerminal({ status })) continue;
    const leftMs = assignment.stopAfterMs - silentMs;
    if (leftMs <= 0) stop.push(assignment.taskId);
    else nextMs = Math.min(nextMs ?? leftMs, leftMs);
  }
  return { stop, nextMs };
}

/** Error of a task that its own node ended. */
export function isolationText(stopAfterMs: number | undefined): string {
  return `stopped by its node: no manager was heard for ${(stopAfterMs ?? 0) / 1_000} s (shoal.on-unreachable=stop)`;
}
