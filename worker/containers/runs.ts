/**
 * The runs of local containers: each is launched, watched to its end, and then started again by its
 * policy, removed, or left as it is. Keeps the records of those that exist.
 */
import { setMaxListeners } from "node:events";

import { ClusterError, errorText } from "../../model/errors.ts";
import { backoff } from "../../runtime/backoff.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { ExitStatus } from "../engine/engine.ts";
import type { LocalEngine } from "../engine/local.ts";
import type { HostNetwork } from "../network/network.ts";
import type { Connections } from "./connections.ts";
import { Entry } from "./entry.ts";
import { startFacts } from "./partners.ts";
import { probeHealth } from "./probes.ts";
import { restartDelayMs } from "./restart.ts";
import { atStart } from "./sandbox.ts";
import { closeSharedMemory, sharedMemoryPath } from "./shared-memory.ts";
import { type LocalRecord, LocalStore } from "./store.ts";

/** Between tries to remove a container that goes with its end. */
const removalPauses = { firstMs: 500, limitMs: 60_000, factor: 2, jitterRatio: 0.2 } as const;

export interface RunsDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly engine: LocalEngine;
  readonly network: HostNetwork;
  readonly connections: Connections;
  /** `<stateDir>/local` */
  readonly directory: string;
  /** Which run of the daemon this process belongs to: another one than last time is what Docker calls a start of the engine. */
  readonly daemonRun: string;
  readonly facts: { readonly swapLimit: boolean; readonly cgroupVersion: 1 | 2 };
  emit(id: string, action: string): Promise<void>;
}

export class Runs {
  readonly #deps: RunsDeps;
  readonly store: LocalStore;
  readonly #entries = new Map<string, Entry>();
  readonly #closing = new AbortController();
  readonly #background = new Set<Promise<void>>();

