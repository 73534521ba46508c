import { nodeMeets } from "../../model/constraint.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { isTerminal } from "../../model/task.ts";
import { emptyPlan, mergePlans, slotsOf, type Plan, type Scene, type Slot, type Step } from "./plan.ts";
import { isOutdated } from "./restart.ts";
import { countsAsReplica, settleSlots } from "./replicated.ts";
import { endReplaced } from "./update.ts";

/** Keeps one task on every node that may have one. The node is the slot. */
export function decideGlobal(scene: Scene): Plan {
  if (scene.service.spec.mode.kind !== "global") return emptyPlan;
  const slots = slotsOf(scene.tasks) as Map<NodeId, Slot>; // Global tasks have no numbers.
  const steps: Step[] = [];
  const added: Step[] = [];
  const kept: Slot[] = [];
  const replaced: Plan[] = [];
  for (const node of scene.nodes) {
    const slot = slots.get(node.id);
    switch (standing(scene, node)) {
      case "excluded":
        if (slot !== undefined) steps.push(endAll(slot));
        break;
      case "paused":
        // Nothing is added or renewed there, but what ended is put to rest, and what an update began before is finished.
        if (slot === undefined) break;
        steps.push(endAll({ ...slot, live: slot.live.filter(isTerminal) }));
        replaced.push(endReplaced(scene, slot));
        break;
      case "away":
        // Nowhere else could they run: should the node return, they have never been away.
        if (slot === undefined) break;
        steps.push(
          endAll({ ...slot, live: slot.live.filter((task) => isTerminal(task) || isOutdated(scene, task)) }),
        );
        break;
      case "included":
        if (slot !== undefined && countsAsReplica(scene, slot) && !wasTakenAway(slot)) kept.push(slot);
        else added.push([{ kind: "create", slot: 0, nodeId: node.id, desiredState: "running", restarts: 0 }]);
        break;
    }
  }
  for (const [nodeId, slot] of slots) {
    if (scene.node(nodeId) !== undefined) continue;
    steps.push(slot.tasks.map((task) => ({ kind: "forget", taskId: task.id })));
  }
  return mergePlans([
    { steps: [...steps.filter((step) => step.length > 0), ...added], wakeAtMs: undefined },
    ...replaced,
    settleSlots(scene, kept, added.length > 0),
  ]);
}

function standing(scene: Scene, node: Node): "included" | "paused" | "away" | "excluded" {
  if (node.spec.availability === "drain") return "excluded";
  if (!nodeMeets(scene.service.spec.task.placement.constraints, node)) return "excluded";
  if (node.status.state === "down") return "away";
  return node.spec.availability === "pause" ? "paused" : "included";
}

/** Its last task ended because the node could not have it, which is no matter of the restart policy: now the node can. */
function wasTakenAway({ live, tasks: [newest] }: Slot): boolean {
  if (live.length > 0 || newest === undefined) return false;
  return newest.status.state === "shutdown" || newest.status.state === "orphaned";
}

function endAll(slot: Slot): Step {
  return slot.live.map((task) => ({ kind: "shutdown", taskId: task.id }));
}
