import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { enforcerMessage, taskStates } from "../../model/task.ts";
import type { StoreEvent } from "../store/change.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { decideEvictions, type PlacedTask } from "./constraint.ts";
import { isEqual } from "./dirty.ts";
import { orphanAfterMs, orphanTasksOf } from "./lost.ts";
import type { OrchestrationDeps } from "./run.ts";
import { Timers } from "./timers.ts";

/** Takes tasks off nodes that may not have them any more, and gives up those of nodes that stay down. */
export async function runNodes({ store, clock }: OrchestrationDeps, signal: AbortSignal): Promise<void> {
  using watch = store.watch(["nodes"], signal);
  using timers = new Timers<NodeId>(clock, () => watch.poke());
  const downSinceMs = new Map<NodeId, number>();
  let changed: readonly Node[] = store.view((view) => view.nodes.list());
  for (;;) {
    for (const node of changed) noteDown(node);
    await evict(changed);
    if (!(await watch.ready())) return;
    await orphan(timers.takeDue());
    changed = store.view((view) => changedNodes(view, watch.take()));
  }

  /** A new leader starts counting anew: it cannot know since when. */
  function noteDown({ id, status }: Node): void {
    if (status.state !== "down") {
      downSinceMs.delete(id);
      timers.set(id, undefined);
    } else if (!downSinceMs.has(id)) {
      const nowMs = clock.now();
      downSinceMs.set(id, nowMs);
      timers.set(id, nowMs + orphanAfterMs);
    }
  }

  async function orphan(ids: readonly NodeId[]): Promise<void> {
    await store.batch(
      ids,
      (tx, id) => {
        const node = tx.nodes.get(id);
        if (node?.status.state === "down") orphanTasksOf(tx, node);
      },
      signal,
    );
  }

  async function evict(nodes: readonly Node[]): Promise<void> {
    const evicted = store.view((view) =>
      nodes.flatMap((node): readonly TaskId[] =>
        decideEvictions(node, placedOn(view, node.id)).map((task) => task.id),
      ),
    );
    await store.batch(
      evicted,
      (tx, id) => {
        const task = tx.tasks.get(id);
        if (task === undefined || taskStates[task.status.state] >= taskStates.complete) return;
        tx.tasks.update({
          ...task,
          status: {
            ...task.status,
            state: "rejected",
            atMs: tx.nowMs,
            appliedAtMs: tx.nowMs,
            message: enforcerMessage,
            error: "assigned node no longer meets constraints",
          },
        });
      },
      signal,
    );
  }
}

/** The service's present placement counts, not the one the task began with. */
function placedOn(view: StoreView, id: NodeId): PlacedTask[] {
  const placed: PlacedTask[] = [];
  for (const task of view.tasks.byNode(id)) {
    const service = view.services.get(task.serviceId);
    const revision = revisionOfTask(view, task);
    const placement = service?.spec.task.placement ?? revision?.task.placement;
    if (placement === undefined) continue;
    placed.push({ task, reservations: revision?.task.resources.reservations, placement });
  }
  return placed;
}

function changedNodes(view: StoreView, events: readonly StoreEvent[]): readonly Node[] {
  const nodes = new Map<NodeId, Node>();
  for (const event of events) {
    if (event.kind === "resync") return view.nodes.list();
    if (event.table !== "nodes" || event.kind === "removed") continue;
    const { object, kind } = event;
    const sameOffer =
      kind === "updated" &&
      object.status.state === event.previous.status.state &&
      object.role === event.previous.role &&
      isEqual(object.spec, event.previous.spec) &&
      isEqual(object.description, event.previous.description);
    const current = view.nodes.get(object.id);
    if (!sameOffer && current !== undefined) nodes.set(object.id, current);
  }
  return [...nodes.values()];
}
