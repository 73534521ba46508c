import type { ServiceId, TaskId } from "../../model/ids.ts";
import { goalOf, type Service, type UpdateStatus } from "../../model/service.ts";
import { taskStates, type Task } from "../../model/task.ts";
import { createTask, removeTask } from "../store/revisions.ts";
import type { Transaction } from "../store/transaction.ts";
import { inProgressMessage, type Step, type TaskChange } from "./plan.ts";
import { takenPortText } from "./ports.ts";
import { missingReferences, notFoundText, rollBackTo } from "./spec.ts";

/** What a plan was made for; steps for a spec that was replaced meanwhile are void. */
export interface PlannedFor {
  readonly serviceId: ServiceId;
  readonly specVersion: number;
}

/** Carries out one step as far as it still makes sense; whatever changed meanwhile brings a new plan. */
export function applyStep(tx: Transaction, planned: PlannedFor, step: Step, newTaskId: () => TaskId): void {
  const service = tx.services.get(planned.serviceId);
  const current = service?.specVersion === planned.specVersion ? service : undefined;
  const creates = step.some((change) => change.kind === "create");
  // A replacement must not lose its old task without getting a new one.
  if (creates && current === undefined) return;
  if (step.some((change) => isOvertaken(tx, change))) return;
  for (const change of step) {
    switch (change.kind) {
      case "create":
        if (current !== undefined) createTask(tx, current, { ...change, id: newTaskId() });
        break;
      case "shutdown":
        withTask(tx, change.taskId, (task) => shutDown(tx, task));
        break;
      case "remove":
        withTask(tx, change.taskId, (task) => markRemoved(tx, task));
        break;
      case "forget":
        withTask(tx, change.taskId, (task) => removeTask(tx, task));
        break;
      case "promote":
        withTask(tx, change.taskId, (task) => {
          if (task.desiredState !== "ready" || service === undefined) return;
          tx.tasks.update({ ...task, desiredState: goalOf(service.spec.mode) });
        });
        break;
      case "begin-update":
        if (current !== undefined) tx.services.update({ ...current, updateStatus: begun(tx) });
        break;
      case "update-status":
        if (current !== undefined) tx.services.update({ ...current, updateStatus: change.status });
        break;
      case "roll-back":
        if (current !== undefined) rollBackAutomatically(tx, current, change.message);
        break;
    }
  }
}

/** The task began to serve between the plan and now; that it does brings a plan in which it stays. */
function isOvertaken(tx: Transaction, change: TaskChange): boolean {
  return (
    change.kind === "shutdown" &&
    change.unlessRunning === true &&
    tx.tasks.get(change.taskId)?.status.state === "running"
  );
}

function withTask(tx: Transaction, id: TaskId, act: (task: Task) => void): void {
  const task = tx.tasks.get(id);
  if (task !== undefined) act(task);
}

/** A task that no worker has seen ends here, since no worker will ever report it. */
export function shutDown(tx: Transaction, task: Task): void {
  if (taskStates[task.desiredState] >= taskStates.shutdown) return;
  const unseen = taskStates[task.status.state] < taskStates.assigned;
  tx.tasks.update({
    ...task,
    desiredState: "shutdown",
    ...(unseen
      ? {
          status: {
            ...task.status,
            state: "shutdown" as const,
            atMs: tx.nowMs,
            message: "shutdown",
            error: "",
          },
        }
      : {}),
  });
}

export function markRemoved(tx: Transaction, task: Task): void {
  const unseen = taskStates[task.status.state] < taskStates.assigned;
  if (unseen || taskStates[task.status.state] >= taskStates.complete) removeTask(tx, task);
  else if (task.desiredState !== "remove") tx.tasks.update({ ...task, desiredState: "remove" });
}

function begun({ nowMs, version }: Transaction): UpdateStatus {
  return { state: "updating", message: inProgressMessage, startedAtMs: nowMs, startedVersion: version };
}

function rollBackAutomatically(tx: Transaction, service: Service, message: string): void {
  if (service.previous === undefined) return;
  const missing = missingReferences(tx, service.previous.spec);
  const obstacle =
    missing.length > 0 ? notFoundText(missing) : takenPortText(tx, service.previous.spec, service);
  if (obstacle !== undefined) {
    const { updateStatus } = service;
    const paused = `${message.replace("update rolled back", "update paused")}; cannot roll back: ${obstacle}`;
    tx.services.update({ ...service, updateStatus: { ...updateStatus, state: "paused", message: paused } });
    return;
  }
  rollBackTo(tx, service, service.previous, { message, keepReplaced: false });
}
