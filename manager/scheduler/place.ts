import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { explain, loadRefusal, refusal, type FilterName } from "./filter.ts";
import type { Demand, NodeIndex, NodeUse } from "./nodes.ts";
import { Heap, rankingFor, type Ranking } from "./rank.ts";

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
  const fitting: NodeUse[] = [];
  for (const use of index.values()) if (refusal(demand, use) === undefined) fitting.push(use);
  const tree = growTree(demand, fitting, index, rankingFor(demand, nowMs));
  const placed: { taskId: TaskId; nodeId: NodeId }[] = [];
  for (const taskId of tasks) {
    const nodeId = takeBest(tree, demand, (use) =>
      index.place(taskId, { nodeId: use.node.id, demand, active: true }),
    );
    if (nodeId === undefined) break;
    placed.push({ taskId, nodeId });
  }
  const unplaced = tasks.slice(placed.length);
  return { placed, unplaced, reason: unplaced.length === 0 ? "" : explainAll(index, demand) };
}

/** Whether a task can run on the node that an orchestrator chose for it; the reason when not. */
export function confirm(
  index: NodeIndex,
  demand: Demand,
  taskId: TaskId,
  nodeId: NodeId,
): string | undefined {
  const use = index.get(nodeId);
  if (use === undefined) return explain(new Map());
  const refused = refusal(demand, use);
  if (refused !== undefined) return explain(new Map([[refused, 1]]));
  index.place(taskId, { nodeId, demand, active: true });
  return undefined;
}

function explainAll(index: NodeIndex, demand: Demand): string {
  const refusals = new Map<FilterName, number>();
  for (const use of index.values()) {
    const refused = refusal(demand, use);
    if (refused !== undefined) refusals.set(refused, (refusals.get(refused) ?? 0) + 1);
  }
  return explain(refusals);
}

/** One level of spread preferences; a leaf has the nodes. */
type Tree =
  | { readonly kind: "leaf"; readonly heap: Heap; tasks: number }
  | { readonly kind: "branches"; readonly branches: Tree[]; tasks: number };

function growTree(demand: Demand, nodes: readonly NodeUse[], index: NodeIndex, ranking: Ranking): Tree {
  const keys = demand.task.placement.spread.flatMap((descriptor) => spreadKey(descriptor) ?? []);
  // Tasks of the service count for their branch even on nodes that take no more.
  return grow(keys, nodes, keys.length === 0 ? [] : [...index.values()]);

  function grow(levels: readonly SpreadKey[], fitting: readonly NodeUse[], all: readonly NodeUse[]): Tree {
    const [level, ...deeper] = levels;
    let tasks = 0;
    for (const use of all) tasks += use.activeByService.get(demand.serviceId) ?? 0;
    if (level === undefined) return { kind: "leaf", heap: new Heap(fitting, ranking), tasks };
    const groups = groupBy(fitting, level);
    const allGroups = groupBy(all, level);
    const branches = [...groups.keys()]
      .toSorted()
      .map((key) => grow(deeper, groups.get(key) ?? [], allGroups.get(key) ?? []));
    return { kind: "branches", branches, tasks };
  }
}

type SpreadKey = (node: Node) => string;

function groupBy(uses: readonly NodeUse[], key: SpreadKey): Map<string, NodeUse[]> {
  const groups = new Map<string, NodeUse[]>();
  for (const use of uses) {
    const group = groups.get(key(use.node));
    if (group === undefined) groups.set(key(use.node), [use]);
    else group.push(use);
  }
  return groups;
}

/** Only labels are known; whatever else a preference names is passed over. */
function spreadKey(descriptor: string): SpreadKey | undefined {
  const lower = descriptor.toLowerCase();
  if (lower.startsWith("node.labels.")) {
    const name = descriptor.slice("node.labels.".length);
    return (node) => node.spec.labels[name] ?? "";
  }
  if (lower.startsWith("engine.labels.")) {
    const name = descriptor.slice("engine.labels.".length);
    return (node) => node.description?.engineLabels[name] ?? "";
  }
  return undefined;
}

/** Gives one task to the best node of the emptiest branch that has room. */
function takeBest(tree: Tree, demand: Demand, place: (use: NodeUse) => void): NodeId | undefined {
  if (tree.kind === "leaf") {
    for (let use = tree.heap.best; use !== undefined; use = tree.heap.best) {
      if (loadRefusal(demand, use) !== undefined) {
        tree.heap.dropBest();
        continue;
      }
      place(use);
      tree.heap.settleBest();
      tree.tasks += 1;
      return use.node.id;
    }
    return undefined;
  }
  while (tree.branches.length > 0) {
    const emptiest = tree.branches.reduce((best, branch) => (branch.tasks < best.tasks ? branch : best));
    const nodeId = takeBest(emptiest, demand, place);
    if (nodeId !== undefined) {
      tree.tasks += 1;
      return nodeId;
    }
    tree.branches.splice(tree.branches.indexOf(emptiest), 1);
  }
  return undefined;
}
