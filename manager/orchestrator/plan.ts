import { defaultStopGracePeriodMs } from "../../model/defaults.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import type { Revision, Service, UpdateStatus } from "../../model/service.ts";
import { isTerminal, isWanted, taskStates, type Task } from "../../model/task.ts";
import type { StoreView } from "../store/transaction.ts";

/** What a decision sees of one service: a snapshot and the time. */
export interface Scene {
  readonly service: Service;
  /** Every task of the service, dead ones included. */
  readonly tasks: readonly Task[];
  /** All of them for a service with a task on each node, none for the others. */
  readonly nodes: readonly Node[];
  readonly node: (id: NodeId) => Node | undefined;
  readonly revision: (specVersion: number) => Revision | undefined;
  /** For a task that ended: since when it had been running, or `undefined` if it never did or nobody knows. */
  readonly ranSinceMs: (id: TaskId) => number | undefined;
  readonly nowMs: number;
  /** When this leader began to lead, by its own clock: waits that must not end early count from then at the earliest. */
  readonly leadsSinceMs: number;
  /** The cluster's; negative keeps everything. */
  readonly historyLimit: number;
}

export type TaskChange =
  | {
      readonly kind: "create";
      readonly slot: number;
      readonly nodeId?: NodeId;
      /** `ready` waits for its `promote`; the others are the goal of the service's mode. */
      readonly desiredState: "ready" | "running" | "complete";
      readonly restarts: number;
      readonly crashes?: number;
      /** It stands in for a task on a node that is down; such steps are carried out at a bounded rate. */
      readonly forLost?: true;
    }
  /**
   * Ends the task; its record stays as history. With `unlessRunning` it goes only because it does not serve: should it
   * run by now, its whole step is void.
   */
  | { readonly kind: "shutdown"; readonly taskId: TaskId; readonly unlessRunning?: true }
  /** Ends the task; its record goes once it has stopped. */
  | { readonly kind: "remove"; readonly taskId: TaskId }
  /** Drops the record at once. */
  | { readonly kind: "forget"; readonly taskId: TaskId }
  /** Lets a prepared task start. */
  | { readonly kind: "promote"; readonly taskId: TaskId }
  /** Marks the update as begun, with the version that tells its tasks from older ones. */
  | { readonly kind: "begin-update" }
  | { readonly kind: "update-status"; readonly status: UpdateStatus }
  /** Puts the previous spec back. */
  | { readonly kind: "roll-back"; readonly message: string };

/** Changes that are committed together or not at all. */
export type Step = readonly TaskChange[];

/** What to do now, and when to look again even if nothing happens. */
export interface Plan {
  readonly steps: readonly Step[];
  readonly wakeAtMs: number | undefined;
}

/** Of an update's status while nothing holds it up. */
export const inProgressMessage = "update in progress";

export const emptyPlan: Plan = { steps: [], wakeAtMs: undefined };

/** The earlier of two times, either of which may be absent. */
export function earliest(a: number | undefined, b: number | undefined): number | undefined {
  if (a === undefined) return b;
  return b === undefined ? a : Math.min(a, b);
}

export function mergePlans(plans: readonly Plan[]): Plan {
  return {
    steps: plans.flatMap((plan) => plan.steps),
    wakeAtMs: plans.reduce<number | undefined>((at, plan) => earliest(at, plan.wakeAtMs), undefined),
  };
}

/** All tasks that share a place: a slot number, or for global services a node. */
export interface Slot {
  readonly slot: number;
  readonly nodeId?: NodeId;
  /** Newest first. */
  readonly tasks: readonly Task[];
  /** Those that managers want alive. Newest first. */
  readonly live: readonly Task[];
}

/** Groups tasks by slot number, or by node when slots are not numbered. */
export function slotsOf(tasks: readonly Task[]): Map<number | NodeId, Slot> {
  const groups = new Map<number | NodeId, Task[]>();
  for (const task of tasks) {
    const key = task.slot > 0 ? task.slot : task.nodeId;
    if (key === undefined) continue; // A global task always has its node; a lone record is no slot.
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [task]);
    else group.push(task);
  }
  const slots = new Map<number | NodeId, Slot>();
  for (const [key, group] of groups) {
    if (group.length > 1) group.sort(newestFirst);
    const first = group[0];
    if (first === undefined) continue;
    slots.set(key, {
      slot: first.slot,
      ...(typeof key === "string" ? { nodeId: key } : {}),
      tasks: group,
      live: group.filter(isWanted),
    });
  }
  return slots;
}

