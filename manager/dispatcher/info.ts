import {
  defaultHeartbeatPeriodMs,
  heartbeatsPerSecondLimit,
  maximumHeartbeatPeriodMs,
} from "../../model/defaults.ts";
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
  const node = view.nodes.get(session.nodeId);
  return {
    sessionId: session.sessionId,
    heartbeatPeriodMs: heartbeatPeriodMs(view),
    managers,
    rootPem: view.cluster?.ca.certificatePem ?? "",
    desiredRole: node?.role ?? "worker",
    certificateGeneration: 0,
    clusterId: view.cluster?.id ?? "",
    nodeIndex: node?.index ?? 0,
    tunnelKeys: (node?.description?.tunnel?.keys ?? []).map(({ publicKey }) => publicKey),
  };
}

/** As the cluster's specification says, or as much longer as its nodes are many. */
export function heartbeatPeriodMs(view: StoreView): number {
  const asked = Math.ceil(view.cluster?.spec.heartbeatPeriodMs ?? defaultHeartbeatPeriodMs); // The API takes nanoseconds.
  return scaledHeartbeatPeriodMs(asked, view.nodes.count);
}

/** Doubled rather than stretched evenly: everybody has to be told of a change. */
export function scaledHeartbeatPeriodMs(askedMs: number, nodeCount: number): number {
  let periodMs = askedMs;
  while (nodeCount * 1_000 > heartbeatsPerSecondLimit * periodMs && periodMs < maximumHeartbeatPeriodMs)
    periodMs *= 2;
  return periodMs;
}

/** Whether a node's change shows in the information of every session. */
export function changesManagers(node: Node, previous: Node | undefined): boolean {
  return node.member?.address !== previous?.member?.address;
}
