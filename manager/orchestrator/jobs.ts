import { nodeMeets } from "../../model/constraint.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import {
  emptyPlan,
  hasToLeave,
  isOnDownNode,
  isRunning,
  isStopped,
  mergePlans,
  slotsOf,
  stateSinceMs,
  type Plan,
  type Scene,
  type Slot,
  type Step,
} from "./plan.ts";
import { decidePromotion, decideRestart, mayRestart } from "./restart.ts";

/** Within which a node that is back has said how its tasks are: its first reports follow at once. */
const reportMs = 5_000;

/** How a slot stands in the present iteration. */
type Course =
  /** One task of it finished: nothing is left to do. */
  | "complete"
  /** A task is on its way, or waits for its restart. */
  | "active"
  /** Its task ended and the restart policy allows no other. */
  | "given-up"
  /** Its task was ended by us, such as on a drained node. */
  | "interrupted";

/**
 * Runs a job to `totalCompletions`, at most `maxConcurrent` slots at a time. Each slot is used once per
 * iteration; one that the restart policy gives up is not tried again before the next.
 */
export function decideReplicatedJob(scene: Scene): Plan {
  const { mode } = scene.service.spec;
  if (mode.kind !== "replicated-job") return emptyPlan;
  const { current, older } = byIteration(scene);
  const slots = slotsOf(current);
  const plans: Plan[] = [{ steps: endOlder(scene, older), wakeAtMs: undefined }];
  let active = 0;
  const interrupted = new Set<number>();
  for (const slot of slots.values()) {
    switch (courseOf(scene, slot)) {
      case "complete":
      case "given-up":
        plans.push({ steps: [endRest(slot)], wakeAtMs: undefined });
        break;
      case "active":
        active += 1;
        plans.push(settle(scene, slot));
        break;
      case "interrupted":
        interrupted.add(slot.slot);
        break;
    }
  }
  const steps: Step[] = [];
  for (let slot = 1; slot <= mode.totalCompletions && active < mode.maxConcurrent; slot += 1) {
    const before = slots.get(slot);
    if (before !== undefined && !interrupted.has(slot)) continue;
    steps.push([{ kind: "create", slot, desiredState: beginState(scene, before), restarts: 0 }]);
    active += 1;
  }
  plans.push({ steps, wakeAtMs: undefined });
  return withoutEmpty(mergePlans(plans));
}

/** Runs a job once on every node that may have it, those included that come later. The node is the slot. */
export function decideGlobalJob(scene: Scene): Plan {
  if (scene.service.spec.mode.kind !== "global-job") return emptyPlan;
  const { current, older } = byIteration(scene);
  const slots = slotsOf(current) as Map<NodeId, Slot>; // Global tasks have no numbers.
  const plans: Plan[] = [{ steps: endOlder(scene, older), wakeAtMs: undefined }];
  for (const node of scene.nodes) {
    const slot = slots.get(node.id);
    plans.push(slot === undefined ? begin(scene, node) : proceed(scene, node, slot));
  }
  const gone = scene.tasks.filter(
    (task) => task.nodeId !== undefined && scene.node(task.nodeId) === undefined,
  );
  plans.push({ steps: gone.map((task) => [{ kind: "forget", taskId: task.id }]), wakeAtMs: undefined });
  return withoutEmpty(mergePlans(plans));
}

function begin(scene: Scene, node: Node): Plan {
  if (!mayBegin(scene, node)) return emptyPlan;
  return {
    steps: [[{ kind: "create", slot: 0, nodeId: node.id, desiredState: "complete", restarts: 0 }]],
    wakeAtMs: undefined,
  };
}

function proceed(scene: Scene, node: Node, slot: Slot): Plan {
  const course = courseOf(scene, slot);
  const isOver = course === "complete" || course === "given-up";
  if (isOver || node.spec.availability === "drain" || !meets(scene, node)) {
    return { steps: [endRest(slot)], wakeAtMs: undefined };
  }
  if (course === "active") {
    if (node.spec.availability !== "pause" && node.status.state !== "down") return settle(scene, slot);
    // What runs on a paused node may finish there, and so may it on one that is away; nothing is started there any more.
    return { steps: [endRest({ ...slot, live: slot.live.filter(isTerminal) })], wakeAtMs: undefined };
  }
  if (!mayBegin(scene, node)) return emptyPlan;
  const desiredState = beginState(scene, slot);
  return {
    steps: [[{ kind: "create", slot: 0, nodeId: node.id, desiredState, restarts: 0 }]],
    wakeAtMs: undefined,
  };
}

