import { defaultRestartCondition, restartStopTimeoutMs } from "../../model/defaults.ts";
import { goalOf, isJob } from "../../model/service.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import { crashesAfter, restartWaitMs } from "./backoff.ts";
import { isTaskDirty } from "./dirty.ts";
import {
  earliest,
  emptyPlan,
  hasToLeave,
  isOnDownNode,
  isRunning,
  isStopped,
  lossAtMs,
  placeOf,
  sinceMs,
  type Plan,
  type Scene,
  type Slot,
  type TaskChange,
} from "./plan.ts";

/**
 * One slot's tasks that ended or lost their node: end them, and put one replacement in their place where
 * the restart policy allows it. The replacement waits as `ready` (the worker may prepare it) until
 * `decidePromotion` lets it start.
 */
export function decideRestart(scene: Scene, slot: Slot): Plan {
  const ended = slot.live.filter((task) => isTerminal(task) || hasToLeave(scene, task));
  if (ended.length === 0) return { steps: [], wakeAtMs: nextLossMs(scene, slot) };
  // Something good is already there, or on its way: then the rest only has to go, in the update's order.
  const good = slot.live.filter((task) => !ended.includes(task) && !isOutdated(scene, task));
  if (good.length > 0) {
    const over = ended.filter(
      (task) => isTerminal(task) || good.some(isRunning) || !staysUntilReplaced(scene, task),
    );
    const wakeAtMs = nextLossMs(scene, { ...slot, live: good });
    return { steps: over.length === 0 ? [] : [over.map(shutdown)], wakeAtMs };
  }
  const newest = ended[0];
  if (newest === undefined) return emptyPlan;
  // A replacement that fails while it still waits for its start keeps waiting, or it would spin.
  const startAtMs = newest.desiredState === "ready" ? earliestStartMs(scene, newest) : 0;
  if (isTerminal(newest) && scene.nowMs < startAtMs) return { steps: [], wakeAtMs: startAtMs };
  // A task that was told to move did not fail: the restart policy has no say.
  if (!isToldToMove(newest) && !mayRestart(scene, slot, newest)) {
    // Of a node that is down nobody knows that it ended; none comes for it, so it is waited for.
    const over = ended.filter((task) => isTerminal(task) || !isOnDownNode(scene, task));
    return { steps: over.length === 0 ? [] : [over.map(shutdown)], wakeAtMs: undefined };
  }
  // Also an older one stays: the newest may have been on its way when both had to leave.
  const goes = ended.filter((task) => !staysUntilReplaced(scene, task));
  const delayMs = nextWaitMs(scene, newest);
  const startNow = delayMs === 0 && goes.every((task) => isStopped(scene, task));
  return {
    steps: [
      [...goes.map((task) => leave(scene, task)), create(scene, slot, newest, startNow ? "now" : "later")],
    ],
    wakeAtMs: undefined,
  };
}

/** When the first of the slot's tasks is given up unless its node returns. */
function nextLossMs(scene: Scene, slot: Slot): number | undefined {
  let wakeAtMs: number | undefined;
  for (const { nodeId } of slot.live) {
    const node = nodeId === undefined ? undefined : scene.node(nodeId);
    if (node !== undefined) wakeAtMs = earliest(wakeAtMs, lossAtMs(scene, node));
  }
  return wakeAtMs;
}

/** A `ready` task may start once its delay is over and what it replaces has stopped, or took too long to. */
export function decidePromotion(scene: Scene, slot: Slot): Plan {
  const waiting = slot.live.filter((task) => task.desiredState === "ready" && !isTerminal(task));
  let wakeAtMs: number | undefined;
  const steps: TaskChange[][] = [];
  for (const task of waiting) {
    const startAtMs = earliestStartMs(scene, task);
    if (scene.nowMs < startAtMs) {
      wakeAtMs = earliest(wakeAtMs, startAtMs);
      continue;
    }
    const giveUpAtMs = task.meta.createdAtMs + restartStopTimeoutMs;
    const leaving = slot.tasks.some((other) => !slot.live.includes(other) && !isStopped(scene, other));
    if (leaving && scene.nowMs < giveUpAtMs) wakeAtMs = earliest(wakeAtMs, giveUpAtMs);
    else steps.push([{ kind: "promote", taskId: task.id }]);
  }
  return { steps, wakeAtMs };
}

/**
 * Whether the policy allows a replacement of this task, the newest of its slot.
 *
 * Attempts are counted on the tasks themselves, so a new leader knows them. Within a window, a restart
 * counts for as long as window plus the wait before the next, since otherwise a long wait would void the
 * limit. A job's task that finished is never run again, whatever the condition.
 */
