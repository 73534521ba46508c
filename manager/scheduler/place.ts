import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Demand } from "./demand.ts";
import { isLabel, labelOf } from "./facts.ts";
import { Field } from "./field.ts";
import { explain, type FilterName, type Refusals } from "./filter.ts";
import type { NodeIndex } from "./nodes.ts";
import { shortlist, type Ranking, type Shortlist } from "./rank.ts";

/** Equal tasks that wait for a node. */
export interface WaitingGroup {
  readonly demand: Demand;
  readonly tasks: readonly TaskId[];
}

export interface GroupOutcome {
  readonly placed: readonly { readonly taskId: TaskId; readonly nodeId: NodeId }[];
  readonly unplaced: readonly TaskId[];
  /** Why the rest has no node; empty when all were placed. */
  readonly reason: string;
}

/**
 * Places as many of the group's tasks as fit, evenly over nodes and over the branches that the service's
 * spread preferences name. The filters that load does not change are asked once per node. What is
 * placed is counted in the index, so that the next group sees it.
 */
export function placeGroup(index: NodeIndex, { demand, tasks }: WaitingGroup, nowMs: number): GroupOutcome {
  const field = new Field(index, demand, nowMs);
  const tree = growTree(index, field, { demand, tasks });
  const placed: { taskId: TaskId; nodeId: NodeId }[] = [];
  for (const taskId of tasks) {
    const row = takeBest(tree, field);
    const use = row < 0 ? undefined : index.columns.uses[row];
    if (use === undefined) break;
    const nodeId = use.node.id;
    index.place(taskId, { nodeId, demand, active: true });
    field.placed(row);
    settle(tree);
    placed.push({ taskId, nodeId });
  }
  const unplaced = tasks.slice(placed.length);
  return { placed, unplaced, reason: unplaced.length === 0 ? "" : explain(refusalsOf(index, field)) };
}

/** A task whose node an orchestrator chose. */
export interface Preassigned {
  readonly taskId: TaskId;
  readonly nodeId: NodeId;
  /** Another task of the service is there until this one runs; a limit of replicas per node does not count it. */
  readonly replaces: boolean;
}

/** Whether equal tasks can run where they are to; in the same order, `undefined` or the reason why not. */
export function confirmGroup(
  index: NodeIndex,
  demand: Demand,
  tasks: readonly Preassigned[],
): (string | undefined)[] {
  const field = new Field(index, demand, 0);
  return tasks.map(({ taskId, nodeId, replaces }) => {
    const use = index.get(nodeId);
    if (use === undefined) return explain(new Map());
    if (replaces) field.discount(use.row);
    const refused = field.refusal(use.row);
    if (refused !== undefined) return explain(new Map([[refused, 1]]));
    index.place(taskId, { nodeId, demand, active: true });
    field.placed(use.row);
    return undefined;
  });
}

/**
 * Puts a task beside the one of its slot that it will replace, which a limit of replicas per node then does
 * not count: otherwise start-first could never begin on nodes that are full.
 */
export function placeBeside(index: NodeIndex, demand: Demand, taskId: TaskId, nodeId: NodeId): boolean {
  const use = index.get(nodeId);
  if (use === undefined) return false;
  const field = new Field(index, demand, 0);
  field.discount(use.row);
  if (field.refusal(use.row) !== undefined) return false;
  index.place(taskId, { nodeId, demand, active: true });
  return true;
}

function refusalsOf(index: NodeIndex, field: Field): Refusals {
  const refusals = new Map<FilterName, number>();
  for (const { row } of index.values()) {
    const refused = field.refusal(row);
    if (refused !== undefined) refusals.set(refused, (refusals.get(refused) ?? 0) + 1);
  }
  return refusals;
}

/** One level of spread preferences; a leaf has the nodes. */
type Tree =
  | { readonly kind: "leaf"; readonly list: Shortlist }
  | { readonly kind: "branches"; readonly branches: Branch[]; chosen: Branch | undefined };

/** Grown when it is first looked into: for one task only the emptiest of each level is. */
interface Branch {
  tasks: number;
  tree: Tree | undefined;
  readonly grow: () => Tree;
}

