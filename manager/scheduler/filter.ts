import { nodeMeets } from "../../model/constraint.ts";
import type { Node } from "../../model/node.ts";
import type { Platform } from "../../model/service.ts";
import type { Demand, NodeUse } from "./nodes.ts";

/** The filters in the order in which they are asked; a node counts for the first that refuses it. */
export const filterNames = [
  "ready",
  "resource",
  "plugin",
  "constraint",
  "platform",
  "host-port",
  "max-replicas",
] as const;

export type FilterName = (typeof filterNames)[number];

/** The first filter that refuses the node, or `undefined` when the task can go there. */
export function refusal(demand: Demand, use: NodeUse): FilterName | undefined {
  const { node } = use;
  if (!isReady(node)) return "ready";
  if (demand.needsResources && !hasResources(demand, use)) return "resource";
  if (!hasPlugins(demand, node)) return "plugin";
  const { placement } = demand.task;
  if (placement.constraints.length > 0 && !nodeMeets(placement.constraints, node)) return "constraint";
  if (placement.platforms.length > 0 && !placement.platforms.some((wanted) => runs(wanted, node)))
    return "platform";
  return load(demand, use);
}

/** Only the filters whose answer changes as tasks are placed; for nodes that passed all of them. */
export function loadRefusal(demand: Demand, use: NodeUse): FilterName | undefined {
  if (demand.needsResources && !hasResources(demand, use)) return "resource";
  return load(demand, use);
}

function load(demand: Demand, use: NodeUse): FilterName | undefined {
  if (demand.hostPorts.some((port) => use.ports.has(port))) return "host-port";
  const { maxReplicas } = demand.task.placement;
  if (maxReplicas > 0 && (use.activeByService.get(demand.serviceId) ?? 0) >= maxReplicas)
    return "max-replicas";
  return undefined;
}

function isReady(node: Node): boolean {
  return node.status.state === "ready" && node.spec.availability === "active";
}

function hasResources({ resources }: Demand, use: NodeUse): boolean {
  const offer = use.node.description?.resources;
  if (offer === undefined) return false;
  if (resources.nanoCpus > 0 && use.reservedCpus + resources.nanoCpus > offer.nanoCpus) return false;
  if (resources.memoryBytes > 0 && use.reservedBytes + resources.memoryBytes > offer.memoryBytes)
    return false;
  return Object.entries(resources.generic).every(
    ([kind, amount]) => (use.reservedGeneric.get(kind) ?? 0) + amount <= (offer.generic[kind] ?? 0),
  );
}

/** Only volume drivers are asked for; networks and logs are ours and on every node. */
function hasPlugins(demand: Demand, { description }: Node): boolean {
  if (description === undefined || description.plugins.length === 0) return true;
  return demand.task.container.mounts.every((mount) => {
    const driver = mount.type === "volume" ? mount.volume?.driverName : undefined;
    if (driver === undefined || driver === "" || driver === "local") return true;
    return description.plugins.some(
      ({ type, name }) => type === "Volume" && (name === driver || name === `${driver}:latest`),
    );
  });
}

function runs(wanted: Platform, { description }: Node): boolean {
  if (description === undefined) return false;
  const { architecture, os } = description.platform;
  const sameOs = wanted.os === "" || wanted.os.toLowerCase() === os.toLowerCase();
  return sameOs && (wanted.architecture === "" || canonical(wanted.architecture) === canonical(architecture));
}

/** Image indexes and `uname -m` name the same processors differently. */
function canonical(architecture: string): string {
  const lower = architecture.toLowerCase();
  if (lower === "x86_64") return "amd64";
  return lower === "aarch64" ? "arm64" : lower;
}

/** How many nodes each filter refused. */
export type Refusals = ReadonlyMap<FilterName, number>;

/** "no suitable node (…)", with the filter that refused most nodes first; clients know these texts. */
export function explain(refusals: Refusals): string {
  const parts = [...refusals]
    .filter(([, nodes]) => nodes > 0)
    .toSorted(([a, n], [b, m]) => m - n || filterNames.indexOf(a) - filterNames.indexOf(b))
    .map(([name, nodes]) => sentence(name, nodes));
  return parts.length === 0 ? "no suitable node" : `no suitable node (${parts.join("; ")})`;
}

function sentence(name: FilterName, nodes: number): string {
  const count = nodes === 1 ? "1 node" : `${nodes} nodes`;
  switch (name) {
    case "ready":
      return `${count} not available for new tasks`;
    case "resource":
      return `insufficient resources on ${count}`;
    case "plugin":
      return `missing plugin on ${count}`;
    case "constraint":
      return `scheduling constraints not satisfied on ${count}`;
    case "platform":
      return `unsupported platform on ${count}`;
    case "host-port":
      return `host-mode port already in use on ${count}`;
    case "max-replicas":
      return "max replicas per node limit exceed";
  }
}
