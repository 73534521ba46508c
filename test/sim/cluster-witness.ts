import { Store } from "../../manager/store/store.ts";
import type { ObjectEvent, StoreEvent } from "../../manager/store/change.ts";
import type { StoreView } from "../../manager/store/transaction.ts";
import { unpack } from "../../manager/raft/pack.ts";
import type { ThreadOutput } from "../../manager/raft/port.ts";
import { nodeMeets } from "../../model/constraint.ts";
import type { NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import { revisionKey, type Revision } from "../../model/service.ts";
import { isTerminal, isWanted, type Task, taskStates } from "../../model/task.ts";
import { seededRandom } from "../../runtime/random.ts";
import { goodsProblem } from "./cluster-goods.ts";
import type { ClusterPlan } from "./cluster-plan.ts";
import { Lane } from "./lane.ts";
import type { Schedule } from "./raft-schedule.ts";

type Violate = (rule: string, text: string) => void;

/** The state that every committed entry leaves, one after another, and what may not be in any of them. */
export class Witness {
  readonly store: Store;
  readonly #violate: Violate;
  readonly #isWhole: boolean;
  readonly #watch: ReturnType<Store["watch"]>;
  /** Nodes as they were before the entry, where it changed them. */
  #before: ReadonlyMap<NodeId, Node> = new Map();
  /** Tasks that the entry gives to a node. */
  #placed: ReadonlySet<TaskId> = new Set();
  /** Called after each entry that changed anything. */
  onChange: (events: readonly StoreEvent[]) => void = () => {};

  constructor(schedule: Schedule, { extent }: Pick<ClusterPlan, "extent">, violate: Violate) {
    this.#violate = violate;
    this.#isWhole = extent === "whole";
    this.store = new Store({
      clock: new Lane(schedule, 0).clock,
      random: seededRandom(1),
      proposer: {
        propose: () => Promise.reject(new Error("a witness proposes nothing")),
        confirmLeader: () => Promise.reject(new Error("a witness leads nobody")),
      },
    });
    this.#watch = this.store.watch([
      "tasks",
      "nodes",
      "services",
      "networks",
      "secrets",
      "configs",
      "attachments",
    ]);
  }

  view<T>(read: (view: StoreView) => T): T {
    return this.store.view(read);
  }

  committed(output: ThreadOutput & { kind: "committed" }): void {
    const { index, indexes } = output;
    for (const [at, data] of unpack(output).entries()) {
      const entryIndex = indexes[at] ?? 0;
      if (entryIndex <= this.store.appliedIndex) continue;
      this.store.apply(entryIndex, new Uint8Array(data));
      const events = this.#watch.take();
      this.#before = nodesBefore(events);
      this.#placed = new Set(events.flatMap((event) => placedTask(event)?.id ?? []));
      for (const event of events) this.view((view) => this.#check(view, event));
      const problem = this.#isWhole && events.length > 0 ? this.view(goodsProblem) : undefined;
      if (problem !== undefined) this.#violate(problem.rule, problem.text);
      if (events.length > 0) this.onChange(events);
    }
    if (index > this.store.appliedIndex) this.store.apply(index, new Uint8Array());
  }

  #check(view: StoreView, event: StoreEvent): void {
    if (event.kind === "resync" || event.table !== "tasks" || event.kind === "removed") return;
    const task = event.object;
    const previous = event.kind === "updated" ? event.previous : undefined;
    if (previous !== undefined) this.#checkStep(previous, task);
    if (placedTask(event) !== undefined) this.#checkPlacement(view, task);
  }

  /** What of a task never changes, and what only ever climbs. */
  #checkStep(before: Task, task: Task): void {
    const fail = (text: string): void => this.#violate("a task's course", `${nameOf(task)}: ${text}`);
    if (taskStates[task.desiredState] < taskStates[before.desiredState])
      fail(`wanted ${before.desiredState}, then ${task.desiredState}`);
    if (taskStates[task.status.state] < taskStates[before.status.state])
      fail(`was ${before.status.state}, then ${task.status.state}`);
    if (before.nodeId !== undefined && task.nodeId !== before.nodeId)
      fail(`moved from ${before.nodeId} to ${task.nodeId ?? "nowhere"}`);
    if (before.slot !== task.slot || before.specVersion !== task.specVersion)
      fail("its slot or revision changed");
  }

  /** The moment a node is given the task: all that its revision asks for has to be true. */
  #checkPlacement(view: StoreView, task: Task): void {
    const fail = (rule: string, text: string): void => this.#violate(rule, `${nameOf(task)}: ${text}`);
    const node = task.nodeId === undefined ? undefined : view.nodes.get(task.nodeId);
    const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
    if (node === undefined || revision === undefined) return fail("placement", "has no node or no revision");
    // One entry holds writes of many: the node may have been changed just after.
    const seen = [node, this.#before.get(node.id) ?? node];
    if (!seen.some(({ status, spec }) => status.state === "ready" && spec.availability === "active"))
      fail("placement", `${node.id} is ${node.status.state} and ${node.spec.availability}`);
    if (!seen.some((each) => nodeMeets(revision.task.placement.constraints, each)))
      fail("constraints", `${node.id} does not meet ${revision.task.placement.constraints.join(", ")}`);
    this.#checkRoom(view, node, fail);
    const { maxReplicas } = revision.task.placement;
    if (maxReplicas > 0 && task.slot > 0) {
      const slots = new Set(
        view.tasks
          .byNode(node.id)
          .filter((other) => other.serviceId === task.serviceId && isHeld(other) && isWanted(other))
          // One of another revision, which may have no limit, came after it.
          .filter((other) => other.specVersion === task.specVersion || !this.#placed.has(other.id))
          .map(({ slot }) => slot),
      );
      if (slots.size > maxReplicas) fail("max replicas", `${node.id} has ${slots.size} slots of the service`);
    }
  }

  #checkRoom(view: StoreView, node: Node, fail: (rule: string, text: string) => void): void {
    const held = view.tasks.byNode(node.id).filter(isHeld);
    const revisions = held.flatMap((task): Revision[] => {
      const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
      return revision === undefined ? [] : [revision];
    });
    const sum = (pick: (revision: Revision) => number | undefined): number =>
      revisions.reduce((total, revision) => total + (pick(revision) ?? 0), 0);
    const { nanoCpus = 0, memoryBytes = 0 } = node.description?.resources ?? {};
    const cpus = sum(({ task }) => task.resources.reservations?.nanoCpus);
    const bytes = sum(({ task }) => task.resources.reservations?.memoryBytes);
    if (cpus > nanoCpus || bytes > memoryBytes)
      fail(
        "resources",
        `${node.id} is oversold: ${cpus} of ${nanoCpus} CPUs, ${bytes} of ${memoryBytes} bytes`,
      );
    const ports = revisions.flatMap(({ endpoint }) =>
      endpoint.ports
        .filter((port) => port.publishMode === "host" && port.publishedPort !== 0)
        .map((port) => `${port.protocol}/${port.publishedPort}`),
    );
    if (new Set(ports).size < ports.length)
      fail("host ports", `${node.id} gives a port twice: ${ports.join(" ")}`);
  }
}

function nodesBefore(events: readonly StoreEvent[]): Map<NodeId, Node> {
  const before = new Map<NodeId, Node>();
  for (const event of events) {
    if (event.kind === "updated" && event.table === "nodes" && !before.has(event.object.id))
      before.set(event.object.id, event.previous);
  }
  return before;
}

/** The task that the event gives to a node. */
function placedTask(event: StoreEvent): Task | undefined {
  if (!isTaskEvent(event) || event.kind === "removed") return undefined;
  const wasGiven = event.kind === "updated" && taskStates[event.previous.status.state] >= taskStates.assigned;
  return !wasGiven && isHeld(event.object) ? event.object : undefined;
}

/** The node knows of it and may be running it. */
export function isHeld(task: Task): boolean {
  return taskStates[task.status.state] >= taskStates.assigned && !isTerminal(task);
}

export function nameOf(task: Task): string {
  return `task ${task.id.slice(0, 6)} of ${task.serviceId.slice(0, 6)}.${task.slot > 0 ? task.slot : (task.nodeId ?? "")}`;
}

export function isTaskEvent(event: StoreEvent): event is ObjectEvent & { readonly table: "tasks" } {
  return event.kind !== "resync" && event.table === "tasks";
}
