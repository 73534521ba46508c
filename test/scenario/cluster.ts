import { taskStates, isTerminal, type Task, type TaskState } from "../../model/task.ts";
import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Availability, NodeState } from "../../model/node.ts";
import { revisionKey, type Service, type ServiceSpec } from "../../model/service.ts";
import { runAllocator } from "../../manager/allocator/run.ts";
import { runOrchestration } from "../../manager/orchestrator/run.ts";
import { jobOf, replaceSpec, rollbackService } from "../../manager/orchestrator/spec.ts";
import { runRebalancer } from "../../manager/scheduler/run-rebalance.ts";
import { runScheduler } from "../../manager/scheduler/run.ts";
import type { Store } from "../../manager/store/store.ts";
import type { Transaction } from "../../manager/store/transaction.ts";
import { silentLog, type Log } from "../../runtime/log.ts";
import { seededRandom } from "../../runtime/random.ts";
import { VirtualClock, settle } from "../sim/clock.ts";
import { loneStore, type LoneStore } from "../sim/lone-store.ts";
import { clusterObject, id, nodeObject } from "../sim/objects.ts";

/** What an image does once started; by its name. */
export type Behaviour = "runs" | "fails-to-start" | "exits-at-once" | "hangs-in-preparing" | "finishes";

const behaviours: Readonly<Record<string, Behaviour>> = {
  bad: "fails-to-start",
  crash: "exits-at-once",
  stuck: "hangs-in-preparing",
  done: "finishes",
};

const stepMs = 20;

/** All loops of a leader over one store, and agents that climb the ladder a step each 20 ms. */
export class ScenarioCluster implements AsyncDisposable {
  readonly clock = new VirtualClock();
  readonly lone: LoneStore;
  readonly store: Store;
  readonly errors: unknown[] = [];
  readonly #random = seededRandom(7);
  #scope = new AbortController();
  #loops: Promise<void>[] = [];
  readonly #deaf = new Set<NodeId>();
  #stopAgents = (): void => {};

  constructor() {
    this.lone = loneStore(this.clock);
    this.store = this.lone.store;
  }

  async start(nodes: readonly string[]): Promise<void> {
    await this.store.update((tx) => {
      tx.clusters.create(clusterObject());
      for (const name of nodes) tx.nodes.create(nodeObject(name));
    });
    this.startLoops();
    this.#startAgents();
    await settle();
  }

  /** A long time in which nothing is to happen on the nodes. */
  async sleepAgents(ms: number): Promise<void> {
    this.#stopAgents();
    await this.clock.advance(ms);
    this.#startAgents();
  }

