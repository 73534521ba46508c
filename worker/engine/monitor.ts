/**
 * Keeps what we know of running containers equal to what containerd knows: listens to its events, and
 * compares everything when the connection opens and now and then. Events only come early; the
 * comparison alone would do.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { TaskExit, TaskOOM } from "../../proto/gen/containerd/events.ts";
import type { Envelope } from "../../proto/gen/containerd/events.ts";
import { containerdNamespace } from "../../proto/host.ts";
import { isAlreadyThere, isAway, received } from "./connection.ts";
import { type Container, storedState } from "./container.ts";
import {
  endContainer,
  endRun,
  type LifecycleDeps,
  lostExit,
  removeFromContainerd,
  resumed,
  undoStart,
} from "./lifecycle.ts";
import { millisecondsOf, type TaskView } from "./task.ts";
import { anyOf } from "../../runtime/signal.ts";

const retryMs = 200;
/** The subscription may take effect a little after the first comparison. */
const secondLookMs = 1_000;
const compareEveryMs = 30_000;
const topics = ['topic=="/tasks/exit"', 'topic=="/tasks/oom"'];

export interface MonitorDeps extends LifecycleDeps {
  readonly containers: ReadonlyMap<string, Container>;
  /** Directories without a record: containers that were being made or removed when we ended. */
  readonly remains: Set<string>;
  readonly execPrefix: string;
  /** Called after every comparison that follows a new connection. */
  readonly connected: (version: { readonly version: string; readonly revision: string }) => void;
  readonly disconnected: () => void;
}

/** Runs until the signal aborts. */
export async function runMonitor(deps: MonitorDeps, signal: AbortSignal): Promise<void> {
  const { clock, connection, warn } = deps;
  let said = "";
  while (!signal.aborted) {
    try {
      await connection.ready(signal);
      await follow(deps, signal);
      said = "";
    } catch (error) {
      if (signal.aborted) return;
      deps.disconnected();
      const text = String(error);
      if (text !== said) warn("lost containerd", error);
      said = text;
      await clock.sleep(retryMs, signal).catch(() => {});
    }
  }
}

async function follow(deps: MonitorDeps, signal: AbortSignal): Promise<void> {
  const { clock, connection, warn } = deps;
  const { version, namespaces } = connection;
  const facts = await connection.call(version, "version", {}, { signal });
  await connection
    .call(namespaces, "create", { namespace: { name: containerdNamespace, labels: {} } }, { signal })
    .catch((error: unknown) => {
      if (!isAlreadyThere(error)) throw error;
    });
  const [metadata, options] = connection.streamSettings({});
  const stop = new AbortController();
  using either = anyOf(signal, stop.signal);
  const events = received(connection.events.subscribe({ filters: topics }, metadata, options), either.signal);
  const look = (): void => {
    compare(deps).catch((error: unknown) => {
      // A connection that is lost is told where its events end, and compared when it is back.
      if (!signal.aborted && !isAway(error)) warn("cannot compare containers with containerd", error);
    });
  };
  const cancels: (() => void)[] = [];
  try {
    const listening = (async () => {
      for await (const envelope of events) await onEvent(deps, envelope);
    })();
    // Awaited below; until then a failure must not be unhandled.
    listening.catch(() => {});
    await compare(deps);
    deps.connected(facts);
    cancels.push(clock.after(secondLookMs, look), clock.every(compareEveryMs, look));
    await listening;
    throw new ClusterError("unavailable", "containerd ended the stream of events");
  } finally {
    stop.abort();
    for (const cancel of cancels) cancel();
  }
}

/** Takes in one of containerd's events. */
export async function onEvent(deps: MonitorDeps, { topic, event, namespace }: Envelope): Promise<void> {
  if (event === undefined || namespace !== containerdNamespace) return;
  if (topic === "/tasks/oom") {
    const container = deps.containers.get(TaskOOM.decode(event.value).containerId);
    if (container !== undefined) await alone(deps, container.id, noteOom(deps, container));
    return;
  }
  const { containerId, id, pid, exitStatus, exitedAt } = TaskExit.decode(event.value);
  const container = deps.containers.get(containerId);
  if (container === undefined) return;
  if (id !== containerId) {
    // A command inside; whoever ran it waits for it, unless that was a former process of ours.
    if (!id.startsWith(deps.execPrefix))
      await alone(deps, containerId, deps.tasks.deleteExec(containerId, id));
    return;
  }
  const exit = { exitCode: exitStatus, atMs: millisecondsOf(exitedAt), oomKilled: false, error: "" };
  // Not awaited: one that ends slowly must not hold up the others' news.
  endRun(deps, container, pid, exit).catch((error: unknown) =>
    deps.warn(`cannot end container ${containerId}`, error),
  );
}

