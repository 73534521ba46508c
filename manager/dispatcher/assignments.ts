import { withoutPrefix } from "../../model/address.ts";
import type { Attachment } from "../../model/attachment.ts";
import type { Cluster } from "../../model/cluster.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { AttachmentId, NetworkId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import { isEncrypted, overlayMtu, type Network } from "../../model/network.ts";
import { dataPathOf, type Node, type TunnelKey } from "../../model/node.ts";
import type { PayloadSpec } from "../../model/payload.ts";
import { revisionKey, type Revision, type Service } from "../../model/service.ts";
import { isTerminal, isWanted, stateAtLeast, type Task, taskName } from "../../model/task.ts";
import type {
  AssignedAttachment,
  AssignedEndpoint,
  AssignedHost,
  AssignedNetwork,
  AssignedPayload,
  AssignedService,
  AssignedTask,
} from "../../proto/gen/shoal/dispatcher.ts";
import type { StoreView } from "../store/transaction.ts";

/** Whether the worker is told of the task: placed and allocated, and not yet reaped. */
export function isAssigned(task: Task, nodeId: NodeId): boolean {
  return task.nodeId === nodeId && stateAtLeast(task.status.state, "assigned");
}

/** Whether the worker needs the task's networks and payloads: it may still run. */
export function needsResources(task: Task, nodeId: NodeId): boolean {
  return isAssigned(task, nodeId) && !isTerminal(task);
}

export function networksOf(task: Task): readonly NetworkId[] {
  return [...new Set(task.networks.map(({ networkId }) => networkId))];
}

type LogDriver = Cluster["spec"]["logDriver"];

/** The revision's JSON is made once and shared by every task and session that sends it. */
const revisionJson = new WeakMap<Revision, { readonly json: Buffer; readonly fallback: LogDriver }>();

/** @param fallback - The cluster's log driver, for tasks whose service names none. */
function jsonOf(revision: Revision, fallback: LogDriver): Buffer {
  const known = revisionJson.get(revision);
  if (known !== undefined && known.fallback === fallback) return known.json;
  const { logDriver = fallback } = revision.task;
  const whole = logDriver === undefined ? revision : { ...revision, task: { ...revision.task, logDriver } };
  const json = Buffer.from(JSON.stringify(whole));
  revisionJson.set(revision, { json, fallback });
  return json;
}

/** @returns undefined while the revision is missing, which no committed state has. */
export function assignedTask(view: StoreView, task: Task): AssignedTask | undefined {
  const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
  if (revision === undefined) return undefined;
  return {
    id: task.id,
    serviceId: task.serviceId,
    slot: task.slot,
    specVersion: task.specVersion,
    desiredState: task.desiredState,
    revisionJson: jsonOf(revision, view.cluster?.spec.logDriver),
    networks: task.networks.map(({ networkId, address, ipv6 = "", aliases }) => ({
      networkId,
      address,
      ipv6,
      aliases: [...aliases],
    })),
    statusState: task.status.state,
    jobIteration: task.jobIteration ?? 0,
    generic: (task.generic ?? []).map(({ kind, count, names = [] }) => ({ kind, count, names: [...names] })),
    stopAfterMs: stopAfterMs(view.services.get(task.serviceId)),
  };
}

/** When a worker without managers ends tasks of the service; what its labels say now, not when the task began. */
export function stopAfterMs(service: Service | undefined): number | undefined {
  const policy = service && extensionsOf(service.spec.labels).onUnreachable;
  return policy?.kind === "stop" ? policy.afterMs : undefined;
}

/** The worker's own status is the true one, so a mere change of status is not sent back to it. */
export function sameTask(a: Task, b: Task): boolean {
  return (
    a.desiredState === b.desiredState &&
    a.jobIteration === b.jobIteration &&
    (a.networks === b.networks || sameJson(a.networks, b.networks))
  );
}

/** @returns undefined while an overlay has no subnet yet. */
export function assignedNetwork(network: Network): AssignedNetwork | undefined {
  const { id, spec, state } = network;
  const encrypted = spec.driver === "overlay" && isEncrypted(network);
  if (spec.driver === "overlay" && state === undefined) return undefined;
  return {
    id,
    name: spec.name,
    driver: spec.driver,
    subnet: state?.subnet ?? "",
    gateway: state?.gateway ?? "",
    vni: state?.vni ?? 0,
    internal: spec.internal,
    mtu: spec.driver === "overlay" ? overlayMtu(network) : 0,
    ingress: spec.ingress,
    attachable: spec.attachable,
    further: (state?.further ?? []).map(({ subnet, gateway }) => ({ subnet, gateway })),
    encrypted,
  };
}

