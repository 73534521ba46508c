import { nodeMeets } from "../../model/constraint.ts";
import type { Node } from "../../model/node.ts";
import type { Revision, Service } from "../../model/service.ts";
import type { Task } from "../../model/task.ts";

/** How a revision differs from what its service now asks for. */
type Difference = "none" | "placement" | "all";

/** Specs are compared once per pair, however many tasks share it. */
const differences = new WeakMap<Service, WeakMap<Revision, Difference>>();

/**
 * Whether the task must be replaced to match its service. Scaling, labels and update settings change a
 * spec's version but no task; placement matters only where the task's node no longer fits.
 *
 * @param revision - The one the task runs; absent means outdated.
 * @param node - The task's node, if it has one.
 */
export function isTaskDirty(
  service: Service,
  task: Pick<Task, "specVersion">,
  revision: Revision | undefined,
  node: Node | undefined,
): boolean {
  if (task.specVersion === service.specVersion) return false;
  if (revision === undefined) return true;
  switch (differenceOf(service, revision)) {
    case "none":
      return false;
    case "placement":
      return node === undefined || !nodeMeets(service.spec.task.placement.constraints, node);
    case "all":
      return true;
  }
}

function differenceOf(service: Service, revision: Revision): Difference {
  let ofService = differences.get(service);
  if (ofService === undefined) differences.set(service, (ofService = new WeakMap()));
  let difference = ofService.get(revision);
  if (difference === undefined) ofService.set(revision, (difference = compare(service, revision)));
  return difference;
}

function compare(service: Service, revision: Revision): Difference {
  const wanted = service.spec.task;
  if (!isEqual(service.spec.endpoint, revision.endpoint)) return "all";
  if (isEqual(wanted, revision.task)) return "none";
  return isEqual({ ...wanted, placement: revision.task.placement }, revision.task) ? "placement" : "all";
}

/** Structural equality of plain data; an absent field equals an undefined one. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, i) => isEqual(item, b[i]));
  }
  const left = a as Readonly<Record<string, unknown>>;
  const right = b as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(left)) if (!isEqual(left[key], right[key])) return false;
  for (const key of Object.keys(right)) if (right[key] !== undefined && left[key] === undefined) return false;
  return true;
}
