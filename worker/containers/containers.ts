/**
 * Local containers: those that a user made on this host with `docker run` or `docker create`, beside
 * the tasks of services. The engine holds their processes; this room holds what was asked for, starts
 * them again by their policy, probes their health and connects them to the host's network.
 */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import type { ContainerRecord, ExitStatus } from "../engine/engine.ts";
import type { LocalEngine } from "../engine/local.ts";
import { signalNumber } from "../engine/signals.ts";
import type { HostNetwork } from "../network/network.ts";
import { type CreateRequest, type Limits, parseCreate, type RestartPolicy } from "./config.ts";
import { devicesOf } from "./devices.ts";
import type { Fields } from "./fields.ts";
import { Execs } from "./execs.ts";
import { Entry, type Outcome, outcomeOf } from "./entry.ts";
import { heldCapabilities } from "./held.ts";
import { createdNetwork, hostnameOf, withTag } from "./identity.ts";
import { mergedLimits } from "./limits.ts";
import { plannedMounts } from "./mounts.ts";
import { probeHealth } from "./probes.ts";
import { Names } from "./names.ts";
import { borrowedMounts, partnerOf, startFacts } from "./partners.ts";
import { restartDelayMs } from "./restart.ts";
import { atStart, inSandbox, joinedConfig, limitsOf, specOf } from "./sandbox.ts";
import { type LocalRecord, LocalStore } from "./store.ts";
import { validate, validateLimits, type ValidationFacts } from "./validate.ts";

export interface LocalDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly engine: LocalEngine;
  readonly network: HostNetwork;
  /** `<stateDir>/local` */
  readonly directory: string;
  readonly facts: ValidationFacts & { readonly swapLimit: boolean; readonly cgroupVersion: 1 | 2 };
}

/** What happens to a local container beyond the engine's own events. */
export interface LocalEvent {
  readonly action: string;
  readonly record: ContainerRecord;
  readonly attributes: Readonly<Record<string, string>>;
}

export type WaitCondition = "not-running" | "next-exit" | "removed";

const defaultStopMs = 10_000;
const foreverMs = Infinity;
/** Of a task's container, whose removal nobody tells. */
const removedPollMs = 100;

export class LocalContainers {
  readonly #deps: LocalDeps;
  readonly execs: Execs;
  readonly #store: LocalStore;
  readonly #entries = new Map<string, Entry>();
  readonly #names: Names;
  readonly #closing = new AbortController();
  readonly #background = new Set<Promise<void>>();
  #listener: (event: LocalEvent) => void = () => undefined;

  private constructor(deps: LocalDeps) {
    this.#deps = deps;
    this.#names = new Names(deps);
    this.execs = new Execs({ ...deps, emit: (id, action, attributes) => this.emit(id, action, attributes) });
    this.#store = new LocalStore(deps.directory);
  }

  /** Takes up what an earlier process left: watches what runs, and decides about what ended meanwhile. */
  static async open(deps: LocalDeps): Promise<LocalContainers> {
    const containers = new LocalContainers(deps);
    await containers.#load();
    return containers;
  }

  /** One listener: whoever keeps the events of this host. */
  onEvent(listener: (event: LocalEvent) => void): void {
    this.#listener = listener;
  }

  get engine(): LocalEngine {
    return this.#deps.engine;
  }

  /** Undefined for the container of a task. */
  record(id: string): LocalRecord | undefined {
    return this.#entries.get(id)?.record;
  }

  isRestarting(id: string): boolean {
    return this.#entries.get(id)?.isRestarting === true;
  }

