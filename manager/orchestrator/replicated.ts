import type { NodeId } from "../../model/ids.ts";
import {
  emptyPlan,
  isOfThisUpdate,
  isRunning,
  mergePlans,
  slotsOf,
  type Plan,
  type Scene,
  type Slot,
  type Step,
  type TaskChange,
} from "./plan.ts";
import { decidePromotion, decideRestart, mayRestart } from "./restart.ts";
import { decideUpdate } from "./update.ts";

/** Keeps `replicas` slots filled: scales, restarts what ended, and moves slots to the current spec. */
export function decideReplicated(scene: Scene): Plan {
  const { mode } = scene.service.spec;
  if (mode.kind !== "replicated") return emptyPlan;
  const all = [...slotsOf(scene.tasks).values()];
  const alive = all.filter((slot) => countsAsReplica(scene, slot));
  const dead = all.filter((slot) => !alive.includes(slot));
  const surplus = alive.length > mode.replicas ? scaleDownOrder(alive).slice(mode.replicas) : [];
  const leaving = new Set(surplus);
  const kept = alive.filter((slot) => !leaving.has(slot));
  const filled = new Set(freeSlots(alive, mode.replicas - alive.length));
  const added = [...filled].map(createReplica);
  // A slot that is filled again keeps its history; why it failed before may be all that a user has to go by.
  const given = dead.filter(({ slot }) => !filled.has(slot));
  const steps: Step[] = [
    ...added,
    ...surplus.map(removeAll),
    ...given.map(removeAll).filter((step) => step.length > 0),
  ];
  return mergePlans([{ steps, wakeAtMs: undefined }, settleSlots(scene, kept, added.length > 0)]);
}

/**
 * What both modes do with the slots they keep: restart or promote, then update those left alone.
 *
 * @param grows - Slots are added in this pass; an update is not over before their tasks are seen.
 */
export function settleSlots(scene: Scene, slots: readonly Slot[], grows: boolean): Plan {
  const plans: Plan[] = [];
  const restless = new Set<Slot>();
  for (const slot of slots) {
    const restart = decideRestart(scene, slot);
    plans.push(restart);
    if (restart.steps.length > 0) restless.add(slot);
    else plans.push(decidePromotion(scene, slot));
  }
  plans.push(decideUpdate(scene, slots, { restless, grows }));
  return mergePlans(plans);
}

/**
 * A slot is filled while a task of it is wanted, and also when its last task ended and the restart
 * policy is content with that. During a rollback the latter does not count unless the task is the rollback's own, so that
 * it always converges: what was given up before gets another try, and only one.
 */
export function countsAsReplica(scene: Scene, slot: Slot): boolean {
  if (slot.live.length > 0) return true;
  const newest = slot.tasks[0];
  if (newest === undefined || newest.desiredState === "remove") return false;
  const { updateStatus } = scene.service;
  if (updateStatus?.state === "rollback_started") {
    const { startedVersion } = updateStatus;
    if (startedVersion === undefined || !isOfThisUpdate(scene, newest, startedVersion)) return false;
  }
  return !mayRestart(scene, slot, newest);
}

/** The lowest free numbers; those of dead slots come first in line. */
function freeSlots(alive: readonly Slot[], count: number): number[] {
  const taken = new Set(alive.map((slot) => slot.slot));
  const free: number[] = [];
  for (let slot = 1; free.length < count; slot += 1) if (!taken.has(slot)) free.push(slot);
  return free;
}

function createReplica(slot: number): TaskChange[] {
  return [{ kind: "create", slot, desiredState: "running", restarts: 0 }];
}

function removeAll(slot: Slot): TaskChange[] {
  return slot.tasks
    .filter((task) => task.desiredState !== "remove")
    .map((task) => ({ kind: "remove", taskId: task.id }));
}

/**
 * Slots in the order in which they are kept: unplaced ones, then one per node, then the second of each
 * node and so on; among equals the running and the low numbers stay.
 */
function scaleDownOrder(slots: readonly Slot[]): Slot[] {
  const byRank = slots.toSorted(
    (a, b) => Number(b.live.some(isRunning)) - Number(a.live.some(isRunning)) || a.slot - b.slot,
  );
  const perNode = new Map<NodeId, number>();
  const ordinals = new Map<Slot, number>();
  for (const slot of byRank) {
    const nodeId = slot.live.length === 1 ? slot.live[0]?.nodeId : undefined;
    if (nodeId === undefined) continue;
    const ordinal = (perNode.get(nodeId) ?? 0) + 1;
    perNode.set(nodeId, ordinal);
    ordinals.set(slot, ordinal);
  }
  // Slots without an ordinal are unplaced or in motion: they are the first to go.
  return byRank.toSorted((a, b) => (ordinals.get(a) ?? Infinity) - (ordinals.get(b) ?? Infinity));
}
