import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { TaskExit } from "../../../proto/gen/containerd/events.ts";
import { containerdNamespace } from "../../../proto/host.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { createContainer } from "../../../worker/engine/create.ts";
import type { ContainerCreate, ContainerState, Image } from "../../../worker/engine/engine.ts";
import { SeccompFilters } from "../../../worker/engine/filters.ts";
import type { HostDescription } from "../../../worker/engine/host.ts";
import { clearFills } from "../../../worker/mounts/resolve.ts";
import type { ImageMounts } from "../../../worker/engine/image-mounts.ts";
import { noShims, plainSpec } from "./plain.ts";
import { Container } from "../../../worker/engine/container.ts";
import type { Connection } from "../../../worker/engine/connection.ts";
import { IdleQueue } from "../../../worker/engine/idle-queue.ts";
import {
  endContainer,
  killContainer,
  removeFromContainerd,
  startContainer,
  stopContainer,
} from "../../../worker/engine/lifecycle.ts";
import { compare, type MonitorDeps, onEvent } from "../../../worker/engine/monitor.ts";
import { Records, type StoredContainer } from "../../../worker/engine/records.ts";
import { Runtime } from "../../../worker/engine/runtime.ts";
import { ShimGroups } from "../../../worker/engine/shims.ts";
import { Tasks, type TaskView } from "../../../worker/engine/task.ts";
import { VirtualClock } from "../../sim/clock.ts";

const id = "a".repeat(64);
const running: ContainerState = { state: "running", pid: 42, startedAtMs: 1, oomKilled: false };
const exit = { exitCode: 3, atMs: 5, oomKilled: false, error: "" };

const noImageMounts = {
  ensure: () => Promise.resolve(),
  remove: () => Promise.resolve(),
} as unknown as ImageMounts;

/** containerd's tasks in memory. */
class FakeTasks extends Tasks {
  /** What happens while they are being listed. */
  meanwhile: () => Promise<void> = () => Promise.resolve();
  listed: Record<string, TaskView> = {};
  /** What a start does, and its process. */
  starting: () => Promise<number> = async () => 42;
  readonly deleted: string[] = [];
  readonly resumed: string[] = [];
  readonly killed: number[] = [];

  constructor() {
    super(undefined as never, undefined as never); // No call below reaches a connection.
  }
  override async create(): Promise<void> {}
  override async start(): Promise<number> {
    return this.starting();
  }
  override async pause(): Promise<void> {}
  override async resume(container: string): Promise<void> {
    this.resumed.push(container);
  }
  override async get(container: string): Promise<TaskView | undefined> {
    return this.listed[container];
  }
  override async kill(_container: string, signal: number): Promise<boolean> {
    this.killed.push(signal);
    return true;
  }
  override async ended(): Promise<void> {}
  override async delete(container: string): Promise<void> {
    this.deleted.push(container);
  }
  override async list(): Promise<Map<string, TaskView>> {
    const listed = new Map(Object.entries(this.listed));
    await this.meanwhile();
    return listed;
  }
}

