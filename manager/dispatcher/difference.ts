import type { AttachmentId, NetworkId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { DesiredState, Task } from "../../model/task.ts";
import type {
  AssignedAttachment,
  AssignedEndpoint,
  AssignedHost,
  AssignedNetwork,
  AssignedPayload,
  AssignedService,
  AssignedTask,
  Assignments,
} from "../../proto/gen/shoal/dispatcher.ts";
import type { StoreView } from "../store/transaction.ts";
import {
  assignedAttachment,
  assignedHost,
  assignedNetwork,
  assignedPayload,
  assignedService,
  assignedTask,
  endpointKey,
  endpointOf,
  type EndpointOwner,
  ingressInUse,
  isAssigned,
  needsResources,
  networksOf,
  ownersOn,
  payloadsOf,
  sameJson,
  sameTask,
  serviceKey,
} from "./assignments.ts";

/** What has to be said to a worker so that it has what it should have. */
export interface Difference {
  readonly tasks: AssignedTask[];
  readonly networks: AssignedNetwork[];
  readonly endpoints: AssignedEndpoint[];
  readonly services: AssignedService[];
  readonly hosts: AssignedHost[];
  readonly payloads: AssignedPayload[];
  readonly attachments: AssignedAttachment[];
  readonly removedTasks: string[];
  readonly removedNetworks: string[];
  readonly removedEndpoints: string[];
  readonly removedServices: string[];
  readonly removedHosts: string[];
  readonly removedPayloads: string[];
  readonly removedAttachments: string[];
}

/** What the assignments of one node have to do with those of others. */
export interface Surroundings {
  /** The node begins to need a network; so events of the network find its nodes. */
  begins(networkId: NetworkId): void;
  ends(networkId: NetworkId): void;
  /** What a task is told that is not to hear yet that it is to stop. */
  holds(taskId: TaskId): DesiredState | undefined;
}

interface Needs {
  readonly networks: readonly NetworkId[];
  readonly payloads: readonly string[];
}

/**
 * What one worker was sent, and what has to be looked at again. Marks are cheap and say only where to look;
 * `take` compares the marked items with the store. So the work follows what changed, not how much there is.
 */
export class NodeAssignments {
  readonly #nodeId: NodeId;
  readonly #around: Surroundings;
  readonly #tasks = new Map<TaskId, Task>();
  readonly #attachments = new Map<AttachmentId, AssignedAttachment>();
  readonly #needs = new Map<EndpointOwner, Needs>();
  readonly #networkUsers = new Map<NetworkId, number>();
  readonly #payloadUsers = new Map<string, number>();
  readonly #networks = new Map<NetworkId, AssignedNetwork>();
  readonly #endpoints = new Map<NetworkId, Map<EndpointOwner, AssignedEndpoint>>();
  readonly #services = new Map<NetworkId, Map<ServiceId, AssignedService>>();
  readonly #hosts = new Map<NodeId, AssignedHost>();
  readonly #payloads = new Set<string>();
  /** The ingress network while it is in use, which every node is on. */
  #ingress: NetworkId | undefined;
  /** Encrypted networks among those sent. */
  readonly #encrypted = new Set<NetworkId>();
  /** All other hosts are to be known: clients may have come in by any, or there are tunnels to them. */
  #needsHosts = false;
  #markedTasks = new Map<TaskId, "compare" | "resend">();
  #markedNetworks = new Set<NetworkId>();
  #markedEndpoints = new Map<NetworkId, Set<EndpointOwner>>();
  #markedServices = new Map<NetworkId, Set<ServiceId>>();
  #markedHosts = new Set<NodeId>();
  #markedPayloads = new Set<string>();
  #markedAttachments = new Set<AttachmentId>();

  constructor(nodeId: NodeId, around: Surroundings) {
    this.#nodeId = nodeId;
    this.#around = around;
  }

  /** @param how - `resend` when something the task refers to changed, though the task did not. */
  markTask(taskId: TaskId, how: "compare" | "resend"): void {
    if (how === "resend" || !this.#markedTasks.has(taskId)) this.#markedTasks.set(taskId, how);
  }

  markNetwork(networkId: NetworkId): void {
    if (this.#networkUsers.has(networkId)) this.#markedNetworks.add(networkId);
  }

  markEndpoint(networkId: NetworkId, owner: EndpointOwner): void {
    if (this.#networkUsers.has(networkId)) addTo(this.#markedEndpoints, networkId, owner);
  }

  markAttachment(id: AttachmentId): void {
    this.#markedAttachments.add(id);
  }

  markService(networkId: NetworkId, serviceId: ServiceId): void {
    if (this.#networkUsers.has(networkId)) addTo(this.#markedServices, networkId, serviceId);
  }

  /** @returns False where nothing of hosts is told. */
  markHost(nodeId: NodeId): boolean {
    if (!this.#needsHosts) return false;
    this.#markedHosts.add(nodeId);
    return true;
  }

  markPayload(id: string): void {
    if (this.#payloadUsers.has(id)) this.#markedPayloads.add(id);
  }

  /** Something of networks is to be compared and perhaps told. */
  get hasMarkedNetworks(): boolean {
    return (
      this.#markedNetworks.size > 0 ||
      this.#markedEndpoints.size > 0 ||
      this.#markedServices.size > 0 ||
      this.#markedHosts.size > 0
    );
  }

  /** Marks everything there is and everything that was sent; for the start, and when events were lost. */
  markAll(view: StoreView): void {
    for (const task of view.tasks.byNode(this.#nodeId)) this.markTask(task.id, "compare");
    for (const taskId of this.#tasks.keys()) this.markTask(taskId, "compare");
    for (const { id } of view.attachments.byNode(this.#nodeId)) this.markAttachment(id);
    for (const id of this.#attachments.keys()) this.markAttachment(id);
    for (const networkId of this.#networkUsers.keys()) {
      this.markNetwork(networkId);
      for (const owner of ownersOn(view, networkId)) this.markEndpoint(networkId, owner);
      for (const owner of this.#endpoints.get(networkId)?.keys() ?? []) this.markEndpoint(networkId, owner);
      for (const { id } of view.services.byNetwork(networkId)) this.markService(networkId, id);
      for (const id of this.#services.get(networkId)?.keys() ?? []) this.markService(networkId, id);
    }
    if (this.#needsHosts) for (const { id } of view.nodes.list()) this.markHost(id);
    for (const id of this.#hosts.keys()) this.markHost(id);
    for (const id of this.#payloadUsers.keys()) this.#markedPayloads.add(id);
  }

  /** Takes everything marked since the last call. @returns undefined when there is nothing to say. */
  take(view: StoreView): Difference | undefined {
    const difference = emptyDifference();
    this.#takeIngress(view);
    const tasks = this.#markedTasks;
    this.#markedTasks = new Map();
    for (const [taskId, how] of tasks) this.#takeTask(view, taskId, how, difference);
    const attachments = this.#markedAttachments;
    this.#markedAttachments = new Set();
    for (const id of attachments) this.#takeAttachment(view, id, difference);
    const networks = this.#markedNetworks;
    this.#markedNetworks = new Set();
    for (const networkId of networks) this.#takeNetwork(view, networkId, difference);
    const endpoints = this.#markedEndpoints;
    this.#markedEndpoints = new Map();
    for (const [networkId, owners] of endpoints) {
      if (!this.#networkUsers.has(networkId)) continue; // Its last user went in this very round.
      for (const owner of owners) this.#takeEndpoint(view, networkId, owner, difference);
    }
    const services = this.#markedServices;
    this.#markedServices = new Map();
    for (const [networkId, ids] of services) {
      for (const id of ids) this.#takeService(view, networkId, id, difference);
    }
    this.#lookAtHosts(view);
    const hosts = this.#markedHosts;
    this.#markedHosts = new Set();
    for (const id of hosts) this.#takeHost(view, id, difference);
    const payloads = this.#markedPayloads;
    this.#markedPayloads = new Set();
    for (const id of payloads) this.#takePayload(view, id, difference);
    return isEmpty(difference) ? undefined : difference;
  }

  /** The node has no session any more. */
  release(): void {
    for (const networkId of this.#networkUsers.keys()) this.#around.ends(networkId);
    this.#networkUsers.clear();
  }

  /** Every node is on the ingress network while it is in use, and knows where clients may have come in. */
  #takeIngress(view: StoreView): void {
    const ingress = ingressInUse(view);
    if (ingress === this.#ingress) return;
    if (this.#ingress !== undefined) this.#countNetwork(this.#ingress, -1);
    if (ingress !== undefined) this.#countNetwork(ingress, 1);
    this.#ingress = ingress;
  }

  /** After the networks, which say whether hosts are needed. */
  #lookAtHosts(view: StoreView): void {
    const needsHosts = this.#ingress !== undefined || this.#encrypted.size > 0;
    if (needsHosts === this.#needsHosts) return;
    this.#needsHosts = needsHosts;
    for (const id of this.#hosts.keys()) this.#markedHosts.add(id);
    if (needsHosts) for (const { id } of view.nodes.list()) this.#markedHosts.add(id);
  }

  #takeTask(view: StoreView, taskId: TaskId, how: "compare" | "resend", difference: Difference): void {
    const task = view.tasks.get(taskId);
    const sent = this.#tasks.get(taskId);
    if (task === undefined || !isAssigned(task, this.#nodeId)) {
      this.#setNeeds(taskId, undefined);
      if (sent === undefined) return;
      this.#tasks.delete(taskId);
      difference.removedTasks.push(taskId);
      return;
    }
    this.#setNeeds(taskId, this.#needsOf(view, task));
    const desiredState = this.#around.holds(taskId); // Marked again once it is not held.
    if (sent !== undefined && desiredState !== undefined) return;
    const told = desiredState === undefined ? task : { ...task, desiredState };
    const changed = sent === undefined || how === "resend" || !sameTask(sent, told);
    const item = changed ? assignedTask(view, told) : undefined;
    if (item !== undefined) difference.tasks.push(item);
    if (sent !== undefined || item !== undefined) this.#tasks.set(taskId, told);
  }

  #needsOf(view: StoreView, task: Task): Needs | undefined {
    if (!needsResources(task, this.#nodeId)) return undefined;
    const networks = networksOf(task);
    const payloads = payloadsOf(view, task);
    return networks.length === 0 && payloads.length === 0 ? undefined : { networks, payloads };
  }

  /** A container with its address; it brings its network to the node. */
  #takeAttachment(view: StoreView, id: AttachmentId, difference: Difference): void {
    const attachment = view.attachments.get(id);
    const isOurs = attachment?.nodeId === this.#nodeId;
    const item = isOurs ? assignedAttachment(attachment) : undefined;
    this.#setNeeds(id, item && isOurs ? { networks: [attachment.networkId], payloads: [] } : undefined);
    const sent = this.#attachments.get(id);
    if (item === undefined) {
      if (this.#attachments.delete(id)) difference.removedAttachments.push(id);
      return;
    }
    if (sent !== undefined && sameJson(sent, item)) return;
    this.#attachments.set(id, item);
    difference.attachments.push(item);
  }

  /** Counts users; whatever gains its first or loses its last one is marked. */
  #setNeeds(owner: EndpointOwner, needs: Needs | undefined): void {
    const before = this.#needs.get(owner);
    if (before === undefined && needs === undefined) return;
    for (const networkId of needs?.networks ?? []) this.#countNetwork(networkId, 1);
    for (const id of needs?.payloads ?? []) this.#countPayload(id, 1);
    for (const networkId of before?.networks ?? []) this.#countNetwork(networkId, -1);
    for (const id of before?.payloads ?? []) this.#countPayload(id, -1);
    if (needs === undefined) this.#needs.delete(owner);
    else this.#needs.set(owner, needs);
  }

  #countNetwork(networkId: NetworkId, by: 1 | -1): void {
    const count = (this.#networkUsers.get(networkId) ?? 0) + by;
    if (count > 0) this.#networkUsers.set(networkId, count);
    else this.#networkUsers.delete(networkId);
    if (count === 1 && by === 1) this.#around.begins(networkId);
    if (count === 0) this.#around.ends(networkId);
    if (count === 0 || (count === 1 && by === 1)) this.#markedNetworks.add(networkId);
  }

  #countPayload(id: string, by: 1 | -1): void {
    const count = (this.#payloadUsers.get(id) ?? 0) + by;
    if (count > 0) this.#payloadUsers.set(id, count);
    else this.#payloadUsers.delete(id);
    if (count === 0 || (count === 1 && by === 1)) this.#markedPayloads.add(id);
  }

  #takeNetwork(view: StoreView, networkId: NetworkId, difference: Difference): void {
    const network = this.#networkUsers.has(networkId) ? view.networks.get(networkId) : undefined;
    const item = network && assignedNetwork(network);
    const sent = this.#networks.get(networkId);
    if (item === undefined) {
      if (sent === undefined) return;
      this.#networks.delete(networkId);
      this.#encrypted.delete(networkId);
      difference.removedNetworks.push(networkId);
      for (const owner of this.#endpoints.get(networkId)?.keys() ?? []) {
        difference.removedEndpoints.push(endpointKey(networkId, owner));
      }
      this.#endpoints.delete(networkId);
      for (const id of this.#services.get(networkId)?.keys() ?? []) {
        difference.removedServices.push(serviceKey(networkId, id));
      }
      this.#services.delete(networkId);
      return;
    }
    if (sent !== undefined && sameJson(sent, item)) return;
    this.#networks.set(networkId, item);
    if (item.encrypted) this.#encrypted.add(networkId);
    difference.networks.push(item);
    if (sent !== undefined) return;
    for (const owner of ownersOn(view, networkId)) this.#takeEndpoint(view, networkId, owner, difference);
    for (const { id } of view.services.byNetwork(networkId)) {
      this.#takeService(view, networkId, id, difference);
    }
  }

  #takeEndpoint(view: StoreView, networkId: NetworkId, owner: EndpointOwner, difference: Difference): void {
    if (!this.#networks.has(networkId)) return; // Comes with the network.
    const item = endpointOf(view, owner, networkId);
    let sentOnes = this.#endpoints.get(networkId);
    const sent = sentOnes?.get(owner);
    if (item === undefined) {
      if (sent === undefined) return;
      sentOnes?.delete(owner);
      difference.removedEndpoints.push(sent.key);
      return;
    }
    if (sent !== undefined && sameJson(sent, item)) return;
    if (sentOnes === undefined) {
      sentOnes = new Map();
      this.#endpoints.set(networkId, sentOnes);
    }
    sentOnes.set(owner, item);
    difference.endpoints.push(item);
  }

  #takeService(view: StoreView, networkId: NetworkId, id: ServiceId, difference: Difference): void {
    if (!this.#networks.has(networkId)) return; // Comes with the network.
    const service = view.services.get(id);
    const item = service && assignedService(view, service, networkId);
    const sentOnes = this.#services.get(networkId) ?? new Map<ServiceId, AssignedService>();
    const sent = sentOnes.get(id);
    if (item === undefined) {
      if (sentOnes.delete(id)) difference.removedServices.push(serviceKey(networkId, id));
      return;
    }
    if (sent !== undefined && sameJson(sent, item)) return;
    this.#services.set(networkId, sentOnes.set(id, item));
    difference.services.push(item);
  }

  #takeHost(view: StoreView, id: NodeId, difference: Difference): void {
    const node = !this.#needsHosts || id === this.#nodeId ? undefined : view.nodes.get(id);
    const item = node && assignedHost(node);
    const sent = this.#hosts.get(id);
    if (item === undefined) {
      if (this.#hosts.delete(id)) difference.removedHosts.push(id);
      return;
    }
    if (sent !== undefined && sameJson(sent, item)) return;
    this.#hosts.set(id, item);
    difference.hosts.push(item);
  }

  #takePayload(view: StoreView, id: string, difference: Difference): void {
    const item = this.#payloadUsers.has(id) ? assignedPayload(view, id) : undefined;
    if (item !== undefined && !this.#payloads.has(id)) {
      this.#payloads.add(id); // Their data never changes.
      difference.payloads.push(item);
    } else if (item === undefined && this.#payloads.delete(id)) {
      difference.removedPayloads.push(id);
    }
  }
}

function addTo<Key, Item>(sets: Map<Key, Set<Item>>, key: Key, item: Item): void {
  const set = sets.get(key);
  if (set === undefined) sets.set(key, new Set([item]));
  else set.add(item);
}

function isEmpty(difference: Difference): boolean {
  return Object.values(difference).every((items: readonly unknown[]) => items.length === 0);
}

/** Whether the worker has to change its host's network. */
export function concernsNetworks(difference: Difference): boolean {
  const { networks, endpoints, services, hosts } = difference;
  const { removedNetworks, removedEndpoints, removedServices, removedHosts } = difference;
  const parts = [networks, endpoints, services, hosts];
  const removed = [removedNetworks, removedEndpoints, removedServices, removedHosts];
  return [...parts, ...removed].some((items) => items.length > 0);
}

/** What a piece of assignments may weigh; far below what a message may. */
export const pieceLimitBytes = 1024 * 1024;
const itemOverheadBytes = 160;

export interface Sequence {
  /** Whether the worker is to forget everything else. */
  readonly complete: boolean;
  readonly appliesTo: number;
  readonly resultsIn: number;
}

/** Cuts a difference into messages that the worker takes as one; at least one, the last without `more`. */
export function toMessages(difference: Difference, sequence: Sequence, limitBytes: number): Assignments[] {
  const messages: Assignments[] = [];
  let bytes = 0;
  let current = emptyMessage(sequence);
  function room(sizeBytes: number): Assignments {
    const needed = sizeBytes + itemOverheadBytes;
    if (bytes > 0 && bytes + needed > limitBytes) {
      messages.push({ ...current, more: true });
      current = emptyMessage(sequence);
      bytes = 0;
    }
    bytes += needed;
    return current;
  }
  for (const id of difference.removedTasks) room(id.length).removedTasks.push(id);
  for (const id of difference.removedEndpoints) room(id.length).removedEndpoints.push(id);
  for (const id of difference.removedNetworks) room(id.length).removedNetworks.push(id);
  for (const id of difference.removedServices) room(id.length).removedServices.push(id);
  for (const id of difference.removedHosts) room(id.length).removedHosts.push(id);
  for (const id of difference.removedPayloads) room(id.length).removedPayloads.push(id);
  for (const id of difference.removedAttachments) room(id.length).removedAttachments.push(id);
  for (const item of difference.networks) room(0).networks.push(item);
  for (const item of difference.endpoints) room(itemOverheadBytes).endpoints.push(item);
  for (const item of difference.services) room(itemOverheadBytes).services.push(item);
  for (const item of difference.hosts) room(0).hosts.push(item);
  for (const item of difference.payloads) room(item.data.length).payloads.push(item);
  for (const item of difference.attachments) room(itemOverheadBytes).attachments.push(item);
  for (const item of difference.tasks) room(item.revisionJson.length).tasks.push(item);
  messages.push(current);
  return messages;
}

function emptyMessage({ complete, appliesTo, resultsIn }: Sequence): Assignments {
  return { complete, appliesTo, resultsIn, more: false, ...emptyDifference() };
}

export function emptyDifference(): Difference {
  return {
    tasks: [],
    networks: [],
    endpoints: [],
    services: [],
    hosts: [],
    payloads: [],
    attachments: [],
    removedTasks: [],
    removedNetworks: [],
    removedEndpoints: [],
    removedServices: [],
    removedHosts: [],
    removedPayloads: [],
    removedAttachments: [],
  };
}
