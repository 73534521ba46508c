import { ClusterError, errorText } from "../../model/errors.ts";
import { isWanted, type PublishedPort } from "../../model/task.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Limit } from "../../runtime/limit.ts";
import type { Log } from "../../runtime/log.ts";
import { aborted, anyOf, deadline } from "../../runtime/signal.ts";
import type { Assignment } from "../agent/assignment.ts";
import type { ContainerRecord, Engine, ExitStatus } from "../engine/engine.ts";
import { watchHealth } from "../health/probe.ts";
import { planHealth } from "../health/state.ts";
import type { HealthState } from "../health/state.ts";
import type { HostNetwork } from "../network/network.ts";
import type { Outcome } from "./machine.ts";
import { attachRequest, createRequest, taskSpec } from "./request.ts";
import type { TaskPayload } from "./payload.ts";
import type { TaskHost } from "./request.ts";

export const defaultStopGraceMs = 10_000;

/** What every task of a node shares. */
export interface TaskWorld {
  readonly clock: Clock;
  readonly log: Log;
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly pulls: Limit;
  readonly starts: Limit;
  readonly host: TaskHost;
  /** Driver of an assigned network. */
  driverOf(networkId: string): string | undefined;
  payload(id: string): TaskPayload | undefined;
  /** Settles once the host's network has everything that was assigned so far. */
  networkApplied(signal: AbortSignal): Promise<void>;
  /**
   * As `networkApplied`, but for as long as nothing stands in the way.
   *
   * @throws {ClusterError} `unavailable` with why the last try failed; another one follows.
   */
  networkTried(signal: AbortSignal): Promise<void>;
  /** True while another task of this node holds one of the ports. */
  portsHeld(assignment: Assignment): boolean;
  onHealth(containerId: string, state: HealthState): void;
}

/** Facts of a container that go into its task's status. */
export interface ContainerFacts {
  readonly pid?: number;
  readonly ports?: readonly PublishedPort[];
}

/**
 * Carries out single steps of one task against engine and network. It decides nothing: each method
 * does its step, whatever part of it was done before, and says how it went. Aborting rejects.
 */
export class TaskController {
  readonly #world: TaskWorld;
  readonly #containerId: string;
  facts: ContainerFacts = {};
  #attached = false;
  #health: HealthRun | undefined;

  constructor(world: TaskWorld, containerId: string) {
    this.#world = world;
    this.#containerId = containerId;
  }

  get isAttached(): boolean {
    return this.#attached;
  }

