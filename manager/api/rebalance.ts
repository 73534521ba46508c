/** `/shoal/v1/rebalance` */
import { ClusterError } from "../../model/errors.ts";
import { queryFlag } from "../../runtime/http.ts";
import { beginMoves, movesNow } from "../scheduler/movable.ts";
import type { Move } from "../scheduler/rebalance.ts";
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
  if (queryFlag(call.query.get("plan"))) {
    return store.view((view) => json({ Moves: movesNow(view, budget).map((move) => printMove(view, move)) }));
  }
  const moves = await store.update((tx) => {
    const decided = movesNow(tx, budget);
    beginMoves(tx, decided);
    return decided.map((move) => printMove(tx, move));
  }, call.life);
  return json({ Moves: moves });
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
