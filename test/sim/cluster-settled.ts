import type { StoreView } from "../../manager/store/transaction.ts";
import { nodeMeets } from "../../model/constraint.ts";
import type { Node } from "../../model/node.ts";
import { revisionKey, type Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { strayPlace } from "./cluster-attached.ts";
import { equipmentProblem, filesProblem, waitsForGoods } from "./cluster-goods.ts";
import { soundImages } from "./cluster-services.ts";
import { isHeld, nameOf } from "./cluster-witness.ts";
import type { SimWorker } from "./cluster-worker.ts";

/** Why the cluster has not come to rest yet; undefined once everything is as it is wanted, or says why it is not. */
export function unsettled(view: StoreView, workers: readonly SimWorker[]): string | undefined {
  for (const { id, status } of view.nodes.list()) {
    if (status.state !== "ready") return `node ${id} is ${status.state}`;
  }
  const stray = strayContainer(view, workers) ?? strayPlace(view, workers);
  if (stray !== undefined) return stray;
  for (const task of view.tasks.list()) {
    if (!view.services.has(task.serviceId)) return `${nameOf(task)} has outlived its service`;
    if (task.desiredState === "remove") return `${nameOf(task)} is ${task.status.state} and to be removed`;
    if (!isWanted(task) && isHeld(task)) return `${nameOf(task)} is ${task.status.state} and to be ended`;
  }
  for (const service of view.services.list()) {
    const problem = serviceProblem(view, service);
    if (problem !== undefined) return `service ${service.spec.name} (${service.spec.mode.kind}): ${problem}`;
  }
  return undefined;
}

/** Containers are those of tasks that the cluster knows to be on their way or running, and of no others. */
function strayContainer(view: StoreView, workers: readonly SimWorker[]): string | undefined {
  const where = new Map<string, string>();
  for (const worker of workers) {
    for (const { taskId, containerId } of worker.containers()) {
      where.set(taskId, worker.name);
      const task = view.tasks.list().find(({ id }) => id === taskId);
      if (task === undefined) return `${worker.name} runs a container of task ${taskId}, which is gone`;
      if (task.nodeId !== worker.nodeId) return `${worker.name} runs a container of ${nameOf(task)}`;
      if (isTerminal(task))
        return `${worker.name} runs a container of ${nameOf(task)}, which is ${task.status.state}`;
      const files = filesProblem(view, task, worker.engine.request(containerId));
      if (files !== undefined) return `${nameOf(task)} on ${worker.name}: ${files}`;
    }
  }
  for (const task of view.tasks.list()) {
    if (task.status.state === "running" && !where.has(task.id))
      return `${nameOf(task)} runs without a container`;
  }
  return undefined;
}

function serviceProblem(view: StoreView, service: Service): string | undefined {
  const { mode, task: spec } = service.spec;
  const state = service.updateStatus?.state;
  const isSound = soundImages.has(spec.container.image);
  const tasks = view.tasks.byService(service.id);
  const slots = slotsOf(tasks);
  if (state === "updating" || state === "rollback_started") {
    // One that finds no room for a task waits for it, and the task says so.
    return [...slots.values()].some((slot) => isStuck(view, service, slot))
      ? undefined
      : `its update is ${state}`;
  }
  for (const slot of slots.values()) {
    const problem = doubled(slot) ?? unexplained(slot);
    if (problem !== undefined) return problem;
  }
  for (const task of tasks) {
    if (task.status.state !== "running") continue;
    const problem = equipmentProblem(view, service, task);
    if (problem !== undefined) return `${nameOf(task)}: ${problem}`;
  }
  const isPaused = state === "paused" || state === "rollback_paused";
  const isStrict = isSound && !isPaused;
  switch (mode.kind) {
    case "replicated": {
      const filled = [...slots.values()].filter((slot) =>
        slot.some((task) => task.desiredState !== "remove"),
      );
      if (filled.length !== mode.replicas && !isPaused) {
        const living = filled.filter((slot) => slot.some(isWanted));
        if (living.length > mode.replicas || filled.length < mode.replicas)
          return `${filled.length} slots (${living.length} living) for ${mode.replicas} replicas`;
      }
      if (!isStrict) return undefined;
      for (const slot of filled) {
        const problem = slotProblem(view, service, slot);
        if (problem !== undefined) return problem;
      }
      return undefined;
    }
    case "global": {
      for (const node of view.nodes.list()) {
        const slot = slots.get(node.id) ?? [];
        if (!isEligible(service, node)) {
          const living = slot.find((task) => isWanted(task) && !isTerminal(task));
          if (living !== undefined && node.spec.availability !== "pause")
            return `${nameOf(living)} may not be there`;
          continue;
        }
        if (slot.length === 0) return `nothing on ${node.id}`;
        const problem = isStrict ? slotProblem(view, service, slot) : undefined;
        if (problem !== undefined) return problem;
      }
      return undefined;
    }
    case "replicated-job": {
      const current = tasks.filter((task) => (task.jobIteration ?? 0) === (service.job?.iteration ?? 0));
      const complete = new Set(current.filter(isComplete).map(({ slot }) => slot));
      if (complete.size > mode.totalCompletions)
        return `${complete.size} slots complete of ${mode.totalCompletions}`;
      if (complete.size === mode.totalCompletions || !isSound) return undefined;
      const rest = [...slotsOf(current).values()].filter((slot) => !slot.some(isComplete));
      if (rest.length > 0 && rest.every((slot) => isSpent(service, slot) || isStuck(view, service, slot)))
        return undefined;
      return `${complete.size} of ${mode.totalCompletions} complete`;
    }
    case "global-job": {
      for (const node of view.nodes.list()) {
        if (!isEligible(service, node) || !isSound) continue;
        const slot = tasks.filter(
          (task) => task.nodeId === node.id && (task.jobIteration ?? 0) === (service.job?.iteration ?? 0),
        );
        if (slot.some(isComplete) || isSpent(service, slot) || isStuck(view, service, slot)) continue;
        return `not complete on ${node.id}: ${slot.map(describe).join("; ")}`;
      }
      return undefined;
    }
  }
}

function slotsOf(tasks: readonly Task[]): Map<string | number, Task[]> {
  const slots = new Map<string | number, Task[]>();
  for (const task of tasks) {
    const key = task.slot > 0 ? task.slot : (task.nodeId ?? "");
    const slot = slots.get(key);
    if (slot === undefined) slots.set(key, [task]);
    else slot.push(task);
  }
  for (const slot of slots.values()) slot.sort((a, b) => b.meta.createdVersion - a.meta.createdVersion);
  return slots;
}

function doubled(slot: readonly Task[]): string | undefined {
  const running = slot.filter((task) => task.status.state === "running");
  return running.length > 1 ? `two tasks run in one slot: ${running.map(describe).join("; ")}` : undefined;
}

/** Whoever looks at the newest task of a slot is told what it is doing, and why where it is not running. */
function unexplained(slot: readonly Task[]): string | undefined {
  const newest = slot[0];
  if (newest === undefined) return undefined;
  const { state, message, error } = newest.status;
  const needsError = state === "failed" || state === "rejected" || state === "pending";
  if (message === "" || (needsError && error === "" && isWanted(newest)))
    return `nothing explains ${describe(newest)}`;
  return undefined;
}

function slotProblem(view: StoreView, service: Service, slot: readonly Task[]): string | undefined {
  const live = slot.filter(isWanted);
  // An update that goes on past failures ends beside new tasks that find no room; the old ones stay until they do.
  if (live.length > 1 && !isStuck(view, service, slot))
    return `several tasks are wanted: ${live.map(describe).join("; ")}`;
  const task = live.find(({ status }) => status.state === "running") ?? live[0];
  if (live.length > 1 || isFallback(service, slot)) return undefined;
  if (task === undefined)
    return isSpent(service, slot) ? undefined : `nothing is wanted: ${slot.map(describe).join("; ")}`;
  if (task.status.state === "running") {
    const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
    const isCurrent = revision?.task.container.image === service.spec.task.container.image;
    // Start-first keeps what it has where the new one failed as often as its policy lets it.
    return isCurrent || isSpent(service, slot) ? undefined : `${describe(task)} runs an old image`;
  }
  return isStuck(view, service, slot) ? undefined : describe(task);
}

/** An update tried its newest task here and its policy has no further attempt: what ran before stays. */
function isFallback(service: Service, slot: readonly Task[]): boolean {
  const newest = slot[0];
  return newest?.specVersion === service.specVersion && !isWanted(newest) && isSpent(service, slot);
}

/** Its policy has no further attempt for it. */
function isSpent({ spec }: Service, slot: readonly Task[]): boolean {
  const { condition = "any", maxAttempts = 0 } = spec.task.restart;
  const newest = slot[0];
  if (newest === undefined || !isTerminal(newest)) return false;
  if (condition === "none" || maxAttempts > 0) return true;
  return condition === "on-failure" && newest.status.state === "complete";
}

/** It waits, says so, and there is indeed no node with room for it. */
function isStuck(view: StoreView, service: Service, slot: readonly Task[]): boolean {
  const task = slot.find((each) => isWanted(each) && !isTerminal(each));
  if (task !== undefined && waitsForGoods(view, service, task)) return true;
  if (task === undefined || task.status.state !== "pending" || task.status.error === "") return false;
  const nodes = task.slot > 0 ? view.nodes.list() : view.nodes.list().filter(({ id }) => id === task.nodeId);
  return !nodes.some((node) => isEligible(service, node) && hasRoom(view, node, task));
}

export function isEligible({ spec }: Service, node: Node): boolean {
  return (
    node.status.state === "ready" &&
    node.spec.availability === "active" &&
    nodeMeets(spec.task.placement.constraints, node)
  );
}

function hasRoom(view: StoreView, node: Node, task: Task): boolean {
  const wanted = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
  if (wanted === undefined) return false;
  const held = view.tasks.byNode(node.id).filter((other) => isHeld(other) && other.id !== task.id);
  const { nanoCpus = 0, memoryBytes = 0 } = node.description?.resources ?? {};
  let cpus = wanted.task.resources.reservations?.nanoCpus ?? 0;
  let bytes = wanted.task.resources.reservations?.memoryBytes ?? 0;
  let own = 0;
  const asksCpus = cpus > 0;
  const asksBytes = bytes > 0;
  const ports = new Set(wanted.endpoint.ports.map(({ publishedPort }) => publishedPort));
  for (const other of held) {
    const revision = view.revisions.get(revisionKey(other.serviceId, other.specVersion));
    cpus += revision?.task.resources.reservations?.nanoCpus ?? 0;
    bytes += revision?.task.resources.reservations?.memoryBytes ?? 0;
    if (revision?.endpoint.ports.some(({ publishedPort }) => ports.has(publishedPort)) === true) return false;
    if (other.serviceId === task.serviceId && isWanted(other)) own += 1;
  }
  const { maxReplicas } = wanted.task.placement;
  return (
    !(asksCpus && cpus > nanoCpus) &&
    !(asksBytes && bytes > memoryBytes) &&
    !(maxReplicas > 0 && own >= maxReplicas)
  );
}

function isComplete(task: Task): boolean {
  return task.status.state === "complete";
}

export function describe(task: Task): string {
  const { state, message, error } = task.status;
  return `${nameOf(task)} r${task.specVersion} on ${task.nodeId ?? "-"} wanted ${task.desiredState} is ${state} (${message}; ${error})`;
}