/** Not two at a time: one that was interrupted may still be stopping. */
function beginState(scene: Scene, before: Slot | undefined): "complete" | "ready" {
  return before?.tasks.every((task) => isStopped(scene, task)) === false ? "ready" : "complete";
}

function mayBegin(scene: Scene, node: Node): boolean {
  return node.status.state === "ready" && node.spec.availability === "active" && meets(scene, node);
}

function meets(scene: Scene, node: Node): boolean {
  return nodeMeets(scene.service.spec.task.placement.constraints, node);
}

function courseOf(scene: Scene, slot: Slot): Course {
  if (slot.tasks.some(isComplete)) return "complete";
  const newest = slot.tasks[0];
  if (slot.live.length > 0) {
    // One that has to leave has not failed, whatever the restart policy says.
    const over = slot.live.every(isTerminal);
    return over && newest !== undefined && !mayRestart(scene, slot, newest) ? "given-up" : "active";
  }
  return newest?.status.state === "failed" || newest?.status.state === "rejected"
    ? "given-up"
    : "interrupted";
}

function isComplete(task: Task): boolean {
  return task.status.state === "complete";
}

function settle(scene: Scene, slot: Slot): Plan {
  const surplus = dropSurplus(scene, slot);
  if (surplus.steps.length > 0) return surplus;
  const restart = decideRestart(scene, slot);
  return restart.steps.length > 0 ? restart : mergePlans([surplus, restart, decidePromotion(scene, slot)]);
}

/**
 * Where a lost node came back before its task's replacement was through, one of the two does the work: not both, a second time. If
 * both run, the replacement does, as for services; until the node has had time to say so, its "running" may be of before it was lost.
 */
function dropSurplus(scene: Scene, { live }: Slot): Plan {
  const able = live.filter(
    (task) => !isTerminal(task) && !hasToLeave(scene, task) && !isOnDownNode(scene, task),
  );
  const keep = able.find(isRunning); // The newest comes first.
  if (keep === undefined || able.length < 2) return emptyPlan;
  const back = keep.nodeId === undefined ? undefined : scene.node(keep.nodeId);
  const saidByMs = keep === able[0] || back === undefined ? 0 : stateSinceMs(scene, back.status) + reportMs;
  if (scene.nowMs < saidByMs) return { steps: [], wakeAtMs: saidByMs };
  const others = able.filter((task) => task !== keep);
  return { steps: [others.map(({ id }) => ({ kind: "shutdown", taskId: id }))], wakeAtMs: undefined };
}

/** A finished task keeps its wish: what it was asked for is what it did. */
function endRest(slot: Slot): Step {
  return slot.live.filter((task) => !isComplete(task)).map((task) => ({ kind: "shutdown", taskId: task.id }));
}

function byIteration({ service, tasks }: Scene): {
  readonly current: readonly Task[];
  readonly older: readonly Task[];
} {
  const iteration = service.job?.iteration ?? 0;
  return {
    current: tasks.filter((task) => (task.jobIteration ?? 0) === iteration),
    older: tasks.filter((task) => (task.jobIteration ?? 0) !== iteration),
  };
}

/** What still runs of older iterations goes; of what ended, as many iterations stay as a slot keeps tasks. */
function endOlder({ service, historyLimit }: Scene, older: readonly Task[]): Step[] {
  const oldestKept = historyLimit < 0 ? 0 : (service.job?.iteration ?? 0) - Math.max(1, historyLimit) + 1;
  return older.flatMap((task): Step[] => {
    if (!isTerminal(task)) {
      return task.desiredState === "remove" ? [] : [[{ kind: "remove", taskId: task.id }]];
    }
    return (task.jobIteration ?? 0) < oldestKept ? [[{ kind: "forget", taskId: task.id }]] : [];
  });
}

function withoutEmpty(plan: Plan): Plan {
  return { ...plan, steps: plan.steps.filter((step) => step.length > 0) };
}
