import { defaultUpdatePolicy } from "../../model/defaults.ts";
import { extensionsOf } from "../../model/extensions.ts";
import type { Service, UpdatePolicy } from "../../model/service.ts";
import { isTerminal } from "../../model/task.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import { planMoves, type Move, type MovableService } from "./rebalance.ts";
import { demandOfService, indexOf } from "./snapshot.ts";

/** The moves that would make services more even, `budget` at most. A walk over all tasks. */
export function movesNow(view: StoreView, budget: number): Move[] {
  return planMoves(indexOf(view), movableServices(view), budget);
}

/** Tells the tasks to move; their services' orchestrator does it in the order of their updates. */
export function beginMoves(tx: Transaction, moves: readonly Move[]): void {
  for (const { taskId } of moves) {
    const task = tx.tasks.get(taskId);
    if (task !== undefined && !isTerminal(task)) tx.tasks.update({ ...task, moving: true });
  }
}

/**
 * Replicated services at rest: nothing is updated, waits, or moves already. A plan looks at counts per node
 * only, so services that spread over labels are left alone.
 */
function movableServices(view: StoreView): MovableService[] {
  return view.services.list().flatMap((service): MovableService[] => {
    const { spec } = service;
    if (spec.mode.kind !== "replicated" || !isUpdateOver(service)) return [];
    if (spec.task.placement.spread.length > 0) return [];
    if (extensionsOf(spec.labels).rebalance === "never") return [];
    const demand = demandOfService(view, service.id);
    const live = view.tasks.byService(service.id).filter((task) => task.desiredState === "running");
    const settled = live.every((task) => task.status.state === "running" && task.moving === undefined);
    if (demand === undefined || !settled || live.length !== spec.mode.replicas) return [];
    const tasks = live.flatMap(({ id: taskId, nodeId }) =>
      nodeId === undefined ? [] : [{ taskId, nodeId }],
    );
    return [{ demand, tasks, atOnce: movesAtOnce(spec.update ?? defaultUpdatePolicy) }];
  });
}

/** Also a paused update is not over: its old and new tasks are where somebody looks at them. */
function isUpdateOver({ updateStatus }: Service): boolean {
  const state = updateStatus?.state;
  return state === undefined || state === "completed" || state === "rollback_completed";
}

/** Stop-first, each move takes a task away for a while: no more at once than an update would. */
function movesAtOnce({ order, parallelism }: UpdatePolicy): number {
  return order === "start-first" || parallelism === 0 ? Infinity : parallelism;
}