  constructor(deps: RunsDeps) {
    this.#deps = deps;
    this.store = new LocalStore(deps.directory);
    setMaxListeners(0, this.#closing.signal); // Each container that runs waits for it; that is no leak.
  }

  /** Aborts when this process is to end. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Undefined for the container of a task. */
  entry(id: string): Entry | undefined {
    return this.#entries.get(id);
  }

  all(): Entry[] {
    return [...this.#entries.values()];
  }

  add(record: LocalRecord): void {
    this.#entries.set(record.id, new Entry(record));
  }

  /** Containers run on; restarts that are due come with the next process. */
  async close(): Promise<void> {
    this.#closing.abort(new ClusterError("unavailable", "the worker is ending"));
    for (const entry of this.#entries.values()) {
      this.cancelRestart(entry);
      entry.endProbes();
    }
    await Promise.allSettled(this.#background);
  }

  async load(): Promise<void> {
    const { engine, network } = this.#deps;
    const records = await this.store.load();
    const isNewRun = await this.store.noteDaemonRun(this.#deps.daemonRun);
    for (const record of records) {
      if ((await engine.inspect(record.id)) === undefined) await this.store.remove(record.id);
      else this.#entries.set(record.id, new Entry(record));
    }
    for (const { taskId, containerId, networks } of await network.list()) {
      if (taskId !== containerId) continue; // A task's.
      const record = await engine.inspect(containerId);
      const entry = this.#entries.get(containerId);
      if (record?.status.state !== "running") await network.detach(taskId, this.#closing.signal);
      else if (entry !== undefined) this.#deps.connections.adopt(entry.record, networks);
    }
    for (const entry of this.#entries.values()) {
      const { status } = (await engine.inspect(entry.record.id)) ?? {};
      if (status?.state === "running") this.#watch(entry);
      else if (status?.state === "stopped") {
        entry.lastExit = status.exit;
        const { wantsToRun, hostConfig } = entry.record;
        // As with Docker: a stop by hand ends "always" until the engine starts again, which a new worker is not, and
        // "unless-stopped" for good.
        if (isNewRun && !wantsToRun && hostConfig.RestartPolicy.Name === "always")
          await this.save(entry, { wantsToRun: true, restartCount: 0, restartDelayMs: 0 });
        const isOver = entry.record.wantsToRun || hostConfig.AutoRemove;
        if (isOver) this.#inBackground(entry, this.#ended(entry, status.exit));
      }
    }
  }

  /** Network, namespaces of others, process; then it is watched. */
  async launch(entry: Entry, signal: AbortSignal): Promise<void> {
    const { engine } = this.#deps;
    const { id } = entry.record;
    await entry.settled.catch(() => undefined); // Its failure is in the log.
    try {
      if (entry.hasLeftovers) await this.#giveBack(entry);
      const facts = await startFacts(this.#deps, entry.record, signal);
      const { mounts = [] } = (await engine.inspect(id)) ?? {};
      const mounted = new Set(mounts.map(({ target }) => target));
      await engine.start(id, signal, (spec) => atStart(spec, facts, mounted));
    } catch (error) {
      await this.#tryGiveBack(entry);
      // Whoever gave up, and not the host, is no reason of its own.
      if (!signal.aborted) await this.save(entry, { startError: errorText(error) });
      throw error;
    }
    this.#watch(entry);
    if ((entry.record.startError ?? "") !== "") await this.save(entry, { startError: "" });
  }

  /** What a run has of the host: its network, and /dev/shm where it shares that. */
  async #giveBack(entry: Entry): Promise<void> {
    const { connections, directory } = this.#deps;
    const { id, hostConfig } = entry.record;
    entry.hasLeftovers = true;
    await connections.detach(entry.record, this.#closing.signal);
    if (hostConfig.IpcMode === "shareable") await closeSharedMemory(sharedMemoryPath(directory, id));
    entry.hasLeftovers = false;
  }

  /** What cannot be given back now is tried again by the next start, or the removal. */
  async #tryGiveBack(entry: Entry): Promise<void> {
    try {
      await this.#giveBack(entry);
    } catch (error) {
      if (this.#closing.signal.aborted) return; // The next process does it.
      const { id } = entry.record;
      this.#deps.log.error({ id, error }, "network or /dev/shm of a container could not be given back");
    }
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
    const { engine, clock } = this.#deps;
    const { id } = entry.record;
    entry.endProbes();
    if (entry.isRemoving || this.#closing.signal.aborted) return;
    const record = await engine.inspect(id);
    const startedAtMs = record?.status.state === "stopped" ? record.status.startedAtMs : undefined;
    const { hostConfig, restartCount, restartDelayMs: lastDelayMs, startError } = entry.record;
    const delayMs = restartDelayMs({
      policy: hostConfig.RestartPolicy,
      exitCode: exit.exitCode,
      wasStopped: !entry.record.wantsToRun,
      restartCount,
      // What is known of a run before a failed start is that run's.
      ranMs: startedAtMs === undefined || (startError ?? "") !== "" ? 0 : exit.atMs - startedAtMs,
      lastDelayMs,
    });
    entry.isRestarting = delayMs !== undefined;
    await this.#tryGiveBack(entry);
    if (this.#closing.signal.aborted) return;
    if (delayMs === undefined) {
      await this.save(entry, { wantsToRun: false });
      if (hostConfig.AutoRemove && entry.restartsByHand === 0 && !entry.isRemoving) {
        entry.isRemoving = true;
        this.#inBackground(
          entry,
          entry.locked(() => this.removeOwn(entry)),
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
      try {
        await this.save(entry, { restartCount: entry.record.restartCount + 1, restartDelayMs: delayMs });
        await this.launch(entry, this.#closing.signal);
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
  async removeNow(entry: Entry, volumes: "kept" | "removed"): Promise<void> {
    const { engine } = this.#deps;
    const { id } = entry.record;
    entry.isRemoving = true;
    this.cancelRestart(entry);
    entry.endProbes();
    try {
      const record = await engine.inspect(id);
      await engine.remove(id, volumes);
      // Killed by its removal: nobody else has seen its end.
      const atMs = this.#deps.clock.now();
      if (record?.status.state === "running")
        entry.lastExit ??= { exitCode: 137, atMs, oomKilled: false, error: "" };
      await this.#giveBack(entry);
      await this.store.remove(id);
      this.#entries.delete(id);
      entry.tellRemoved();
    } catch (error) {
      entry.isRemoving = false;
      throw error;
    }
  }

  /** Under the entry's lock, for one that goes with its end: what cannot be removed now is tried again, until it is. */
  async removeOwn(entry: Entry): Promise<void> {
    try {
      await this.removeNow(entry, "removed");
    } catch (error) {
      if (this.#closing.signal.aborted) return; // The next process does it.
      const { id } = entry.record;
      this.#deps.log.error({ id, error }, "a container could not be removed at its end");
      this.#inBackground(entry, this.#removeLater(entry));
    }
  }

  async #removeLater(entry: Entry): Promise<void> {
    const { clock, random, engine } = this.#deps;
    const { id } = entry.record;
    let isDone = false;
    for (const pauseMs of backoff(random, removalPauses)) {
      await clock.sleep(pauseMs, this.#closing.signal);
      await entry.locked(async () => {
        const { status } = (await engine.inspect(id)) ?? {};
        // Removed by hand, or started again.
        isDone = this.#entries.get(id) !== entry || status?.state === "running";
        if (isDone) return;
        isDone = await this.removeNow(entry, "removed").then(
          () => true,
          (error: unknown) => {
            this.#deps.log.warn({ id, error: errorText(error) }, "a container still cannot be removed");
            return false;
          },
        );
      });
      if (isDone) return;
    }
  }

  #probe(entry: Entry): void {
    const { log } = this.#deps;
    const { id } = entry.record;
    const run = new AbortController();
    entry.endProbes();
    entry.endProbes = () => run.abort();
    const onStatus = (status: string): void => {
      this.#inBackground(entry, this.#deps.emit(id, `health_status: ${status}`));
      this.#inBackground(entry, this.store.save(entry.record));
    };
    probeHealth(this.#deps, entry, onStatus, run.signal).catch((error: unknown) => {
      if (!run.signal.aborted) log.error({ id, error }, "a container's health is no longer looked at");
    });
  }

  /** @returns Whether one was waited for. */
  cancelRestart(entry: Entry): boolean {
    const wasRestarting = entry.isRestarting;
    entry.cancelRestart();
    entry.isRestarting = false;
    return wasRestarting;
  }

  /** As {@link cancelRestart}; a start that is under way has come to its end when it settles, and is not lost to a stop. */
  async endRestarts(entry: Entry): Promise<boolean> {
    const wasRestarting = this.cancelRestart(entry);
    await entry.locked(async () => undefined);
    if (!wasRestarting || entry.lastExit === undefined) return wasRestarting;
    const { status } = (await this.#deps.engine.inspect(entry.record.id)) ?? {};
    // Whoever waits for its end has waited on through the pause before the restart.
    if (status?.state === "stopped") entry.tellExit(entry.lastExit);
    return true;
  }

  async settle(entry: Entry | undefined): Promise<void> {
    await Promise.resolve(); // Whoever waits for the engine is told in the same turn as we are.
    await entry?.settled.catch(() => undefined); // Its failure is in the log.
  }

  async save(entry: Entry, changes: Partial<LocalRecord>): Promise<void> {
    entry.record = { ...entry.record, ...changes };
    await this.store.save(entry.record);
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
}
