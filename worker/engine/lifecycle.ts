/** What is done to one container: start, end, stop, remove. Each step can be found again after a crash. */
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { requireSources } from "../mounts/resolve.ts";
import { bindSubpaths } from "../mounts/subpath.ts";
import type { Payloads } from "../mounts/secret.ts";
import type { Volumes } from "../mounts/volume.ts";
import { type Connection, detailOf, isAway, isNotFound, toEngineError, unlessGone } from "./connection.ts";
import { type Container, storedState } from "./container.ts";
import type { ContainerState, EngineEvent, ExitStatus, Started, StopOptions } from "./engine.ts";
import type { ImageMounts } from "./image-mounts.ts";
import { readOomKills } from "./host.ts";
import type { OciSpec } from "./oci.ts";
import { type SeccompFilters, filterAnnotation, withFilter } from "./filters.ts";
import type { Records } from "./records.ts";
import { type Runtime, specType, startRefusal } from "./runtime.ts";
import { groupAnnotation, type ShimGroups } from "./shims.ts";
import type { IdleQueue } from "./idle-queue.ts";
import { signalNumber } from "./signals.ts";
import { removeSnapshot, snapshotMounts } from "./snapshots.ts";
import type { Tasks } from "./task.ts";
import { deadline } from "../../runtime/signal.ts";

/** After SIGKILL the kernel ends a container at once, unless it hangs in the kernel itself. */
const killWaitMs = 30_000;
/** A start is tried again after containerd went away in the middle of it. */
const startAttempts = 3;
const lostExitCode = 137;
/** Of a process that had ended before its start was answered. */
const endedPid = 0;
const sigkill = 9;

export interface LifecycleDeps {
  readonly clock: Clock;
  readonly connection: Connection;
  readonly tasks: Tasks;
  readonly runtime: Runtime;
  readonly shims: ShimGroups;
  readonly filters: SeccompFilters;
  readonly records: Records;
  readonly idle: IdleQueue;
  /** As `signalFirstProcess`. */
  readonly signalDirectly: (pid: number, containerId: string, signal: number) => boolean;
  readonly volumes: Volumes;
  readonly imageMounts: ImageMounts;
  readonly payloads: Payloads;
  readonly runDirectory: string;
  readonly cgroupVersion: 1 | 2;
  readonly cgroupPath: (id: string) => string;
  readonly emit: (event: EngineEvent) => void;
  readonly warn: (message: string, error: unknown) => void;
}

type RunningState = Extract<ContainerState, { state: "running" }>;
type ContainerEvent = Extract<EngineEvent, { kind: "container" }>;

export function emitContainer(
  { clock, emit }: Pick<LifecycleDeps, "clock" | "emit">,
  container: Container,
  action: ContainerEvent["action"],
  extra: Pick<ContainerEvent, "exit" | "ranMs" | "signal"> = {},
): void {
  const { id, name, image, labels } = container.stored;
  emit({ kind: "container", action, atMs: clock.now(), id, name, image, labels, ...extra });
}

