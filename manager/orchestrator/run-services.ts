import { defaultTaskHistoryLimit } from "../../model/defaults.ts";
import { unreachable } from "../../model/errors.ts";
import type { ServiceId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { revisionKey, type Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { newId } from "../../runtime/random.ts";
import type { ObjectEvent, StoreEvent } from "../store/change.ts";
import { dropUnusedRevision } from "../store/revisions.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import { applyStep, markRemoved, type PlannedFor } from "./apply.ts";
import { ReplacementBudget, retryMs } from "./budget.ts";
import { isEqual } from "./dirty.ts";
import { decideGlobal } from "./global.ts";
import { decideGlobalJob, decideReplicatedJob } from "./jobs.ts";
import { inOwnTime } from "./own-time.ts";
import {
  emptyPlan,
  isLost,
  isRunning,
  sinceMs,
  type Plan,
  type Scene,
  type Step,
  earliest,
  type TaskChange,
} from "./plan.ts";
import { decideReplicated } from "./replicated.ts";
import type { OrchestrationDeps } from "./run.ts";
import { Timers } from "./timers.ts";

/** One thing to commit. */
type Work =
  | { readonly kind: "step"; readonly planned: PlannedFor; readonly step: Step }
  /** A task whose service is gone. */
  | { readonly kind: "bury"; readonly taskId: TaskId }
  /** The revisions of a service that is gone. */
  | { readonly kind: "sweep"; readonly serviceId: ServiceId };

/** Steps that are planned before the first of them are committed, so that no service waits for all others. */
const plannedLimit = 1_000;
/** Tasks that are looked at before other work of the main thread gets its turn. */
const lookedLimit = 5_000;

/**
 * Keeps every service as its spec says. Events only name the services to look at again; what is done
 * follows from the store and the time alone.
 */
export async function runServices(
  { store, clock, random }: OrchestrationDeps,
  signal: AbortSignal,
): Promise<void> {
  using watch = store.watch(["services", "tasks", "nodes"], signal);
  using timers = new Timers<ServiceId>(clock, () => watch.poke());
  /** Since when tasks ran that have ended since; an update asks whether they ended early. */
  const ranSinceMs = new Map<TaskId, number>();
  const leadsSinceMs = Math.trunc(clock.now());
  const budget = new ReplacementBudget(clock.monotonic());
  let due: Iterable<ServiceId> = store.view(everyService);
  for (;;) {
    await settle(due);
    if (!(await watch.ready())) return;
    const events = watch.take();
    noteRuns(events, ranSinceMs);
    due = store.view((view) => new Set([...timers.takeDue(), ...concerned(view, events)]));
  }

  async function settle(ids: Iterable<ServiceId>): Promise<void> {
    let work: Work[] = [];
    let looked = 0;
    for (const id of ids) {
      const nowMs = Math.trunc(clock.now());
      const plan = store.view((view) => planService(view, id, nowMs, work));
      timers.set(id, plan.wakeAtMs);
      looked += store.view((view) => view.tasks.countByService(id));
      if (work.length >= plannedLimit) {
        await commit(work);
        work = [];
        looked = 0;
      } else if (looked >= lookedLimit) {
        await clock.sleep(0, signal);
        looked = 0;
      }
    }
    await commit(work);
  }

  async function commit(work: readonly Work[]): Promise<void> {
    await store.batch(work, (tx, item) => carryOut(tx, item, () => newId(random)), signal);
  }

  function planService(view: StoreView, id: ServiceId, nowMs: number, work: Work[]): Plan {
    const service = view.services.get(id);
    if (service === undefined) {
      for (const task of view.tasks.byService(id)) {
        if (task.desiredState !== "remove") work.push({ kind: "bury", taskId: task.id });
      }
      if (view.revisions.byService(id).length > 0) work.push({ kind: "sweep", serviceId: id });
      return emptyPlan;
    }
    const plan = decide({
      service,
      tasks: view.tasks.byService(id).map((task) => inOwnTime(task, { nowMs, leadsSinceMs })),
      nodes: isPerNode(service) ? view.nodes.list() : [],
      node: (nodeId) => view.nodes.get(nodeId),
      revision: (specVersion) => view.revisions.get(revisionKey(id, specVersion)),
      ranSinceMs: (taskId) => ranSinceMs.get(taskId),
      nowMs,
      leadsSinceMs,
      historyLimit: view.cluster?.spec.taskHistoryLimit ?? defaultTaskHistoryLimit,
    });
    const planned = { serviceId: id, specVersion: service.specVersion };
    let { wakeAtMs } = plan;
    for (const step of plan.steps) {
      if (!step.some(isForLost) || budget.take(clock.monotonic())) work.push({ kind: "step", planned, step });
      else wakeAtMs = earliest(wakeAtMs, nowMs + retryMs);
    }
    return { steps: plan.steps, wakeAtMs };
  }
}

function decide(scene: Scene): Plan {
  const { kind } = scene.service.spec.mode;
  switch (kind) {
    case "replicated":
      return decideReplicated(scene);
    case "global":
      return decideGlobal(scene);
    case "replicated-job":
      return decideReplicatedJob(scene);
    case "global-job":
      return decideGlobalJob(scene);
    default:
      return unreachable(kind);
  }
}

function isForLost(change: TaskChange): boolean {
  return change.kind === "create" && change.forLost === true;
}

function carryOut(tx: Transaction, work: Work, newTaskId: () => TaskId): void {
  switch (work.kind) {
    case "step":
      applyStep(tx, work.planned, work.step, newTaskId);
      break;
    case "bury": {
      const task = tx.tasks.get(work.taskId);
      if (task !== undefined && !tx.services.has(task.serviceId)) markRemoved(tx, task);
      break;
    }
    case "sweep":
      for (const { serviceId, specVersion } of tx.revisions.byService(work.serviceId)) {
        dropUnusedRevision(tx, serviceId, specVersion);
      }
      break;
  }
}

/** Those that exist and those whose tasks have outlived them. */
function everyService(view: StoreView): Set<ServiceId> {
  return new Set([
    ...view.services.list().map((service) => service.id),
    ...view.revisions.list().map((revision) => revision.serviceId),
  ]);
}

function noteRuns(events: readonly StoreEvent[], ranSinceMs: Map<TaskId, number>): void {
  for (const event of events) {
    if (event.kind === "resync" || event.table !== "tasks") continue;
    if (event.kind === "removed") ranSinceMs.delete(event.object.id);
    if (event.kind !== "updated" || !isTerminal(event.object)) continue;
    if (isRunning(event.previous)) ranSinceMs.set(event.object.id, sinceMs(event.previous));
  }
}

function concerned(view: StoreView, events: readonly StoreEvent[]): Set<ServiceId> {
  const ids = new Set<ServiceId>();
  for (const event of events) {
    if (event.kind === "resync") return everyService(view);
    switch (event.table) {
      case "services":
        ids.add(event.object.id);
        break;
      case "tasks":
        if (!ids.has(event.object.serviceId) && matters(view, event)) ids.add(event.object.serviceId);
        break;
      case "nodes":
        if (event.kind === "updated" && isSameToServices(event.previous, event.object)) {
          if (hasComeReady(event.previous, event.object))
            for (const service of view.services.list())
              if (service.spec.mode.kind === "global-job") ids.add(service.id);
          break;
        }
        for (const task of view.tasks.byNode(event.object.id)) ids.add(task.serviceId);
        for (const service of view.services.list()) {
          if (isPerNode(service)) ids.add(service.id);
        }
        break;
      case "cluster":
      case "attachments":
      case "networks":
      case "secrets":
      case "configs":
      case "revisions":
        break;
    }
  }
  return ids;
}

/** Most steps of a task up its ladder change nothing for its service; looking anyway would cost a walk each. */
function matters(view: StoreView, event: ObjectEvent & { readonly table: "tasks" }): boolean {
  const task = event.object;
  const service = view.services.get(task.serviceId);
  switch (event.kind) {
    case "created":
      return task.desiredState === "ready" || (service !== undefined && isUpdating(service));
    case "removed":
      return task.desiredState !== "remove";
    case "updated":
      return updateMatters(view, service, task, event.previous);
  }
}

function updateMatters(view: StoreView, service: Service | undefined, task: Task, previous: Task): boolean {
  if (isTerminal(task)) {
    // An update is not over while tasks are being put to rest; the last of them is no reason to look otherwise.
    const isPutToRest = isWanted(previous) && !isWanted(task);
    return !isTerminal(previous) || (isPutToRest && service !== undefined && isUpdating(service));
  }
  if (task.moving !== previous.moving) return true;
  if (task.nodeId !== previous.nodeId && task.nodeId !== undefined && isLost(view.nodes.get(task.nodeId)))
    return true;
  if (service !== undefined && isUpdating(service) && task.status.error !== previous.status.error)
    return true;
  if (!isRunning(task) || isRunning(previous) || service === undefined) return false;
  // On a node that it has to leave, it was about to be replaced as one that does not serve yet.
  const isLeaving = task.nodeId !== undefined && isLost(view.nodes.get(task.nodeId));
  return isUpdating(service) || isReplacing(view, task) || isLeaving || task.moving === true;
}

function isPerNode({ spec: { mode } }: Service): boolean {
  return mode.kind === "global" || mode.kind === "global-job";
}

/** Another task of its slot stayed until this one runs. */
function isReplacing(view: StoreView, task: Task): boolean {
  return slotMates(view, task).some(
    (other) => other.id !== task.id && other.serviceId === task.serviceId && isWanted(other),
  );
}

/** All tasks of its slot; of a global service, all that are on its node. */
function slotMates(view: StoreView, { serviceId, slot, nodeId }: Task): readonly Task[] {
  if (slot > 0) return view.tasks.bySlot(serviceId, slot);
  return nodeId === undefined ? [] : view.tasks.byNode(nodeId);
}

function isUpdating(service: Service): boolean {
  return service.updateStatus?.state === "updating" || service.updateStatus?.state === "rollback_started";
}

/** A job begins only on nodes that are heard; everything else takes them for what they were before. */
function hasComeReady(before: Node, node: Node): boolean {
  return before.status.state !== "ready" && node.status.state === "ready";
}

function isSameToServices(a: Node, b: Node): boolean {
  return (
    (a.status.state === "down") === (b.status.state === "down") &&
    a.status.address === b.status.address &&
    a.role === b.role &&
    isEqual(a.spec, b.spec) &&
    isEqual(a.description, b.description)
  );
}
