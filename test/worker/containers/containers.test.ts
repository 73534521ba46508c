import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { orAborted } from "../../../runtime/signal.ts";
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
async function fixture() {
  const clock = new VirtualClock();
  const directory = mkdtempSync(join(tmpdir(), "shoal-containers-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const store = new LocalStore(directory);
  await store.load();
  await store.save(startedRecord(id, { RestartPolicy: { Name: "always" }, NetworkMode: "none" }));
  let status = ended(0);
  let startNow = (): void => undefined;
  let begun = (): void => undefined;
  const starting = new Promise<void>((resolve) => (begun = resolve));
  let end = (_exit: ExitStatus): void => undefined;
  const engine = {
    inspect: async () => ({ id, status }),
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
    facts: {},
  } as unknown as LocalDeps);
  return {
    containers,
    clock,
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
