/**
 * Local containers: those that a user made on this host with `docker run` or `docker create`, beside
 * the tasks of services. The engine holds their processes; this room holds what was asked for, starts
 * them again by their policy, probes their health and connects them to the host's network.
 */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import type { LocalNetworks, NamedNetwork } from "../bridges/networks.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import type { LocalEngine } from "../engine/local.ts";
import { signalNumber } from "../engine/signals.ts";
import type { HostNetwork } from "../network/network.ts";
import { type CreateRequest, type Limits, parseCreate, type RestartPolicy } from "./config.ts";
import { type ClusterNetworks, type ConnectionEvent, Connections } from "./connections.ts";
import { blockLimitsOf, devicesOf } from "./devices.ts";
import type { EndpointRequest, Endpoints } from "./endpoints.ts";
import type { Fields } from "./fields.ts";
import { Execs } from "./execs.ts";
import { type Entry, lastOutcome, type Outcome, outcomeOf } from "./entry.ts";
import { heldCapabilities } from "./held.ts";
import { createdNetwork, hostnameOf, withTag } from "./identity.ts";
import { mergedLimits } from "./limits.ts";
import { plannedMounts } from "./mounts.ts";
import { Names } from "./names.ts";
import { borrowedMounts, partnerOf } from "./partners.ts";
import { Runs } from "./runs.ts";
import { inSandbox, joinedConfig, limitsOf, specOf, withDefaults } from "./sandbox.ts";
import type { LocalRecord } from "./store.ts";
import { validate, validateLimits, type ValidationFacts } from "./validate.ts";
import { anyOf, deadline } from "../../runtime/signal.ts";
import { Turns } from "../../runtime/turns.ts";

export interface LocalDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly engine: LocalEngine;
  readonly network: HostNetwork;
  readonly networks: LocalNetworks;
  readonly cluster: ClusterNetworks;
  /** `<stateDir>/local` */
  readonly directory: string;
  /** Which run of the daemon this process belongs to. */
  readonly daemonRun: string;
  readonly facts: ValidationFacts;
}

/** What happens to a local container beyond the engine's own events. */
export interface LocalEvent {
  readonly action: string;
  readonly record: ContainerRecord;
  readonly attributes: Readonly<Record<string, string>>;
}

export interface Update {
  readonly limits: Limits;
  /** Says which of the limits were named. */
  readonly given: Fields;
  readonly policy?: RestartPolicy;
}

export type WaitCondition = "not-running" | "next-exit" | "removed";

const defaultStopMs = 10_000;
const foreverMs = Infinity;
/** PID_MAX_LIMIT of Linux: no limit, in a form that every runtime takes; crun 1.8 writes the kernel a -1 as it is. */
const mostProcesses = 4_194_304;
const shortIdLength = 12;
/** Of a task's container, whose removal nobody tells. */
const removedPollMs = 100;

/** That another container is not there: clients take "not found" of a new one for its image, and go to pull it. */
function notImage(error: unknown): never {
  if (!(error instanceof ClusterError) || error.code !== "not-found") throw error;
  throw new ClusterError("invalid-argument", error.message, { cause: error });
}

/** Of what may be a network's id; a short word is a name, though some id may begin with it. */
function nameOf(networks: LocalNetworks, term: string): string {
  return term.length < shortIdLength ? term : (networks.resolve(term)?.name ?? term);
}

export class LocalContainers {
  readonly #deps: LocalDeps;
  readonly execs: Execs;
  readonly #runs: Runs;
  readonly #names: Names;
  readonly #connections: Connections;
  /** Of the works for which a container stands still. */
  readonly #standingStill = new Turns();
  #listener: (event: LocalEvent) => void = () => undefined;
  #networkListener: (event: ConnectionEvent) => void = () => undefined;