  async exists(): Promise<boolean> {
    return (await this.#world.engine.inspect(this.#containerId)) !== undefined;
  }

  /** Image, network and container; everything but its process. */
  async prepare(assignment: Assignment, signal: AbortSignal): Promise<Outcome> {
    const { engine, network, host } = this.#world;
    try {
      if (await this.exists()) return { kind: "done" };
      const spec = taskSpec(assignment, host);
      await this.#pull(assignment, spec.image, signal);
      await this.#world.networkTried(signal);
      const request = attachRequest(assignment, this.#containerId, spec, host, (id) =>
        this.#world.driverOf(id),
      );
      this.#attached = true; // Before the call: a failure half-way is cleaned up too.
      const attached = await network.attach(request, signal);
      this.facts = { ...this.facts, ports: attached.publishedPorts };
      await engine.create(
        createRequest(assignment, this.#containerId, spec, host, attached, (id) => this.#world.payload(id)),
        signal,
      );
      return { kind: "done" };
    } catch (error) {
      signal.throwIfAborted();
      // A network or payload that was announced and is not here yet comes with a later assignment.
      if (error instanceof ClusterError && error.code === "failed-precondition") {
        return { kind: "temporary", error: error.message };
      }
      return this.#failed(error, assignment);
    }
  }

  /** Starts the process and, with a health check, waits for the first healthy result. */
  async start(assignment: Assignment, signal: AbortSignal): Promise<Outcome> {
    const { engine, starts } = this.#world;
    try {
      const record = await this.#record();
      if (record.status.state === "stopped") return exited(record.status.exit);
      if (record.status.state === "created") {
        await starts.run(() => engine.start(this.#containerId, signal), signal);
      }
      return await this.#afterStart(assignment, signal);
    } catch (error) {
      signal.throwIfAborted();
      const record = await engine.inspect(this.#containerId);
      if (record?.status.state === "stopped" && !isTemporary(error)) {
        return { kind: "exited", exit: { code: record.status.exit.exitCode, cause: errorText(error) } };
      }
      return this.#failed(error, assignment);
    }
  }

  /** Until the container ends or is found unhealthy, and then stopped. */
  async wait(assignment: Assignment, signal: AbortSignal): Promise<Outcome> {
    const { engine } = this.#world;
    const watching = new AbortController();
    using either = anyOf(signal, watching.signal);
    try {
      const record = await this.#record();
      if (record.status.state === "stopped") return exited(record.status.exit);
      if (record.status.state === "created")
        return { kind: "fatal", error: "task: container is not running" };
      // Running since before this process, it was healthy: only that is ever called running.
      this.#watchHealth(assignment, record, { status: "healthy", failingStreak: 0, log: [] });
      const ended = engine.wait(this.#containerId, either.signal).then(exited);
      const unhealthy = this.#health?.whenUnhealthy;
      if (unhealthy === undefined) return await ended;
      ended.catch(() => undefined); // Aborted below when the other one is first.
      const outcome = await Promise.race([ended, unhealthy.then(() => undefined)]);
      return outcome ?? (await this.#stopUnhealthy(assignment, signal));
    } catch (error) {
      signal.throwIfAborted();
      return this.#failed(error, assignment);
    } finally {
      watching.abort();
      if (!signal.aborted) this.#health?.end();
    }
  }

  /** Stop signal, grace, kill; nothing to stop is fine. */
  async stop(assignment: Assignment, signal: AbortSignal): Promise<Outcome & { readonly exitCode?: number }> {
    this.#health?.end();
    try {
      const record = await this.#world.engine.inspect(this.#containerId);
      if (record === undefined) return { kind: "done" };
      if (record.status.state === "running") await this.#drain(assignment, signal);
      const options = { graceMs: graceOf(assignment), clearUp: "when-idle" } as const;
      const exit = await this.#world.engine.stop(this.#containerId, options, signal);
      return { kind: "done", ...(exit !== undefined && { exitCode: exit.exitCode }) };
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof ClusterError && error.code === "not-found") return { kind: "done" };
      // Stopping is owed until it is done: it is tried again for as long as it takes.
      return { kind: "temporary", error: errorText(error) };
    }
  }

  /**
   * Clients that are connected may finish, for as long as the stop grace lasts: the managers have withdrawn the task from
   * every host's balancer by now, but perhaps not from this one's, if it has just come back to them.
   */
  async #drain(assignment: Assignment, signal: AbortSignal): Promise<void> {
    const { clock, network, log } = this.#world;
    if (isWanted(assignment) || assignment.networks.length === 0) return;
    using limit = deadline(clock, graceOf(assignment), "draining connections", signal);
    try {
      await this.#world.networkApplied(limit.signal);
      await network.drained(assignment.taskId, limit.signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!limit.signal.aborted) {
        log.warn({ taskId: assignment.taskId, error: errorText(error) }, "connections could not be drained");
      }
    }
  }

  /** Gives back addresses and ports; the container and its logs stay. */
  async detach(assignment: Assignment, signal: AbortSignal): Promise<void> {
    this.#health?.end();
    await this.#world.network.detach(assignment.taskId, signal);
    this.#attached = false;
  }

  /** Removes all that was ever made for the task. What has ended gives back addresses and ports at once all the same. */
  async remove(assignment: Assignment, when: "at-once" | "when-idle", signal: AbortSignal): Promise<void> {
    const { engine } = this.#world;
    this.#health?.end();
    const record = await engine.inspect(this.#containerId);
    const isRunning = record?.status.state === "running";
    if (!isRunning) await this.detach(assignment, signal);
    const removal = (): Promise<void> => engine.remove(this.#containerId);
    if (record !== undefined) await (when === "at-once" ? removal() : engine.whenIdle(removal, signal));
    if (isRunning) await this.detach(assignment, signal);
  }

  /** The worker ends: nothing is probed any more, containers stay. */
  close(): void {
    this.#health?.end();
  }

  /** Ports and pid of a container that runs since before this process. */
  async adopt(assignment: Assignment): Promise<void> {
    const record = await this.#world.engine.inspect(this.#containerId);
    const known = (await this.#world.network.list()).find(({ taskId }) => taskId === assignment.taskId);
    if (known !== undefined) this.#attached = true;
    this.facts = {
      ...(record?.status.state === "running" && { pid: record.status.pid }),
      ...(known !== undefined && { ports: known.attached.publishedPorts }),
    };
  }

  async #pull(assignment: Assignment, image: string, signal: AbortSignal): Promise<void> {
    const { engine, pulls, log } = this.#world;
    const auth = assignment.revision.registryAuth;
    try {
      await pulls.run(() => engine.pull(image, auth === undefined ? {} : { auth }, signal), signal);
    } catch (cause) {
      signal.throwIfAborted();
      log.warn({ taskId: assignment.taskId, image, error: errorText(cause) }, "image could not be pulled");
      if ((await engine.image(image)) === undefined) {
        throw new ClusterError("not-found", `No such image: ${image}`, { cause });
      }
    }
  }

  async #afterStart(assignment: Assignment, signal: AbortSignal): Promise<Outcome> {
    const record = await this.#record();
    if (record.status.state !== "running") {
      return record.status.state === "stopped" ? exited(record.status.exit) : { kind: "done" };
    }
    this.facts = { ...this.facts, pid: record.status.pid };
    const health = this.#watchHealth(assignment, record, undefined);
    if (health === undefined) return { kind: "done" };
    const { engine } = this.#world;
    const watching = new AbortController();
    using either = anyOf(signal, watching.signal);
    try {
      const ended = engine.wait(this.#containerId, either.signal).then(exited);
      ended.catch(() => undefined); // Aborted below unless it is the first.
      const first = await Promise.race([
        ended,
        health.whenHealthy.then(() => "healthy" as const),
        health.whenUnhealthy.then(() => "unhealthy" as const),
        aborted(either.signal).then(() => "aborted" as const),
      ]);
      signal.throwIfAborted();
      if (typeof first !== "string") return first;
      return first === "healthy" ? { kind: "done" } : await this.#stopUnhealthy(assignment, signal);
    } finally {
      watching.abort();
    }
  }

  async #stopUnhealthy(assignment: Assignment, signal: AbortSignal): Promise<Outcome> {
    const exit = await this.#world.engine.stop(this.#containerId, { graceMs: graceOf(assignment) }, signal);
    return {
      kind: "exited",
      exit: { code: exit?.exitCode ?? 137, cause: "dockerexec: unhealthy container" },
    };
  }

  /** Starts probing unless it is on already; undefined when the container has no health check. */
  #watchHealth(
    assignment: Assignment,
    record: ContainerRecord,
    known: HealthState | undefined,
  ): HealthRun | undefined {
    if (this.#health !== undefined || record.status.state !== "running") return this.#health;
    const plan = planHealth(assignment.revision.task.container.healthcheck, record.healthcheck);
    if (plan === undefined) return undefined;
    const world = this.#world;
    this.#health = new HealthRun(known, (state) => world.onHealth(this.#containerId, state));
    const watch = { containerId: record.id, plan, known, containerStartedAtMs: record.status.startedAtMs };
    this.#health.run(this.#world, watch);
    return this.#health;
  }

  async #record(): Promise<ContainerRecord> {
    const record = await this.#world.engine.inspect(this.#containerId);
    if (record !== undefined) return record;
    throw new ClusterError("not-found", `No such container: ${this.#containerId}`);
  }

  #failed(error: unknown, assignment: Assignment): Outcome {
    const text = errorText(error);
    const portTaken =
      error instanceof ClusterError && error.code === "conflict" && this.#world.portsHeld(assignment);
    return portTaken || isTemporary(error)
      ? { kind: "temporary", error: text }
      : { kind: "fatal", error: text };
  }
}

type HealthChange = Parameters<typeof watchHealth>[1];

/** Probing of one container, as promises of what is waited for. */
class HealthRun {
  readonly #end = new AbortController();
  readonly #onState: (state: HealthState) => void;
  readonly whenHealthy: Promise<void>;
  readonly whenUnhealthy: Promise<void>;
  #healthy: () => void = () => undefined;
  #unhealthy: () => void = () => undefined;

  constructor(known: HealthState | undefined, onState: (state: HealthState) => void) {
    this.#onState = onState;
    this.whenHealthy = new Promise((resolve) => (this.#healthy = resolve));
    this.whenUnhealthy = new Promise((resolve) => (this.#unhealthy = resolve));
    this.#take(known ?? { status: "starting", failingStreak: 0, log: [] });
  }

  run(world: TaskWorld, watch: Omit<HealthChange, "onState">): void {
    const done = watchHealth(world, { ...watch, onState: (state) => this.#take(state) }, this.#end.signal);
    done.catch((error: unknown) => {
      if (this.#end.signal.aborted) return;
      world.log.error({ containerId: watch.containerId, error }, "health check failed to run");
    });
  }

  end(): void {
    this.#end.abort(new Error("health is no longer watched"));
  }

  #take(state: HealthState): void {
    if (state.status === "healthy") this.#healthy();
    if (state.status === "unhealthy") this.#unhealthy();
    this.#onState(state);
  }
}

function graceOf(assignment: Assignment): number {
  return assignment.revision.task.container.stopGracePeriodMs ?? defaultStopGraceMs;
}

function exited(exit: ExitStatus): Outcome {
  const cause = exit.error === "" ? {} : { cause: exit.error };
  return { kind: "exited", exit: { code: exit.exitCode, ...cause } };
}

/** What another try may mend: the engine or registry is away, or the network is not there yet. */
function isTemporary(error: unknown): boolean {
  if (!(error instanceof ClusterError)) return false;
  return error.code === "unavailable" || error.code === "deadline-exceeded";
}
