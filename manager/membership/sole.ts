import type { NodeId } from "../../model/ids.ts";
import type { Transaction } from "../store/transaction.ts";

/**
 * After a new cluster was forced: the one manager left is the only one that anybody asks for. The others are to be
 * workers, so that those which come back find out, keep their tasks, and can be promoted again.
 */
export function becomeSoleManager(tx: Transaction, nodeId: NodeId): void {
  for (const node of tx.nodes.list()) {
    const role = node.id === nodeId ? "manager" : "worker";
    if (node.spec.role !== role) tx.nodes.update({ ...node, spec: { ...node.spec, role } });
  }
}
