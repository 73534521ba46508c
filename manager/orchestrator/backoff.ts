import {
  defaultRestartDelayMs,
  restartBackoffResetMs,
  shortestRestartBackoffMs,
} from "../../model/defaults.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { Labels } from "../../model/meta.ts";
import type { RestartPolicy } from "../../model/service.ts";
import { isTerminal, type Task } from "../../model/task.ts";

/**
 * How long a restart waits: the policy's delay after the first end, twice as long after each further one
 * in a row, up to the service's bound. A delay beyond the bound stays as it was given.
 */
export function restartWaitMs(
  { crashes = 0 }: Pick<Task, "crashes">,
  { delayMs = defaultRestartDelayMs }: RestartPolicy,
  labels: Labels,
): number {
  if (crashes === 0) return 0;
  if (crashes === 1) return delayMs;
  const doublings = Math.min(crashes - 1, mostDoublings);
  const doubledMs = Math.max(delayMs * 2 ** doublings, shortestRestartBackoffMs * 2 ** (doublings - 1));
  return Math.max(delayMs, Math.min(doubledMs, extensionsOf(labels).restartMaxDelayMs));
}

/** Beyond this every bound is reached; keeps the power finite. */
const mostDoublings = 30;

/** What the replacement of an ended task counts: one more, or the first after a task that ran well for long. */
export function crashesAfter(
  old: Pick<Task, "crashes">,
  run: { readonly beganMs: number; readonly endedMs: number },
): number {
  return run.endedMs - run.beganMs >= restartBackoffResetMs ? 1 : (old.crashes ?? 0) + 1;
}

/** What a task that waits for its restart says of itself; `undefined` for one that does not wait. */
export function backoffText(task: Task, policy: RestartPolicy, labels: Labels): string | undefined {
  const { crashes = 0 } = task;
  if (task.desiredState !== "ready" || isTerminal(task) || crashes === 0) return undefined;
  const waitMs = restartWaitMs(task, policy, labels);
  const startsAt = new Date(task.meta.createdAtMs + waitMs).toISOString();
  const waits = `starts at ${startsAt}, ${printSeconds(waitMs)} after the last one ended`;
  if (crashes === 1) return `restart delay: ${waits}`;
  return `crash back-off: ${crashes} tasks in a row ended soon after their start; ${waits}`;
}

function printSeconds(ms: number): string {
  return `${Number((ms / 1000).toFixed(1))}s`;
}