/** Where a new task of the slot goes. */
export function placeOf(slot: Slot): { readonly slot: number; readonly nodeId?: NodeId } {
  return { slot: slot.slot, ...(slot.nodeId === undefined ? {} : { nodeId: slot.nodeId }) };
}

/** Versions decide, since times are those of several clocks; ids make it total. */
export function newestFirst(a: Task, b: Task): number {
  return (
    b.meta.createdVersion - a.meta.createdVersion ||
    (b.restarts ?? 0) - (a.restarts ?? 0) ||
    (a.id < b.id ? -1 : 1)
  );
}

/** The node can keep no task of ours: it is gone, down or drained. Unheard and paused nodes keep theirs. */
export function isLost(node: Node | undefined): boolean {
  return node === undefined || node.status.state === "down" || node.spec.availability === "drain";
}

/**
 * The task has to leave where it is: its node is gone, drained, or down for longer than the service waits, or
 * it was told to move.
 */
export function hasToLeave(scene: LeavingScene, task: Task): boolean {
  if (task.moving === true && !isTerminal(task)) return true;
  if (task.nodeId === undefined) return false;
  const node = scene.node(task.nodeId);
  if (node === undefined || node.spec.availability === "drain") return true;
  const atMs = lossAtMs(scene, node);
  return atMs !== undefined && scene.nowMs >= atMs;
}

type LeavingScene = Pick<Scene, "node" | "nowMs" | "leadsSinceMs" | "service">;

/** A worker notices up to two seconds after us that its session is gone, and a process takes a moment to die. */
const stopMarginMs = 5_000;

/** When the service gives up its tasks on a node that is down; `undefined` for never, and for other nodes. */
export function lossAtMs(
  { service, nowMs, leadsSinceMs }: LeavingScene,
  { status }: Node,
): number | undefined {
  if (status.state !== "down") return undefined;
  const { kind, afterMs } = extensionsOf(service.spec.labels).onUnreachable;
  const sinceMs = stateSinceMs({ nowMs, leadsSinceMs }, status);
  switch (kind) {
    case "wait":
      return undefined;
    case "replace":
      return sinceMs + afterMs;
    case "stop":
      // The worker begins to stop them by then, and the last is killed when its grace is over.
      return (
        sinceMs +
        afterMs +
        stopMarginMs +
        (service.spec.task.container.stopGracePeriodMs ?? defaultStopGracePeriodMs)
      );
  }
}

/** Since when the node is in its state: another leader's clock may have been ahead of ours. */
export function stateSinceMs(
  { nowMs, leadsSinceMs }: Pick<Scene, "nowMs" | "leadsSinceMs">,
  { sinceMs = 0 }: Node["status"],
): number {
  return sinceMs > nowMs ? leadsSinceMs : sinceMs;
}

/** What a scene knows of nodes, for those who have none. */
export function nodesOf(view: Pick<StoreView, "nodes">): Pick<Scene, "node"> {
  return { node: (id) => view.nodes.get(id) };
}

/** The task's node does not answer, and whether it still runs nobody knows. */
export function isOnDownNode(scene: Pick<Scene, "node">, task: Task): boolean {
  return task.nodeId !== undefined && scene.node(task.nodeId)?.status.state === "down";
}

/** Made since the service's update or rollback to its present spec began. */
export function isOfThisUpdate(
  { service }: Pick<Scene, "service">,
  task: Task,
  startedVersion: number,
): boolean {
  return task.specVersion === service.specVersion && task.meta.createdVersion >= startedVersion;
}

export function isRunning(task: Task): boolean {
  return task.status.state === "running";
}

/** When the task reached its present state, by the leader's clock if it noticed. */
export function sinceMs(task: Task): number {
  return task.status.appliedAtMs > 0 ? task.status.appliedAtMs : task.status.atMs;
}

/** Nothing of it can still be at work: it ended, or nobody ever got it, or its node is down or gone. */
export function isStopped(scene: Pick<Scene, "node">, task: Task): boolean {
  if (isTerminal(task) || taskStates[task.status.state] < taskStates.assigned) return true;
  const node = task.nodeId === undefined ? undefined : scene.node(task.nodeId);
  return node === undefined || node.status.state === "down";
}
