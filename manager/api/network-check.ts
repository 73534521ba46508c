/** What a new swarm network must be, and who still needs one that is to go. */
import {
  contains,
  isIpv6,
  overlaps,
  parseCidr,
  parseIp,
  printCidr,
  unusableIpv6,
} from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import {
  askedSubnets,
  isPredefined,
  linkMtuProblem,
  type Network,
  type NetworkSpec,
  predefinedLabel,
  subnetsOf,
  tunnelBlock,
} from "../../model/network.ts";
import { isRunnable } from "../../model/task.ts";
import { nameProblems } from "../../model/validate.ts";
import { publishesOnIngress } from "../allocator/endpoint.ts";
import { findOverlap, hostBlocks } from "../allocator/subnet.ts";
import type { StoreView } from "../store/transaction.ts";

/** Two addresses beside the network's own two: the least that a gateway and a task need. */
const leastHostBits = 2;

const predefinedNames = ["bridge", "host", "none", "default"];

/** @throws {ClusterError} with the first problem. */
export function checkNetwork(view: StoreView, spec: NetworkSpec): void {
  const existing = view.networks.byName(spec.name);
  if (existing === undefined && predefinedNames.includes(spec.name)) {
    throw new ClusterError(
      "permission-denied",
      `operation is not permitted on predefined ${spec.name} network`,
    );
  }
  if (existing !== undefined) {
    throw new ClusterError("name-conflict", `network with name ${spec.name} already exists`);
  }
  const problem = nameProblems(spec.name)[0];
  if (problem !== undefined) throw invalid(problem);
  if (spec.driver !== "overlay") {
    throw invalid(`network driver "${spec.driver}" is not available for the swarm; overlay is`);
  }
  if (Object.hasOwn(spec.labels, predefinedLabel)) {
    throw invalid(`label ${predefinedLabel} is reserved for networks of the swarm itself`);
  }
  if (spec.ingress && spec.attachable) throw invalid("ingress network cannot be attachable");
  const ingress = spec.ingress ? view.networks.ingress() : undefined;
  if (ingress !== undefined) {
    throw new ClusterError("conflict", `ingress network ${ingress.spec.name} is already present`);
  }
  const mtu = linkMtuProblem(spec);
  if (mtu !== undefined) throw invalid(mtu);
  checkSubnets(view, spec);
}

function checkSubnets(view: StoreView, spec: NetworkSpec): void {
  const others = view.networks.list().flatMap(blocksOf);
  const used = askedSubnets(spec);
  const hosts = used.length === 0 ? [] : hostBlocks(view.nodes.list());
  for (const [index, { subnet, gateway, range }] of used.entries()) {
    const block = parseCidr(subnet);
    if (block === undefined || block.prefixBits > block.bits - leastHostBits) {
      throw invalid(
        isIpv6(subnet)
          ? `invalid subnet ${subnet}: an IPv6 CIDR such as fd00:1::/64, at least a /126, is expected`
          : `invalid subnet ${subnet}: an IPv4 CIDR such as 10.1.0.0/24, at least a /30, is expected`,
      );
    }
    const unusable = findOverlap(subnet, unusableIpv6);
    if (unusable !== undefined) {
      throw invalid(`invalid subnet ${subnet}: addresses of ${unusable} are no network's to give`);
    }
    if (gateway !== undefined) {
      const at = parseIp(gateway);
      if (at === undefined || !contains(block, at)) {
        throw invalid(`invalid gateway ${gateway}: an address inside ${subnet} is expected`);
      }
    }
    if (range !== undefined) {
      const inner = parseCidr(range);
      if (inner === undefined || inner.prefixBits < block.prefixBits || !overlaps(block, inner)) {
        throw invalid(`invalid ip-range ${range}: a CIDR inside ${subnet} is expected`);
      }
    }
    const tunnels = parseCidr(tunnelBlock);
    if (tunnels !== undefined && overlaps(block, tunnels)) {
      throw invalid(
        `invalid subnet ${subnet}: ${tunnelBlock} is where hosts have the addresses of their tunnels`,
      );
    }
    const earlier = used.slice(0, index).map((config) => config.subnet);
    const taken = findOverlap(subnet, [...others, ...earlier]);
    if (taken !== undefined) {
      throw invalid(
        `invalid pool request: Pool overlaps with other one on this address space: ${subnet} with ${taken}`,
      );
    }
    const host = hosts.find((each) => overlaps(each.block, block));
    if (host !== undefined) {
      throw invalid(
        `invalid pool request: Pool overlaps with other one on this address space: ${subnet} with ${printCidr(host.block)}, which node ${host.node} has of its own; choose a subnet that no host has, or take that address or route away from the host`,
      );
    }
  }
}

function blocksOf({ state, spec }: Network): string[] {
  return (state === undefined ? askedSubnets(spec) : subnetsOf(state)).map(({ subnet }) => subnet);
}

/** What refers to a network, such as "service <id>"; undefined when it is free to go. */
export function networkUser(view: StoreView, network: Network): string | undefined {
  const service = view.services
    .list()
    .find(({ spec }) => spec.task.networks.some((each) => each.networkId === network.id));
  if (service !== undefined) return `service ${service.id}`;
  // Tasks of a service that is gone are on their way out: `stack rm` removes its networks right after its services.
  const task = view.tasks
    .byNetwork(network.id)
    .find((each) => isRunnable(each) && view.services.has(each.serviceId));
  if (task !== undefined) return `task ${task.id}`;
  const [attachment] = view.attachments.byNetwork(network.id);
  return attachment === undefined ? undefined : `container ${attachment.containerId}`;
}

/** @throws {ClusterError} while the network is in use or part of the swarm itself. */
export function checkNetworkRemoval(view: StoreView, network: Network): void {
  if (isPredefined(network)) {
    throw new ClusterError(
      "permission-denied",
      `${network.spec.name} is a pre-defined network and cannot be removed`,
    );
  }
  const publisher = network.spec.ingress
    ? view.services.list().find(({ spec }) => publishesOnIngress(spec))
    : undefined;
  if (publisher !== undefined) {
    throw new ClusterError(
      "failed-precondition",
      `ingress network cannot be removed because service ${publisher.id} depends on it`,
    );
  }
  const user = networkUser(view, network);
  const attached = view.attachments.byNetwork(network.id);
  if (attached.length > 0) {
    const list = attached.map(
      ({ containerId, names: [name = ""] }) =>
        `name:${JSON.stringify(name)} id:"${containerId.slice(0, 12)}"`,
    );
    throw new ClusterError(
      "permission-denied",
      `error while removing network: network ${network.spec.name} has active endpoints (${list.join(", ")})`,
    );
  }
  if (user !== undefined) {
    throw new ClusterError("failed-precondition", `network ${network.id} is in use by ${user}`);
  }
}

function invalid(message: string): ClusterError {
  return new ClusterError("invalid-argument", message);
}
