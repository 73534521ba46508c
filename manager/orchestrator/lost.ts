import { ClusterError } from "../../model/errors.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { isTerminal, taskStates, type Task } from "../../model/task.ts";
import type { Transaction } from "../store/transaction.ts";

/** A node that is down for so long is taken to be gone for good, and its tasks with it. */
export const orphanAfterMs = 24 * 3_600_000;

/**
 * Removes a node for good: its tasks become orphaned, the addresses of its other containers are free, its certificate is
 * refused from now on.
 * Whether it may be removed is for the caller to check.
 * @throws {ClusterError} `not-found`.
 */
export function removeNode(tx: Transaction, id: NodeId): void {
  const node = tx.nodes.get(id);
  if (node === undefined) throw new ClusterError("not-found", `node ${id} not found`);
  for (const task of tx.tasks.byNode(id)) {
    orphan(tx, task, "Task belonged to a node that has been deleted");
  }
  releaseAttachments(tx, id);
  tx.nodes.remove(id);
  const { cluster } = tx;
  if (cluster === undefined) return;
  tx.clusters.update({ ...cluster, removedNodes: { ...cluster.removedNodes, [id]: tx.nowMs } });
}

/** Gives up what a node that has long been down may still have been running, but for services that wait for it. */
export function orphanTasksOf(tx: Transaction, node: Node): void {
  for (const task of tx.tasks.byNode(node.id)) {
    if (taskStates[task.status.state] < taskStates.assigned) continue;
    const service = tx.services.get(task.serviceId);
    if (service !== undefined && extensionsOf(service.spec.labels).onUnreachable.kind === "wait") continue;
    orphan(tx, task, `Task belonged to a node that has been down for ${orphanAfterMs / 3_600_000}h`);
  }
  releaseAttachments(tx, node.id);
}

/** Should the node come back, it asks for them again, with the addresses that its containers have. */
function releaseAttachments(tx: Transaction, nodeId: NodeId): void {
  for (const { id } of tx.attachments.byNode(nodeId)) tx.attachments.remove(id);
}

function orphan(tx: Transaction, task: Task, message: string): void {
  if (isTerminal(task)) return;
  tx.tasks.update({
    ...task,
    status: { ...task.status, state: "orphaned", atMs: tx.nowMs, message, appliedAtMs: tx.nowMs },
  });
}
