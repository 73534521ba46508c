import { defaultUpdateMonitorMs, defaultUpdatePolicy } from "../../model/defaults.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Service, UpdatePolicy, UpdateState, UpdateStatus } from "../../model/service.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import { isOutdated, staysUntilReplaced } from "./restart.ts";
import {
  inProgressMessage,
  earliest,
  emptyPlan,
  hasToLeave,
  isOfThisUpdate,
  isOnDownNode,
  isRunning,
  isStopped,
  mergePlans,
  placeOf,
  sinceMs,
  type Plan,
  type Scene,
  type Slot,
  type Step,
  type TaskChange,
} from "./plan.ts";

/** With a delay at least as long as the monitor, the watch after the last slot is this much longer. */
const afterDelayMs = 1_000;

/** How one slot stands against the current spec. */
type Standing =
  /** One good task, nothing else. */
  | { readonly kind: "clean" }
  /** A good task beside others that have to go, now or once it runs. */
  | { readonly kind: "resolving"; readonly keep: Task; readonly others: readonly Task[] }
  /** Nothing that matches the current spec. */
  | { readonly kind: "dirty" };

/** What this update has done in a slot so far. */
type Progress =
  | { readonly kind: "untouched" }
  | { readonly kind: "starting"; readonly task: Task; readonly deadlineMs: number }
  | {
      readonly kind: "done";
      readonly atMs: number;
      readonly failed: Failure | undefined;
      readonly monitored: boolean;
    };

interface Failure {
  readonly taskId: TaskId;
  /** What the task says, where the message would not. */
  readonly cause: string;
}

interface Pass {
  /** Slots that a restart has just changed; they are left alone. */
  readonly restless: ReadonlySet<Slot>;
  /** Slots are added; the update is not over before their tasks are seen. */
  readonly grows: boolean;
}

interface Turn {
  readonly scene: Scene;
  readonly policy: UpdatePolicy;
  readonly rollback: boolean;
  /** Undefined before the update has begun. */
  readonly status: UpdateStatus | undefined;
}

/**
 * The next step of a rolling update. All its state is in the store: the service's update status says
 * when it began, tasks say the rest, so any leader goes on where the last one stopped.
 *
 * @param slots - Those that count as replicas.
 * @param pass - What else happens in this pass.
 */
export function decideUpdate(scene: Scene, slots: readonly Slot[], { restless, grows }: Pass): Plan {
  const { service } = scene;
  const state = service.updateStatus?.state;
  const rollback = state === "rollback_started";
  const calm = slots.filter((slot) => !restless.has(slot));
  const standings = new Map(calm.map((slot) => [slot, standingOf(scene, slot)]));
  const inProgress = state === "updating" || rollback;
  const outdated = calm.filter((slot) => standings.get(slot)?.kind === "dirty");
  const dirty = outdated.filter((slot) => inProgress || !isGivenUp(service, slot));
  const policy = (rollback ? service.spec.rollback : service.spec.update) ?? defaultUpdatePolicy;
  const turn: Turn = { scene, policy, rollback, status: inProgress ? service.updateStatus : undefined };

  if (state === "paused" || state === "rollback_paused") {
    const surplus = { steps: calm.flatMap((slot) => dropSurplus(standings.get(slot))), wakeAtMs: undefined };
    return mergePlans([surplus, ...outdated.map((slot) => endReplaced(scene, slot))]);
  }
  const resolution = mergePlans(calm.map((slot) => resolve(turn, standings.get(slot))));
  if (!inProgress && dirty.length === 0) {
    // An update that was replaced by this one may have left two older tasks where the try of this one was given up.
    return mergePlans([resolution, ...outdated.map((slot) => endReplaced(scene, slot))]);
  }

  const progress = new Map(slots.map((slot) => [slot, progressOf(turn, slot)]));
  const verdict = judge(turn, dirty, progress);
  if (verdict !== undefined) return { steps: [verdict], wakeAtMs: undefined };

  // Each slot gets one try per update; what became of it is for the restart policy.
  const untried = dirty.filter((slot) => progress.get(slot)?.kind === "untouched");
  const next = startNext(turn, untried, progress);
  const steps: Step[] = [...resolution.steps, ...next.steps];
  if (!inProgress) steps.unshift([{ kind: "begin-update" }]);
  else steps.push(...tellWhatHolds(turn, progress));
  let wakeAtMs = earliest(resolution.wakeAtMs, earliest(next.wakeAtMs, deadlineOf(progress)));
  const resolved = calm.every((slot) => !isAboutToSettle(standings.get(slot)));
  if (inProgress && resolved && untried.length === 0 && restless.size === 0 && !grows) {
    const end = completion(turn, progress);
    if (end.kind === "now") steps.push([end.change]);
    if (end.kind === "at") wakeAtMs = earliest(wakeAtMs, end.atMs);
  }
  return { steps, wakeAtMs };
}