export function mayRestart(scene: Scene, slot: Slot, task: Task): boolean {
  const policy = policyOf(scene, task);
  const condition = policy.condition ?? defaultRestartCondition;
  if (condition === "none") return false;
  const finished = task.status.state === "complete";
  if (finished && (condition === "on-failure" || isJob(scene.service.spec.mode))) return false;
  const maxAttempts = policy.maxAttempts ?? 0;
  if (maxAttempts === 0) return true;
  const windowMs = policy.windowMs ?? 0;
  if (windowMs === 0) return (task.restarts ?? 0) < maxAttempts;
  const untilMs = isTerminal(task) ? sinceMs(task) : scene.nowMs;
  const fromMs = untilMs - windowMs - nextWaitMs(scene, task);
  const counted = slot.tasks.filter(
    (other) =>
      other.specVersion === task.specVersion && (other.restarts ?? 0) > 0 && other.meta.createdAtMs > fromMs,
  );
  // A task that moved carries the number of the one it replaced, which is no further restart.
  return new Set(counted.map((other) => other.restarts)).size < maxAttempts;
}

/** Made for an earlier version of the service, and not as the present one would have it. */
export function isOutdated(scene: Scene, task: Task): boolean {
  const node = task.nodeId === undefined ? undefined : scene.node(task.nodeId);
  return isTaskDirty(scene.service, task, scene.revision(task.specVersion), node);
}

function isToldToMove(task: Task): boolean {
  return task.moving === true && !isTerminal(task);
}

function shutdown(task: Task): TaskChange {
  return { kind: "shutdown", taskId: task.id };
}

/** One of a start-first service that does not run yet goes at once, but not if it has begun to serve meanwhile. */
function leave(scene: Scene, task: Task): TaskChange {
  const isMakeBeforeBreak = scene.service.spec.update?.order === "start-first" && task.slot > 0;
  const mayServe = task.nodeId !== undefined && scene.node(task.nodeId) !== undefined;
  if (!isMakeBeforeBreak || !mayServe || isTerminal(task) || isRunning(task)) return shutdown(task);
  return { kind: "shutdown", taskId: task.id, unlessRunning: true };
}

function create(scene: Scene, slot: Slot, old: Task, start: "now" | "later"): TaskChange {
  const before = old.specVersion === scene.service.specVersion ? (old.restarts ?? 0) : 0;
  const restarts = isToldToMove(old) ? before : before + 1;
  const crashes = crashesOf(scene, old);
  return {
    kind: "create",
    ...placeOf(slot),
    desiredState: start === "now" ? goalOf(scene.service.spec.mode) : "ready",
    restarts,
    ...(crashes === 0 ? {} : { crashes }),
    ...(isOnDownNode(scene, old) && !isTerminal(old) ? { forLost: true } : {}),
  };
}

/**
 * Make before break. A healthy task of a start-first service that has to leave stays until its replacement
 * runs. So does one on a node that is down: should the node return first, the task has never been away.
 */
export function staysUntilReplaced(scene: Scene, task: Task): boolean {
  if (task.slot === 0 || task.nodeId === undefined || isTerminal(task)) return false;
  if (scene.node(task.nodeId) === undefined) return false;
  if (isOnDownNode(scene, task)) return !isOutdated(scene, task);
  return scene.service.spec.update?.order === "start-first" && isRunning(task);
}

/** What was lost with its node, or was made by an update, did not crash and so does not wait. */
function earliestStartMs(scene: Scene, task: Task): number {
  return task.meta.createdAtMs + restartWaitMs(task, policyOf(scene, task), scene.service.spec.labels);
}

/** The wait before the restart that would follow this task. */
function nextWaitMs(scene: Scene, old: Task): number {
  const { labels, task } = scene.service.spec;
  return restartWaitMs({ crashes: crashesOf(scene, old) }, task.restart, labels);
}

function crashesOf(scene: Scene, old: Task): number {
  if (!isTerminal(old) || hasToLeave(scene, old)) return 0;
  if (old.specVersion !== scene.service.specVersion) return 1;
  return crashesAfter(old, {
    beganMs: scene.ranSinceMs(old.id) ?? earliestStartMs(scene, old),
    endedMs: sinceMs(old),
  });
}

function policyOf(scene: Scene, task: Task): Scene["service"]["spec"]["task"]["restart"] {
  return (scene.revision(task.specVersion)?.task ?? scene.service.spec.task).restart;
}
