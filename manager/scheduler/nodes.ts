import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { isTerminal, isWanted, taskStates, type Task } from "../../model/task.ts";
import type { Demand } from "./demand.ts";
import { Failures } from "./failures.ts";
import { NodeFacts } from "./facts.ts";
import { Scratch } from "./scratch.ts";

/** One node with what is rarely asked about its tasks; what every decision asks is in the columns. */
export interface NodeUse {
  /** Its row in every column. */
  readonly row: number;
  node: Node;
  readonly reservedGeneric: Map<string, number>;
}

/**
 * Numbers by row. A decision among 10,000 nodes walks them from end to end in a fraction of a millisecond,
 * which the same numbers in objects and maps would not allow.
 */
export interface NodeColumns {
  readonly uses: (NodeUse | undefined)[];
  /** Tasks that managers want alive; those asked to stop no longer count. */
  readonly active: Int32Array;
  /** Reserved by tasks that have not ended. */
  readonly usedCpus: Float64Array;
  readonly usedBytes: Float64Array;
  /** What the node offers; nothing while it has not described itself. */
  readonly offeredCpus: Float64Array;
  readonly offeredBytes: Float64Array;
}

interface Placed {
  readonly nodeId: NodeId;
  readonly demand: Demand;
  readonly active: boolean;
}

/** Nodes and their load, kept current one task or node at a time; nothing here walks all nodes. */
export class NodeIndex {
  readonly failures = new Failures();
  readonly facts = new NodeFacts();
  readonly scratch = new Scratch();
  #columns = emptyColumns(64);
  readonly #rows = new Map<NodeId, number>();
  readonly #freeRows: number[] = [];
  #rowCount = 0;
  readonly #placed = new Map<TaskId, Placed>();
  /** Active tasks of each service by row; rows without any are absent. */
  readonly #byService = new Map<ServiceId, Map<number, number>>();
  /** Where each host-mode port is taken, by row. */
  readonly #portRows = new Map<string, Map<number, number>>();
  /** Services with tasks, by name, and by the names that they avoid. */
  readonly #servicesByName = new Map<string, Map<ServiceId, number>>();
  readonly #avoiders = new Map<string, Map<ServiceId, number>>();
  /** Tasks of nodes that the index has not met yet, or not any more. */
  readonly #homeless = new Map<NodeId, Set<TaskId>>();

  get size(): number {
    return this.#rows.size;
  }

  /** One more than the highest row in use; some rows below it may be empty. */
  get rowCount(): number {
    return this.#rowCount;
  }

  get columns(): NodeColumns {
    return this.#columns;
  }

