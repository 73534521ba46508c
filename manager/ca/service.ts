import { ClusterError } from "../../model/errors.ts";
import type { Cluster } from "../../model/cluster.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Availability, Node } from "../../model/node.ts";
import type { GetRootResponse, IssueRequest, IssueResponse, RenewRequest } from "../../proto/gen/shoal/ca.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { newId, type Random } from "../../runtime/random.ts";
import type { Store } from "../store/store.ts";
import type { StoreView } from "../store/transaction.ts";
import { issueFromRequest } from "./issue.ts";
import { backdateMs } from "./root.ts";
import { roleOfToken } from "./token.ts";

const availabilities: readonly Availability[] = ["active", "pause", "drain"];
const hostnameLimit = 255;

export interface CaServiceDeps {
  readonly store: Pick<Store, "view" | "update">;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** `CertificateAuthority.GetRoot`, on any manager. @throws {ClusterError} `unavailable` before it has heard of it. */
export function getRoot({ store }: Pick<CaServiceDeps, "store">): GetRootResponse {
  return { certificatePem: requireCluster(store).ca.certificatePem };
}

/**
 * `CertificateAuthority.Issue`, on the leader: a joiner becomes a node. The role comes from the token alone.
 *
 * @param address - Where the caller is seen; the node's own session corrects it.
 * @throws {ClusterError} `invalid-argument` for a bad token or request, `failed-precondition` for a clock that is off.
 */
export async function issue(
  deps: CaServiceDeps,
  request: IssueRequest,
  address: string,
  signal: AbortSignal,
): Promise<IssueResponse> {
  const { store, random, log } = deps;
  const cluster = requireCluster(store);
  const role = roleOfToken(cluster.joinTokens, request.token);
  refuseWrongClock(deps.clock.now(), request.nowMs, "join again");
  const availability = readAvailability(request.availability);
  if (request.hostname.length > hostnameLimit) {
    throw new ClusterError("invalid-argument", `the hostname is longer than ${hostnameLimit} characters`);
  }
  const nodeId = newId<NodeId>(random);
  const subject = { nodeId, clusterId: cluster.id, role, validityMs: cluster.spec.certificateValidityMs };
  const certificatePem = await issueFromRequest(deps, cluster.ca, request.csrPem, subject);
  await store.update((tx) => {
    // The token may have been rotated while the certificate was made.
    roleOfToken(tx.cluster?.joinTokens ?? cluster.joinTokens, request.token);
    tx.nodes.create({
      id: nodeId,
      spec: { labels: {}, role, availability },
      status: { state: "unknown", message: "", address },
      role,
      index: freeIndex(tx.nodes.list()),
      certificate: certificatePem,
    });
  }, signal);
  log.info({ node: nodeId, role, hostname: request.hostname, address }, "issued a certificate to a new node");
  return store.view((view) => response(view, cluster, { nodeId, role, certificatePem }));
}

/**
 * `CertificateAuthority.Renew`, on the leader: a fresh certificate with the role the cluster has decided on.
 *
 * @throws {ClusterError} `not-found` for a node that is not in the cluster, `failed-precondition` for a clock that is off.
 */
export async function renew(
  deps: CaServiceDeps,
  request: RenewRequest,
  nodeId: NodeId,
  signal: AbortSignal,
): Promise<IssueResponse> {
  const { store, log } = deps;
  const cluster = requireCluster(store);
  refuseWrongClock(deps.clock.now(), request.nowMs, "it is tried again by itself");
  const role = requireNode(
    store.view((view) => view.nodes.get(nodeId)),
    nodeId,
  ).role;
  const subject = { nodeId, clusterId: cluster.id, role, validityMs: cluster.spec.certificateValidityMs };
  const certificatePem = await issueFromRequest(deps, cluster.ca, request.csrPem, subject);
  await store.update((tx) => {
    const node = requireNode(tx.nodes.get(nodeId), nodeId);
    if (node.role !== role)
      throw new ClusterError("unavailable", "the node's role has just changed; ask again");
    tx.nodes.update({ ...node, certificate: certificatePem });
  }, signal);
  log.info({ node: nodeId, role }, "renewed a certificate");
  return store.view((view) => response(view, cluster, { nodeId, role, certificatePem }));
}

/**
 * From 1 to one more than there are nodes. Numbers are used again, but only once their node is gone from the store. While none has
 * gone, the next is free: thousands may join at once, and to look for gaps takes a set of all.
 */
export function freeIndex(nodes: readonly Pick<Node, "index">[]): number {
  const next = nodes.length + 1;
  if (!nodes.some(({ index }) => index === next)) return next;
  const taken = new Set(nodes.map(({ index }) => index));
  let index = 1;
  while (taken.has(index)) index += 1;
  return index;
}

/** Certificates are back-dated, which forgives small differences; a larger one is named instead of failing later. */
function refuseWrongClock(nowMs: number, theirsMs: number, then: string): void {
  const offMs = theirsMs - nowMs;
  if (theirsMs === 0 || Math.abs(offMs) <= backdateMs) return;
  const minutes = Math.round(Math.abs(offMs) / 60_000);
  throw new ClusterError(
    "failed-precondition",
    `the clock of this node is ${minutes} minutes ${offMs < 0 ? "behind" : "ahead of"} the manager's ` +
      `(${new Date(theirsMs).toISOString()} against ${new Date(nowMs).toISOString()}); at most ` +
      `${backdateMs / 60_000} minutes are accepted: set the clocks right, for instance with NTP, and ${then}`,
  );
}

function readAvailability(text: string): Availability {
  if (text === "") return "active";
  const found = availabilities.find((availability) => availability === text);
  if (found !== undefined) return found;
  throw new ClusterError(
    "invalid-argument",
    `invalid availability "${text}": one of ${availabilities.join(", ")}`,
  );
}

function requireCluster(store: Pick<Store, "view">): Cluster {
  const cluster = store.view((view) => view.cluster);
  if (cluster !== undefined) return cluster;
  throw new ClusterError(
    "unavailable",
    "this manager has not heard from its cluster yet; try again in a moment",
  );
}

function requireNode(node: Node | undefined, nodeId: NodeId): Node {
  if (node !== undefined) return node;
  throw new ClusterError("not-found", `node ${nodeId} not found: it is not in this cluster any more`);
}

function response(
  view: StoreView,
  cluster: Cluster,
  { nodeId, role, certificatePem }: { nodeId: NodeId; role: string; certificatePem: string },
): IssueResponse {
  return {
    nodeId,
    clusterId: cluster.id,
    role,
    certificatePem,
    rootPem: cluster.ca.certificatePem,
    managers: managerAddresses(view),
  };
}

function managerAddresses(view: StoreView): string[] {
  return view.nodes.members().flatMap(({ member }) => (member === undefined ? [] : [member.address]));
}
