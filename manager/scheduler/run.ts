import { claimGeneric, type GenericClaim } from "../../model/generic-resource.ts";
import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { revisionKey } from "../../model/service.ts";
import { enforcerMessage, isTerminal, isWanted, type Task, taskStates } from "../../model/task.ts";
import { runLoop, type LoopDeps } from "../../runtime/loop.ts";
import type { StoreEvent } from "../store/change.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { Store } from "../store/store.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import { demandOf, networkReach, type Demand } from "./demand.ts";
import { answerOf } from "./facts.ts";
import { NodeIndex } from "./nodes.ts";
import { confirmGroup, placeBeside, placeGroup, type Preassigned } from "./place.ts";

export interface SchedulerDeps extends LoopDeps {
  readonly store: Store;
}

type Decision =
  | { readonly kind: "assign"; readonly id: TaskId; readonly nodeId: NodeId; readonly message: string }
  | { readonly kind: "explain"; readonly id: TaskId; readonly reason: string };

/** A pass ends once it has placed so many; other work of the main thread gets its turn before the next one. */
const passLimit = 1_000;

const assignedMessage = "scheduler assigned task to node";
const confirmedMessage = "scheduler confirmed task can run on preassigned node";

/** Gives pending tasks a node. One pass is one transaction or a few. Ends when `signal` aborts; never rejects. */
export function runScheduler(deps: SchedulerDeps, signal: AbortSignal): Promise<void> {
  return runLoop(deps, "scheduler", (ended) => schedule(deps, ended), signal);
}

