/** Whether a task runs what its service asks for now; the progress bars of clients hang on it. */
import { isDeepStrictEqual } from "node:util";
import type { Revision, Service } from "../../model/service.ts";
import type { Task } from "../../model/task.ts";

/** A change of labels or of the replica count leaves the tasks of older revisions up to date. */
export function isUpToDate(task: Task, service: Service, revision: Revision | undefined): boolean {
  if (task.specVersion === service.specVersion) return true;
  if (revision === undefined) return false;
  return (
    isDeepStrictEqual(revision.task, service.spec.task) &&
    isDeepStrictEqual(revision.endpoint, service.spec.endpoint)
  );
}