/** The ingress network, while any service publishes a port on it: every host is on it then. */
export function ingressInUse(view: StoreView): NetworkId | undefined {
  const ingress = view.networks.ingress();
  return ingress !== undefined && view.services.countByNetwork(ingress.id) > 0 ? ingress.id : undefined;
}

/** @returns undefined when the service has no virtual IP on the network. */
export function assignedService(
  view: StoreView,
  { id, spec, endpoint }: Service,
  networkId: NetworkId,
): AssignedService | undefined {
  const virtualIp = endpoint?.virtualIps.find((each) => each.networkId === networkId);
  if (endpoint === undefined || virtualIp === undefined) return undefined;
  const { mesh, publishAddresses } = extensionsOf(spec.labels);
  const ports = view.networks.get(networkId)?.spec.ingress
    ? endpoint.ports.filter(({ publishMode }) => publishMode === "ingress")
    : [];
  return {
    key: serviceKey(networkId, id),
    networkId,
    serviceId: id,
    serviceName: spec.name,
    address: withoutPrefix(virtualIp.address),
    ipv6: withoutPrefix(virtualIp.ipv6 ?? ""),
    aliases: [...(spec.task.networks.find((each) => each.networkId === networkId)?.aliases ?? [])],
    ports: ports.map(({ protocol, targetPort, publishedPort }) => ({ protocol, targetPort, publishedPort })),
    localFirst: mesh === "local",
    within: [...publishAddresses],
  };
}

export function serviceKey(networkId: NetworkId, serviceId: ServiceId): string {
  return `${networkId}/${serviceId}`;
}

/** @returns undefined while nobody knows where the node's VXLAN listens. */
export function assignedHost(node: Node): AssignedHost | undefined {
  const address = dataPathOf(node);
  if (address === "") return undefined;
  const { id, index } = node;
  return { nodeId: id, address, index, tunnelKeys: tunnelKeysOf(node), ipv6Addresses: ipv6Of(node) };
}

function ipv6Of({ description }: Node): string[] {
  return [...(description?.ipv6Addresses ?? [])];
}

/** Whether what nodes are told of a node looks different because of its addresses of IPv6. */
export function changesIpv6(node: Node, previous: Node): boolean {
  return node.description !== previous.description && !sameJson(ipv6Of(node), ipv6Of(previous));
}

function tunnelKeysOf({ description }: Node): TunnelKey[] {
  return (description?.tunnel?.keys ?? []).map(({ publicKey, slot }) => ({ publicKey, slot }));
}

/** Whether what nodes are told of a node, or it of itself, looks different because its tunnels do. */
export function changesTunnel(node: Node, previous: Node): boolean {
  return node.description !== previous.description && !sameJson(tunnelKeysOf(node), tunnelKeysOf(previous));
}

/** Who has an endpoint. The ids of tasks and of attachments have different forms. */
export type EndpointOwner = TaskId | AttachmentId;

export function endpointKey(networkId: NetworkId, owner: EndpointOwner): string {
  return `${networkId}/${owner}`;
}

/** All who have an address on a network, or had one. */
export function ownersOn(view: StoreView, networkId: NetworkId): EndpointOwner[] {
  const owners = [...view.tasks.byNetwork(networkId), ...view.attachments.byNetwork(networkId)];
  return owners.map(({ id }) => id);
}

/** As `assignedEndpoint`, whoever it is of. */
export function endpointOf(
  view: StoreView,
  owner: EndpointOwner,
  networkId: NetworkId,
): AssignedEndpoint | undefined {
  // One of the two tables has it at most.
  const task = view.tasks.get(owner as TaskId);
  if (task !== undefined) return assignedEndpoint(view, task, networkId);
  const attachment = view.attachments.get(owner as AttachmentId);
  return attachment && attachedEndpoint(view, attachment);
}

/** @returns undefined while it has no address. */
export function assignedAttachment({
  id,
  networkId,
  attempt,
  address,
  ipv6 = "",
}: Attachment): AssignedAttachment | undefined {
  return address === undefined ? undefined : { id, networkId, attempt, address, ipv6 };
}