export async function startContainer(
  deps: LifecycleDeps,
  container: Container,
  adjust?: (spec: OciSpec) => OciSpec,
): Promise<Started> {
  const { clock, records } = deps;
  const { id } = container;
  if (container.status.state === "running" || container.activity !== undefined) {
    throw new ClusterError(
      "conflict",
      `cannot start container ${id}: it is ${container.activity ?? container.status.state}: one that does not run is accepted`,
    );
  }
  container.activity = "starting";
  try {
    if (container.hasDoubtfulStart) await undoStart(deps, container);
    await container.cleaned();
    await container.written;
    await requireSources(container.record.mounts);
    for (const { type, name } of container.record.mounts) {
      if (type === "volume" && name !== undefined) await deps.volumes.use(name, id);
    }
    await deps.imageMounts.ensure(container.record);
    container.earlyExits.clear();
    container.oomKilled = false;
    container.output?.reopen();
    await container.stdin?.ensure();
    if (adjust !== undefined) await changeSpec(deps, container, adjust);
    const pid = await withSubpaths(deps, container, () => runTask(deps, container));
    const startedAtMs = clock.now();
    const { oomKilled } = container;
    container.setStatus({ state: "running", pid, startedAtMs, oomKilled });
    container.output?.watch();
    await container.stdin?.started();
    emitContainer(deps, container, "start");
    // It runs whether or not that can be written, and who looks next finds it running.
    await records
      .saveState(id, storedState(container.status))
      .catch((error: unknown) => deps.warn(`cannot record the start of container ${id}`, error));
    container.activity = undefined;
    const earlyExit = container.earlyExits.get(pid);
    if (earlyExit !== undefined) await endContainer(deps, container, earlyExit);
    return { pid, startedAtMs };
  } catch (error) {
    // A start that only took too long, or whose answer was lost, may have gone through.
    container.hasDoubtfulStart = true;
    if (isAway(error)) throw toEngineError(error, `cannot start container ${id}`);
    const { exitCode, text } = startRefusal(detailOf(error), container.process?.args[0] ?? "");
    await undoStart(deps, container).catch((reason: unknown) =>
      deps.warn(`cannot remove the task of ${id}`, reason),
    );
    const exit: ExitStatus = { exitCode, atMs: clock.now(), oomKilled: false, error: text };
    await releaseVolumes(deps, container);
    container.output?.end();
    container.stdin?.reset();
    // That it has run before is still so.
    const ranAtMs = container.status.state === "created" ? undefined : container.status.startedAtMs;
    container.setStatus({ state: "stopped", ...(ranAtMs !== undefined && { startedAtMs: ranAtMs }), exit });
    await records.saveState(id, storedState(container.status));
    throw new ClusterError("failed-precondition", text, { cause: error });
  } finally {
    container.activity = undefined;
    container.wake();
  }
}

/** Whoever asked for that start was told that it failed: what may run of it is nobody's. */
export async function undoStart(
  { tasks }: Pick<LifecycleDeps, "tasks">,
  container: Container,
): Promise<void> {
  container.undoing ??= removeTask(tasks, container.id)
    .then(() => void (container.hasDoubtfulStart = false))
    .finally(() => (container.undoing = undefined));
  await container.undoing;
}

/** Where the parts of volumes that containers mount are bound while these start. */
export function subpathDirectory(runDirectory: string): string {
  return join(runDirectory, "subpaths");
}

async function withSubpaths(
  { runDirectory, warn }: LifecycleDeps,
  { id, record }: Container,
  start: () => Promise<number>,
): Promise<number> {
  const parts = await bindSubpaths(subpathDirectory(runDirectory), id, record.mounts);
  try {
    return await start();
  } finally {
    // The container has it by now; the next start clears what stays.
    await parts.release().catch((error: unknown) => warn(`cannot unmount parts of volumes of ${id}`, error));
  }
}

/** What its volumes' options name is no longer mounted for it. */
export async function releaseVolumes(
  { volumes, warn }: Pick<LifecycleDeps, "volumes" | "warn">,
  { id, record }: Container,
): Promise<void> {
  for (const { type, name } of record.mounts) {
    if (type !== "volume" || name === undefined) continue;
    await volumes
      .release(name, id)
      .catch((error: unknown) => warn(`cannot unmount volume ${name}, which nobody uses any more`, error));
  }
}

/** Creates and starts the task; finds out how far it came when containerd went away meanwhile. */
async function runTask(deps: LifecycleDeps, container: Container): Promise<number> {
  const { tasks } = deps;
  const { id } = container;
  for (let attempt = 1; ; attempt++) {
    try {
      const task = attempt === 1 ? undefined : await tasks.get(id);
      if (task?.state === "running") return task.pid;
      if (task?.state === "stopped") {
        const { exitCode, atMs } = task;
        container.earlyExits.set(endedPid, { exitCode, atMs, oomKilled: false, error: "" });
        return endedPid;
      }
      if (task === undefined) await createTask(deps, container);
      return await tasks.start(id);
    } catch (error) {
      if (attempt >= startAttempts) throw error;
      if (!isAway(error) && !(await usesOtherRuntime(deps, container, error))) throw error;
    }
  }
}

