import type { NodeId, ServiceId } from "../../model/ids.ts";
import type { StoreView } from "../store/transaction.ts";
import { revisionOfTask } from "../store/revisions.ts";
import { demandOf, networkReach, type Demand } from "./demand.ts";
import type { FilterName } from "./filter.ts";
import { Field } from "./field.ts";
import { NodeIndex } from "./nodes.ts";

/** The index as the store has it now. A walk over all tasks: for what a user asks, not for what runs by itself. */
export function indexOf(view: StoreView): NodeIndex {
  const index = new NodeIndex();
  const demands = new Map<string, Demand>();
  for (const node of view.nodes.list()) index.putNode(node);
  for (const task of view.tasks.list()) {
    const revision = revisionOfTask(view, task);
    if (revision === undefined) continue;
    let demand = demands.get(revision.id);
    if (demand === undefined)
      demands.set(revision.id, (demand = demandOf(revision, networkReach(view, revision))));
    index.putTask(task, demand);
  }
  return index;
}

/** What a service's present spec asks of a node; `undefined` before its first task. */
export function demandOfService(view: StoreView, id: ServiceId): Demand | undefined {
  const version = view.services.get(id)?.specVersion;
  const revision = view.revisions.byService(id).find(({ specVersion }) => specVersion === version);
  return revision === undefined ? undefined : demandOf(revision, networkReach(view, revision));
}

/** Why each node would refuse one more task; nodes that would take it are left out. */
export function refusalsByNode(index: NodeIndex, demand: Demand, nowMs: number): Map<NodeId, FilterName> {
  const field = new Field(index, demand, nowMs);
  const refusals = new Map<NodeId, FilterName>();
  for (const { row, node } of index.values()) {
    const refused = field.refusal(row);
    if (refused !== undefined) refusals.set(node.id, refused);
  }
  return refusals;
}