async function world(t: Test, status: ContainerState) {
  const directory = await mkdtemp(join(tmpdir(), "shoal-lifecycle-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const stored = {
    id,
    name: "web",
    image: "web:1",
    labels: {},
    mounts: [],
    tty: false,
    stopSignal: "SIGTERM",
  } as Partial<StoredContainer>;
  const container = new Container(stored as StoredContainer, status);
  container.rootfs = [];
  const tasks = new FakeTasks();
  const warnings: string[] = [];
  const clock = new VirtualClock(60_000);
  const signals = { isTaken: true, sent: [] as string[] };
  const deps: MonitorDeps = {
    clock,
    connection: undefined as never,
    tasks,
    runtime: new Runtime("runc", "/nowhere"),
    shims: new ShimGroups(systemRandom, noShims),
    filters: new SeccompFilters(() => Promise.reject(new Error("none"))),
    records: new Records(directory),
    idle: new IdleQueue(clock),
    signalDirectly: (pid, container, signal) => {
      signals.sent.push(`${signal} to ${pid} of ${container.slice(0, 2)}`);
      return signals.isTaken;
    },
    volumes: undefined as never,
    imageMounts: noImageMounts,
    payloads: undefined as never,
    runDirectory: directory,
    cgroupVersion: 2,
    cgroupPath: () => "/nowhere",
    emit: () => undefined,
    warn: (message) => void warnings.push(message),
    containers: new Map([[id, container]]),
    remains: new Set(),
    connected: () => undefined,
    disconnected: () => undefined,
    execPrefix: "ours",
  };
  const folder = join(directory, id);
  mkdirSync(folder);
  const stateOnDisk = async (): Promise<unknown> =>
    JSON.parse(await readFile(join(folder, "state.json"), "utf8"));
  return { deps, clock, container, tasks, signals, warnings, folder, stateOnDisk };
}

t.test("a list older than a start does not end the container, however long it took", async (t) => {
  const { deps, container, tasks } = await world(t, { state: "created" });
  tasks.meanwhile = async () => void (await startContainer(deps, container));
  await compare(deps);
  t.equal(container.status.state, "running");
});

t.test("a list older than an exit does not bring the container back to life", async (t) => {
  const { deps, container, tasks } = await world(t, running);
  tasks.listed[id] = { state: "running", pid: 42 };
  tasks.meanwhile = () => endContainer(deps, container, exit);
  await compare(deps);
  t.match(container.status, { state: "stopped", exit });
});

t.test("what is removed or signalled while its shim ends is gone; any other failure is told", async (t) => {
  const tasksThat = (details: string): Tasks => {
    const error = Object.assign(new Error(`2 UNKNOWN: ${details}`), { code: 2, details });
    const connection = { call: () => Promise.reject(error) } as unknown as Connection;
    return new Tasks(connection, new ShimGroups(systemRandom, noShims));
  };
  const ended = tasksThat("failed to delete task: ttrpc: closed");
  await ended.delete(id);
  await ended.deleteExec(id, "ours");
  await ended.ended(id, 1);
  t.equal(await ended.kill(id, 15), false, "nothing was left to signal");
  const refusing = tasksThat("device or resource busy");
  await t.rejects(refusing.delete(id), /busy/);
  await t.rejects(refusing.deleteExec(id, "ours"), /busy/);
  await t.rejects(refusing.ended(id, 1), /busy/);
  await t.rejects(refusing.kill(id, 15), /busy/);
});

t.test("a container whose task is nowhere has ended", async (t) => {
  const { deps, container } = await world(t, running);
  await compare(deps);
  t.match(container.status, { state: "stopped", exit: { exitCode: 137 } });
});

t.test("an exit that could not be saved is saved before containerd forgets it", async (t) => {
  const { deps, container, tasks, folder, stateOnDisk } = await world(t, running);
  tasks.listed[id] = { state: "stopped", exitCode: exit.exitCode, atMs: exit.atMs };
  rmSync(folder, { recursive: true }); // Nothing can be written, as on a full disk.
  await compare(deps);
  t.match(container.status, { state: "stopped", exit });
  t.strictSame(tasks.deleted, [], "containerd still has the exit code");
  await compare(deps);
  t.strictSame(tasks.deleted, []);
  mkdirSync(folder);
  await compare(deps);
  t.strictSame(tasks.deleted, [id]);
  t.match(await stateOnDisk(), { exit });
});

t.test("a container that runs is running, whether or not that could be saved", async (t) => {
  const { deps, container, folder, warnings } = await world(t, { state: "created" });
  rmSync(folder, { recursive: true });
  t.match(await startContainer(deps, container), { pid: 42 });
  t.equal(container.status.state, "running");
  t.equal(warnings.length, 1);
});

t.test("an init that this host lacks is refused for good: waiting would not bring one", async (t) => {
  const { deps } = await world(t, running);
  const payloads = { write: async () => [], remove: async () => undefined };
  const host = { cgroupVersion: 2 } as HostDescription;
  const make = { ...deps, payloads, host, random: systemRandom, users: new Map(), ownDirectories: [] };
  const request = { id, name: "web", image: "web:1", spec: { ...plainSpec, init: true } } as ContainerCreate;
  await t.rejects(createContainer(make, request, {} as Image, new AbortController().signal), {
    code: "invalid-argument",
    message: /tini/,
  });
});

t.test("what filling a volume left when it was cut short is cleared", async (t) => {
  const { folder } = await world(t, running);
  mkdirSync(join(folder, "fill", "image-1"), { recursive: true });
  await clearFills(join(folder, "fill"));
  t.strictSame(await readdir(join(folder, "fill")), []);
  await clearFills(join(folder, "never-made"));
});

t.test("its first process is signalled directly, and by the runtime where that is not certain", async (t) => {
  const { deps, container, tasks, signals } = await world(t, running);
  await killContainer(deps, container, "SIGUSR1");
  t.strictSame(signals.sent, ["10 to 42 of aa"]);
  t.strictSame(tasks.killed, []);
  signals.isTaken = false;
  await killContainer(deps, container, "SIGUSR1");
  t.strictSame(tasks.killed, [10]);
  signals.isTaken = true;
  container.setStatus({ ...running, paused: true });
  await killContainer(deps, container, "SIGKILL");
  t.strictSame(signals.sent.slice(2), ["9 to 0 of aa"], "of one that is frozen no process is named");
});

/** Stopped by whoever has no use for what is left, and ended. */
async function stoppedWhenIdle(t: Test) {
  const scene = await world(t, running);
  const { deps, container } = scene;
  const stopping = stopContainer(
    deps,
    container,
    { graceMs: 1_000, clearUp: "when-idle" },
    new AbortController().signal,
  );
  await endContainer(deps, container, exit);
  t.match(await stopping, exit);
  return scene;
}

t.test("what is left of a task waits for an idle host, and its exit is safe before", async (t) => {
  const { deps, clock, container, tasks, stateOnDisk } = await stoppedWhenIdle(t);
  t.match(await stateOnDisk(), { exit });
  tasks.listed[id] = { state: "stopped", exitCode: exit.exitCode, atMs: exit.atMs };
  await compare(deps);
  t.strictSame(tasks.deleted, [], "nor does a comparison clear it away");
  await clock.advance(1_000);
  await container.cleaned();
  t.strictSame(tasks.deleted, [id]);
});

t.test("what is left goes at once when somebody waits for it", async (t) => {
  const { container, tasks } = await stoppedWhenIdle(t);
  await container.cleaned();
  t.strictSame(tasks.deleted, [id]);
});

t.test("a container that ends by itself leaves nothing for later", async (t) => {
  const { deps, container, tasks } = await world(t, running);
  await endContainer(deps, container, exit);
  t.strictSame(tasks.deleted, [id]);
});

/** containerd's news of an exit, of a process that it may not name. */
const exitOf = (pid: number, seconds = 1) => ({
  timestamp: undefined,
  namespace: containerdNamespace,
  topic: "/tasks/exit",
  event: {
    typeUrl: "containerd.events.TaskExit",
    value: Buffer.from(
      TaskExit.encode({
        containerId: id,
        id,
        pid,
        exitStatus: 3,
        exitedAt: { seconds, nanos: 0 },
      }).finish(),
    ),
  },
});

t.test("the late exit of a former run does not end the one that runs", async (t) => {
  const { deps, container, tasks } = await world(t, { ...running, startedAtMs: 2_000 });
  await onEvent(deps, exitOf(41));
  await onEvent(deps, exitOf(0));
  t.equal(container.status.state, "running");
  t.strictSame(tasks.deleted, []);
  await onEvent(deps, exitOf(42));
  t.match(container.status, { state: "stopped", exit: { exitCode: 3 } });
});

t.test("an exit without a process, as of a lost shim, ends the run that began before it", async (t) => {
  const { deps, container } = await world(t, running);
  await onEvent(deps, exitOf(0));
  t.match(container.status, { state: "stopped", exit: { exitCode: 3 } });
});

t.test("of exits that come during a start only that of its own process counts", async (t) => {
  const { deps, container, tasks } = await world(t, { state: "created" });
  tasks.starting = async () => {
    await onEvent(deps, exitOf(41));
    return 42;
  };
  await startContainer(deps, container);
  t.equal(container.status.state, "running");
  await onEvent(deps, exitOf(42));
  t.equal(container.status.state, "stopped");
  tasks.starting = async () => {
    await onEvent(deps, exitOf(42));
    await onEvent(deps, exitOf(43));
    return 43;
  };
  await startContainer(deps, container);
  t.match(container.status, { state: "stopped", exit: { exitCode: 3 } }, "it ended before that was answered");
});

const away = (): Promise<never> => Promise.reject(new ClusterError("unavailable", "containerd is away"));

t.test("what runs of a start that was said to have failed is removed, not taken up", async (t) => {
  const { deps, container, tasks } = await world(t, { state: "created" });
  tasks.starting = away;
  await t.rejects(startContainer(deps, container), { code: "unavailable" });
  tasks.listed[id] = { state: "running", pid: 42 };
  await compare(deps);
  t.strictSame([tasks.killed, tasks.deleted], [[9], [id]]);
  t.equal(container.status.state, "created");
  tasks.listed = {};
  tasks.starting = async () => 43;
  await startContainer(deps, container);
  t.match(container.status, { state: "running", pid: 43 });
});

t.test("the next start removes what runs of one that was said to have failed", async (t) => {
  const { deps, container, tasks } = await world(t, { state: "created" });
  tasks.starting = away;
  await t.rejects(startContainer(deps, container), { code: "unavailable" });
  tasks.starting = async () => 43;
  await startContainer(deps, container);
  t.strictSame([tasks.killed, tasks.deleted], [[9], [id]]);
  await compare(deps);
  tasks.listed[id] = { state: "running", pid: 43 };
  t.strictSame(tasks.killed, [9], "once");
});

t.test("a failed start again leaves a container that has run before one that has", async (t) => {
  const { deps, container, tasks } = await world(t, { state: "stopped", startedAtMs: 7, exit });
  tasks.starting = () => Promise.reject(new Error("exec: no such file"));
  await t.rejects(startContainer(deps, container));
  t.match(container.status, { state: "stopped", startedAtMs: 7, exit: { error: /no such file/ } });
});

t.test("one that is paused goes on after its signal, or it would never end", async (t) => {
  const { deps, container, tasks } = await world(t, { ...running, paused: true });
  const stopping = stopContainer(deps, container, { graceMs: 1_000 }, new AbortController().signal);
  await new Promise(setImmediate);
  t.strictSame([tasks.resumed, container.status], [[id], { ...running, resumedAtMs: 60_000 }]);
  await endContainer(deps, container, exit);
  await stopping;
});

t.test("a paused task without an end that was seen goes on after its kill, and is removed", async (t) => {
  const { tasks } = await world(t, running);
  tasks.listed[id] = { state: "running", pid: 42, paused: true };
  let isFirst = true;
  const connection = {
    call: async (_client: unknown, name: string) => {
      if (name !== "delete" || !isFirst) return {};
      isFirst = false;
      throw Object.assign(new Error("9 FAILED_PRECONDITION: running task"), { code: 9 });
    },
  } as unknown as Connection;
  await removeFromContainerd(connection, tasks, id);
  t.strictSame([tasks.killed, tasks.resumed, tasks.deleted], [[9], [id], [id]]);
});