function standingOf(scene: Scene, slot: Slot): Standing {
  if (slot.live.length === 0) return newestIsOutdated(scene, slot) ? { kind: "dirty" } : { kind: "clean" };
  const current = slot.live.filter((task) => !isOutdated(scene, task));
  const good = current.filter((task) => !hasToLeave(scene, task));
  // One that waits for its node, since nothing would restart it, is no affair of an update.
  const keep = (good.length > 0 ? good : current).toSorted(betterFirst)[0];
  if (keep === undefined) return { kind: "dirty" };
  const others = slot.live.filter((task) => task !== keep);
  return others.length === 0 ? { kind: "clean" } : { kind: "resolving", keep, others };
}

/**
 * Its others go soon. Where the good one does not run, it is a restart of a try that failed: how that ends is for the
 * restart policy, and an update that waited for it might never end.
 */
function isAboutToSettle(standing: Standing | undefined): boolean {
  return standing?.kind === "resolving" && isRunning(standing.keep);
}

/**
 * Its newest task is of the current spec and was not wanted for long: the restart policy has no further attempt for what
 * a finished update tried here. What ran before stays, until somebody asks for another update.
 */
function isGivenUp({ specVersion }: Service, { tasks: [newest], live }: Slot): boolean {
  return newest !== undefined && newest.specVersion === specVersion && !live.includes(newest);
}

/** A finished task that nothing restarts is renewed by an update like any other. */
function newestIsOutdated(scene: Scene, slot: Slot): boolean {
  const newest = slot.tasks[0];
  return newest !== undefined && isOutdated(scene, newest);
}

function betterFirst(a: Task, b: Task): number {
  return Number(isRunning(b)) - Number(isRunning(a)) || a.meta.createdVersion - b.meta.createdVersion;
}

function shutdownAll(tasks: readonly Task[]): TaskChange[] {
  return tasks.map((task) => ({ kind: "shutdown", taskId: task.id }));
}

/** Make before break: they go because they do not serve. */
function shutdownIdle(tasks: readonly Task[]): TaskChange[] {
  return tasks.map((task) => ({ kind: "shutdown", taskId: task.id, unlessRunning: true }));
}

/** The others go once the good one has settled; with stop-first they go before it starts. */
function resolve({ scene, policy }: Turn, standing: Standing | undefined): Plan {
  if (standing?.kind !== "resolving") return emptyPlan;
  const { keep, others } = standing;
  if (policy.order === "stop-first") {
    const over = others.filter((task) => isRunning(keep) || !staysUntilReplaced(scene, task));
    return { steps: over.length === 0 ? [] : [shutdownAll(over)], wakeAtMs: undefined };
  }
  const settledAtMs = isRunning(keep)
    ? sinceMs(keep) + extensionsOf(scene.service.spec.labels).updateSettleMs
    : undefined;
  if (settledAtMs !== undefined && settledAtMs <= scene.nowMs) {
    return { steps: [shutdownAll(others)], wakeAtMs: undefined };
  }
  const useless = others.filter((task) => !isRunning(task) && !staysUntilReplaced(scene, task));
  return { steps: useless.length === 0 ? [] : [shutdownIdle(useless)], wakeAtMs: settledAtMs };
}

/**
 * Where nothing is begun any more: of several tasks that run one stays, of the current spec if there is one, and the
 * others go once it has settled.
 */
export function endReplaced(scene: Scene, slot: Slot): Plan {
  const running = slot.live.filter(isRunning);
  const keep =
    running.find((task) => !isOutdated(scene, task)) ??
    running.find((task) => !hasToLeave(scene, task)) ??
    running[0];
  if (keep === undefined || running.length === 1) return emptyPlan;
  const settledAtMs = sinceMs(keep) + extensionsOf(scene.service.spec.labels).updateSettleMs;
  if (scene.nowMs < settledAtMs) return { steps: [], wakeAtMs: settledAtMs };
  return { steps: [shutdownAll(running.filter((task) => task !== keep))], wakeAtMs: undefined };
}