  /** @throws {ClusterError} `not-found` for the image, `conflict` for the name, `invalid-argument`. */
  async create(
    name: string | undefined,
    body: unknown,
    signal: AbortSignal,
  ): Promise<{ readonly id: string; readonly warnings: readonly string[] }> {
    const { engine, random, facts } = this.#deps;
    const asked = parseCreate(body);
    const warnings = validate(asked, facts);
    const image = await engine.image(asked.config.Image);
    if (image === undefined)
      throw new ClusterError("not-found", `No such image: ${withTag(asked.config.Image)}`);
    const request: CreateRequest = { ...asked, config: joinedConfig(asked, image.config) };
    const id = newContainerId(random);
    const { hostConfig, config } = request;
    const partner = await partnerOf(this.#deps, hostConfig.NetworkMode);
    const devices = await devicesOf(hostConfig);
    const held = await heldCapabilities(facts.lastCapability);
    const borrowed = await borrowedMounts(this.#deps, hostConfig.VolumesFrom);
    const taken = await this.#names.take(name);
    const record: LocalRecord = {
      id,
      name: taken,
      config: { ...config, Hostname: hostnameOf(config.Hostname, id, hostConfig.NetworkMode, partner) },
      hostConfig,
      wantsToRun: false,
      restartCount: 0,
      restartDelayMs: 0,
    };
    try {
      const spec = specOf(asked);
      // First, so that no container is ever without it; a record without a container is dropped.
      await this.#store.save(record);
      await engine.create(
        {
          id,
          name: taken,
          image: asked.config.Image,
          spec: { ...spec, ...(partner !== undefined && { hostname: partner.hostname }) },
          resources: {},
          labels: config.Labels,
          network: createdNetwork(hostConfig.NetworkMode),
          secrets: [],
          configs: [],
          mounts: plannedMounts(asked, image.config.volumes, borrowed),
          adjust: (oci) => inSandbox(oci, request, { ...facts, held, devices }),
          keepsUnread: true,
          log: { name: hostConfig.LogConfig.Type, options: hostConfig.LogConfig.Config },
        },
        signal,
      );
      this.#entries.set(id, new Entry(record));
    } catch (error) {
      await this.#store.remove(id);
      throw error;
    } finally {
      this.#names.release(taken);
    }
    return { id, warnings };
  }

  /** @returns False when it runs already. */
  async start(id: string, signal: AbortSignal): Promise<boolean> {
    const entry = this.#require(id);
    const { engine } = this.#deps;
    return entry.locked(async () => {
      if (entry.isRemoving) {
        throw new ClusterError("conflict", "container is marked for removal and cannot be started");
      }
      const record = await engine.inspect(id);
      if (record?.status.state === "running") {
        if (record.status.paused === true) {
          throw new ClusterError("conflict", "cannot start a paused container, try unpause instead");
        }
        return false;
      }
      this.#cancelRestart(entry);
      await this.#save(entry, { wantsToRun: true, restartCount: 0, restartDelayMs: 0 });
      try {
        await this.#launch(entry, signal);
      } catch (error) {
        await this.#save(entry, { wantsToRun: false });
        if (entry.record.hostConfig.AutoRemove) await this.#removeNow(entry, "removed");
        throw error;
      }
      return true;
    });
  }

  /** @returns False when it does not run. */
  async stop(
    id: string,
    { signal, timeoutMs }: { readonly signal?: string; readonly timeoutMs?: number },
    abort: AbortSignal,
  ): Promise<boolean> {
    const { engine } = this.#deps;
    if (signal !== undefined) signalNumber(signal);
    const record = await engine.inspect(id);
    const entry = this.#entries.get(id);
    if (entry !== undefined) await this.#noteStop(entry);
    if (record?.status.state !== "running") return entry !== undefined && this.#cancelRestart(entry);
    const stopping = engine.stop(
      id,
      { graceMs: timeoutMs ?? this.#graceMs(entry), ...(signal !== undefined && { signal }) },
      abort,
    );
    if (record.status.paused === true) await this.#resumeQuietly(id);
    await stopping;
    await this.#settle(entry);
    return true;
  }

  async restart(
    id: string,
    options: { readonly signal?: string; readonly timeoutMs?: number },
    abort: AbortSignal,
  ): Promise<void> {
    const entry = this.#require(id);
    const isKept = entry.record.hostConfig.AutoRemove;
    // Else its end would be the end of it.
    if (isKept)
      entry.record = { ...entry.record, hostConfig: { ...entry.record.hostConfig, AutoRemove: false } };
    try {
      await this.stop(id, options, abort);
    } finally {
      if (isKept)
        entry.record = { ...entry.record, hostConfig: { ...entry.record.hostConfig, AutoRemove: true } };
    }
    await this.start(id, abort);
    await this.emit(id, "restart");
  }

  /** @throws {ClusterError} `conflict` when it does not run. */
  async kill(id: string, signal: string): Promise<void> {
    const { engine } = this.#deps;
    const number = signalNumber(signal);
    const record = await engine.inspect(id);
    const entry = this.#entries.get(id);
    const isRunning = record?.status.state === "running";
    const endsIt = number === 9 || (record !== undefined && number === signalNumber(record.stopSignal));
    if (entry !== undefined && isRunning && endsIt) await this.#noteStop(entry);
    await engine.kill(id, signal);
    if (isRunning && record.status.state === "running" && record.status.paused === true && endsIt) {
      await this.#resumeQuietly(id);
    }
    // As with Docker, who is told of the kill finds the container ended.
    if (number === 9) {
      await engine
        .wait(id, AbortSignal.any([this.#closing.signal, AbortSignal.timeout(defaultStopMs)]))
        .catch((error: unknown) =>
          this.#deps.log.warn({ id, error: errorText(error) }, "a killed container has not ended yet"),
        );
      await this.#settle(entry);
    }
  }

  async pause(id: string): Promise<void> {
    const { engine } = this.#deps;
    const record = await engine.inspect(id);
    if (record?.status.state !== "running")
      throw new ClusterError("conflict", `container ${id} is not running`);
    if (record.status.paused === true)
      throw new ClusterError("conflict", `container ${id} is already paused`);
    await engine.pause(id);
    await this.emit(id, "pause");
  }

  async unpause(id: string): Promise<void> {
    const { engine } = this.#deps;
    const record = await engine.inspect(id);
    if (record?.status.state !== "running" || record.status.paused !== true) {
      throw new ClusterError("conflict", `container ${id} is not paused`);
    }
    await engine.resume(id);
    await this.emit(id, "unpause");
  }

  /** @param volumes - What becomes of its anonymous volumes. */
  async remove(id: string, options: { force: boolean; volumes: "kept" | "removed" }): Promise<void> {
    const { engine } = this.#deps;
    const record = await engine.inspect(id);
    if (record === undefined) throw new ClusterError("not-found", `No such container: ${id}`);
    const entry = this.#entries.get(id);
    if (entry?.isRemoving === true) {
      throw new ClusterError("conflict", `removal of container ${id} is already in progress`);
    }
    const isRunning = record.status.state === "running";
    if (!options.force && (isRunning || entry?.isRestarting === true)) {
      const isPaused = record.status.state === "running" && record.status.paused === true;
      const [state, hint] = isPaused
        ? ["paused", "unpause and then stop the container before removing or force remove"]
        : [isRunning ? "running" : "restarting", "stop the container before removing or force remove"];
      throw new ClusterError(
        "conflict",
        `cannot remove container "/${record.name}": container is ${state}: ${hint}`,
      );
    }
    if (entry === undefined) return engine.remove(id);
    entry.isRemoving = true;
    await entry.locked(() => this.#removeNow(entry, options.volumes));
  }

  async rename(id: string, name: string): Promise<void> {
    const entry = this.#require(id);
    if (name === "") throw new ClusterError("invalid-argument", "Neither old nor new names may be empty");
    const old = entry.record.name;
    const plain = name.startsWith("/") ? name.slice(1) : name;
    if (plain === old) {
      throw new ClusterError(
        "invalid-argument",
        "Renaming a container with the same name as its current name",
      );
    }
    const taken = await this.#names.take(plain);
    try {
      await this.#deps.engine.rename(id, taken);
      await this.#save(entry, { name: taken });
    } finally {
      this.#names.release(taken);
    }
    await this.emit(id, "rename", { oldName: `/${old}` });
  }

  /** New limits and policy, at once and for later starts. */
  async update(
    id: string,
    changes: {
      readonly limits: Limits;
      /** Says which of the limits were named. */
      readonly given: Fields;
      readonly policy?: RestartPolicy;
    },
  ): Promise<readonly string[]> {
    const entry = this.#require(id);
    const { engine, facts } = this.#deps;
    const { hostConfig } = entry.record;
    if (hostConfig.AutoRemove && changes.policy !== undefined && changes.policy.Name !== "no") {
      throw new ClusterError(
        "invalid-argument",
        "Restart policy cannot be updated because AutoRemove is enabled for the container",
      );
    }
    const limits = mergedLimits(hostConfig, changes.limits, changes.given);
    const warnings = validateLimits(limits, facts);
    const record = await engine.inspect(id);
    if (record?.status.state === "running")
      await engine.update(id, { devices: [], ...limitsOf(limits, facts) });
    const policy = changes.policy ?? hostConfig.RestartPolicy;
    await this.#save(entry, { hostConfig: { ...hostConfig, ...limits, RestartPolicy: policy } });
    await this.emit(id, "update");
    return warnings;
  }

  /** Settles when the condition holds; `not-found` for a container that is not there. */
  async wait(id: string, condition: WaitCondition, signal: AbortSignal): Promise<Outcome> {
    const { engine, clock } = this.#deps;
    const either = AbortSignal.any([signal, this.#closing.signal]);
    const entry = this.#entries.get(id);
    if (entry === undefined) {
      const exit = await engine.wait(id, either);
      if (condition !== "removed") return outcomeOf(exit);
      while ((await engine.inspect(id)) !== undefined) await clock.sleep(removedPollMs, either);
      return outcomeOf(exit);
    }
    if (condition === "removed") return entry.removed(either);
    if (condition === "next-exit") return entry.nextExit(either);
    let outcome: Outcome | undefined;
    for (;;) {
      const record = await engine.inspect(id);
      if (record === undefined) return outcome ?? outcomeOf(entry.lastExit);
      const { status } = record;
      if (status.state !== "running" && !entry.isRestarting) {
        return outcomeOf(status.state === "stopped" ? status.exit : undefined);
      }
      outcome = await entry.nextExit(either);
      await this.#settle(entry);
    }
  }

  /** Tells whoever listens; says nothing of a container that is gone. */
  async emit(id: string, action: string, attributes: Readonly<Record<string, string>> = {}): Promise<void> {
    const record = await this.#deps.engine.inspect(id);
    if (record !== undefined) this.#listener({ action, record, attributes });
  }

  /** Containers run on; restarts that are due come with the next process. */
  async close(): Promise<void> {
    this.#closing.abort(new ClusterError("unavailable", "the worker is ending"));
    for (const entry of this.#entries.values()) {
      this.#cancelRestart(entry);
      entry.endProbes();
    }
    await Promise.allSettled(this.#background);
  }

  async #load(): Promise<void> {
    const { engine, network } = this.#deps;
    for (const record of await this.#store.load()) {
      if ((await engine.inspect(record.id)) === undefined) await this.#store.remove(record.id);
      else this.#entries.set(record.id, new Entry(record));
    }
    for (const { taskId, containerId } of await network.list()) {
      if (taskId !== containerId) continue; // A task's.
      const record = await engine.inspect(containerId);
      if (record?.status.state !== "running") await network.detach(taskId, this.#closing.signal);
    }
    for (const entry of this.#entries.values()) {
      const { status } = (await engine.inspect(entry.record.id)) ?? {};
      if (status?.state === "running") this.#watch(entry);
      else if (status?.state === "stopped") {
        entry.lastExit = status.exit;
        const isOver = entry.record.wantsToRun || entry.record.hostConfig.AutoRemove;
        if (isOver) this.#inBackground(entry, this.#ended(entry, status.exit));
      }
    }
  }

  /** Network, namespaces of others, process; then it is watched. */
  async #launch(entry: Entry, signal: AbortSignal): Promise<void> {
    const { engine, network } = this.#deps;
    const { id } = entry.record;
    await entry.settled; // The network of its last run.
    try {
      const facts = await startFacts(this.#deps, entry.record, signal);
      await engine.start(id, signal, (spec) => atStart(spec, facts));
    } catch (error) {
      await network.detach(id as TaskId, this.#closing.signal);
      throw error;
    }
    this.#watch(entry);
  }

  #watch(entry: Entry): void {
    const { engine, log } = this.#deps;
    const { id } = entry.record;
    this.#probe(entry);
    const watching = engine.wait(id, this.#closing.signal).then(
      (exit) => {
        entry.tellExit(exit);
        entry.settled = this.#ended(entry, exit);
        return entry.settled;
      },
      (error: unknown) => {
        const isGone = error instanceof ClusterError && error.code === "not-found";
        if (!isGone && !this.#closing.signal.aborted)
          log.error({ id, error }, "a container is no longer watched");
      },
    );
    this.#inBackground(entry, watching);
  }

  /** It has ended: its network goes, and it is started again, removed, or left as it is. */
  async #ended(entry: Entry, exit: ExitStatus): Promise<void> {
    const { engine, network, clock } = this.#deps;
    const { id } = entry.record;
    entry.endProbes();
    if (entry.isRemoving || this.#closing.signal.aborted) return;
    const record = await engine.inspect(id);
    const startedAtMs = record?.status.state === "stopped" ? record.status.startedAtMs : undefined;
    const { hostConfig, restartCount, restartDelayMs: lastDelayMs } = entry.record;
    const delayMs = restartDelayMs({
      policy: hostConfig.RestartPolicy,
      exitCode: exit.exitCode,
      wasStopped: !entry.record.wantsToRun,
      restartCount,
      ranMs: startedAtMs === undefined ? 0 : exit.atMs - startedAtMs,
      lastDelayMs,
    });
    entry.isRestarting = delayMs !== undefined;
    await network.detach(id as TaskId, this.#closing.signal);
    if (delayMs === undefined) {
      await this.#save(entry, { wantsToRun: false });
      if (hostConfig.AutoRemove && !entry.isRemoving) {
        entry.isRemoving = true;
        this.#inBackground(
          entry,
          entry.locked(() => this.#removeNow(entry, "removed")),
        );
      }
      return;
    }
    if (!entry.record.wantsToRun || entry.isRemoving) {
      entry.isRestarting = false; // Stopped meanwhile.
      return;
    }
    entry.cancelRestart = clock.after(delayMs, () => {
      this.#inBackground(entry, this.#restartByPolicy(entry, delayMs));
    });
  }

  #restartByPolicy(entry: Entry, delayMs: number): Promise<void> {
    return entry.locked(async () => {
      if (!entry.isRestarting || entry.isRemoving || this.#closing.signal.aborted) return;
      await this.#save(entry, { restartCount: entry.record.restartCount + 1, restartDelayMs: delayMs });
      try {
        await this.#launch(entry, this.#closing.signal);
        entry.isRestarting = false;
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        entry.isRestarting = false;
        const { log, engine } = this.#deps;
        log.warn({ id: entry.record.id, error: errorText(error) }, "a container could not be started again");
        const record = await engine.inspect(entry.record.id);
        if (record?.status.state === "stopped") await this.#ended(entry, record.status.exit);
      }
    });
  }

  /** Under the entry's lock. */
  async #removeNow(entry: Entry, volumes: "kept" | "removed"): Promise<void> {
    const { engine, network } = this.#deps;
    const { id } = entry.record;
    entry.isRemoving = true;
    this.#cancelRestart(entry);
    entry.endProbes();
    try {
      const record = await engine.inspect(id);
      await engine.remove(id, volumes);
      // Killed by its removal: nobody else has seen its end.
      const atMs = this.#deps.clock.now();
      if (record?.status.state === "running")
        entry.lastExit ??= { exitCode: 137, atMs, oomKilled: false, error: "" };
      await network.detach(id as TaskId, this.#closing.signal);
      await this.#store.remove(id);
      this.#entries.delete(id);
      entry.tellRemoved();
    } catch (error) {
      entry.isRemoving = false;
      throw error;
    }
  }

  #probe(entry: Entry): void {
    const { log } = this.#deps;
    const { id } = entry.record;
    const run = new AbortController();
    entry.endProbes();
    entry.endProbes = () => run.abort();
    const onStatus = (status: string): void => {
      this.#inBackground(entry, this.emit(id, `health_status: ${status}`));
      this.#inBackground(entry, this.#store.save(entry.record));
    };
    probeHealth(this.#deps, entry, onStatus, run.signal).catch((error: unknown) => {
      if (!run.signal.aborted) log.error({ id, error }, "a container's health is no longer looked at");
    });
  }

  async #noteStop(entry: Entry): Promise<void> {
    if (entry.record.wantsToRun) await this.#save(entry, { wantsToRun: false });
  }

  /** @returns Whether one was waited for. */
  #cancelRestart(entry: Entry): boolean {
    const wasRestarting = entry.isRestarting;
    entry.cancelRestart();
    entry.isRestarting = false;
    return wasRestarting;
  }

  async #settle(entry: Entry | undefined): Promise<void> {
    await Promise.resolve(); // Whoever waits for the engine is told in the same turn as we are.
    await entry?.settled.catch(() => undefined); // Its failure is in the log.
  }

  async #resumeQuietly(id: string): Promise<void> {
    await this.#deps.engine.resume(id).catch((error: unknown) => {
      this.#deps.log.warn({ id, error: errorText(error) }, "a paused container could not be resumed");
    });
  }

  #graceMs(entry: Entry | undefined): number {
    const seconds = entry?.record.config.StopTimeout;
    if (seconds === undefined) return defaultStopMs;
    return seconds < 0 ? foreverMs : seconds * 1_000;
  }

  async #save(entry: Entry, changes: Partial<LocalRecord>): Promise<void> {
    entry.record = { ...entry.record, ...changes };
    await this.#store.save(entry.record);
  }

  #inBackground(entry: Entry, work: Promise<void>): void {
    const done: Promise<void> = work
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#deps.log.error({ id: entry.record.id, error }, "work on a container failed");
      })
      .finally(() => this.#background.delete(done));
    this.#background.add(done);
  }

  #require(id: string): Entry {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry;
    throw new ClusterError(
      "conflict",
      `container ${id} belongs to a service: change the service, or use 'docker service update --force'`,
    );
  }
}
