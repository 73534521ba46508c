import { nodeMeets } from "../../model/constraint.ts";
import type { Node } from "../../model/node.ts";
import { stillOffered } from "../../model/generic-resource.ts";
import { fits, noResources, subtractResources, type Resources } from "../../model/resources.ts";
import type { Placement, TaskSpec } from "../../model/service.ts";
import { taskStates, type Task } from "../../model/task.ts";

/** A task on the node with what it reserves and where its service now wants its tasks. */
export interface PlacedTask {
  readonly task: Task;
  readonly reservations: TaskSpec["resources"]["reservations"];
  readonly placement: Placement;
}

/**
 * Tasks that may not stay on the node: its labels no longer satisfy their service, or it no longer
 * offers what they reserve. Of those that do not fit together the newest have to go.
 */
export function decideEvictions(node: Node, placed: readonly PlacedTask[]): readonly Task[] {
  if (node.spec.availability !== "active" || node.description === undefined) return [];
  const evicted: Task[] = [];
  let free: Resources = node.description.resources;
  const order = placed
    .filter(({ task }) => isEnforced(task))
    .toSorted(
      (a, b) => a.task.meta.createdVersion - b.task.meta.createdVersion || (a.task.id < b.task.id ? -1 : 1),
    );
  for (const { task, reservations, placement } of order) {
    const wanted: Resources = { ...noResources, ...reservations };
    const stays =
      nodeMeets(placement.constraints, node) &&
      fits(wanted, free) &&
      stillOffered(task.generic ?? [], node.description.resources);
    if (!stays) evicted.push(task);
    else free = subtractResources(free, wanted);
  }
  return evicted;
}

function isEnforced(task: Task): boolean {
  return (
    taskStates[task.desiredState] >= taskStates.assigned &&
    taskStates[task.desiredState] <= taskStates.complete &&
    taskStates[task.status.state] >= taskStates.assigned &&
    taskStates[task.status.state] < taskStates.complete
  );
}