function growTree(index: NodeIndex, field: Field, { demand, tasks }: WaitingGroup): Tree {
  const levels = demand.task.placement.spread.filter(isLabel);
  const ranking: Ranking = (a, b) => field.compare(a, b);
  // Tasks of the service count for their branch even on nodes that take no more.
  const own = index.rowsOf(demand.serviceId);
  const ownRows = index.scratch.numbers("own", levels.length === 0 ? 0 : own.size);
  if (levels.length > 0) fill(ownRows, own.keys());
  return grow(levels, field.fitting(), ownRows);

  function grow([level, ...deeper]: readonly string[], rows: Int32Array, own: Int32Array): Tree {
    if (level === undefined) return { kind: "leaf", list: shortlist(rows, tasks.length, ranking) };
    const ownGroups = groupBy(index, level, own);
    const branches = [...groupBy(index, level, rows)]
      .map(([number, group]) => ({ value: valueOf(index, level, group), number, group }))
      .toSorted((a, b) => (a.value < b.value ? -1 : 1))
      .map(({ number, group }): Branch => {
        const ownRows = ownGroups.get(number) ?? noRows;
        const count = ownRows.reduce((sum, row) => sum + field.ofService(row), 0);
        return { tasks: count, tree: undefined, grow: () => grow(deeper, group, ownRows) };
      });
    return { kind: "branches", branches, chosen: undefined };
  }
}

const noRows = new Int32Array(0);

function fill(column: Int32Array, rows: Iterable<number>): void {
  let at = 0;
  for (const row of rows) column[at++] = row;
}

/**
 * Sorts the rows by the number of their label's value, in place and otherwise in the order they had. The groups are
 * parts of the same array: with arrays of their own, collecting them would cost more than the whole decision.
 */
function groupBy(index: NodeIndex, level: string, rows: Int32Array): Map<number, Int32Array> {
  const numbers = index.scratch.numbers("label-number", rows.length);
  let column = index.facts.labelColumn(level);
  let highest = 0;
  for (let i = 0; i < rows.length; i += 1) {
    const row = rows[i] ?? 0;
    let number = column[row] ?? -1;
    if (number < 0) {
      const use = index.columns.uses[row];
      if (use === undefined) continue; // Rows here have a node; one without would count with the first.
      number = index.facts.labelNumber(level, row, use.node);
      column = index.facts.labelColumn(level); // It may have grown.
    }
    numbers[i] = number;
    if (number > highest) highest = number;
  }
  const ends = index.scratch.numbers("group-ends", highest + 2);
  for (const number of numbers) ends[number + 1] = (ends[number + 1] ?? 0) + 1;
  const groups = new Map<number, Int32Array>();
  for (let number = 0; number <= highest; number += 1) {
    const start = ends[number] ?? 0;
    const end = start + (ends[number + 1] ?? 0);
    if (end > start) groups.set(number, rows.subarray(start, end));
    ends[number + 1] = end;
  }
  const before = index.scratch.numbers("ungrouped", rows.length);
  before.set(rows);
  for (let i = 0; i < before.length; i += 1) {
    const number = numbers[i] ?? 0;
    const at = ends[number] ?? 0;
    rows[at] = before[i] ?? 0;
    ends[number] = at + 1;
  }
  return groups;
}

function valueOf(index: NodeIndex, level: string, [row = -1]: Int32Array): string {
  const use = index.columns.uses[row];
  return use === undefined ? "" : labelOf(level, use.node);
}

/** The best row of the emptiest branch that has room, or -1. */
function takeBest(tree: Tree, field: Field): number {
  if (tree.kind === "leaf") {
    for (let row = tree.list.best(); row >= 0; row = tree.list.best()) {
      if (field.stillFits(row)) return row;
      tree.list.dropBest();
    }
    return -1;
  }
  while (tree.branches.length > 0) {
    const emptiest = tree.branches.reduce((best, branch) => (branch.tasks < best.tasks ? branch : best));
    emptiest.tree ??= emptiest.grow();
    const row = takeBest(emptiest.tree, field);
    if (row >= 0) {
      tree.chosen = emptiest;
      return row;
    }
    tree.branches.splice(tree.branches.indexOf(emptiest), 1);
  }
  return -1;
}

/** Counts what was just taken along the way to it. */
function settle(tree: Tree): void {
  if (tree.kind === "leaf") return tree.list.settleBest();
  if (tree.chosen?.tree === undefined) return;
  tree.chosen.tasks += 1;
  settle(tree.chosen.tree);
}
