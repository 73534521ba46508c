import { joinHostPort, splitHostPort } from "../../model/address.ts";
import type { NodeId } from "../../model/ids.ts";
import type { ManagerMember, Node, NodeRole } from "../../model/node.ts";

/** One member of the consensus group. */
export interface MemberFact {
  readonly nodeId: NodeId;
  /** "ip:port" of its consensus listener, one above its cluster port. */
  readonly raftAddress: string;
}

export interface MembershipInput {
  readonly nodes: readonly Node[];
  readonly members: readonly MemberFact[];
  /** This manager, the leader. */
  readonly leaderId: NodeId;
}

export type MembershipStep =
  /** Somebody else removes us then, as the new leader. */
  | { readonly kind: "transfer-leadership" }
  | { readonly kind: "remove-member"; readonly nodeId: NodeId }
  | { readonly kind: "set-role"; readonly nodeId: NodeId; readonly role: NodeRole }
  | { readonly kind: "set-member"; readonly nodeId: NodeId; readonly member: ManagerMember | undefined };

/**
 * What is missing between what users want (`spec.role`), the consensus group, and what certificates say (`role`).
 *
 * Promotion: role manager → the node renews its certificate, starts a manager and joins the group by itself.
 * Demotion: out of the group → role worker → the node renews its certificate and stops its manager. The order keeps a
 * node that may not be a manager out of the group, and a member of the group in possession of a manager's certificate.
 */
export function planMembership({ nodes, members, leaderId }: MembershipInput): MembershipStep[] {
  const steps: MembershipStep[] = [];
  const memberOf = new Map(members.map((member) => [member.nodeId, member]));
  for (const node of nodes) {
    const member = memberOf.get(node.id);
    if (node.spec.role === "manager" && node.role === "worker") {
      steps.push({ kind: "set-role", nodeId: node.id, role: "manager" });
    }
    if (node.spec.role === "worker") {
      // Also with the role gone already: it may have been let in just when it was demoted.
      if (member !== undefined && node.id === leaderId) steps.push({ kind: "transfer-leadership" });
      else if (member !== undefined) steps.push({ kind: "remove-member", nodeId: node.id });
      else if (node.role === "manager") steps.push({ kind: "set-role", nodeId: node.id, role: "worker" });
    }
    if (member === undefined && node.member !== undefined) {
      steps.push({ kind: "set-member", nodeId: node.id, member: undefined });
    } else if (member !== undefined && node.member?.raftAddress !== member.raftAddress) {
      const { raftAddress } = member;
      steps.push({
        kind: "set-member",
        nodeId: node.id,
        member: { raftAddress, address: clusterAddress(raftAddress) },
      });
    }
  }
  const known = new Set(nodes.map(({ id }) => id));
  for (const { nodeId } of members) {
    if (!known.has(nodeId) && nodeId !== leaderId) steps.push({ kind: "remove-member", nodeId });
  }
  return steps;
}

/** The consensus peers listen one port above the cluster port. */
export function raftAddressOf(clusterAddress: string): string {
  return shiftPort(clusterAddress, 1);
}

export function clusterAddress(raftAddress: string): string {
  return shiftPort(raftAddress, -1);
}

function shiftPort(address: string, by: number): string {
  const { host, port } = splitHostPort(address);
  return joinHostPort(host, port + by);
}