/** Where the container can be reached: for as long as it has its place, whatever becomes of what runs in it. */
function attachedEndpoint(view: StoreView, attachment: Attachment): AssignedEndpoint | undefined {
  const { id, networkId, nodeId, containerId, address, ipv6 = "", names } = attachment;
  const node = view.nodes.get(nodeId);
  if (address === undefined || node === undefined) return undefined;
  return {
    key: endpointKey(networkId, id),
    networkId,
    taskId: containerId,
    address: withoutPrefix(address),
    ipv6: withoutPrefix(ipv6),
    nodeId,
    nodeAddress: dataPathOf(node),
    nodeIndex: node.index,
    serviceId: "",
    serviceName: "",
    taskName: names[0] ?? "",
    aliases: names.slice(1),
    serving: node.status.state !== "down",
  };
}

/**
 * Where the task can be reached on a network, as every node of that network is told.
 *
 * @returns undefined when it is nowhere yet, is nowhere any more, or the network is local to a host.
 */
export function assignedEndpoint(
  view: StoreView,
  task: Task,
  networkId: NetworkId,
): AssignedEndpoint | undefined {
  const attachment = task.networks.find((attachment) => attachment.networkId === networkId);
  if (attachment === undefined || attachment.address === "" || task.nodeId === undefined) return undefined;
  if (!needsResources(task, task.nodeId)) return undefined;
  const node = view.nodes.get(task.nodeId);
  const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
  if (node === undefined || revision === undefined) return undefined;
  return {
    key: endpointKey(networkId, task.id),
    networkId,
    taskId: task.id,
    address: withoutPrefix(attachment.address),
    ipv6: withoutPrefix(attachment.ipv6 ?? ""),
    nodeId: node.id,
    nodeAddress: dataPathOf(node),
    nodeIndex: node.index,
    serviceId: task.serviceId,
    serviceName: revision.serviceName,
    taskName: taskName(revision.serviceName, task),
    aliases: [...attachment.aliases],
    serving: isServing(task, node),
  };
}

function isServing(task: Task, node: Node): boolean {
  return task.status.state === "running" && isWanted(task) && node.status.state !== "down";
}

/** Whether other nodes have to hear of a task's change. */
export function changesEndpoints(task: Task, previous: Task): boolean {
  if (task.networks.length === 0 && previous.networks.length === 0) return false;
  return (
    task.networks !== previous.networks ||
    task.nodeId !== previous.nodeId ||
    task.desiredState !== previous.desiredState ||
    endpointPhase(task) !== endpointPhase(previous)
  );
}

function endpointPhase(task: Task): "absent" | "silent" | "running" {
  if (!stateAtLeast(task.status.state, "assigned") || isTerminal(task)) return "absent";
  return task.status.state === "running" ? "running" : "silent";
}

/** Whether the endpoints of a node's tasks look different because the node changed. */
export function changesNodeEndpoints(node: Node, previous: Node): boolean {
  return (
    dataPathOf(node) !== dataPathOf(previous) ||
    node.index !== previous.index ||
    (node.status.state === "down") !== (previous.status.state === "down")
  );
}

/** Ids of the secrets and configs that a task names. */
export function payloadsOf(view: StoreView, task: Task): readonly string[] {
  const container = view.revisions.get(revisionKey(task.serviceId, task.specVersion))?.task.container;
  if (container === undefined) return [];
  return [
    ...container.secrets.map(({ secretId }) => secretId),
    ...container.configs.map(({ configId }) => configId),
  ];
}

/** @returns undefined when the object is gone; the worker then rejects the task. */
export function assignedPayload(view: StoreView, id: string): AssignedPayload | undefined {
  const secret = view.secrets.get(id as Parameters<typeof view.secrets.get>[0]);
  if (secret !== undefined) return sentPayload(id, "secret", secret.spec);
  const config = view.configs.get(id as Parameters<typeof view.configs.get>[0]);
  if (config !== undefined) return sentPayload(id, "config", config.spec);
  return undefined;
}

function sentPayload(id: string, kind: string, { data, templating }: PayloadSpec): AssignedPayload {
  return { id, kind, data: Buffer.from(data, "base64"), templating: templating?.name ?? "" };
}

/** For small values of the same shape. */
export function sameJson(a: unknown, b: unknown): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
