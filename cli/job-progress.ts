import type { ApiService, ApiTask } from "./api-types.ts";

export interface JobProgress {
  readonly lines: readonly string[];
  readonly finished: boolean;
  /** Nothing of it runs or will run again, though not all is complete: why, in words. */
  readonly givenUp: string | undefined;
}

/** How far the present iteration of a job has got; `undefined` for services that are no jobs. */
export function jobProgress(
  { Spec: { Mode: mode }, JobStatus: status }: ApiService,
  tasks: readonly ApiTask[],
  nodeCount: number,
): JobProgress | undefined {
  const { ReplicatedJob: job, GlobalJob: globalJob } = mode;
  if (job === undefined && globalJob === undefined) return undefined;
  const iteration = status?.JobIteration.Index ?? 0;
  const current = tasks.filter((task) => (task.JobIteration?.Index ?? 0) === iteration);
  const complete = current.filter((task) => task.Status.State === "complete").length;
  const active = current.filter((task) => isWanted(task) && !ended.has(task.Status.State)).length;
  const abandoned = endedForGood(current);
  const total = job?.TotalCompletions ?? Math.max(complete + active + abandoned, Math.min(nodeCount, 1));
  const atOnce = job === undefined ? total : Math.min(job.MaxConcurrent ?? 1, total - complete);
  const finished = complete >= total;
  const error = current.find((task) => task.Status.Err !== undefined)?.Status.Err;
  const isOver = !finished && active === 0 && abandoned > 0 && complete + abandoned >= total;
  return {
    finished,
    givenUp: isOver
      ? `job gave up: ${complete} out of ${total} complete${error === undefined ? "" : `: ${error}`}`
      : undefined,
    lines: [
      `job progress: ${complete} out of ${total} complete`,
      `active tasks: ${active} out of ${Math.max(active, atOnce)} tasks`,
      ...(finished ? ["job complete"] : error === undefined ? [] : [error]),
    ],
  };
}

const ended: ReadonlySet<string> = new Set(["complete", "shutdown", "failed", "rejected", "orphaned"]);

/** Places whose tasks failed and get no other; one that is restarted has a task that is wanted. */
function endedForGood(tasks: readonly ApiTask[]): number {
  const places = new Map<string, ApiTask[]>();
  for (const task of tasks) {
    const place = task.Slot === undefined ? `${task.NodeID}` : String(task.Slot);
    places.set(place, [...(places.get(place) ?? []), task]);
  }
  return [...places.values()].filter((place) => {
    if (place.some((task) => isWanted(task) || task.Status.State === "complete")) return false;
    const newest = place.reduce((a, b) => (b.CreatedAt > a.CreatedAt ? b : a));
    return newest.Status.State === "failed" || newest.Status.State === "rejected";
  }).length;
}

function isWanted({ DesiredState: desired }: ApiTask): boolean {
  return desired !== "shutdown" && desired !== "remove";
}
