import { ClusterError } from "../../model/errors.ts";
import type { NodeId, TaskId } from "../../model/ids.ts";
import { type PublishedPort, type TaskState, taskStates, type TaskStatus } from "../../model/task.ts";
import type { PublishedPortMessage, TaskStatusMessage } from "../../proto/gen/shoal/dispatcher.ts";
import type { Transaction } from "../store/transaction.ts";

/** Statuses in one message. */
export const statusBatchLimit = 10_000;
/** Longer texts are cut: they are for people, and every manager keeps them. */
const textLimit = 2_000;
/** An engine's id has 64 characters; a task publishes far fewer ports. Every manager keeps both. */
const containerIdLimit = 128;
const portLimit = 1_000;

const reportable = new Map<number, TaskState>(
  (
    [
      "accepted",
      "preparing",
      "ready",
      "starting",
      "running",
      "complete",
      "shutdown",
      "failed",
      "rejected",
    ] as const
  ).map((state) => [taskStates[state], state]),
);

export interface Report {
  readonly taskId: TaskId;
  readonly status: TaskStatus;
}

/**
 * Reads what a worker reported.
 *
 * @throws {ClusterError} `invalid-argument` for a state that is not a worker's to report.
 */
export function readReports(messages: readonly TaskStatusMessage[]): Report[] {
  if (messages.length > statusBatchLimit) {
    throw new ClusterError(
      "invalid-argument",
      `cannot take ${messages.length} statuses: at most ${statusBatchLimit} fit one message`,
    );
  }
  return messages.map(readReport);
}

function readReport(message: TaskStatusMessage): Report {
  const state = reportable.get(message.state);
  if (state === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `cannot take the status of task ${message.taskId}: state ${message.state} is not a worker's to report; ` +
        `one of ${[...reportable.keys()].join(", ")} is accepted`,
    );
  }
  if (message.containerId.length > containerIdLimit || message.ports.length > portLimit) {
    throw new ClusterError(
      "invalid-argument",
      `cannot take the status of task ${message.taskId}: a container id has at most ${containerIdLimit} characters, ` +
        `and at most ${portLimit} ports are published`,
    );
  }
  return {
    taskId: message.taskId as TaskId,
    status: {
      state,
      atMs: message.atMs,
      message: message.message.slice(0, textLimit),
      error: message.error.slice(0, textLimit),
      ...(message.containerId !== "" && { containerId: message.containerId }),
      ...(message.pid !== 0 && { pid: message.pid }),
      ...(message.exitCode !== undefined && { exitCode: message.exitCode }),
      ...(message.ports.length > 0 && { ports: message.ports.map(readPort) }),
      appliedAtMs: 0,
    },
  };
}

function readPort({ protocol, targetPort, publishedPort }: PublishedPortMessage): PublishedPort {
  if (protocol !== "tcp" && protocol !== "udp" && protocol !== "sctp") {
    throw new ClusterError(
      "invalid-argument",
      `cannot take a port of protocol "${protocol}": tcp, udp or sctp`,
    );
  }
  return { protocol, targetPort, publishedPort };
}

/**
 * Stores a report, unless the task is gone, is already further, or nothing is new.
 *
 * @throws {ClusterError} `permission-denied` when the task is another node's.
 */
export function applyReport(tx: Transaction, nodeId: NodeId, report: Report, nowMs: number): void {
  const task = tx.tasks.get(report.taskId);
  if (task === undefined) return;
  refuseStranger(task.nodeId, nodeId, report.taskId);
  const { status } = report;
  if (taskStates[status.state] < taskStates[task.status.state]) return;
  if (sameStatus(status, task.status)) return;
  tx.tasks.update({ ...task, status: { ...status, appliedAtMs: nowMs } });
}

/** @throws {ClusterError} `permission-denied` when the task is another node's. */
export function refuseStranger(owner: NodeId | undefined, nodeId: NodeId, taskId: TaskId): void {
  if (owner === nodeId) return;
  throw new ClusterError("permission-denied", `task ${taskId} is not assigned to node ${nodeId}`);
}

function sameStatus(a: TaskStatus, b: TaskStatus): boolean {
  return (
    a.state === b.state &&
    a.message === b.message &&
    a.error === b.error &&
    a.containerId === b.containerId &&
    a.pid === b.pid &&
    a.exitCode === b.exitCode &&
    JSON.stringify(a.ports ?? []) === JSON.stringify(b.ports ?? [])
  );
}
