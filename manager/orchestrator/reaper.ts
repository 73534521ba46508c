import type { Service } from "../../model/service.ts";
import { isTerminal, isWanted, taskStates, type Task } from "../../model/task.ts";
import { isOfThisUpdate, newestFirst } from "./plan.ts";

/** However many restarts a policy allows, no slot keeps more records than this. */
export const slotHistoryLimit = 100;

/** A record that nobody needs: told to go and stopped or never begun, or without its service and node. */
export function isForgotten(task: Task, serviceExists: boolean): boolean {
  if (task.desiredState === "remove") {
    return (
      taskStates[task.status.state] < taskStates.assigned ||
      taskStates[task.status.state] >= taskStates.complete
    );
  }
  return !serviceExists && task.status.state === "orphaned";
}

/**
 * Dead tasks of one slot that are beyond what is kept, oldest first. The limit counts living ones too. The
 * newest of a slot stays, and what a running update needs, and so does what finished for a job.
 *
 * @param historyLimit - The cluster's; negative keeps everything.
 */
export function decideTrim(service: Service, slot: readonly Task[], historyLimit: number): readonly Task[] {
  const limit = limitFor(service, historyLimit);
  const surplus = slot.length - limit;
  if (limit < 0 || surplus <= 0) return [];
  const kept = neededBy(service, slot);
  return slot
    .filter((task) => !kept.has(task) && isHistory(task) && !isResult(service, task))
    .toSorted((a, b) => lastSeenMs(a) - lastSeenMs(b))
    .slice(0, surplus);
}

/**
 * The newest says that the slot was filled. An update reads from the one before its own that a slot was replaced and not added,
 * and from the first of its own how it went; restarts after that do not make it forget.
 */
function neededBy(service: Service, slot: readonly Task[]): ReadonlySet<Task | undefined> {
  const tasks = slot.toSorted(newestFirst);
  const [newest] = tasks;
  const { state, startedVersion } = service.updateStatus ?? {};
  const isUpdating = state === "updating" || state === "rollback_started";
  if (!isUpdating || startedVersion === undefined) return new Set([newest]);
  const own = tasks.filter((task) => isOfThisUpdate({ service }, task, startedVersion));
  return new Set([newest, own.at(-1), tasks.find((task) => !own.includes(task))]);
}

function isHistory(task: Task): boolean {
  return isTerminal(task) || (taskStates[task.status.state] < taskStates.assigned && !isWanted(task));
}

/** Without the record the job would run again. */
function isResult({ job }: Service, task: Task): boolean {
  return job !== undefined && task.jobIteration === job.iteration && task.status.state === "complete";
}

function limitFor(service: Service, historyLimit: number): number {
  const maxAttempts = service.spec.task.restart.maxAttempts ?? 0;
  // Attempts within a window are counted on the records.
  if (maxAttempts > 0) return Math.min(maxAttempts + 1, slotHistoryLimit);
  return historyLimit;
}

function lastSeenMs(task: Task): number {
  return task.status.appliedAtMs > 0 ? task.status.appliedAtMs : task.status.atMs;
}