/** A paused update leaves what runs and takes back the extra task that start-first had begun. */
function dropSurplus(standing: Standing | undefined): Step[] {
  if (standing?.kind !== "resolving") return [];
  const { keep, others } = standing;
  if (isRunning(keep)) return [shutdownAll(others)];
  return others.some(isRunning) ? [shutdownAll([keep])] : [];
}

/**
 * The first task that this update made in the slot tells how it went; later ones are restarts. One whose node went down before it
 * ran tells nothing, as soon as there is another.
 */
function progressOf(turn: Turn, slot: Slot): Progress {
  const startedVersion = turn.status?.startedVersion;
  if (startedVersion === undefined) return { kind: "untouched" };
  const made = slot.tasks.filter((task) => isOfThisUpdate(turn.scene, task, startedVersion));
  const { scene, policy } = turn;
  const first = made.findLast((task) => !isUnheardOf(scene, task)) ?? made.at(-1);
  if (first === undefined) return { kind: "untouched" };
  // A slot that had nothing before was scaled up, not updated: it is waited for, but cannot fail the update.
  // The reaper leaves the predecessor in place while an update runs (`decideTrim`). One that a rollback fills again had something: that
  // it can be filled is what the rollback is for, so a failure there counts.
  const monitored = slot.tasks.length > made.length;
  const patienceMs = extensionsOf(scene.service.spec.labels).updateDeadlineMs;
  const deadlineMs = Math.max(first.meta.createdAtMs, scene.leadsSinceMs) + patienceMs;
  if (isRunning(first)) return { kind: "done", atMs: sinceMs(first), failed: undefined, monitored };
  if (!isTerminal(first)) {
    if (scene.nowMs < deadlineMs) return { kind: "starting", task: first, deadlineMs };
    const cause = `: not running after ${patienceMs / 1000}s${holdup(first)}`;
    return { kind: "done", atMs: deadlineMs, failed: { taskId: first.id, cause }, monitored };
  }
  const { state } = first.status;
  const endedMs = sinceMs(first);
  const ranSinceMs = scene.ranSinceMs(first.id);
  const monitorMs = policy.monitorMs ?? defaultUpdateMonitorMs;
  const early = ranSinceMs === undefined || endedMs - ranSinceMs <= monitorMs;
  const broken = state === "failed" || state === "rejected" || state === "complete";
  return {
    kind: "done",
    atMs: ranSinceMs ?? endedMs,
    failed: broken && early ? { taskId: first.id, cause: holdup(first) } : undefined,
    monitored,
  };
}

/** It did not run when its node went down, so whether it ever will is for the node to say. */
function isUnheardOf(scene: Scene, task: Task): boolean {
  return isOnDownNode(scene, task) && !isRunning(task) && !isTerminal(task);
}

/** Compares failures with what is tolerated. */
function judge(turn: Turn, dirty: readonly Slot[], progress: ReadonlyMap<Slot, Progress>): Step | undefined {
  if (turn.status === undefined || turn.policy.failureAction === "continue") return undefined;
  const concerned = new Set(dirty);
  const failed: Failure[] = [];
  for (const [slot, standing] of progress) {
    if (standing.kind === "starting") concerned.add(slot);
    if (standing.kind !== "done" || !standing.monitored) continue;
    concerned.add(slot);
    if (standing.failed !== undefined) failed.push(standing.failed);
  }
  const culprit = failed[0];
  if (culprit === undefined || failed.length / concerned.size <= turn.policy.maxFailureRatio)
    return undefined;
  return [failureChange(turn, turn.status, culprit)];
}

function failureChange(turn: Turn, status: UpdateStatus, { taskId, cause }: Failure): TaskChange {
  const because = `due to failure or early termination of task ${taskId}${cause}`;
  const wantsRollback = turn.policy.failureAction === "rollback";
  if (wantsRollback && !turn.rollback && turn.scene.service.previous !== undefined) {
    return { kind: "roll-back", message: `update rolled back ${because}` };
  }
  const noun = turn.rollback && wantsRollback ? "rollback" : "update";
  return {
    kind: "update-status",
    status: {
      ...status,
      state: turn.rollback ? "rollback_paused" : "paused",
      message: `${noun} paused ${because}`,
    },
  };
}

