import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { noResources, type Resources } from "../../model/resources.ts";
import { revisionKey, type EndpointSpec, type Revision, type TaskSpec } from "../../model/service.ts";
import { isTerminal, isWanted, taskStates, type Task } from "../../model/task.ts";

/** What every task of one revision asks of a node. */
export interface Demand {
  /** Tasks with the same key are equal to the scheduler. */
  readonly key: string;
  readonly serviceId: ServiceId;
  readonly resources: Resources;
  readonly needsResources: boolean;
  /** Host-mode ports that must be free, as "tcp/8080". */
  readonly hostPorts: readonly string[];
  readonly task: TaskSpec;
}

export function demandOf(revision: Revision): Demand {
  const { reservations } = revision.task.resources;
  const resources: Resources = { ...noResources, ...reservations };
  return {
    key: revisionKey(revision.serviceId, revision.specVersion),
    serviceId: revision.serviceId,
    resources,
    needsResources:
      resources.nanoCpus > 0 || resources.memoryBytes > 0 || Object.keys(resources.generic).length > 0,
    hostPorts: hostPortsOf(revision.endpoint),
    task: revision.task,
  };
}

function hostPortsOf({ ports }: EndpointSpec): string[] {
  return ports
    .filter((port) => port.publishMode === "host" && port.publishedPort !== 0)
    .map((port) => `${port.protocol}/${port.publishedPort}`);
}

/** Failures older than this are forgotten. */
export const failureWindowMs = 300_000;
/** From so many recent failures on, a node is ranked behind for the revision that failed. */
export const failureThreshold = 5;

/** One node with what its tasks take. The counters are kept by the index alone. */
export interface NodeUse {
  node: Node;
  /** Reserved by tasks that have not ended. */
  reservedCpus: number;
  reservedBytes: number;
  readonly reservedGeneric: Map<string, number>;
  /** Tasks that managers want alive; those asked to stop no longer count. */
  active: number;
  readonly activeByService: Map<ServiceId, number>;
  readonly ports: Map<string, number>;
  /** Times of recent failures by demand key, oldest first. */
  readonly failures: Map<string, number[]>;
}

interface Placed {
  readonly nodeId: NodeId;
  readonly demand: Demand;
  readonly active: boolean;
}

/** Nodes and their load, kept current one task or node at a time; nothing here walks all nodes. */
export class NodeIndex {
  readonly #uses = new Map<NodeId, NodeUse>();
  readonly #placed = new Map<TaskId, Placed>();
  /** Tasks of nodes that the index has not met yet, or not any more. */
  readonly #homeless = new Map<NodeId, Set<TaskId>>();

  get size(): number {
    return this.#uses.size;
  }

  values(): Iterable<NodeUse> {
    return this.#uses.values();
  }

  get(id: NodeId): NodeUse | undefined {
    return this.#uses.get(id);
  }

  putNode(node: Node): void {
    const known = this.#uses.get(node.id);
    if (known !== undefined) {
      known.node = node;
      return;
    }
    const use: NodeUse = {
      node,
      reservedCpus: 0,
      reservedBytes: 0,
      reservedGeneric: new Map(),
      active: 0,
      activeByService: new Map(),
      ports: new Map(),
      failures: new Map(),
    };
    this.#uses.set(node.id, use);
    for (const id of this.#homeless.get(node.id) ?? []) {
      const placed = this.#placed.get(id);
      if (placed !== undefined) count(use, placed, 1);
    }
    this.#homeless.delete(node.id);
  }

  removeNode(id: NodeId): void {
    if (!this.#uses.delete(id)) return;
    const left = new Set<TaskId>();
    for (const [taskId, placed] of this.#placed) if (placed.nodeId === id) left.add(taskId);
    if (left.size > 0) this.#homeless.set(id, left);
  }

  /**
   * Counts a task where the store has it now, or no more.
   * @returns Whether that freed anything.
   */
  putTask(task: Task, demand: Demand): boolean {
    const held = task.nodeId !== undefined && !isTerminal(task) && isHeld(task);
    if (!held || task.nodeId === undefined) return this.removeTask(task.id);
    return this.place(task.id, { nodeId: task.nodeId, demand, active: isWanted(task) });
  }

  place(id: TaskId, placed: Placed): boolean {
    const before = this.#placed.get(id);
    if (
      before?.nodeId === placed.nodeId &&
      before.active === placed.active &&
      before.demand.key === placed.demand.key
    ) {
      return false;
    }
    const freed = this.removeTask(id);
    this.#placed.set(id, placed);
    const use = this.#uses.get(placed.nodeId);
    if (use !== undefined) count(use, placed, 1);
    else this.#home(placed.nodeId).add(id);
    return freed;
  }

  removeTask(id: TaskId): boolean {
    const placed = this.#placed.get(id);
    if (placed === undefined) return false;
    this.#placed.delete(id);
    const use = this.#uses.get(placed.nodeId);
    if (use !== undefined) count(use, placed, -1);
    else this.#homeless.get(placed.nodeId)?.delete(id);
    return true;
  }

  noteFailure(id: NodeId, key: string, nowMs: number): void {
    const use = this.#uses.get(id);
    if (use === undefined) return;
    const recent = (use.failures.get(key) ?? []).filter((atMs) => nowMs - atMs < failureWindowMs);
    // More than the threshold only orders the bad among themselves; a bound keeps it small.
    use.failures.set(key, [...recent.slice(-99), nowMs]);
  }

  #home(id: NodeId): Set<TaskId> {
    let tasks = this.#homeless.get(id);
    if (tasks === undefined) this.#homeless.set(id, (tasks = new Set()));
    return tasks;
  }
}

/** Recent failures of a revision on a node, or 0 while they are too few to matter. */
export function weighedFailures(use: NodeUse, key: string, nowMs: number): number {
  const times = use.failures.get(key);
  if (times === undefined) return 0;
  const recent = times.reduce((sum, atMs) => sum + (nowMs - atMs < failureWindowMs ? 1 : 0), 0);
  return recent >= failureThreshold ? recent : 0;
}

export function freeMemory(use: NodeUse): number {
  return (use.node.description?.resources.memoryBytes ?? 0) - use.reservedBytes;
}

/** From `assigned` on the node knows of it; before, a node named by an orchestrator holds nothing yet. */
function isHeld(task: Task): boolean {
  return taskStates[task.status.state] >= taskStates.assigned;
}

function count(use: NodeUse, { demand, active }: Placed, sign: 1 | -1): void {
  use.reservedCpus += sign * demand.resources.nanoCpus;
  use.reservedBytes += sign * demand.resources.memoryBytes;
  for (const [kind, amount] of Object.entries(demand.resources.generic))
    add(use.reservedGeneric, kind, sign * amount);
  for (const port of demand.hostPorts) add(use.ports, port, sign);
  if (!active) return;
  use.active += sign;
  add(use.activeByService, demand.serviceId, sign);
}

function add<Key>(counts: Map<Key, number>, key: Key, amount: number): void {
  const sum = (counts.get(key) ?? 0) + amount;
  if (sum === 0) counts.delete(key);
  else counts.set(key, sum);
}
