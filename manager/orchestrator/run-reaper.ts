import { defaultTaskHistoryLimit } from "../../model/defaults.ts";
import type { ServiceId, TaskId } from "../../model/ids.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import type { StoreEvent } from "../store/change.ts";
import { removeTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { decideTrim, isForgotten } from "./reaper.ts";
import type { OrchestrationDeps } from "./run.ts";

/** Slots are looked at together after this long; history is in no hurry. */
const trimDelayMs = 250;

/** Removes the records of tasks that are gone for good, and the oldest of those that only tell history. */
export async function runReaper({ store, clock }: OrchestrationDeps, signal: AbortSignal): Promise<void> {
  using watch = store.watch(["tasks"], signal);
  /** A member of each slot that may have too many records. */
  const slots = new Map<string, Task>();
  let trimAtMs: number | undefined;
  let cancelTrim = (): void => {};
  try {
    let forgotten = store.view((view) => look(view, view.tasks.list()));
    for (;;) {
      await remove(forgotten);
      if (trimAtMs === undefined && slots.size > 0) {
        trimAtMs = clock.monotonic() + trimDelayMs;
        cancelTrim = clock.after(trimDelayMs, () => watch.poke());
      }
      if (!(await watch.ready())) return;
      const events = watch.take();
      forgotten = store.view((view) => look(view, changedTasks(view, events)));
      if (trimAtMs !== undefined && clock.monotonic() >= trimAtMs) {
        trimAtMs = undefined;
        forgotten = [...forgotten, ...store.view(trim)];
      }
    }
  } finally {
    cancelTrim();
  }

  /** Notes slots with several tasks and finds what may go at once. */
  function look(view: StoreView, tasks: Iterable<Task>): TaskId[] {
    const found: TaskId[] = [];
    for (const task of tasks) {
      if (isForgotten(task, view.services.has(task.serviceId))) found.push(task.id);
      else if (isTerminal(task) || isReplacement(view, task)) slots.set(slotKey(task), task);
    }
    return found;
  }

  function trim(view: StoreView): TaskId[] {
    const limit = view.cluster?.spec.taskHistoryLimit ?? defaultTaskHistoryLimit;
    const found: TaskId[] = [];
    for (const member of slots.values()) {
      const service = view.services.get(member.serviceId);
      if (service !== undefined)
        for (const task of decideTrim(service, slotOf(view, member), limit)) found.push(task.id);
    }
    slots.clear();
    return found;
  }

  async function remove(ids: readonly TaskId[]): Promise<void> {
    await store.batch(
      new Set(ids),
      (tx, id) => {
        const task = tx.tasks.get(id);
        if (task !== undefined) removeTask(tx, task);
      },
      signal,
    );
  }
}

function changedTasks(view: StoreView, events: readonly StoreEvent[]): Iterable<Task> {
  const tasks: Task[] = [];
  for (const event of events) {
    if (event.kind === "resync") return view.tasks.list();
    if (event.table !== "tasks" || event.kind === "removed") continue;
    const current = view.tasks.get(event.object.id);
    if (current !== undefined) tasks.push(current);
  }
  return tasks;
}

/** A fresh task in a slot that has had others. */
function isReplacement(view: StoreView, task: Task): boolean {
  return task.meta.version === task.meta.createdVersion && slotOf(view, task).length > 1;
}

function slotKey(task: Task): string {
  return `${task.serviceId}/${task.slot > 0 ? task.slot : (task.nodeId ?? "")}`;
}

function slotOf(view: StoreView, member: Task): readonly Task[] {
  if (member.slot > 0) return view.tasks.bySlot(member.serviceId, member.slot);
  if (member.nodeId === undefined) return [];
  return tasksOn(view, member.serviceId, member.nodeId);
}

function tasksOn(
  view: StoreView,
  serviceId: ServiceId,
  nodeId: NonNullable<Task["nodeId"]>,
): readonly Task[] {
  return view.tasks.byNode(nodeId).filter((task) => task.serviceId === serviceId && task.slot === 0);
}
