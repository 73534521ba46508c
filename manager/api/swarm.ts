/** `/swarm` but for init, join and leave, which are the host's own, and what `/info` shows of the cluster. */
import { ClusterError } from "../../model/errors.ts";
import type { Cluster } from "../../model/cluster.ts";
import { queryFlag } from "../../runtime/http.ts";
import { requireSeen, type StoreView } from "../store/transaction.ts";
import { type Call, empty, json, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { noLeaderReply } from "./error.ts";
import { requireVersion, strictFlag } from "./query.ts";
import { parseClusterSpec, printCluster } from "./swarm-json.ts";
import { tlsInfo } from "./tls-info.ts";

export const swarmRoutes: readonly Route[] = [
  { method: "GET", path: "/swarm", handle: inspectSwarm },
  { method: "POST", path: "/swarm/update", handle: updateSwarm },
  { method: "GET", path: "/swarm/unlockkey", handle: unlockKey },
  { method: "GET", path: "/shoal/v1/swarm-info", local: true, handle: swarmInfo },
  { method: "POST", path: "/shoal/v1/data-key/rotate", local: true, handle: rotateDataKey },
];

/** `GET /swarm`, join tokens included. */
function inspectSwarm({ store }: ApiDeps): Reply {
  return store.view((view) => {
    const cluster = requireCluster(view);
    const { worker, manager } = cluster.joinTokens;
    return json({
      ...printCluster(cluster, tlsInfo(cluster.ca.certificatePem)),
      JoinTokens: { Worker: worker, Manager: manager },
    });
  });
}

/** `POST /swarm/update`: the whole spec; tokens are renewed where asked. */
async function updateSwarm({ store, joinTokens }: ApiDeps, call: Call): Promise<Reply> {
  const version = requireVersion(call.query, "swarm");
  const rotateWorker = strictFlag(call.query, "rotateWorkerToken");
  const rotateManager = strictFlag(call.query, "rotateManagerToken");
  strictFlag(call.query, "rotateManagerUnlockKey"); // No key without auto-lock, so nothing to renew.
  const spec = parseClusterSpec(call.body());
  await store.update((tx) => {
    const cluster = requireCluster(tx);
    requireSeen(cluster, version);
    tx.clusters.update({ ...cluster, spec });
    if (rotateWorker) joinTokens.rotate("worker", tx);
    if (rotateManager) joinTokens.rotate("manager", tx);
  }, call.life);
  return empty();
}

/** `GET /swarm/unlockkey`: there is none without auto-lock. */
function unlockKey(): Reply {
  return json({ UnlockKey: "" });
}

/**
 * `POST /shoal/v1/data-key/rotate`: each manager has keys of its own, so this is about the one that is asked, with or without
 * a leader. Answers `{NodeID, KeyID}`.
 */
async function rotateDataKey({ cluster, nodeId }: ApiDeps, call: Call): Promise<Reply> {
  return json({ NodeID: nodeId, KeyID: await cluster.rotateDataKey(call.signal) });
}

/** `GET /shoal/v1/swarm-info`: the `Swarm` object of `/info`, answered even without a leader. */
function swarmInfo({ store, cluster: group, nodeId }: ApiDeps, call: Call): Reply {
  const withCluster = !queryFlag(call.query.get("brief"));
  return store.view((view) => {
    const nodes = view.nodes.list();
    const managers = nodes.flatMap(({ id, member }) =>
      member === undefined ? [] : [{ NodeID: id, Addr: member.address }],
    );
    const { cluster } = view;
    return json({
      NodeID: nodeId,
      NodeAddr: view.nodes.get(nodeId)?.status.address ?? "",
      LocalNodeState: "active",
      ControlAvailable: true,
      Error: group.leaderId() === undefined ? noLeaderReply : "",
      RemoteManagers: managers,
      Nodes: nodes.length,
      Managers: managers.length,
      Cluster:
        cluster === undefined || !withCluster
          ? undefined
          : printCluster(cluster, tlsInfo(cluster.ca.certificatePem)),
      Warnings:
        managers.length === 2
          ? ["WARNING: two managers lose the swarm as soon as one of them is lost; add a third or demote one"]
          : undefined,
    });
  });
}

function requireCluster(view: StoreView): Cluster {
  const { cluster } = view;
  if (cluster === undefined)
    throw new ClusterError("unavailable", "the cluster is still being made; try again in a moment");
  return cluster;
}