  *values(): Iterable<NodeUse> {
    for (const use of this.#columns.uses) if (use !== undefined) yield use;
  }

  get(id: NodeId): NodeUse | undefined {
    const row = this.#rows.get(id);
    return row === undefined ? undefined : this.#columns.uses[row];
  }

  /** Active tasks of a service by row. */
  rowsOf(id: ServiceId): ReadonlyMap<number, number> {
    return this.#byService.get(id) ?? noRows;
  }

  /** Rows of nodes on which a host-mode port, such as "tcp/8080", is taken. */
  rowsWithPort(port: string): Iterable<number> {
    return this.#portRows.get(port)?.keys() ?? [];
  }

  /** Services of that name, lower case, which have tasks. */
  servicesNamed(name: string): Iterable<ServiceId> {
    return this.#servicesByName.get(name)?.keys() ?? [];
  }

  /** Services whose tasks keep away from those of that name. */
  avoidersOf(name: string): Iterable<ServiceId> {
    return this.#avoiders.get(name)?.keys() ?? [];
  }

  putNode(node: Node): void {
    const known = this.get(node.id);
    if (known !== undefined) {
      known.node = node;
      this.#describe(known);
      return;
    }
    const row = this.#freeRows.pop() ?? this.#rowCount;
    this.#rowCount = Math.max(this.#rowCount, row + 1);
    if (row >= this.#columns.active.length) this.#columns = grown(this.#columns);
    const use: NodeUse = { row, node, reservedGeneric: new Map() };
    this.#columns.uses[row] = use;
    this.#rows.set(node.id, row);
    this.#describe(use);
    for (const id of this.#homeless.get(node.id) ?? []) {
      const placed = this.#placed.get(id);
      if (placed !== undefined) this.#count(use, placed, 1);
    }
    this.#homeless.delete(node.id);
  }

  removeNode(id: NodeId): void {
    const use = this.get(id);
    if (use === undefined) return;
    const left = new Set<TaskId>();
    for (const [taskId, placed] of this.#placed) {
      if (placed.nodeId !== id) continue;
      left.add(taskId);
      this.#count(use, placed, -1);
    }
    this.#rows.delete(id);
    this.#columns.uses[use.row] = undefined;
    this.facts.forget(use.row);
    this.#freeRows.push(use.row);
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
    const freed = before !== undefined && this.removeTask(id);
    this.#placed.set(id, placed);
    const use = this.get(placed.nodeId);
    if (use !== undefined) this.#count(use, placed, 1);
    else this.#home(placed.nodeId).add(id);
    return freed;
  }

  removeTask(id: TaskId): boolean {
    const placed = this.#placed.get(id);
    if (placed === undefined) return false;
    this.#placed.delete(id);
    const use = this.get(placed.nodeId);
    if (use !== undefined) this.#count(use, placed, -1);
    else this.#homeless.get(placed.nodeId)?.delete(id);
    return true;
  }

  /** Whether the node, as it is given, offers what is counted on it of what the demand reserves. */
  covers({ id, description }: Node, { resources, generic }: Demand): boolean {
    const use = this.get(id);
    if (use === undefined) return false;
    const { nanoCpus = 0, memoryBytes = 0, generic: offered = {} } = description?.resources ?? {};
    const { usedCpus, usedBytes } = this.#columns;
    if (resources.nanoCpus > 0 && (usedCpus[use.row] ?? 0) > nanoCpus) return false;
    if (resources.memoryBytes > 0 && (usedBytes[use.row] ?? 0) > memoryBytes) return false;
    return generic.every(([kind]) => (use.reservedGeneric.get(kind) ?? 0) <= (offered[kind] ?? 0));
  }

  #describe({ row, node }: NodeUse): void {
    const resources = node.description?.resources;
    this.#columns.offeredCpus[row] = resources?.nanoCpus ?? 0;
    this.#columns.offeredBytes[row] = resources?.memoryBytes ?? 0;
    this.facts.forget(row);
  }

  #count({ row, reservedGeneric }: NodeUse, { demand, active }: Placed, sign: 1 | -1): void {
    const columns = this.#columns;
    columns.usedCpus[row] = (columns.usedCpus[row] ?? 0) + sign * demand.resources.nanoCpus;
    columns.usedBytes[row] = (columns.usedBytes[row] ?? 0) + sign * demand.resources.memoryBytes;
    for (const [kind, amount] of demand.generic) add(reservedGeneric, kind, sign * amount);
    for (const port of demand.hostPorts) addNested(this.#portRows, port, row, sign);
    if (!active) return;
    columns.active[row] = (columns.active[row] ?? 0) + sign;
    const { serviceId, serviceName, avoid } = demand;
    let rows = this.#byService.get(serviceId);
    if (rows === undefined) this.#byService.set(serviceId, (rows = new Map()));
    add(rows, row, sign);
    if (rows.size === 0) this.#byService.delete(serviceId);
    addNested(this.#servicesByName, serviceName, serviceId, sign);
    for (const name of avoid) addNested(this.#avoiders, name, serviceId, sign);
  }

  #home(id: NodeId): Set<TaskId> {
    let tasks = this.#homeless.get(id);
    if (tasks === undefined) this.#homeless.set(id, (tasks = new Set()));
    return tasks;
  }
}

const noRows: ReadonlyMap<number, number> = new Map();

/** From `assigned` on the node knows of it; before, a node named by an orchestrator holds nothing yet. */
export function isHeld(task: Task): boolean {
  return taskStates[task.status.state] >= taskStates.assigned;
}

function emptyColumns(rows: number): NodeColumns {
  return {
    uses: [],
    active: new Int32Array(rows),
    usedCpus: new Float64Array(rows),
    usedBytes: new Float64Array(rows),
    offeredCpus: new Float64Array(rows),
    offeredBytes: new Float64Array(rows),
  };
}

/** Twice the rows; typed arrays cannot grow. */
function grown(columns: NodeColumns): NodeColumns {
  const larger = emptyColumns(columns.active.length * 2);
  larger.active.set(columns.active);
  larger.usedCpus.set(columns.usedCpus);
  larger.usedBytes.set(columns.usedBytes);
  larger.offeredCpus.set(columns.offeredCpus);
  larger.offeredBytes.set(columns.offeredBytes);
  return { ...larger, uses: columns.uses };
}

function add<Key>(counts: Map<Key, number>, key: Key, amount: number): void {
  const sum = (counts.get(key) ?? 0) + amount;
  if (sum === 0) counts.delete(key);
  else counts.set(key, sum);
}

function addNested<Key>(counts: Map<string, Map<Key, number>>, name: string, key: Key, amount: number): void {
  let inner = counts.get(name);
  if (inner === undefined) counts.set(name, (inner = new Map()));
  add(inner, key, amount);
  if (inner.size === 0) counts.delete(name);
}
