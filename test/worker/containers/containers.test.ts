import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { orAborted } from "../../../runtime/signal.ts";
import { parseLimits } from "../../../worker/containers/config.ts";
import { Fields } from "../../../worker/containers/fields.ts";
import { type LocalDeps, LocalContainers } from "../../../worker/containers/containers.ts";
import { LocalStore } from "../../../worker/containers/store.ts";
import type { ContainerState, ExitStatus } from "../../../worker/engine/engine.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { startedRecord } from "./record.ts";

const id = "a".repeat(64);
const none = new AbortController().signal;
const ended = (exitCode: number): ContainerState => ({
  state: "stopped",
  startedAtMs: 0,
  exit: { exitCode, atMs: 0, oomKilled: false, error: "" },
});

/** One container with the policy "always" that has ended, over an engine whose start takes until `startNow`. */
async function fixture(host: Readonly<Record<string, unknown>> = {}, wantsToRun = true) {
  const clock = new VirtualClock();
  const directory = mkdtempSync(join(tmpdir(), "shoal-containers-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const store = new LocalStore(directory);
  await store.load();
  const policy = { RestartPolicy: { Name: "always" }, NetworkMode: "none" };
  await store.save({ ...startedRecord(id, { ...policy, ...host }), wantsToRun });
  let status: ContainerState = wantsToRun ? ended(0) : { state: "created" };
  let startNow = (): void => undefined;
  let begun = (): void => undefined;
  const starting = new Promise<void>((resolve) => (begun = resolve));
  let end = (_exit: ExitStatus): void => undefined;
  let isThere = true;
  const seen = { removals: 0, killed: [] as string[], updates: [] as object[], refusals: 0 };
  const engine = {
    inspect: async () => (isThere ? { id, name: "one", status, stopSignal: "SIGTERM" } : undefined),
    remove: async () => {
      seen.removals += 1;
      if (seen.refusals-- > 0) throw new Error("device or resource busy");
      isThere = false;
    },
    kill: async (_id: string, signal: string) => void seen.killed.push(signal),
    update: async (_id: string, resources: object) => {
      await new Promise(setImmediate);
      seen.updates.push(resources);
    },
    list: async () => [],
    start: async () => {
      const gate = new Promise<void>((resolve) => (startNow = resolve));
      begun();
      await gate;
      status = { state: "running", pid: 42, startedAtMs: 0, oomKilled: false };
    },
    pause: async () => {
      if (status.state === "running") status = { ...status, paused: true };
    },
    resume: async () => {
      await new Promise(setImmediate);
      if (status.state !== "running") return;
      const { paused: _paused, ...rest } = status;
      status = rest;
    },
    stop: async () => {
      const over = ended(143);
      status = over;
      if (over.state === "stopped") end(over.exit);
    },
    wait: (_id: string, signal: AbortSignal) =>
      orAborted(new Promise<ExitStatus>((resolve) => (end = resolve)), signal),
  };
  const network = {
    list: async () => [],
    attach: async () => ({ kind: "host", files: undefined }),
    detach: async () => undefined,
  };
  const containers = await LocalContainers.open({
    clock,
    random: systemRandom,
    log: silentLog,
    engine,
    network,
    networks: { find: () => undefined, resolve: () => undefined },
    cluster: { find: () => undefined, keep: () => undefined },
    directory,
    daemonRun: "1",
    facts: {
      cpuCount: 2,
      memoryNodes: 1,
      cgroupVersion: 1,
      memoryBytes: 2 ** 30,
      swapLimit: true,
      blockWeight: true,
    },
  } as unknown as LocalDeps);
  return {
    containers,
    clock,
    seen,
    onDisk: async () => (await store.load())[0],
    running: async () => {
      const started = containers.start(id, none);
      await starting;
      startNow();
      await started;
    },
    end: (exitCode: number) => {
      status = ended(exitCode);
      end({ exitCode, atMs: 0, oomKilled: false, error: "" });
    },
    starting,
    startNow: () => startNow(),
    status: () => status,
    state: () => status.state,
  };
}

t.test("a stop that comes while a restart by policy is under way stops what was started", async (t) => {
  const { containers, clock, starting, startNow, state } = await fixture();
  await new Promise(setImmediate);
  t.equal(containers.isRestarting(id), true);
  const ticking = clock.advance(100);
  await starting;
  const stopping = containers.stop(id, {}, none);
  await new Promise(setImmediate);
  startNow();
  t.equal(await stopping, true);
  await ticking;
  t.equal(state(), "stopped", "and it is not left running");
  t.equal(containers.isRestarting(id), false);
  await clock.advance(60_000);
  t.equal(state(), "stopped", "for good");
  await containers.close();
});

t.test("what stands still for some work runs again once that is answered, also when it failed", async (t) => {
  const { containers, clock, starting, startNow, status } = await fixture();
  await new Promise(setImmediate);
  const ticking = clock.advance(100);
  await starting;
  startNow();
  await ticking;
  const isPaused = (): boolean | undefined => {
    const now = status();
    return now.state === "running" ? now.paused : undefined;
  };
  t.equal(await containers.whilePaused(id, async () => isPaused()), true);
  t.not(isPaused(), true);
  await t.rejects(
    containers.whilePaused(id, () => Promise.reject(new Error("no room"))),
    { message: "no room" },
  );
  t.not(isPaused(), true);
  await containers.pause(id);
  await containers.whilePaused(id, async () => undefined);
  t.equal(isPaused(), true, "who was paused before stays so");
  await containers.close();
});

/** One that somebody stopped. */
const stopped = { RestartPolicy: { Name: "no" } };

t.test(
  "what is being started is removed by force alone, and is not killed by a removal without it",
  async (t) => {
    const { containers, starting, startNow, state, seen } = await fixture(stopped, false);
    const started = containers.start(id, none);
    await starting;
    const removal = containers.remove(id, { force: false, volumes: "kept" });
    const refused = t.rejects(removal, { code: "conflict", message: /container is running/ });
    await new Promise(setImmediate);
    startNow();
    t.equal(await started, true);
    await refused;
    t.strictSame([state(), seen.removals], ["running", 0]);
    await containers.remove(id, { force: true, volumes: "kept" });
    t.equal(seen.removals, 1);
    await t.rejects(containers.remove(id, { force: true, volumes: "kept" }), { code: "not-found" });
    await containers.close();
  },
);

t.test("a kill ends the wait for a restart by policy, and is told to who waits for the end", async (t) => {
  const { containers, clock, state, seen } = await fixture();
  await new Promise(setImmediate);
  t.equal(containers.isRestarting(id), true);
  const over = containers.wait(id, "not-running", none);
  await containers.kill(id, "SIGUSR1");
  t.equal(containers.isRestarting(id), true, "what would not have ended it ends nothing");
  await containers.kill(id, "SIGKILL");
  t.equal(containers.isRestarting(id), false);
  t.match(await over, { exitCode: 0 });
  await clock.advance(60_000);
  t.strictSame([state(), seen.killed], ["stopped", []]);
  await containers.close();
});

t.test("a kill that meets a restart by policy under way ends what was started", async (t) => {
  const { containers, clock, starting, startNow, seen } = await fixture();
  await new Promise(setImmediate);
  const ticking = clock.advance(100);
  await starting;
  const killing = containers.kill(id, "SIGTERM");
  await new Promise(setImmediate);
  startNow();
  await killing;
  await ticking;
  t.strictSame(seen.killed, ["SIGTERM"]);
  t.equal(containers.record(id)?.wantsToRun, false);
  await containers.close();
});

const autoRemoved = { RestartPolicy: { Name: "no" }, AutoRemove: true };

t.test("what goes with its end is removed in the end, however often that fails at first", async (t) => {
  const { containers, clock, running, end, seen } = await fixture(autoRemoved, false);
  await running();
  const gone = containers.wait(id, "removed", none);
  seen.refusals = 3;
  end(7);
  for (let second = 0; second < 10; second++) {
    await clock.advance(1_000);
    await new Promise(setImmediate);
  }
  t.match(await gone, { exitCode: 7 });
  t.equal(seen.removals, 4);
  t.equal(containers.record(id), undefined);
  await containers.close();
});

t.test("a restart by hand keeps what goes with its end, also on disk", async (t) => {
  const { containers, running, starting, startNow, state, seen, onDisk } = await fixture(autoRemoved, false);
  await running();
  const restarted = containers.restart(id, {}, none);
  await starting;
  while (state() !== "stopped") await new Promise(setImmediate);
  t.equal((await onDisk())?.hostConfig.AutoRemove, true);
  while (state() !== "running") {
    startNow();
    await new Promise(setImmediate);
  }
  await restarted;
  t.equal(seen.removals, 0);
  t.equal((await onDisk())?.hostConfig.AutoRemove, true);
  await containers.close();
});

t.test("two updates at once add up", async (t) => {
  const { containers, running, onDisk, seen } = await fixture(stopped, false);
  await running();
  const update = (body: object) => {
    const given = new Fields(body);
    return containers.update(id, { limits: parseLimits(given), given });
  };
  await Promise.all([update({ CpuShares: 512 }), update({ PidsLimit: 50 })]);
  t.match((await onDisk())?.hostConfig, { CpuShares: 512, PidsLimit: 50 });
  t.match(seen.updates, [{ pids: undefined }, { pids: { limit: 50 } }]);
  await update({ PidsLimit: -1 });
  await update({ PidsLimit: 0 });
  t.match(seen.updates.slice(2), [{ pids: { limit: 2 ** 22 } }, { pids: { limit: 2 ** 22 } }], "lifted");
  await containers.close();
});

t.test("works for which one container stands still follow one another", async (t) => {
  const { containers, running, status } = await fixture(stopped, false);
  await running();
  const isPaused = (): boolean => {
    const now = status();
    return now.state === "running" && now.paused === true;
  };
  const seen: string[] = [];
  const work = (name: string) => async (): Promise<void> => {
    seen.push(`${name} ${isPaused() ? "still" : "moving"}`);
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    seen.push(`${name} ${isPaused() ? "still" : "moving"}`);
  };
  await Promise.all([containers.whilePaused(id, work("one")), containers.whilePaused(id, work("two"))]);
  t.strictSame(seen, ["one still", "one still", "two still", "two still"]);
  t.equal(isPaused(), false);
  await containers.close();
});
