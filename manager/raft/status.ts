import type { Configuration, MemberId, RaftStatus } from "raft-ts";
import type { GroupStatus } from "./group.ts";
import { groupMembers, nodeIdOf } from "./membership.ts";

/** What the member says of itself and of the others. */
export function groupStatus(
  { id, role, term, leader, commit }: RaftStatus,
  seen: {
    readonly handedIndex: number;
    readonly logSyncs: number;
    /** The committed one. */
    readonly configuration: Configuration;
    readonly isConnected: (id: MemberId) => boolean;
  },
): GroupStatus {
  return {
    memberId: id,
    role,
    term,
    leaderId: leader === undefined ? undefined : nodeIdOf(leader),
    commitIndex: commit,
    appliedIndex: seen.handedIndex,
    logSyncs: seen.logSyncs,
    members: groupMembers(seen.configuration).map((member) => ({
      ...member,
      self: member.memberId === id,
      leader: member.memberId === leader,
      reachable: member.memberId === id || seen.isConnected(member.memberId),
    })),
  };
}
