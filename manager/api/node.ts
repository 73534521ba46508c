/** `/nodes` */
import { ClusterError } from "../../model/errors.ts";
import type { Node } from "../../model/node.ts";
import { parseFilters, queryFlag } from "../../runtime/http.ts";
import { removeNode } from "../orchestrator/lost.ts";
import { requireSeen, type StoreView } from "../store/transaction.ts";
import { type Call, empty, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import type { Json } from "./json-writer.ts";
import { parseNodeSpec, printNode } from "./node-json.ts";
import { anyOf, hasPrefix, requireVersion, swarmLabelsMatch } from "./query.ts";
import { resolveNode } from "./resolve.ts";
import { tlsInfo } from "./tls-info.ts";

export const nodeRoutes: readonly Route[] = [
  { method: "GET", path: "/nodes", handle: listNodes },
  { method: "GET", path: "/nodes/:id", handle: inspectNode },
  { method: "POST", path: "/nodes/:id/update", handle: updateNode },
  { method: "DELETE", path: "/nodes/:id", handle: deleteNode },
];

const filterKeys = ["id", "name", "label", "node.label", "role", "membership"];

/** `GET /nodes` */
function listNodes(deps: ApiDeps, call: Call): Reply {
  const filters = parseFilters(call.query.get("filters"), filterKeys);
  for (const role of filters.get("role") ?? []) {
    if (role !== "manager" && role !== "worker") {
      throw new ClusterError("invalid-argument", `Invalid role filter: '${role}'`);
    }
  }
  for (const membership of filters.get("membership") ?? []) {
    if (membership !== "accepted" && membership !== "pending") {
      throw new ClusterError("invalid-argument", `Invalid membership filter: '${membership}'`);
    }
  }
  return deps.store.view((view) => {
    const nodes = view.nodes
      .list()
      .filter(
        (node) =>
          anyOf(filters, "id", hasPrefix(node.id)) &&
          anyOf(filters, "name", (wanted) =>
            [node.description?.hostname ?? "", node.spec.name ?? ""].some((name) => hasPrefix(name)(wanted)),
          ) &&
          anyOf(filters, "role", (wanted) => wanted === node.spec.role) &&
          anyOf(filters, "membership", (wanted) => wanted === "accepted") &&
          swarmLabelsMatch(node.description?.engineLabels ?? {}, filters.get("label")) &&
          swarmLabelsMatch(node.spec.labels, filters.get("node.label")),
      );
    return json(nodes.map((node) => print(deps, view, node)));
  });
}

/** `GET /nodes/{id}` */
function inspectNode(deps: ApiDeps, call: Call): Reply {
  return json(deps.store.view((view) => print(deps, view, resolveNode(view, param(call, "id")))));
}

function print({ cluster }: ApiDeps, view: StoreView, node: Node): Json {
  return printNode(node, {
    leader: cluster.leaderId() === node.id,
    reachable: cluster.reachable(node.id),
    tlsInfo: tlsInfo(view.cluster?.ca.certificatePem ?? ""),
  });
}

/** `POST /nodes/{id}/update`: labels, availability, and the role, which takes effect later. */
async function updateNode(deps: ApiDeps, call: Call): Promise<Reply> {
  const version = requireVersion(call.query, "node");
  const spec = parseNodeSpec(call.body());
  await deps.store.update((tx) => {
    const node = resolveNode(tx, param(call, "id"));
    if (node.spec.role === "manager" && spec.role === "worker") refuseBadDemotion(deps, tx, node);
    requireSeen(node, version);
    return tx.nodes.update({ ...node, spec });
  }, call.life);
  return empty();
}

function refuseBadDemotion({ cluster }: ApiDeps, view: StoreView, node: Node): void {
  const nodes = view.nodes.list();
  if (nodes.filter((each) => each.spec.role === "manager").length <= 1) {
    throw new ClusterError("failed-precondition", "attempting to demote the last manager of the swarm");
  }
  if (node.member === undefined) return;
  const remaining = nodes.filter((each) => each.member !== undefined && each.id !== node.id);
  const heard = remaining.filter((each) => each.id === cluster.leaderId() || cluster.reachable(each.id));
  if (heard.length < Math.floor(remaining.length / 2) + 1) {
    throw new ClusterError(
      "failed-precondition",
      "can't remove member from the raft: this would result in a loss of quorum",
    );
  }
}

/** `DELETE /nodes/{id}`: its certificate is refused from now on, its tasks are given up. */
async function deleteNode({ store }: ApiDeps, call: Call): Promise<Reply> {
  const force = queryFlag(call.query.get("force"));
  await store.update((tx) => {
    const node = resolveNode(tx, param(call, "id"));
    if (node.member !== undefined) {
      throw new ClusterError(
        "failed-precondition",
        `node ${node.id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal`,
      );
    }
    if (!force && node.status.state === "ready") {
      throw new ClusterError("failed-precondition", `node ${node.id} is not down and can't be removed`);
    }
    removeNode(tx, node.id);
  }, call.life);
  return empty();
}