async function createTask(
  { tasks, runtime, connection, filters }: LifecycleDeps,
  container: Container,
): Promise<void> {
  const { id, stored, output } = container;
  container.rootfs ??= await snapshotMounts(connection, id);
  const io = {
    stdin: container.stdin?.path ?? "",
    stdout: output?.stdoutPath ?? "",
    stderr: stored.tty ? "" : (output?.stderrPath ?? ""),
    terminal: stored.tty,
  };
  await tasks.create(id, container.rootfs, io, runtime.options);
  const { uncompiled } = container;
  container.uncompiled = undefined;
  if (uncompiled !== undefined) await filters.learn(id, uncompiled);
}

/** The specification as the shim and the runtime are to get it. */
export function prepared(
  { filters }: Pick<LifecycleDeps, "filters">,
  container: Container,
  spec: OciSpec,
): OciSpec {
  const { shimGroup } = container.stored;
  const filtered = withFilter(spec, filters);
  container.uncompiled =
    filtered.annotations?.[filterAnnotation] === undefined ? spec.linux.seccomp : undefined;
  const annotations = {
    ...filtered.annotations,
    ...(shimGroup !== undefined && { [groupAnnotation]: shimGroup }),
  };
  return { ...filtered, annotations };
}

/** What another container or the host gives, such as a namespace to share, is known only at each start. */
async function changeSpec(
  deps: LifecycleDeps,
  container: Container,
  adjust: (spec: OciSpec) => OciSpec,
): Promise<void> {
  const { connection } = deps;
  const { containers } = connection;
  const before = container.spec ?? (await storedSpec(connection, container.id));
  container.spec = undefined; // Large, and from here on containerd's word counts.
  const spec = prepared(deps, container, adjust(before));
  container.process = spec.process;
  const after = JSON.stringify(spec);
  if (after === JSON.stringify(before)) return;
  const changed = { id: container.id, spec: { typeUrl: specType, value: Buffer.from(after) } };
  await connection.call(containers, "update", {
    container: { labels: {}, image: "", runtime: undefined, snapshotter: "", snapshotKey: "", ...changed },
    updateMask: ["spec"],
  });
}

async function storedSpec(connection: Connection, id: string): Promise<OciSpec> {
  const { container } = await connection.call(connection.containers, "get", { id });
  if (container?.spec === undefined) {
    throw new ClusterError("not-found", `container ${id} has no specification`);
  }
  return JSON.parse(container.spec.value.toString("utf8")) as OciSpec;
}

/** The runtime is also part of containerd's record, which its shim reads when it cleans up. */
async function usesOtherRuntime(
  { connection, runtime, warn }: LifecycleDeps,
  container: Container,
  error: unknown,
): Promise<boolean> {
  const before = runtime.binary;
  const refusal = detailOf(error);
  if (!runtime.fallBack(refusal)) return false;
  warn(`${before} cannot run on this host, ${runtime.binary} is used instead`, error);
  const { containers } = connection;
  const { container: known } = await connection.call(containers, "get", { id: container.id });
  if (known?.runtime === undefined) return false;
  await unlessGone(connection.call(containers, "delete", { id: container.id }));
  const changed = { ...known, runtime: { name: known.runtime.name, options: runtime.options } };
  await connection.call(containers, "create", { container: changed });
  return true;
}

/**
 * As {@link endContainer}, for the process that an event names: the exit of a former run may be told late.
 *
 * @param pid - 0 when it is not known, as of one whose shim was lost.
 */
export async function endRun(
  deps: LifecycleDeps,
  container: Container,
  pid: number,
  exit: ExitStatus,
): Promise<void> {
  const { activity, status } = container;
  if (activity === "starting") {
    container.earlyExits.set(pid, exit);
    return;
  }
  if (status.state !== "running") return;
  const isThisRun = pid === 0 ? exit.atMs >= status.startedAtMs : status.pid === pid;
  if (isThisRun) await endContainer(deps, container, exit);
}

