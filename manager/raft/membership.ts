import type { ConfChange, Configuration, MemberId } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { GroupMember, MembershipChange } from "./group.ts";

/** What the group's configuration holds about a member, as JSON in its context. */
interface MemberContext {
  readonly raftAddress: string;
  /** A learner that the leader makes a voter once it caught up. */
  readonly promote: boolean;
}

/** How far a learner may be behind the commit index when it becomes a voter. */
const promotionLagEntries = 100;

/** `<node id>.<random>`: never used again once its state is gone. */
export function newMemberId(nodeId: NodeId, random: Uint8Array): MemberId {
  return `${nodeId}.${Buffer.from(random).toString("hex")}`;
}

export function nodeIdOf(memberId: MemberId): NodeId {
  const dot = memberId.lastIndexOf(".");
  return (dot === -1 ? memberId : memberId.slice(0, dot)) as NodeId; // Made by newMemberId.
}

export function encodeContext(context: MemberContext): string {
  return JSON.stringify(context);
}

export function raftAddressOf(configuration: Configuration, memberId: MemberId): string {
  return contextOf(configuration, memberId).raftAddress;
}

export function groupMembers(configuration: Configuration): readonly GroupMember[] {
  const member = (memberId: MemberId, suffrage: GroupMember["suffrage"]): GroupMember => ({
    memberId,
    nodeId: nodeIdOf(memberId),
    raftAddress: raftAddressOf(configuration, memberId),
    suffrage,
  });
  return [
    ...configuration.voters.map((id) => member(id, "voter")),
    ...configuration.learners.map((id) => member(id, "learner")),
  ];
}

/**
 * The steps of a change, each to be committed before the next; none when there is nothing to do.
 *
 * @param isReachable - Whether a member could be reached lately; this member itself counts as reachable.
 * @throws {ClusterError} `not-found`, `failed-precondition` when a quorum would be at risk.
 */
export function planMembership(
  change: MembershipChange,
  configuration: Configuration,
  isReachable: (id: MemberId) => boolean,
): readonly ConfChange[] {
  const members = groupMembers(configuration);
  const known = members.find(({ nodeId }) => nodeId === change.nodeId);
  switch (change.kind) {
    case "add":
    case "add-learner": {
      if (nodeIdOf(change.memberId) !== change.nodeId) {
        throw new ClusterError(
          "invalid-argument",
          `cannot add member ${change.memberId}: it does not belong to node ${change.nodeId}`,
        );
      }
      const context = encodeContext({
        raftAddress: change.raftAddress,
        promote: change.kind === "add",
      });
      if (known?.memberId === change.memberId) {
        if (known.raftAddress === change.raftAddress) return [];
        return [{ kind: "update", id: known.memberId, context }];
      }
      const add: ConfChange = { kind: "add-learner", id: change.memberId, context };
      // The node lost its state, so its old member can never answer again: removing it risks nothing more.
      return known === undefined ? [add] : [{ kind: "remove", id: known.memberId }, add];
    }
    case "promote": {
      const { memberId, suffrage } = requireMember(known, change.nodeId);
      return suffrage === "voter" ? [] : [{ kind: "promote", id: memberId }];
    }
    case "remove": {
      if (known === undefined) return []; // Done already, by an earlier try.
      if (known.suffrage === "voter") refuseLossOfQuorum(configuration, known.memberId, isReachable);
      return [{ kind: "remove", id: known.memberId }];
    }
    case "update": {
      const { memberId, raftAddress } = requireMember(known, change.nodeId);
      if (raftAddress === change.raftAddress) return [];
      const { promote } = contextOf(configuration, memberId);
      const context = encodeContext({ raftAddress: change.raftAddress, promote });
      return [{ kind: "update", id: memberId, context }];
    }
  }
}

/** A learner that waits to be a voter and has caught up. */
export function promotable(
  configuration: Configuration,
  commit: number,
  peers: readonly { readonly id: MemberId; readonly match: number; readonly active: boolean }[],
): MemberId | undefined {
  return configuration.learners.find((id) => {
    const peer = peers.find((candidate) => candidate.id === id);
    const caughtUp = peer !== undefined && peer.match > 0 && peer.match + promotionLagEntries >= commit;
    return caughtUp && peer.active && contextOf(configuration, id).promote;
  });
}

function refuseLossOfQuorum(
  { voters }: Configuration,
  memberId: MemberId,
  isReachable: (id: MemberId) => boolean,
): void {
  const left = voters.filter((id) => id !== memberId);
  const reachable = left.filter(isReachable).length;
  const needed = Math.floor(left.length / 2) + 1;
  if (left.length > 0 && reachable >= needed) return;
  throw new ClusterError(
    "failed-precondition",
    left.length === 0
      ? "cannot remove the last manager of the swarm"
      : `cannot remove this manager: ${reachable} of the ${left.length} managers left can be reached, ${needed} are ` +
          "needed; it may result in a loss of quorum",
  );
}

function requireMember(known: GroupMember | undefined, nodeId: NodeId): GroupMember {
  if (known === undefined) throw new ClusterError("not-found", `node ${nodeId} is not a member of the group`);
  return known;
}

function contextOf(configuration: Configuration, memberId: MemberId): MemberContext {
  const text = configuration.contexts[memberId];
  if (text === undefined || text === "") return { raftAddress: "", promote: false };
  return JSON.parse(text) as MemberContext; // Written by encodeContext on some member of this group.
}
