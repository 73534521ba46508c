import { connect } from "node:net";
import { splitHostPort } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type {
  JoinGroupRequest,
  JoinGroupResponse,
  LeaveGroupResponse,
} from "../../proto/gen/shoal/control.ts";
import { clusterAddress } from "./plan.ts";
import type { MembershipDeps } from "./run.ts";

const dialTimeoutMs = 3_000;
const addressPattern = /^[^\s]+:\d{1,5}$/;

/**
 * `Control.JoinGroup`, on the leader: adds a manager to the consensus group, first as a learner.
 *
 * @throws {ClusterError} `permission-denied` for a node that is not to be a manager, `failed-precondition` when its
 *   addresses cannot be reached from here; the group is unchanged then.
 */
export async function joinGroup(
  deps: MembershipDeps,
  request: JoinGroupRequest,
  nodeId: NodeId,
  signal: AbortSignal,
): Promise<JoinGroupResponse> {
  const { store, group, log } = deps;
  const node = store.view((view) => view.nodes.get(nodeId));
  if (node === undefined) throw new ClusterError("not-found", `node ${nodeId} not found`);
  if (node.role !== "manager" || node.spec.role !== "manager") {
    throw new ClusterError("permission-denied", `node ${nodeId} is not to be a manager: promote it first`);
  }
  const { address, raftAddress, memberId } = request;
  const wellFormed =
    addressPattern.test(address) && memberId !== "" && clusterAddress(raftAddress) === address;
  if (!wellFormed) {
    throw new ClusterError(
      "invalid-argument",
      `cannot join as ${memberId} with ${address} and ${raftAddress}: expected host:port and, for consensus, one port above`,
    );
  }
  if (nodeId !== deps.nodeId)
    await Promise.all([dial(nodeId, address, signal), dial(nodeId, raftAddress, signal)]);
  await group.changeMembership({ kind: "add", nodeId, memberId, raftAddress }, signal);
  log.info({ node: nodeId, address }, "a manager joined");
  const members = deps.members().map((member) => ({
    nodeId: member.nodeId,
    raftAddress: member.raftAddress,
    address: clusterAddress(member.raftAddress),
  }));
  return { members };
}

/**
 * `Control.LeaveGroup`, on the leader: removes the caller from the consensus group.
 *
 * @throws {ClusterError} `failed-precondition` when too few managers would be left.
 */
export async function leaveGroup(
  deps: MembershipDeps,
  nodeId: NodeId,
  signal: AbortSignal,
): Promise<LeaveGroupResponse> {
  const { group, log } = deps;
  const isMember = deps.members().some((member) => member.nodeId === nodeId);
  if (isMember) await group.changeMembership({ kind: "remove", nodeId }, signal);
  log.info({ node: nodeId }, "a manager left");
  return {};
}

/** Members that cannot be reached count against the quorum, so they are not let in. */
function dial(nodeId: NodeId, address: string, signal: AbortSignal): Promise<void> {
  const { host, port } = splitHostPort(address);
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal });
    const fail = (why: string): void => {
      socket.destroy();
      reject(
        new ClusterError(
          "failed-precondition",
          `cannot reach node ${nodeId} on ${address}: ${why}; check --advertise-addr and the firewall`,
        ),
      );
    };
    socket.setTimeout(dialTimeoutMs, () => fail(`no answer within ${dialTimeoutMs} ms`));
    socket.once("error", (error) => fail(error.message));
    socket.once("connect", () => {
      socket.destroy();
      resolve();
    });
  });
}
