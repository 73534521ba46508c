/** `/networks`, the swarm's part; each host adds its own. */
import { withoutPrefix } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import { isPredefined, type Network } from "../../model/network.ts";
import { dataPathOf } from "../../model/node.ts";
import { revisionKey, type Service } from "../../model/service.ts";
import { taskName } from "../../model/task.ts";
import { type Filters, parseFilters } from "../../runtime/http.ts";
import { newId } from "../../runtime/random.ts";
import type { StoreView } from "../store/transaction.ts";
import { type Call, empty, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { hostnameOf } from "./hostname.ts";
import type { Json } from "./json-writer.ts";
import { checkNetwork, checkNetworkRemoval, networkUser } from "./network-check.ts";
import { type NetworkDetails, parseNetworkSpec, printNetwork } from "./network-json.ts";
import { anyOf, labelsMatch, parseTime, strictFlag } from "./query.ts";
import { resolve } from "./resolve.ts";
import { printPort } from "./service-print.ts";

// A network's name may hold slashes, so the rest of the path is the name.
export const networkRoutes: readonly Route[] = [
  { method: "GET", path: "/networks", handle: listNetworks },
  { method: "GET", path: "/networks/", handle: listNetworks },
  { method: "GET", path: "/networks/*", handle: inspectNetwork },
  { method: "POST", path: "/networks/create", handle: createNetwork },
  { method: "POST", path: "/networks/prune", handle: pruneNetworks },
  { method: "DELETE", path: "/networks/*", handle: removeNetwork },
];

const filterKeys = ["driver", "id", "label", "name", "scope", "type", "dangling"];

/** `GET /networks`: without the swarm's stand-ins for a host's own networks. */
function listNetworks({ store }: ApiDeps, call: Call): Reply {
  const filters = parseFilters(call.query.get("filters"), filterKeys);
  for (const type of filters.get("type") ?? []) {
    if (type !== "custom" && type !== "builtin") {
      throw new ClusterError("invalid-argument", `invalid filter: 'type'='${type}'`);
    }
  }
  return store.view((view) => {
    const networks = view.networks
      .list()
      .filter((network) => !isPredefined(network) && matches(view, network, filters));
    return json(networks.map((network) => printNetwork(network)));
  });
}

function matches(view: StoreView, network: Network, filters: Filters): boolean {
  const { id, spec } = network;
  return (
    anyOf(filters, "driver", (wanted) => wanted === spec.driver) &&
    anyOf(filters, "id", (wanted) => id.startsWith(wanted)) &&
    anyOf(filters, "name", (wanted) => spec.name.includes(wanted)) &&
    anyOf(filters, "scope", (wanted) => wanted === "swarm") &&
    anyOf(filters, "type", (wanted) => wanted === "custom") &&
    anyOf(filters, "dangling", (wanted) => isTrue(wanted) === (networkUser(view, network) === undefined)) &&
    labelsMatch(spec.labels, filters.get("label"))
  );
}

function isTrue(text: string): boolean {
  return text === "true" || text === "1";
}

/** `GET /networks/{id}`; `scope=swarm` also finds the stand-ins, `verbose` adds services and peers. */
function inspectNetwork({ store }: ApiDeps, call: Call): Reply {
  const wanted = param(call, "*");
  const scope = call.query.get("scope") ?? "";
  const verbose = strictFlag(call.query, "verbose");
  return store.view((view) => {
    const network = resolve("network", wanted, view.networks);
    if ((scope !== "" && scope !== "swarm") || (isPredefined(network) && scope !== "swarm")) {
      throw new ClusterError("not-found", `network ${wanted} not found`);
    }
    return json(printNetwork(network, verbose ? details(view, network) : {}));
  });
}

function details(view: StoreView, network: Network): NetworkDetails {
  // Without a prototype: "constructor" is a name that a service may have.
  const services = Object.create(null) as Record<
    string,
    { VIP: string; Ports: Json[]; LocalLBIndex: number; Tasks: Json[] }
  >;
  const peers = new Map<string, Json>();
  for (const task of view.tasks.byNetwork(network.id)) {
    if (task.status.state !== "running") continue;
    const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
    if (revision === undefined) continue;
    const node = task.nodeId === undefined ? undefined : view.nodes.get(task.nodeId);
    const address = node?.dataPathAddress ?? node?.status.address ?? "";
    const attachment = task.networks.find((each) => each.networkId === network.id);
    const service = (services[revision.serviceName] ??= {
      VIP: virtualIpOf(view.services.get(task.serviceId), network),
      Ports: revision.endpoint.ports.map(printPort),
      LocalLBIndex: 0,
      Tasks: [],
    });
    service.Tasks.push({
      Name: taskName(revision.serviceName, task),
      EndpointID: task.id,
      EndpointIP: attachment?.address.split("/")[0] ?? "",
      Info: { "Host IP": address },
    });
    if (node !== undefined) peers.set(node.id, { Name: hostnameOf(node), IP: address });
  }
  for (const attachment of view.attachments.byNetwork(network.id)) {
    const node = view.nodes.get(attachment.nodeId);
    if (attachment.address === undefined || node === undefined) continue;
    const address = dataPathOf(node);
    // As with Docker, containers of no service stand under the empty name.
    const own = (services[""] ??= { VIP: "<nil>", Ports: [], LocalLBIndex: 0, Tasks: [] });
    own.Tasks.push({
      Name: attachment.names[0] ?? "",
      EndpointID: attachment.containerId,
      EndpointIP: withoutPrefix(attachment.address),
      Info: { "Host IP": address },
    });
    peers.set(node.id, { Name: hostnameOf(node), IP: address });
  }
  return { Services: services, Peers: [...peers.values()] };
}

function virtualIpOf(service: Service | undefined, network: Network): string {
  const found = service?.endpoint?.virtualIps.find(({ networkId }) => networkId === network.id);
  return found?.address.split("/")[0] ?? "";
}

/** `POST /networks/create` → 201 with the id. */
async function createNetwork({ store, random }: ApiDeps, call: Call): Promise<Reply> {
  const body = call.body();
  const scope = body.text("Scope");
  if (scope !== "" && scope !== "swarm") {
    throw new ClusterError("invalid-argument", `network scope "${scope}": swarm is expected`);
  }
  const spec = parseNetworkSpec(body);
  const id = await store.update((tx) => {
    checkNetwork(tx, spec);
    return tx.networks.create({ id: newId<NetworkId>(random), spec }).id;
  }, call.life);
  return json({ Id: id, Warning: "" }, 201);
}

/** `DELETE /networks/{id}` → 204. */
async function removeNetwork({ store }: ApiDeps, call: Call): Promise<Reply> {
  await store.update((tx) => {
    const network = resolve("network", param(call, "*"), tx.networks);
    checkNetworkRemoval(tx, network);
    tx.networks.remove(network.id);
  }, call.life);
  return empty(204);
}

/** `POST /networks/prune`: removes what nothing uses. */
async function pruneNetworks({ store, clock }: ApiDeps, call: Call): Promise<Reply> {
  const filters = parseFilters(call.query.get("filters"), ["until", "label", "label!"]);
  const until = filters.get("until")?.map((text) => parseTime(text, "until", clock.now()) ?? 0) ?? [];
  const removed = await store.update((tx) => {
    const unused = tx.networks
      .list()
      .filter(
        (network) =>
          !isPredefined(network) &&
          !network.spec.ingress &&
          until.every((atMs) => network.meta.createdAtMs < atMs) &&
          labelsMatch(network.spec.labels, filters.get("label")) &&
          !(filters.get("label!") ?? []).some((unwanted) => labelsMatch(network.spec.labels, [unwanted])) &&
          networkUser(tx, network) === undefined,
      );
    for (const { id } of unused) tx.networks.remove(id);
    return unused.map((network) => network.spec.name);
  }, call.life);
  return json({ NetworksDeleted: removed.length === 0 ? null : removed });
}
