/** `/shoal/v1/rebalance` */
import { defaultUpdatePolicy } from "../../model/defaults.ts";
import { ClusterError } from "../../model/errors.ts";
import { extensionsOf } from "../../model/extensions.ts";
import { queryFlag } from "../../runtime/http.ts";
import type { Service, UpdatePolicy } from "../../model/service.ts";
import { planMoves, type Move, type MovableService } from "../scheduler/rebalance.ts";
import { demandOfService, indexOf } from "../scheduler/snapshot.ts";
import type { StoreView } from "../store/transaction.ts";
import { type Call, json, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import type { Json } from "./json-writer.ts";

export const rebalanceRoutes: readonly Route[] = [
  { method: "POST", path: "/shoal/v1/rebalance", handle: rebalance },
];

const defaultBudget = 10;
const largestBudget = 1_000;

/** Tells tasks to move, at most `max`; with `plan` it only says which. Answers `{Moves: […]}`. */
async function rebalance({ store }: ApiDeps, call: Call): Promise<Reply> {
  const budget = Number(call.query.get("max") ?? defaultBudget);
  if (!Number.isInteger(budget) || budget < 1 || budget > largestBudget) {
    throw new ClusterError("invalid-argument", `invalid max: 1 to ${largestBudget} is accepted`);
  }
  const plan = (view: StoreView): Move[] => planMoves(indexOf(view), movableServices(view), budget);
  if (queryFlag(call.query.get("plan"))) {
    return store.view((view) => json({ Moves: plan(view).map((move) => printMove(view, move)) }));
  }
  const moves = await store.update((tx) => {
    const decided = plan(tx);
    for (const { taskId } of decided) {
      const task = tx.tasks.get(taskId);
      if (task !== undefined) tx.tasks.update({ ...task, moving: true });
    }
    return decided.map((move) => printMove(tx, move));
  }, call.signal);
  return json({ Moves: moves });
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

function printMove(view: StoreView, { taskId, from, to }: Move): Json {
  const task = view.tasks.get(taskId);
  const service = task === undefined ? undefined : view.services.get(task.serviceId);
  const host = (id: Move["to"]): string => view.nodes.get(id)?.description?.hostname ?? id;
  return {
    TaskID: taskId,
    Service: service?.spec.name ?? "",
    Slot: task?.slot ?? 0,
    Order: service?.spec.update?.order ?? "stop-first",
    From: host(from),
    To: host(to),
  };
}
