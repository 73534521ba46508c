import { taskStates } from "../../model/task.ts";
import type { TaskId } from "../../model/ids.ts";
import type { DesiredState } from "../../model/task.ts";
import type { Assignment } from "./assignment.ts";

/** What this node has of a task; from its journal and its runner. */
export interface LocalTask {
  readonly taskId: TaskId;
  readonly desiredState: DesiredState;
  readonly stopAfterMs?: number;
  /** False while it was only read from the journal: credentials and payloads are not there yet. */
  readonly confirmed: boolean;
  /** True once its removal was begun. */
  readonly removing: boolean;
}

export type PlanStep =
  | { readonly kind: "add"; readonly assignment: Assignment }
  /** The managers know a task that the journal has too, ask more of it than before, or changed when it ends by itself. */
  | { readonly kind: "update"; readonly assignment: Assignment }
  | { readonly kind: "remove"; readonly taskId: TaskId };

/**
 * Compares what the managers want here with what is here. A desired state is never lowered, and a
 * task whose removal has begun is not taken back: ids are never used again.
 *
 * @returns Removals first, so that what they hold is free for the rest.
 */
export function planTasks(
  assigned: ReadonlyMap<TaskId, Assignment>,
  local: ReadonlyMap<TaskId, LocalTask>,
): PlanStep[] {
  const removals: PlanStep[] = [];
  for (const task of local.values()) {
    if (!assigned.has(task.taskId) && !task.removing) removals.push({ kind: "remove", taskId: task.taskId });
  }
  const others: PlanStep[] = [];
  for (const assignment of assigned.values()) {
    const known = local.get(assignment.taskId);
    if (known === undefined) others.push({ kind: "add", assignment });
    else if (!known.removing && hasNews(known, assignment)) {
      const desiredState = higher(known.desiredState, assignment.desiredState);
      others.push({ kind: "update", assignment: { ...assignment, desiredState } });
    }
  }
  return [...removals, ...others];
}

function hasNews(known: LocalTask, assignment: Assignment): boolean {
  if (!known.confirmed || known.stopAfterMs !== assignment.stopAfterMs) return true;
  return isRaised(known.desiredState, assignment.desiredState);
}

function isRaised(from: DesiredState, to: DesiredState): boolean {
  return taskStates[to] > taskStates[from];
}

function higher(a: DesiredState, b: DesiredState): DesiredState {
  return isRaised(a, b) ? b : a;
}
