import { defaultHeartbeatPeriodMs } from "../../model/defaults.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import type { SessionInfo } from "../../proto/gen/shoal/dispatcher.ts";
import type { StoreView } from "../store/transaction.ts";

/** What a worker has to know of its cluster. `leaderId` is this manager. */
export function sessionInfo(
  view: StoreView,
  session: { readonly sessionId: string; readonly nodeId: NodeId; readonly leaderId: NodeId },
): SessionInfo {
  const managers = view.nodes
    .members()
    .flatMap(({ id, member }) =>
      member === undefined ? [] : [{ nodeId: id, address: member.address, leader: id === session.leaderId }],
    )
    .toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  return {
    sessionId: session.sessionId,
    heartbeatPeriodMs: heartbeatPeriodMs(view),
    managers,
    rootPem: view.cluster?.ca.certificatePem ?? "",
    desiredRole: view.nodes.get(session.nodeId)?.role ?? "worker",
    certificateGeneration: 0,
    clusterId: view.cluster?.id ?? "",
  };
}

export function heartbeatPeriodMs(view: StoreView): number {
  return Math.ceil(view.cluster?.spec.heartbeatPeriodMs ?? defaultHeartbeatPeriodMs); // The API takes nanoseconds.
}

/** Whether a node's change shows in the information of every session. */
export function changesManagers(node: Node, previous: Node | undefined): boolean {
  return node.member?.address !== previous?.member?.address;
}
