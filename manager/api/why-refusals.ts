/** Why no node takes a task: which constraint, how much of what, whose port. */
import { nodeMeets } from "../../model/constraint.ts";
import type { Node } from "../../model/node.ts";
import type { Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { isOnDownNode, nodesOf } from "../orchestrator/plan.ts";
import { demandOf, type Demand, networkReach } from "../scheduler/demand.ts";
import { hostBlockAmong, missingDriver } from "../scheduler/facts.ts";
import type { FilterName } from "../scheduler/filter.ts";
import { isHeld, type NodeIndex, type NodeUse } from "../scheduler/nodes.ts";
import { indexOf, refusalsByNode } from "../scheduler/snapshot.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { byHostname, hostnameOf } from "./hostname.ts";
import { shownNodes } from "./why-limits.ts";
import type { Answer } from "./why-update.ts";

const gibibyte = 2 ** 30;
const mebibyte = 2 ** 20;

/** One node that refuses the task. */
interface Refusal {
  readonly use: NodeUse;
  readonly host: string;
  readonly filter: FilterName;
}

/** What the refusals of one task are read from. */
interface Case {
  readonly view: StoreView;
  readonly index: NodeIndex;
  readonly demand: Demand;
  readonly name: string;
}

export function refusalEvidence(
  view: StoreView,
  task: Task,
  name: string,
  nowMs: number,
): Pick<Answer, "Evidence" | "Next"> {
  const revision = revisionOfTask(view, task);
  if (revision === undefined) return { Evidence: [], Next: `shoal service ps ${name}` };
  const demand = demandOf(revision, networkReach(view, revision));
  const index = indexOf(view);
  const filters = refusalsByNode(index, demand, nowMs);
  const refusals = [...index.values()]
    .filter(({ node }) => task.nodeId === undefined || node.id === task.nodeId)
    .flatMap((use): Refusal[] => {
      const filter = filters.get(use.node.id);
      return filter === undefined ? [] : [{ use, host: hostnameOf(use.node), filter }];
    })
    .toSorted((a, b) => byHostname(a.use.node, b.use.node));
  const about: Case = { view, index, demand, name };
  const Evidence = refusals.slice(0, shownNodes).map((refusal) => {
    const detail = detailOf(about, refusal);
    return `${refusal.host}: ${refusal.filter}${detail === "" ? "" : ` (${detail})`}`;
  });
  if (refusals.length > shownNodes) Evidence.push(`and ${refusals.length - shownNodes} more nodes`);
  return { Evidence, Next: nextFor(about, refusals) };
}

function detailOf(about: Case, { use, filter }: Refusal): string {
  const { demand } = about;
  const { node } = use;
  const { placement } = demand.task;
  switch (filter) {
    case "ready":
      return node.status.state === "ready" ? `availability ${node.spec.availability}` : node.status.state;
    case "resource":
      return shortagesOf(about, use)
        .map(({ what, wanted, free }) => `${what}: ${wanted} wanted, ${free} free`)
        .join("; ");
    case "plugin":
      return `${missingDriver(demand, node) ?? ""} is not there`;
    case "tunnel":
      return node.description?.tunnel?.problem ?? "";
    case "subnet":
      return hostBlockAmong(demand.reach.blocks, node) ?? "";
    case "constraint":
      return unmet(demand, node).join(", ");
    case "platform": {
      const wanted = placement.platforms
        .map(({ os, architecture }) => [os, architecture].filter((part) => part !== "").join("/"))
        .join(" or ");
      const { os = "", architecture = "" } = node.description?.platform ?? {};
      return `${wanted} wanted, it is ${os}/${architecture}`;
    }
    case "host-port":
      return holdersOf(about, node)
        .map(({ port, holder }) => `${port}, which ${holder} has`)
        .join("; ");
    case "max-replicas":
      return `${placement.maxReplicas} allowed`;
    case "avoid":
      return "";
  }
}

function unmet({ task }: Demand, node: Node): string[] {
  return task.placement.constraints.filter((text) => !nodeMeets([text], node));
}

interface Shortage {
  readonly what: string;
  readonly wanted: string;
  readonly free: string;
}

function shortagesOf(
  { index, demand }: Pick<Case, "index" | "demand">,
  { row, node, reservedGeneric }: NodeUse,
): Shortage[] {
  const { usedCpus, offeredCpus } = index.columns;
  const { nanoCpus, memoryBytes } = demand.resources;
  const freeCpus = (offeredCpus[row] ?? 0) - (usedCpus[row] ?? 0);
  const freeBytes = freeBytesOf(index, row);
  const shortages: Shortage[] = [];
  if (nanoCpus > freeCpus && nanoCpus > 0) {
    shortages.push({ what: "CPUs", wanted: printCpus(nanoCpus), free: printCpus(freeCpus) });
  }
  if (memoryBytes > freeBytes && memoryBytes > 0) {
    shortages.push({ what: "memory", wanted: printBytes(memoryBytes), free: printBytes(freeBytes) });
  }
  const offered = node.description?.resources.generic ?? {};
  for (const [kind, count] of demand.generic) {
    const free = (offered[kind] ?? 0) - (reservedGeneric.get(kind) ?? 0);
    if (count > free) shortages.push({ what: kind, wanted: String(count), free: String(Math.max(0, free)) });
  }
  return shortages;
}

function freeBytesOf({ columns }: NodeIndex, row: number): number {
  return (columns.offeredBytes[row] ?? 0) - (columns.usedBytes[row] ?? 0);
}

function printCpus(nano: number): string {
  return String(Number((Math.max(0, nano) / 1e9).toFixed(2)));
}

function printBytes(bytes: number): string {
  const some = Math.max(0, bytes);
  return some >= gibibyte
    ? `${Number((some / gibibyte).toFixed(1))}GiB`
    : `${Number((some / mebibyte).toFixed(1))}MiB`;
}

interface Holder {
  /** "8080/tcp". */
  readonly port: string;
  /** The service. */
  readonly holder: string;
}

/** Whose tasks on the node have the host-mode ports that are wanted. */
function holdersOf({ view, demand }: Case, node: Node): Holder[] {
  const wanted = new Set(demand.hostPorts);
  return view.tasks.byNode(node.id).flatMap((task): Holder[] => {
    // Of a service on every node, the one that waits has its node already.
    const revision = isHeld(task) && !isTerminal(task) ? revisionOfTask(view, task) : undefined;
    if (revision === undefined) return [];
    return demandOf(revision)
      .hostPorts.filter((port) => wanted.has(port))
      .map((port) => ({ port: port.split("/").toReversed().join("/"), holder: revision.serviceName }));
  });
}

/** What to do about the filter that refuses most nodes. */
function nextFor(about: Case, refusals: readonly Refusal[]): string {
  const { name, demand } = about;
  const counts = new Map<FilterName, Refusal[]>();
  for (const refusal of refusals)
    counts.set(refusal.filter, [...(counts.get(refusal.filter) ?? []), refusal]);
  const [most = []] = [...counts.values()].toSorted((a, b) => b.length - a.length);
  const [first] = most;
  if (first === undefined) return `shoal service inspect ${name}`;
  switch (first.filter) {
    case "ready":
      return "shoal node ls";
    case "max-replicas":
      return `shoal service update --replicas-max-per-node ${demand.task.placement.maxReplicas + 1} ${name}`;
    case "resource":
      return roomFor(about, most);
    case "tunnel":
      return "on these nodes: modprobe wireguard, or apt-get install wireguard-go wireguard-tools";
    case "subnet":
      return "docker network create -d overlay --subnet BLOCK NAME, with a block that no host has, and the service on that";
    case "constraint":
      return meeting(about, first);
    case "host-port":
      return anotherPort(about, first);
    case "avoid":
    case "platform":
    case "plugin":
      return `shoal service inspect ${name}`;
  }
}

/** Asks for no more than the emptiest of these nodes has, where that is one sort of thing. */
function roomFor({ index, demand, name }: Case, refusals: readonly Refusal[]): string {
  const shortages = refusals.map(({ use }) => shortagesOf({ index, demand }, use));
  const kinds = new Set(shortages.flatMap((each) => each.map(({ what }) => what)));
  const update = "shoal service update";
  if (kinds.size === 1 && kinds.has("memory")) {
    const free = Math.max(...refusals.map(({ use }) => freeBytesOf(index, use.row)));
    const fitting = Math.floor(free / mebibyte);
    if (fitting > 0)
      return `${update} --reserve-memory ${fitting}m ${name}, which is what the emptiest has free`;
  }
  const flags = [
    ...(kinds.has("CPUs") ? ["--reserve-cpu N"] : []),
    ...(kinds.has("memory") ? ["--reserve-memory BYTES"] : []),
    ...demand.generic.filter(([kind]) => kinds.has(kind)).map(([kind]) => `--generic-resource-rm ${kind}`),
  ];
  return `${update} ${flags.join(" ")} ${name}`;
}

/** A label that is asked for is given; what nobody can give a node is taken out of the spec. */
function meeting({ demand, name }: Case, { use, host }: Refusal): string {
  const [text = ""] = unmet(demand, use.node);
  const without = `shoal service update --constraint-rm '${text}' ${name}`;
  const [, label, value] = /^\s*node\.labels\.(.+?)\s*==\s*(.+?)\s*$/i.exec(text) ?? [];
  if (label === undefined || value === undefined) return without;
  return `shoal node update --label-add ${label}=${value} ${host}, or ${without}`;
}

function anotherPort(about: Case, { use }: Refusal): string {
  const { view, demand, name } = about;
  const [first] = holdersOf(about, use.node);
  const service = view.services.get(demand.serviceId);
  if (first === undefined || service === undefined) return `shoal service inspect ${name}`;
  if (first.holder === name) return roomBesideItself(view, service);
  const port = service.spec.endpoint.ports.find(
    ({ publishedPort, protocol, publishMode }) =>
      publishMode === "host" && first.port === `${publishedPort}/${protocol}`,
  );
  const target = port?.targetPort ?? "TARGET";
  return `shoal service update --publish-rm ${target} --publish-add mode=host,target=${target},published=PORT ${name}`;
}

/** Its own tasks have the port: there are more of them than nodes, or the new one waits for the one that it is to replace. */
function roomBesideItself(view: StoreView, { id, spec, updateStatus }: Service): string {
  const { name, mode } = spec;
  const scene = nodesOf(view);
  const holding = view.tasks
    .byService(id)
    .filter((task) => isHeld(task) && !isTerminal(task) && !isOnDownNode(scene, task));
  if (!holding.every(isWanted)) return `shoal service ps ${name}, until the task that stops has ended`;
  const nodes = new Set(holding.map(({ nodeId }) => nodeId));
  if (mode.kind === "replicated" && nodes.size < mode.replicas) {
    return `shoal service scale ${name}=${nodes.size}, since each node has that port once`;
  }
  // A new spec ends a rollback, so that the order of updates is the one to change in both.
  const policy = updateStatus?.state === "rollback_started" ? spec.rollback : spec.update;
  if (policy?.order !== "start-first") return `shoal service ps ${name}`;
  return `shoal service update --update-order stop-first ${name}, since each node has that port once`;
}
