import type { ApiService, ApiTask } from "./api-types.ts";

export interface JobProgress {
  readonly lines: readonly string[];
  readonly finished: boolean;
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
  const total = job?.TotalCompletions ?? Math.max(complete + active, Math.min(nodeCount, 1));
  const atOnce = job === undefined ? total : Math.min(job.MaxConcurrent ?? 1, total - complete);
  const finished = complete >= total;
  const error = current.find((task) => task.Status.Err !== undefined)?.Status.Err;
  return {
    finished,
    lines: [
      `job progress: ${complete} out of ${total} complete`,
      `active tasks: ${active} out of ${Math.max(active, atOnce)} tasks`,
      ...(finished ? ["job complete"] : error === undefined ? [] : [error]),
    ],
  };
}

const ended: ReadonlySet<string> = new Set(["complete", "shutdown", "failed", "rejected", "orphaned"]);

function isWanted({ DesiredState: desired }: ApiTask): boolean {
  return desired !== "shutdown" && desired !== "remove";
}