  private constructor(deps: LocalDeps) {
    this.#deps = deps;
    this.#names = new Names(deps);
    this.execs = new Execs({ ...deps, emit: (id, action, attributes) => this.emit(id, action, attributes) });
    this.#connections = new Connections({ ...deps, emit: (event) => this.#networkListener(event) });
    this.#runs = new Runs({
      ...deps,
      connections: this.#connections,
      emit: (id, action) => this.emit(id, action),
    });
  }

  /** Takes up what an earlier process left: watches what runs, and decides about what ended meanwhile. */
  static async open(deps: LocalDeps): Promise<LocalContainers> {
    const containers = new LocalContainers(deps);
    await containers.#runs.load();
    return containers;
  }

  /** One listener: whoever keeps the events of this host. */
  onEvent(listener: (event: LocalEvent) => void): void {
    this.#listener = listener;
  }

  /** One listener, as above: containers that come to networks and go. */
  onNetworkEvent(listener: (event: ConnectionEvent) => void): void {
    this.#networkListener = listener;
  }

  get engine(): LocalEngine {
    return this.#deps.engine;
  }

  /** Undefined for the container of a task. */
  record(id: string): LocalRecord | undefined {
    return this.#runs.entry(id)?.record;
  }

  isRestarting(id: string): boolean {
    return this.#runs.entry(id)?.isRestarting === true;
  }

  /** @throws {ClusterError} `not-found` for the image, `conflict` for the name, `invalid-argument`. */
  async create(
    name: string | undefined,
    body: unknown,
    signal: AbortSignal,
  ): Promise<{ readonly id: string; readonly warnings: readonly string[] }> {
    const { engine, random, facts, networks } = this.#deps;
    const parsed = parseCreate(body, (term) => nameOf(networks, term));
    const warnings = validate(parsed, facts);
    const asked = { ...parsed, hostConfig: withDefaults(parsed.hostConfig, facts) };
    const image = await engine.image(asked.config.Image);
    if (image === undefined)
      throw new ClusterError("not-found", `No such image: ${withTag(asked.config.Image)}`);
    const request: CreateRequest = { ...asked, config: joinedConfig(asked, image.config) };
    const id = newContainerId(random);
    const { hostConfig, config } = request;
    const partner = await partnerOf(this.#deps, hostConfig.NetworkMode).catch(notImage);
    const devices = await devicesOf(hostConfig);
    await blockLimitsOf(hostConfig); // Looked up at each start; what cannot be is refused now.
    const held = await heldCapabilities(facts.lastCapability);
    const borrowed = await borrowedMounts(this.#deps, hostConfig.VolumesFrom).catch(notImage);
    const taken = await this.#names.take(name);
    const record: LocalRecord = {
      id,
      name: taken,
      config: { ...config, Hostname: hostnameOf(config.Hostname, id, hostConfig.NetworkMode, partner) },
      hostConfig,
      endpoints: request.endpoints,
      wantsToRun: false,
      restartCount: 0,
      restartDelayMs: 0,
    };
    try {
      const spec = specOf(asked);
      // First, so that no container is ever without it; a record without a container is dropped.
      await this.#runs.store.save(record);
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
      this.#runs.add(record);
    } catch (error) {
      await this.#runs.store.remove(id);
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
      this.#runs.cancelRestart(entry);
      await this.#runs.save(entry, { wantsToRun: true, restartCount: 0, restartDelayMs: 0 });
      try {
        await this.#runs.launch(entry, signal);
      } catch (error) {
        await this.#runs.save(entry, { wantsToRun: false });
        if (entry.record.hostConfig.AutoRemove) await this.#runs.removeOwn(entry);
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
    const entry = this.#runs.entry(id);
    if (entry !== undefined) await this.#noteStop(entry);
    const wasRestarting = entry !== undefined && (await this.#runs.endRestarts(entry));
    const record = await engine.inspect(id);
    if (record?.status.state !== "running") return wasRestarting;
    await engine.stop(
      id,
      { graceMs: timeoutMs ?? this.#graceMs(entry), ...(signal !== undefined && { signal }) },
      abort,
    );
    await this.#runs.settle(entry);
    return true;
  }

  async restart(
    id: string,
    options: { readonly signal?: string; readonly timeoutMs?: number },
    abort: AbortSignal,
  ): Promise<void> {
    const entry = this.#require(id);
    entry.restartsByHand += 1;
    try {
      await this.stop(id, options, abort);
    } finally {
      entry.restartsByHand -= 1;
    }
    await this.start(id, abort);
    await this.emit(id, "restart");
  }

  /** @throws {ClusterError} `conflict` when it does not run. */
  async kill(id: string, signal: string): Promise<void> {
    const { engine, clock } = this.#deps;
    const number = signalNumber(signal);
    const record = await engine.inspect(id);
    const entry = this.#runs.entry(id);
    const endsIt = number === 9 || (record !== undefined && number === signalNumber(record.stopSignal));
    if (entry?.isRestarting === true) {
      // As with Docker: no process has to get it, and one that would end the container ends the wait for its restart.
      if (!endsIt) return;
      await this.#noteStop(entry);
      await this.#runs.endRestarts(entry);
      if ((await engine.inspect(id))?.status.state !== "running") return;
      return this.kill(id, signal); // That start was under way.
    }
    const isRunning = record?.status.state === "running";
    if (entry !== undefined && isRunning && endsIt) await this.#noteStop(entry);
    await engine.kill(id, signal);
    if (isRunning && record.status.state === "running" && record.status.paused === true && endsIt) {
      await this.#resumeQuietly(id);
    }
    // As with Docker, who is told of the kill finds the container ended.
    if (number === 9) {
      using limit = deadline(clock, defaultStopMs, "the end of a killed container", this.#runs.closing);
      await engine
        .wait(id, limit.signal)
        .catch((error: unknown) =>
          this.#deps.log.warn({ id, error: errorText(error) }, "a killed container has not ended yet"),
        );
      await this.#runs.settle(entry);
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

  /** One that runs stands still during the work, and is as it was when this settles; others of the same container wait their turn. */
  whilePaused<Result>(id: string, work: () => Promise<Result>): Promise<Result> {
    return this.#standingStill.take(id, () => this.#whilePausedNow(id, work));
  }

  async #whilePausedNow<Result>(id: string, work: () => Promise<Result>): Promise<Result> {
    const { engine } = this.#deps;
    const isPaused = async (): Promise<boolean | undefined> => {
      const { status } = (await engine.inspect(id)) ?? {};
      return status?.state === "running" ? status.paused === true : undefined;
    };
    if ((await isPaused()) !== false) return work();
    await this.pause(id);
    try {
      return await work();
    } finally {
      if ((await isPaused()) === true) await this.unpause(id);
    }
  }

  /** @param volumes - What becomes of its anonymous volumes. */
  async remove(id: string, options: { force: boolean; volumes: "kept" | "removed" }): Promise<void> {
    const { engine } = this.#deps;
    const entry = this.#runs.entry(id);
    if (entry === undefined) {
      await this.#removable(id, options.force);
      return engine.remove(id);
    }
    if (entry.isRemoving) {
      throw new ClusterError("conflict", `removal of container ${id} is already in progress`);
    }
    // Looked at in its turn: a start that is under way makes it one that runs.
    await entry.locked(async () => {
      await this.#removable(id, options.force);
      await this.#runs.removeNow(entry, options.volumes);
    });
  }

  /** @throws {ClusterError} `not-found`; `conflict` for one that runs, unless that is no reason. */
  async #removable(id: string, force: boolean): Promise<void> {
    const record = await this.#deps.engine.inspect(id);
    if (record === undefined) throw new ClusterError("not-found", `No such container: ${id}`);
    const isRunning = record.status.state === "running";
    if (force || !(isRunning || this.isRestarting(id))) return;
    const isPaused = record.status.state === "running" && record.status.paused === true;
    const [state, hint] = isPaused
      ? ["paused", "unpause and then stop the container before removing or force remove"]
      : [isRunning ? "running" : "restarting", "stop the container before removing or force remove"];
    throw new ClusterError(
      "conflict",
      `cannot remove container "/${record.name}": container is ${state}: ${hint}`,
    );
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
      await this.#runs.save(entry, { name: taken });
    } finally {
      this.#names.release(taken);
    }
    await this.#connections.rename(entry.record, this.#runs.closing);
    await this.emit(id, "rename", { oldName: `/${old}` });
  }

  /** A network of this host, or one of the cluster that the container is on. @param term - Id or name. */
  network(id: string, term: string): NamedNetwork | undefined {
    return this.#connections.find(id, term);
  }

  /** Whether there may be networks of a cluster, beside those of this host. */
  get isInCluster(): boolean {
    return this.#deps.cluster.isMember;
  }

  /** Takes containers off networks of the cluster that they have no place on any more. @param lost - One, or all there are. */
  async leaveNetworks(
    lost: { readonly containerId: string; readonly networkId: string } | "all",
    signal: AbortSignal,
  ): Promise<void> {
    const entries = lost === "all" ? this.#runs.all() : [this.#runs.entry(lost.containerId) ?? []].flat();
    const networkIds = lost === "all" ? lost : new Set([lost.networkId]);
    for (const entry of entries)
      await entry.locked(() => this.#connections.leave(entry.record, networkIds, signal));
  }

  /**
   * @param network - Id or name.
   * @throws {ClusterError} `conflict` for a service's container; what `Connections.connect` throws.
   */
  async connect(id: string, network: string, endpoint: EndpointRequest, signal: AbortSignal): Promise<void> {
    await this.#reconnect(id, (record, isRunning) =>
      this.#connections.connect(record, network, endpoint, { isRunning, signal }),
    );
  }

  async disconnect(id: string, network: string, signal: AbortSignal): Promise<void> {
    await this.#reconnect(id, (record, isRunning) =>
      this.#connections.disconnect(record, network, { isRunning, signal }),
    );
  }

  async #reconnect(
    id: string,
    change: (record: LocalRecord, isRunning: boolean) => Promise<Endpoints>,
  ): Promise<void> {
    const entry = this.#require(id);
    await entry.locked(async () => {
      if (entry.isRemoving) {
        throw new ClusterError(
          "conflict",
          `container ${id} is marked for removal and cannot be connected or disconnected`,
        );
      }
      const record = await this.#deps.engine.inspect(id);
      const endpoints = await change(entry.record, record?.status.state === "running");
      await this.#runs.save(entry, { endpoints });
    });
  }

  /** New limits and policy, at once and for later starts. */
  async update(id: string, changes: Update): Promise<readonly string[]> {
    const entry = this.#require(id);
    const warnings = await entry.locked(() => this.#updateNow(entry, changes));
    await this.emit(id, "update");
    return warnings;
  }

  /** Under the entry's lock: two that come at once add up. */
  async #updateNow(entry: Entry, { limits: named, given, policy }: Update): Promise<readonly string[]> {
    const { engine, facts } = this.#deps;
    const { id, hostConfig } = entry.record;
    if (hostConfig.AutoRemove && policy !== undefined && policy.Name !== "no") {
      throw new ClusterError(
        "invalid-argument",
        "Restart policy cannot be updated because AutoRemove is enabled for the container",
      );
    }
    const limits = mergedLimits(hostConfig, named, given);
    const warnings = validateLimits(limits, facts);
    const changed = { ...hostConfig, ...limits, RestartPolicy: policy ?? hostConfig.RestartPolicy };
    const updated = withDefaults(changed, facts);
    const record = await engine.inspect(id);
    if (record?.status.state === "running") {
      // Of a process that runs, what is not named stays.
      const lifted = given.has("PidsLimit") &&
        (updated.PidsLimit ?? 0) <= 0 && { pids: { limit: mostProcesses } };
      await engine.update(id, { devices: [], ...limitsOf(updated, facts), ...lifted });
    }
    await this.#runs.save(entry, { hostConfig: updated });
    return warnings;
  }

  /** Settles when the condition holds; `not-found` for a container that is not there. */
  async wait(id: string, condition: WaitCondition, signal: AbortSignal): Promise<Outcome> {
    const { engine, clock } = this.#deps;
    using linked = anyOf(signal, this.#runs.closing);
    const either = linked.signal;
    const entry = this.#runs.entry(id);
    if (entry === undefined) {
      const exit = await engine.wait(id, either);
      if (condition !== "removed") return outcomeOf(exit);
      while ((await engine.inspect(id)) !== undefined) await clock.sleep(removedPollMs, either);
      return outcomeOf(exit);
    }
    if (condition === "removed") return await entry.removed(either);
    if (condition === "next-exit") return await entry.nextExit(either);
    let outcome: Outcome | undefined;
    for (;;) {
      const record = await engine.inspect(id);
      if (record === undefined) return outcome ?? outcomeOf(entry.lastExit);
      const { status } = record;
      if (status.state !== "running" && !entry.isRestarting) {
        return lastOutcome(status.state === "stopped" ? status.exit : undefined, entry.record);
      }
      outcome = await entry.nextExit(either);
      await this.#runs.settle(entry);
    }
  }

  /** Tells whoever listens; says nothing of a container that is gone. */
  async emit(id: string, action: string, attributes: Readonly<Record<string, string>> = {}): Promise<void> {
    const record = await this.#deps.engine.inspect(id);
    if (record !== undefined) this.#listener({ action, record, attributes });
  }

  /** Containers run on; restarts that are due come with the next process. */
  close(): Promise<void> {
    return this.#runs.close();
  }

  async #noteStop(entry: Entry): Promise<void> {
    if (entry.record.wantsToRun) await this.#runs.save(entry, { wantsToRun: false });
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

  #require(id: string): Entry {
    const entry = this.#runs.entry(id);
    if (entry !== undefined) return entry;
    throw new ClusterError(
      "conflict",
      `container ${id} belongs to a service: change the service, or use 'docker service update --force'`,
    );
  }
}
