import { autoRebalanceBudget } from "../../model/cluster-labels.ts";
import type { Node } from "../../model/node.ts";
import { isRunnable } from "../../model/task.ts";
import { runLoop, type LoopDeps } from "../../runtime/loop.ts";
import type { Store } from "../store/store.ts";
import type { StoreView } from "../store/transaction.ts";
import { beginMoves, movesNow } from "./movable.ts";

/** Between two looks, while the cluster has it switched on. */
const periodMs = 15_000;
/** Nothing moves until all nodes have kept their state for so long: one that comes and goes draws no tasks. */
const calmMs = 60_000;
/** A look walks all tasks on the managers' main thread; above this it is left to `shoal rebalance`. */
const taskLimit = 100_000;

export interface RebalancerDeps extends LoopDeps {
  readonly store: Store;
}

/**
 * Moves tasks to nodes that have fewer, a few at a time, while the cluster's label asks for it. What it does
 * is what `shoal rebalance` does, with the same thresholds: a cluster that is even enough is left alone.
 * Ends when `signal` aborts; never rejects.
 */
export function runRebalancer(deps: RebalancerDeps, signal: AbortSignal): Promise<void> {
  return runLoop(deps, "rebalancer", (ended) => rebalance(deps, ended), signal);
}

async function rebalance({ store, clock, log }: RebalancerDeps, signal: AbortSignal): Promise<void> {
  for (;;) {
    await clock.sleep(periodMs, signal);
    const nowMs = clock.now();
    if (store.view((view) => movesAllowed(view, nowMs)) === 0) continue;
    const moves = await store.update((tx) => {
      const decided = movesNow(tx, movesAllowed(tx, nowMs));
      beginMoves(tx, decided);
      return decided;
    }, signal);
    if (moves.length > 0) log.info({ taskCount: moves.length }, "tasks move to nodes that have fewer");
  }
}

/** How many tasks may begin to move now. */
function movesAllowed(view: StoreView, nowMs: number): number {
  const budget = autoRebalanceBudget(view.cluster?.spec.labels ?? {});
  if (budget === undefined || view.tasks.count > taskLimit || !isCalm(view.nodes.list(), nowMs)) return 0;
  const moving = view.tasks.list().filter((task) => task.moving === true && isRunnable(task)).length;
  return Math.max(0, budget - moving);
}

/** Whether every node has been as it is for a while. */
export function isCalm(nodes: readonly Node[], nowMs: number): boolean {
  return nodes.every(({ status }) => {
    // A time ahead of ours is another leader's clock: long ago or not, nobody can say.
    const ageMs = nowMs - (status.sinceMs ?? 0);
    return status.state !== "unknown" && ageMs >= calmMs;
  });
}
