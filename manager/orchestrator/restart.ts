import {
  defaultRestartCondition,
  defaultRestartDelayMs,
  restartStopTimeoutMs,
} from "../../model/defaults.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import { isTaskDirty } from "./dirty.ts";
import {
  earliest,
  emptyPlan,
  isOnLostNode,
  isRunning,
  isStopped,
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
  const ended = slot.live.filter((task) => isTerminal(task) || isOnLostNode(scene, task));
  if (ended.length === 0) return emptyPlan;
  // Something good is already there, or on its way: then the rest only has to go, in the update's order.
  const good = slot.live.filter((task) => !ended.includes(task) && !isOutdated(scene, task));
  if (good.length > 0) {
    const over = ended.filter(
      (task) => isTerminal(task) || good.some(isRunning) || !movesStartFirst(scene, task),
    );
    return { steps: over.length === 0 ? [] : [over.map(shutdown)], wakeAtMs: undefined };
  }
  const newest = ended[0];
  if (newest === undefined) return emptyPlan;
  // A replacement that fails while it still waits for its start keeps waiting, or it would spin.
  const startAtMs = newest.desiredState === "ready" ? earliestStartMs(scene, slot, newest) : 0;
  if (isTerminal(newest) && scene.nowMs < startAtMs) return { steps: [], wakeAtMs: startAtMs };
  if (!mayRestart(scene, slot, newest)) return { steps: [ended.map(shutdown)], wakeAtMs: undefined };
  if (!isTerminal(newest) && movesStartFirst(scene, newest)) {
    return { steps: [[create(scene, slot, newest, "running")]], wakeAtMs: undefined };
  }
  const delayMs = isOnLostNode(scene, newest) ? 0 : restartDelayMs(scene, newest);
  const startNow = delayMs === 0 && ended.every((task) => isStopped(scene, task));
  return {
    steps: [[...ended.map(shutdown), create(scene, slot, newest, startNow ? "running" : "ready")]],
    wakeAtMs: undefined,
  };
}

/** A `ready` task may start once its delay is over and what it replaces has stopped, or took too long to. */
export function decidePromotion(scene: Scene, slot: Slot): Plan {
  const waiting = slot.live.filter((task) => task.desiredState === "ready" && !isTerminal(task));
  let wakeAtMs: number | undefined;
  const steps: TaskChange[][] = [];
  for (const task of waiting) {
    const startAtMs = earliestStartMs(scene, slot, task);
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
 * counts for as long as window plus delay, since otherwise a long delay would void the limit.
 */
export function mayRestart(scene: Scene, slot: Slot, task: Task): boolean {
  const policy = policyOf(scene, task);
  const condition = policy.condition ?? defaultRestartCondition;
  if (condition === "none") return false;
  if (condition === "on-failure" && task.status.state === "complete") return false;
  const maxAttempts = policy.maxAttempts ?? 0;
  if (maxAttempts === 0) return true;
  const windowMs = policy.windowMs ?? 0;
  if (windowMs === 0) return (task.restarts ?? 0) < maxAttempts;
  const untilMs = isTerminal(task) ? sinceMs(task) : scene.nowMs;
  const fromMs = untilMs - windowMs - restartDelayMs(scene, task);
  const counted = slot.tasks.filter(
    (other) =>
      other.specVersion === task.specVersion && (other.restarts ?? 0) > 0 && other.meta.createdAtMs > fromMs,
  );
  return counted.length < maxAttempts;
}

function isOutdated(scene: Scene, task: Task): boolean {
  const node = task.nodeId === undefined ? undefined : scene.node(task.nodeId);
  return isTaskDirty(scene.service, task, scene.revision(task.specVersion), node);
}

function shutdown(task: Task): TaskChange {
  return { kind: "shutdown", taskId: task.id };
}

function create(scene: Scene, slot: Slot, old: Task, desiredState: "ready" | "running"): TaskChange {
  const restarts = old.specVersion === scene.service.specVersion ? (old.restarts ?? 0) + 1 : 1;
  return { kind: "create", ...placeOf(slot), desiredState, restarts };
}

/** A healthy task on a drained node of a start-first service stays until its replacement runs. */
function movesStartFirst(scene: Scene, task: Task): boolean {
  if (scene.service.spec.update?.order !== "start-first" || task.slot === 0 || !isRunning(task)) return false;
  const node = task.nodeId === undefined ? undefined : scene.node(task.nodeId);
  return node !== undefined && node.status.state !== "down" && !isOutdated(scene, task);
}

/** Only restarts wait; a task that an update made starts as soon as its slot is free. */
function earliestStartMs(scene: Scene, slot: Slot, task: Task): number {
  if ((task.restarts ?? 0) === 0) return task.meta.createdAtMs;
  const before = slot.tasks[slot.tasks.indexOf(task) + 1];
  // What was lost with its node did nothing wrong, so its replacement need not wait.
  if (before === undefined || isOnLostNode(scene, before)) return task.meta.createdAtMs;
  return task.meta.createdAtMs + restartDelayMs(scene, before);
}

function restartDelayMs(scene: Scene, task: Task): number {
  return policyOf(scene, task).delayMs ?? defaultRestartDelayMs;
}

function policyOf(scene: Scene, task: Task): Scene["service"]["spec"]["task"]["restart"] {
  return (scene.revision(task.specVersion)?.task ?? scene.service.spec.task).restart;
}