/** A container has ended, seen by an event or by comparing. Only the first report counts. */
export async function endContainer(
  deps: LifecycleDeps,
  container: Container,
  exit: ExitStatus,
): Promise<void> {
  const { records, tasks, warn, cgroupVersion, cgroupPath } = deps;
  const { id, status } = container;
  if (status.state !== "running") return;
  // The cgroup lives until the task is deleted, so this also sees what happened while we were away.
  const oomKilled =
    container.oomKilled ||
    status.oomKilled ||
    readOomKills(cgroupVersion, container.stored.cgroupPath ?? cgroupPath(id)) > 0;
  const ended: ExitStatus = { ...exit, oomKilled, atMs: exit.atMs > 0 ? exit.atMs : deps.clock.now() };
  container.output?.look();
  container.setStatus({ state: "stopped", startedAtMs: status.startedAtMs, exit: ended });
  emitContainer(deps, container, "die", { exit: ended, ranMs: Math.max(0, ended.atMs - status.startedAtMs) });
  deps.idle.active();
  const putOff = mayWait(container);
  const cleanUp = async (): Promise<void> => {
    await tasks.delete(id);
    container.output?.end();
    container.stdin?.reset();
    await releaseVolumes(deps, container);
  };
  const cleanup = (async () => {
    await records.saveState(id, storedState(container.status));
    if (!putOff) return cleanUp();
    const deferred = deps.idle.whenIdle(cleanUp);
    container.putOff = deferred;
    await deferred.done.finally(() => (container.putOff = undefined));
  })();
  // The next comparison finds the task again.
  container.cleanup = cleanup.catch((error: unknown) => {
    if (!isAway(error)) warn(`cannot clean up after container ${id}`, error);
  });
  if (!putOff) await container.cleanup;
}

/** Nobody reads what it still says, and it holds nothing that anybody else could want. */
function mayWait({ clearsUpLater, output, stored }: Container): boolean {
  const holds = stored.mounts.some(({ type }) => type === "volume" || type === "image");
  return clearsUpLater && output?.isFollowed !== true && stored.openStdin !== true && !holds;
}

/** The exit of a container whose task containerd no longer knows. */
export function lostExit(clock: Clock): ExitStatus {
  return {
    exitCode: lostExitCode,
    atMs: clock.now(),
    oomKilled: false,
    error: "its process was lost with its shim or its host",
  };
}

export async function waitContainer(container: Container, abort: AbortSignal): Promise<ExitStatus> {
  for (;;) {
    if (container.status.state === "stopped") return container.status.exit;
    if (container.activity === "removing") {
      throw new ClusterError("not-found", `No such container: ${container.id}`);
    }
    abort.throwIfAborted();
    await container.change(abort);
  }
}

export async function killContainer(
  deps: LifecycleDeps,
  container: Container,
  signal: string,
): Promise<void> {
  const number = signalNumber(signal);
  const { id, status } = container;
  const killed =
    status.state === "running" &&
    (await call(signalTo(deps, container, number), `cannot kill container ${id}`));
  if (!killed)
    throw new ClusterError("conflict", `cannot kill container: ${id}: container ${id} is not running`);
  emitContainer(deps, container, "kill", { signal });
}

export async function stopContainer(
  deps: LifecycleDeps,
  container: Container,
  options: StopOptions,
  abort: AbortSignal,
): Promise<ExitStatus | undefined> {
  const { id, stored, status } = container;
  if (status.state === "created") return undefined;
  if (status.state === "stopped") return status.exit;
  const signal = options.signal ?? stored.stopSignal;
  const number = signalNumber(signal);
  container.clearsUpLater = options.clearUp === "when-idle";
  deps.idle.active();
  emitContainer(deps, container, "kill", { signal });
  await call(signalTo(deps, container, number), `cannot stop container ${id}`);
  await thaw(deps, container);
  const exit =
    (await endedWithin(deps, container, options.graceMs, abort)) ?? (await forceEnd(deps, container, abort));
  emitContainer(deps, container, "stop");
  return exit;
}

/** The kernel stops giving it time, or goes on. @throws {ClusterError} `conflict` when it does not run. */
export async function pauseContainer(
  deps: LifecycleDeps,
  container: Container,
  action: "pause" | "resume",
): Promise<void> {
  const { id, status } = container;
  if (status.state !== "running") throw new ClusterError("conflict", `container ${id} is not running`);
  await call(deps.tasks[action](id), `cannot ${action} container ${id}`);
  if (container.status.state !== "running") return; // It ended meanwhile.
  container.setStatus(
    action === "pause" ? { ...container.status, paused: true } : resumed(container.status, deps.clock),
  );
}

/** The status of one that goes on after a pause. */
export function resumed(status: RunningState, clock: Clock): RunningState {
  const { paused: _paused, ...rest } = status;
  return { ...rest, resumedAtMs: clock.now() };
}