async function schedule({ store, clock }: SchedulerDeps, signal: AbortSignal): Promise<void> {
  using watch = store.watch(["tasks", "nodes", "revisions"], signal);
  let index = new NodeIndex();
  const demands = new Map<string, Demand>();
  /** Pending tasks by demand key. */
  const waiting = new Map<string, Set<TaskId>>();
  /** Pending tasks whose node an orchestrator chose. */
  const preassigned = new Set<TaskId>();
  let worthTrying = true;
  store.view(rebuild);
  /** The last pass ended at its limit. */
  let moreWaits = false;
  for (;;) {
    if (worthTrying) await commit(store.view(decide));
    if (!moreWaits && !(await watch.ready())) return;
    if (signal.aborted) return;
    worthTrying = moreWaits;
    store.view((view) => note(view, watch.take()));
  }

  function rebuild(view: StoreView): void {
    index = new NodeIndex();
    waiting.clear();
    preassigned.clear();
    demands.clear();
    for (const node of view.nodes.list()) index.putNode(node);
    for (const task of view.tasks.list()) noteTask(view, task);
    worthTrying = true;
  }

  function note(view: StoreView, events: readonly StoreEvent[]): void {
    for (const event of events) {
      if (event.kind === "resync") return rebuild(view);
      if (event.table === "nodes") {
        const node = view.nodes.get(event.object.id);
        if (node === undefined) index.removeNode(event.object.id);
        else index.putNode(node);
        worthTrying = true;
      }
      if (event.table === "revisions" && event.kind === "removed") demands.delete(event.object.id);
      if (event.table !== "tasks") continue;
      if (event.kind === "updated") noteFailure(event.object, event.previous);
      const task = event.kind === "removed" ? undefined : view.tasks.get(event.object.id);
      if (task !== undefined) noteTask(view, task);
      else forget(event.object);
    }
  }

  /** Only tasks that were free to go elsewhere say anything about a node. */
  function noteFailure(task: Task, previous: Task): void {
    const failed = task.status.state === "failed" || task.status.state === "rejected";
    if (!failed || previous.status.state === task.status.state) return;
    if (task.slot === 0 || task.nodeId === undefined || task.status.message === enforcerMessage) return;
    index.failures.note(task.nodeId, keyOf(task), clock.now());
  }

  function noteTask(view: StoreView, task: Task): void {
    // Its networks may have no subnets yet, and what a revision asks for is kept. It is on no node and waits for none.
    if (task.status.state === "new") return;
    const demand = demandFor(view, task);
    if (demand === undefined) return;
    if (task.status.state !== "pending" || !isWanted(task)) {
      unqueue(task);
      if (index.putTask(task, demand)) worthTrying = true;
      return;
    }
    if (task.nodeId !== undefined) {
      if (preassigned.has(task.id)) return;
      preassigned.add(task.id);
    } else {
      const group = waiting.get(demand.key);
      if (group?.has(task.id) === true) return;
      if (group === undefined) waiting.set(demand.key, new Set([task.id]));
      else group.add(task.id);
    }
    worthTrying = true;
  }

  function forget(task: Task): void {
    unqueue(task);
    if (index.removeTask(task.id)) worthTrying = true;
  }

  function unqueue(task: Task): void {
    preassigned.delete(task.id);
    const key = keyOf(task);
    const group = waiting.get(key);
    if (group?.delete(task.id) === true && group.size === 0) waiting.delete(key);
  }

  function demandFor(view: StoreView, task: Task): Demand | undefined {
    const key = keyOf(task);
    let demand = demands.get(key);
    if (demand !== undefined) return demand;
    const revision = revisionOfTask(view, task);
    if (revision === undefined) return undefined; // Removed meanwhile, and the event of that follows.
    demand = demandOf(revision, networkReach(view, revision));
    demands.set(key, demand);
    return demand;
  }

  function decide(view: StoreView): Decision[] {
    const decisions: Decision[] = [];
    const nowMs = clock.now();
    for (const [key, tasks] of preassignedByKey(view)) {
      const demand = demands.get(key);
      const reasons = demand === undefined ? [] : confirmGroup(index, demand, tasks);
      for (const [i, reason] of reasons.entries()) {
        const task = tasks[i];
        if (task === undefined) continue;
        const { taskId: id, nodeId } = task;
        if (reason === undefined) decisions.push({ kind: "assign", id, nodeId, message: confirmedMessage });
        else decisions.push({ kind: "explain", id, reason });
      }
    }
    let placedCount = 0;
    moreWaits = false;
    for (const [key, ids] of waiting) {
      const demand = demands.get(key);
      if (demand === undefined) continue;
      if (placedCount >= passLimit) {
        moreWaits = true;
        break;
      }
      const tasks = [...ids];
      const first = tasks.splice(0, passLimit - placedCount);
      const outcome = placeGroup(index, { demand, tasks: first }, nowMs);
      placedCount += outcome.placed.length;
      if (outcome.unplaced.length === 0 && tasks.length > 0) moreWaits = true;
      for (const { taskId, nodeId } of outcome.placed) {
        decisions.push({ kind: "assign", id: taskId, nodeId, message: assignedMessage });
      }
      // They are equal: where one of them has no place, those after it have none either.
      const unplaced = outcome.unplaced.length === 0 ? [] : [...outcome.unplaced, ...tasks];
      for (const id of unplaced) {
        const nodeId = demand.task.placement.maxReplicas > 0 ? predecessorsNode(view, id) : undefined;
        if (nodeId !== undefined && placeBeside(index, demand, id, nodeId))
          decisions.push({ kind: "assign", id, nodeId, message: assignedMessage });
        else decisions.push({ kind: "explain", id, reason: outcome.reason });
      }
    }
    const known = (decision: Decision): boolean =>
      decision.kind === "explain" && view.tasks.get(decision.id)?.status.error === decision.reason;
    return decisions.filter((decision) => !known(decision));
  }

  function preassignedByKey(view: StoreView): Map<string, Preassigned[]> {
    const groups = new Map<string, Preassigned[]>();
    for (const taskId of preassigned) {
      const task = view.tasks.get(taskId);
      if (task?.nodeId === undefined) continue;
      const group = groups.get(keyOf(task));
      const { nodeId } = task;
      const replaces = view.tasks.byNode(nodeId).some((other) => isReplacedBy(task, other));
      const one = { taskId, nodeId, replaces };
      if (group === undefined) groups.set(keyOf(task), [one]);
      else group.push(one);
    }
    return groups;
  }

  /** Where the task is that this one will replace, if it is to run until then. */
  function predecessorsNode(view: StoreView, id: TaskId): NodeId | undefined {
    const task = view.tasks.get(id);
    if (task === undefined || task.slot === 0) return undefined;
    return view.tasks
      .bySlot(task.serviceId, task.slot)
      .find((other) => other.id !== id && other.nodeId !== undefined && isWanted(other) && !isTerminal(other))
      ?.nodeId;
  }

  async function commit(decisions: readonly Decision[]): Promise<void> {
    const missed = new Set<TaskId>();
    await store.batch(
      decisions,
      (tx, decision) => {
        if (carryOut(tx, decision, stillHolds)) missed.delete(decision.id);
        else missed.add(decision.id);
      },
      signal,
    );
    store.view((view) => {
      for (const { id, kind } of decisions) {
        if (kind !== "assign") continue;
        const task = view.tasks.get(id);
        if (task !== undefined) noteTask(view, task);
        // What could not be assigned is still pending; its place in the index was only wished for.
        if (missed.has(id)) index.removeTask(id);
      }
    });
    // A node changed or went away between decision and commit: its own event is under way and tries again.
  }

  /**
   * Of everything that a decision rests on only nodes are changed by others: tasks are placed here alone, and what those
   * that are there hold only gets less. The task's own part is counted in the index already.
   */
  function stillHolds(task: Task, node: Node): boolean {
    const demand = demands.get(keyOf(task));
    const decidedOn = index.get(node.id)?.node;
    if (demand === undefined || decidedOn === undefined) return false;
    return decidedOn === node || (answerOf(demand, node) === "fits" && index.covers(node, demand));
  }
}

