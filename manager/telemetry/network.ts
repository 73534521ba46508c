import { errorText } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { CheckedNode } from "../../proto/telemetry.ts";
import { NetworkCheckReply, NetworkCheckRequest, type NetworkPeer } from "../../proto/gen/shoal/telemetry.ts";
import { type FabricLink, subjects } from "../../runtime/fabric.ts";

/** A node's own bound is shorter: whoever has not answered by then does not. */
const answerTimeoutMs = 15_000;

/**
 * Asks nodes what they find of the networks they share, all at once.
 *
 * @throws {ClusterError} `unavailable` when this manager has no link to the fabric; a node that does not answer is an outcome.
 */
export async function checkNetworks(
  link: FabricLink,
  nodeIds: readonly NodeId[],
  peersOf: (nodeId: NodeId) => readonly NetworkPeer[],
): Promise<CheckedNode[]> {
  const { connection } = link;
  return await Promise.all(
    nodeIds.map(async (nodeId): Promise<CheckedNode> => {
      const request = NetworkCheckRequest.encode({ peers: [...peersOf(nodeId)] }).finish();
      try {
        const answer = await connection.request(subjects.networkChecks(nodeId), request, {
          timeout: answerTimeoutMs,
        });
        return { nodeId, reply: NetworkCheckReply.decode(answer.data), problem: "" };
      } catch (reason) {
        return { nodeId, problem: errorText(reason) };
      }
    }),
  );
}