/** Removes all that there is of it. Safe to repeat: the record goes last. */
export async function removeContainer(
  deps: LifecycleDeps,
  container: Container,
  keepsVolumes = false,
): Promise<void> {
  const { connection, records, volumes, payloads, runDirectory } = deps;
  const { id, stored } = container;
  if (container.status.state === "running") await forceEnd(deps, container, new AbortController().signal);
  container.activity = "removing";
  try {
    await container.cleaned();
    await container.written;
    await releaseVolumes(deps, container);
    await call(
      Promise.all([removeFromContainerd(connection, deps.tasks, id), payloads.remove(id)]),
      `cannot remove container ${id}`,
    );
    if (stored.mounts.some(({ type }) => type === "image"))
      await call(deps.imageMounts.remove(id), `cannot remove the image mounts of container ${id}`);
    container.output?.end();
    container.output?.close();
    await container.stdin?.remove();
    for (const { type, name } of stored.mounts) {
      if (type === "volume" && name !== undefined)
        await volumes.abandon(name, id, keepsVolumes ? "kept" : "removed");
    }
    await rm(join(runDirectory, id), { recursive: true, force: true });
    await records.remove(id);
    deps.shims.forget(id);
    container.wake();
  } catch (error) {
    container.activity = undefined;
    throw error;
  }
}

/** Task, record and snapshot, in whatever state they are. */
export async function removeFromContainerd(connection: Connection, tasks: Tasks, id: string): Promise<void> {
  const { containers } = connection;
  try {
    await connection.call(containers, "delete", { id });
  } catch (error) {
    if (!isNotFound(error)) {
      // A task is still there: its end was not seen.
      await removeTask(tasks, id);
      await unlessGone(connection.call(containers, "delete", { id }));
    }
  }
  await removeSnapshot(connection, id);
}

/** SIGKILL takes a moment, and a task that has not ended cannot be deleted. */
async function removeTask(tasks: Tasks, id: string): Promise<void> {
  if (await tasks.kill(id, sigkill)) {
    const task = await tasks.get(id);
    if (task?.state === "running" && task.paused === true) await tasks.resume(id);
    await tasks.ended(id, killWaitMs);
  }
  await tasks.delete(id);
}

/** After its signal: in cgroups of version 1 a frozen process takes none, not even SIGKILL, before it goes on. */
async function thaw(deps: LifecycleDeps, container: Container): Promise<void> {
  if (container.status.state !== "running" || container.status.paused !== true) return;
  try {
    await pauseContainer(deps, container, "resume");
  } catch (error) {
    // In those of version 2 it has perhaps ended by now.
    const task = await call(deps.tasks.get(container.id), `cannot look at container ${container.id}`);
    if (task?.state === "running" && task.paused === true) throw error;
  }
}

/** False when there was nothing left to signal. A frozen process would not be seen to get it. */
async function signalTo(
  { tasks, signalDirectly }: LifecycleDeps,
  { id, status }: Container,
  signal: number,
): Promise<boolean> {
  const pid = status.state === "running" && status.paused !== true ? status.pid : 0;
  return signalDirectly(pid, id, signal) || tasks.kill(id, signal);
}

async function forceEnd(deps: LifecycleDeps, container: Container, abort: AbortSignal): Promise<ExitStatus> {
  const { id } = container;
  await call(signalTo(deps, container, sigkill), `cannot kill container ${id}`);
  await thaw(deps, container);
  const exit = await endedWithin(deps, container, killWaitMs, abort);
  if (exit !== undefined) return exit;
  throw new ClusterError(
    "deadline-exceeded",
    `container ${id} did not end within ${killWaitMs / 1000} s of SIGKILL`,
  );
}

async function endedWithin(
  { clock }: LifecycleDeps,
  container: Container,
  limitMs: number,
  abort: AbortSignal,
): Promise<ExitStatus | undefined> {
  using limit = deadline(clock, limitMs, "the end of a container", abort);
  try {
    return await waitContainer(container, limit.signal);
  } catch (error) {
    if (!limit.signal.aborted || abort.aborted) throw error;
    return undefined;
  }
}

async function call<Result>(promise: Promise<Result>, doing: string): Promise<Result> {
  try {
    return await promise;
  } catch (error) {
    throw toEngineError(error, doing);
  }
}
