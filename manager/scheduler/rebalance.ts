import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Demand } from "./demand.ts";
import { Field } from "./field.ts";
import type { NodeIndex } from "./nodes.ts";

/** A service whose tasks may be moved, and those that run. */
export interface MovableService {
  readonly demand: Demand;
  readonly tasks: readonly { readonly taskId: TaskId; readonly nodeId: NodeId }[];
  /** So many of them may move at a time; Infinity for all. */
  readonly atOnce: number;
}

export interface Move {
  readonly taskId: TaskId;
  readonly from: NodeId;
  /** Where it would go now; the scheduler decides when it does. */
  readonly to: NodeId;
}

/** A node must have so many more tasks in all before a service that is even moves one off it. */
const loadHysteresis = 3;

/**
 * The moves, at most `budget`, after which services are more even. A service moves a task when one node
 * has two more of it than another that would take it, or one more and clearly more tasks in all; so a second
 * plan after the first was carried out is empty, unless `budget` or a service's `atOnce` cut the first short. The index is changed as if the moves were made.
 */
export function planMoves(index: NodeIndex, services: readonly MovableService[], budget: number): Move[] {
  const moves: Move[] = [];
  for (const service of services) {
    for (let left = Math.min(service.atOnce, budget - moves.length); left > 0; left--) {
      const move = nextMove(index, service, moves);
      if (move === undefined) break;
      moves.push(move);
      index.place(move.taskId, { nodeId: move.to, demand: service.demand, active: true });
    }
  }
  return moves;
}

function nextMove(
  index: NodeIndex,
  { demand, tasks }: MovableService,
  made: readonly Move[],
): Move | undefined {
  const field = new Field(index, demand, 0);
  const moved = new Set(made.map(({ taskId }) => taskId));
  const to = field
    .fitting()
    .reduce((best, row) => (best < 0 || field.compare(row, best) < 0 ? row : best), -1);
  const target = index.columns.uses[to]?.node.id;
  if (target === undefined) return undefined;
  const { active } = index.columns;
  let best: { readonly move: Move; readonly row: number } | undefined;
  for (const { taskId, nodeId } of tasks) {
    const row = index.get(nodeId)?.row;
    if (row === undefined || row === to || moved.has(taskId)) continue;
    const surplus = field.ofService(row) - field.ofService(to);
    const load = (active[row] ?? 0) - (active[to] ?? 0);
    if (surplus < 2 && !(surplus === 1 && load >= loadHysteresis)) continue;
    if (best === undefined || field.compare(row, best.row) > 0) {
      best = { move: { taskId, from: nodeId, to: target }, row };
    }
  }
  return best?.move;
}