/** @returns False when the task or the node is not any more what was decided on. */
function carryOut(
  tx: Transaction,
  decision: Decision,
  stillHolds: (task: Task, node: Node) => boolean,
): boolean {
  const task = tx.tasks.get(decision.id);
  if (task === undefined || task.status.state !== "pending" || !isWanted(task)) return false;
  if (decision.kind === "explain") {
    if (task.status.error === decision.reason) return true;
    tx.tasks.update({ ...task, status: { ...task.status, error: decision.reason } });
    return true;
  }
  const node = tx.nodes.get(decision.nodeId);
  if (node === undefined || !stillHolds(task, node)) return false;
  const generic = claimsOf(tx, task, node);
  if (generic === undefined) return false;
  tx.tasks.update({
    ...task,
    nodeId: decision.nodeId,
    ...(generic.length > 0 && { generic }),
    status: {
      ...task.status,
      state: "assigned",
      atMs: tx.nowMs,
      appliedAtMs: tx.nowMs,
      message: decision.message,
      error: "",
    },
  });
  return true;
}

/** @returns `undefined` when others have taken them meanwhile. */
function claimsOf(tx: Transaction, task: Task, node: Node): readonly GenericClaim[] | undefined {
  const wanted = revisionOfTask(tx, task)?.task.resources?.reservations?.generic ?? {};
  if (Object.keys(wanted).length === 0) return [];
  const held = tx.tasks
    .byNode(node.id)
    .filter((other) => !isTerminal(other))
    .flatMap(({ generic = [] }) => generic);
  return claimGeneric(wanted, node.description?.resources, held);
}

function isReplacedBy(task: Task, other: Task): boolean {
  const isOfSameService = other.serviceId === task.serviceId && other.id !== task.id;
  return isOfSameService && isWanted(other) && isHeld(other);
}

function isHeld(task: Task): boolean {
  return taskStates[task.status.state] >= taskStates.assigned && !isTerminal(task);
}

function keyOf(task: Pick<Task, "serviceId" | "specVersion">): string {
  return revisionKey(task.serviceId, task.specVersion);
}