  #startAgents(): void {
    this.#stopAgents = this.clock.every(stepMs, () => {
      this.#agents().catch((error: unknown) => this.errors.push(error));
    });
  }

  /** As a manager does when it begins to lead. */
  startLoops(): void {
    const log: Log = { ...silentLog, error: (fields) => this.errors.push(fields) };
    const deps = { store: this.store, clock: this.clock, random: this.#random, log };
    const { signal } = this.#scope;
    this.#loops.push(
      runOrchestration(deps, signal),
      runAllocator(deps, signal),
      runScheduler(deps, signal),
      runRebalancer(deps, signal),
    );
  }

  /**
   * Another manager leads from here on: nothing of the old loops' memory remains.
   *
   * @param meanwhile - Is written between the two, when no loop looks.
   */
  async changeLeader(term: number, meanwhile: (tx: Transaction) => void = () => {}): Promise<void> {
    await this.#endLoops();
    this.#stopAgents();
    await this.store.update(meanwhile);
    this.#startAgents();
    this.store.setLeading(undefined);
    this.store.setLeading(term);
    this.startLoops();
    await settle();
  }

  async #endLoops(): Promise<void> {
    this.#scope.abort();
    await Promise.all(this.#loops);
    this.#scope = new AbortController();
    this.#loops = [];
  }

  async create(name: string, spec: ServiceSpec): Promise<ServiceId> {
    const service = await this.store.update((tx) =>
      tx.services.create({
        id: id(name),
        spec: { ...spec, name },
        specVersion: 0,
        ...jobOf(spec, undefined, tx.nowMs),
      }),
    );
    return service.id;
  }

  async update(name: string, change: (spec: ServiceSpec) => ServiceSpec): Promise<void> {
    await this.store.update((tx) => {
      const service = tx.services.get(id(name));
      if (service === undefined) throw new Error(`no service ${name}`);
      replaceSpec(tx, service, change(service.spec), service.meta.version);
    });
  }

  async rollback(name: string): Promise<void> {
    await this.store.update((tx) => {
      const service = tx.services.get(id(name));
      if (service === undefined) throw new Error(`no service ${name}`);
      rollbackService(tx, service);
    });
  }

  async setNode(name: string, state: NodeState): Promise<void> {
    const nodeId = id<NodeId>(name);
    if (state === "ready") this.#deaf.delete(nodeId);
    else this.#deaf.add(nodeId);
    await this.store.update((tx) => {
      const node = tx.nodes.get(nodeId);
      if (node !== undefined) tx.nodes.update({ ...node, status: { ...node.status, state } });
    });
  }

  async setAvailability(name: string, availability: Availability): Promise<void> {
    await this.store.update((tx) => {
      const node = tx.nodes.get(id(name));
      if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, availability } });
    });
  }

  service(name: string): Service {
    const service = this.store.view((view) => view.services.get(id(name)));
    if (service === undefined) throw new Error(`no service ${name}`);
    return service;
  }

  tasks(name: string): readonly Task[] {
    return this.store.view((view) => view.tasks.byService(id(name)));
  }

  /** Wanted, observed running, on a node that is not down: what the CLI counts. */
  running(name: string, image?: string): readonly Task[] {
    return this.store.view((view) =>
      view.tasks.byService(id(name)).filter((task) => {
        const node = task.nodeId === undefined ? undefined : view.nodes.get(task.nodeId);
        const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
        return (
          task.desiredState === "running" &&
          task.status.state === "running" &&
          node?.status.state !== "down" &&
          (image === undefined || revision?.task.container.image === image)
        );
      }),
    );
  }

  /** Moves time on until the condition holds; the time it took in virtual milliseconds. */
  async until(condition: () => boolean, boundMs = 120_000): Promise<number> {
    const startMs = this.clock.monotonic();
    await settle();
    while (!condition()) {
      if (this.clock.monotonic() - startMs > boundMs)
        throw new Error(`not within ${boundMs} ms: ${condition.toString()}`);
      await this.clock.advance(stepMs);
    }
    return this.clock.monotonic() - startMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopAgents();
    await this.#endLoops();
  }

  async #agents(): Promise<void> {
    const steps = this.store.view((view) =>
      view.tasks.list().flatMap((task) => {
        if (task.nodeId === undefined || this.#deaf.has(task.nodeId)) return [];
        const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
        const next = nextState(task, revision?.task.container.image ?? "");
        return next === undefined ? [] : [{ id: task.id, next }];
      }),
    );
    await this.store.batch(steps, (tx, step: { id: TaskId; next: TaskState }) => {
      const task = tx.tasks.get(step.id);
      if (task === undefined || taskStates[task.status.state] >= taskStates[step.next]) return;
      tx.tasks.update({
        ...task,
        status: {
          ...task.status,
          state: step.next,
          atMs: tx.nowMs,
          appliedAtMs: tx.nowMs,
          message: step.next,
          error: "",
        },
      });
    });
  }
}

function nextState(task: Task, image: string): TaskState | undefined {
  const behaviour = behaviours[image.split(":")[0] ?? ""] ?? "runs";
  const { state } = task.status;
  if (isTerminal(task) || taskStates[state] < taskStates.assigned) return undefined;
  if (taskStates[task.desiredState] >= taskStates.shutdown) return "shutdown";
  switch (state) {
    case "assigned":
      return "accepted";
    case "accepted":
      return "preparing";
    case "preparing":
      return behaviour === "hangs-in-preparing"
        ? undefined
        : behaviour === "fails-to-start"
          ? "rejected"
          : "ready";
    case "ready":
      return task.desiredState === "ready" ? undefined : "starting";
    case "starting":
      return "running";
    case "running":
      return behaviour === "exits-at-once" ? "failed" : behaviour === "finishes" ? "complete" : undefined;
    case "new":
    case "pending":
    case "complete":
    case "shutdown":
    case "failed":
    case "rejected":
    case "remove":
    case "orphaned":
      return undefined;
  }
}

export function image(name: string): (spec: ServiceSpec) => ServiceSpec {
  return (spec) => ({
    ...spec,
    task: { ...spec.task, container: { ...spec.task.container, image: name } },
  });
}

export function scale(replicas: number): (spec: ServiceSpec) => ServiceSpec {
  return (spec) => ({ ...spec, mode: { kind: "replicated", replicas } });
}

export async function started(nodes: readonly string[]): Promise<ScenarioCluster> {
  const cluster = new ScenarioCluster();
  await cluster.start(nodes);
  return cluster;
}