async function noteOom(deps: MonitorDeps, container: Container): Promise<void> {
  container.oomKilled = true;
  const { id, name, image, labels } = container.stored;
  deps.emit({ kind: "container", action: "oom", atMs: deps.clock.now(), id, name, image, labels });
  if (container.status.state !== "running") return;
  container.status = { ...container.status, oomKilled: true };
  await deps.records.saveState(id, storedState(container.status));
}

/** Every container of ours against every task there is. */
export async function compare(deps: MonitorDeps): Promise<void> {
  const before = new Map([...deps.containers.values()].map((container) => [container, container.status]));
  const tasks = await deps.tasks.list();
  const compared: Promise<void>[] = [];
  for (const container of deps.containers.values()) {
    // The list may be older than what was seen while it was made: one that ended meanwhile must not come to life again.
    if (container.activity !== undefined || container.status !== before.get(container)) continue;
    compared.push(alone(deps, container.id, compareOne(deps, container, tasks.get(container.id))));
  }
  await Promise.all(compared);
  // Half-made by an earlier process of ours.
  for (const id of deps.remains) await alone(deps, id, removeRemains(deps, id));
}

async function removeRemains(deps: MonitorDeps, id: string): Promise<void> {
  const { connection, tasks, records, remains, runDirectory } = deps;
  await removeFromContainerd(connection, tasks, id);
  await deps.imageMounts.remove(id);
  await rm(join(runDirectory, id), { recursive: true, force: true });
  await records.remove(id);
  remains.delete(id);
}

/** What goes wrong with one container, such as a record that a full disk refuses, must not hold up the others. */
async function alone({ warn }: MonitorDeps, id: string, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (isAway(error)) throw error;
    warn(`cannot compare container ${id} with containerd`, error);
  }
}

async function compareOne(
  deps: MonitorDeps,
  container: Container,
  task: TaskView | undefined,
): Promise<void> {
  const { clock, tasks, records } = deps;
  const { id, status } = container;
  switch (status.state) {
    case "running":
      if (task === undefined) {
        await endContainer(deps, container, lostExit(clock));
      } else if (task.state === "stopped") {
        await endContainer(deps, container, { ...exitOf(task), error: "" });
      } else if (status.paused !== task.paused) {
        container.setStatus(task.paused === true ? { ...status, paused: true } : resumed(status, clock));
      }
      return;
    case "created": {
      if (task === undefined) return;
      await adopt(deps, container, task);
      return;
    }
    case "stopped":
      // We ended in the middle of starting it once more.
      if (task !== undefined && task.state !== "stopped") {
        await adopt(deps, container, task);
        return;
      }
      if (container.putOff !== undefined) return;
      if (task?.state === "stopped") {
        // containerd has the only lasting copy of the exit code until this is written.
        await records.saveState(id, storedState(status));
        await tasks.delete(id);
      }
      if (container.output?.ended === false) container.output.end();
      return;
  }
}

/** A task that was started, or nearly, without our having noted it. */
async function adopt(deps: MonitorDeps, container: Container, task: TaskView): Promise<void> {
  const { clock, tasks, records } = deps;
  const { id } = container;
  if (container.hasDoubtfulStart) return undoStart(deps, container);
  // A process that never ran is removed; one that did counts.
  if (task.state === "created") {
    await tasks.kill(id, 9);
    await tasks.delete(id);
    return;
  }
  const pid = task.state === "running" ? task.pid : 0;
  container.output?.reopen();
  container.setStatus({ state: "running", pid, startedAtMs: clock.now(), oomKilled: false });
  container.output?.watch();
  await container.stdin?.started();
  await records.saveState(id, storedState(container.status));
  if (task.state === "stopped") await endContainer(deps, container, { ...exitOf(task), error: "" });
}

function exitOf(task: Extract<TaskView, { state: "stopped" }>): {
  exitCode: number;
  atMs: number;
  oomKilled: boolean;
} {
  return { exitCode: task.exitCode, atMs: task.atMs, oomKilled: false };
}