/** The state of a task and what it says is wrong; empty when it says nothing. */
function holdup({ status: { state, error } }: Task): string {
  return error === "" ? "" : `: ${state}: ${error}`;
}

/** An update that does not get on says why, for as long as that is so. */
function tellWhatHolds({ status, rollback }: Turn, progress: ReadonlyMap<Slot, Progress>): Step[] {
  if (status === undefined || rollback) return [];
  let held: Task | undefined;
  for (const standing of progress.values()) {
    if (standing.kind === "starting" && standing.task.status.error !== "") held ??= standing.task;
  }
  const message =
    held === undefined ? inProgressMessage : `${inProgressMessage}: task ${held.id}${holdup(held)}`;
  return status.message === message ? [] : [[{ kind: "update-status", status: { ...status, message } }]];
}

/** Starts as many slots as are free; a slot is busy until its new task runs, and for the delay after. */
function startNext(turn: Turn, dirty: readonly Slot[], progress: ReadonlyMap<Slot, Progress>): Plan {
  const { scene, policy } = turn;
  let busy = 0;
  let wakeAtMs: number | undefined;
  for (const standing of progress.values()) {
    if (standing.kind === "starting") busy += 1;
    if (standing.kind !== "done" || !standing.monitored) continue;
    const freeAtMs = standing.atMs + policy.delayMs;
    if (scene.nowMs >= freeAtMs) continue;
    busy += 1;
    if (dirty.length > 0) wakeAtMs = earliest(wakeAtMs, freeAtMs);
  }
  const room = policy.parallelism === 0 ? dirty.length : Math.max(0, policy.parallelism - busy);
  const order = dirty.toSorted(
    (a, b) => Number(a.live.some(isRunning)) - Number(b.live.some(isRunning)) || a.slot - b.slot,
  );
  return { steps: order.slice(0, room).map((slot) => replace(turn, slot)), wakeAtMs };
}

function replace({ scene, policy }: Turn, slot: Slot): Step {
  const create = (desiredState: "ready" | "running"): TaskChange => ({
    kind: "create",
    ...placeOf(slot),
    desiredState,
    restarts: 0,
  });
  const stays = policy.order === "start-first" ? slot.live.filter(isRunning) : [];
  const goes = slot.live.filter((task) => !stays.includes(task));
  const startNow = stays.length > 0 || slot.tasks.every((task) => isStopped(scene, task));
  const shutdowns = policy.order === "start-first" ? shutdownIdle(goes) : shutdownAll(goes);
  return [...shutdowns, create(startNow ? "running" : "ready")];
}

type Completion =
  | { readonly kind: "no" }
  | { readonly kind: "at"; readonly atMs: number }
  | { readonly kind: "now"; readonly change: TaskChange };

/** Complete when every slot is done and nothing failed for as long as the monitor lasts. */
function completion(turn: Turn, progress: ReadonlyMap<Slot, Progress>): Completion {
  const { scene, policy, rollback, status } = turn;
  let lastMs: number | undefined;
  for (const standing of progress.values()) {
    if (standing.kind === "starting") return { kind: "no" };
    if (standing.kind === "done") lastMs = Math.max(lastMs ?? 0, standing.atMs);
  }
  const monitorMs = policy.monitorMs ?? defaultUpdateMonitorMs;
  const watchMs = policy.delayMs >= monitorMs ? policy.delayMs + afterDelayMs : monitorMs;
  const endMs = lastMs === undefined || policy.failureAction === "continue" ? scene.nowMs : lastMs + watchMs;
  if (scene.nowMs < endMs) return { kind: "at", atMs: endMs };
  const state: UpdateState = rollback ? "rollback_completed" : "completed";
  return {
    kind: "now",
    change: {
      kind: "update-status",
      status: {
        ...status,
        state,
        message: rollback ? "rollback completed" : "update completed",
        completedAtMs: scene.nowMs,
      },
    },
  };
}

function deadlineOf(progress: ReadonlyMap<Slot, Progress>): number | undefined {
  let atMs: number | undefined;
  for (const standing of progress.values()) {
    if (standing.kind === "starting") atMs = earliest(atMs, standing.deadlineMs);
  }
  return atMs;
}
