import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { ContainerState, Engine, ExecResult } from "../../../worker/engine/engine.ts";
import { watchHealth } from "../../../worker/health/probe.ts";
import type { HealthPlan, HealthState } from "../../../worker/health/state.ts";
import { VirtualClock } from "../../sim/clock.ts";

const plan: HealthPlan = {
  command: ["true"],
  intervalMs: 1_000,
  timeoutMs: 500,
  startPeriodMs: 0,
  startIntervalMs: 200,
  retries: 2,
};
const running: ContainerState = { state: "running", pid: 1, startedAtMs: 0, oomKilled: false };
const failed: ExecResult = { exitCode: 1, output: "" };

/** A container that was healthy, and whose probes fail. */
function fixture() {
  const clock = new VirtualClock();
  const end = new AbortController();
  t.teardown(() => end.abort());
  const scene = {
    status: running,
    probes: 0,
    answer: async (): Promise<ExecResult> => failed,
    states: [] as HealthState[],
    ended: false,
    /** As text, since the last look. */
    async after(ms: number): Promise<string> {
      await clock.advance(ms);
      const seen = scene.states.splice(0).map(({ status, failingStreak }) => `${status}/${failingStreak}`);
      return seen.join(" ");
    },
    clock,
  };
  const engine = {
    inspect: async () => ({ id: "one", status: scene.status }),
    exec: () => {
      scene.probes += 1;
      return scene.answer();
    },
  } as unknown as Engine;
  const known: HealthState = { status: "healthy", failingStreak: 0, log: [] };
  const watch = {
    containerId: "one",
    plan,
    containerStartedAtMs: 0,
    known,
    onState: (state: HealthState) => void scene.states.push(state),
  };
  watchHealth({ clock, engine }, watch, end.signal).then(
    () => (scene.ended = true),
    (error: unknown) => {
      if (!end.signal.aborted) throw error;
    },
  );
  return scene;
}

t.test("failures of one that runs count", async (t) => {
  const scene = fixture();
  t.equal(await scene.after(2_000), "healthy/1 unhealthy/2");
  t.equal(scene.ended, true);
});

t.test("a paused container is not probed, and is again once it goes on", async (t) => {
  const scene = fixture();
  scene.status = { ...running, paused: true };
  t.equal(await scene.after(10_000), "");
  t.equal(scene.probes, 0);
  scene.status = { ...running, resumedAtMs: 10_000 };
  t.equal(await scene.after(2_000), "healthy/1 unhealthy/2");
});

t.test("a probe that fails because the container was paused meanwhile does not count", async (t) => {
  const scene = fixture();
  scene.answer = async () => {
    scene.status = { ...running, paused: true };
    throw new ClusterError("conflict", "cannot exec in a paused container");
  };
  t.equal(await scene.after(1_000), "");
  scene.status = running;
  scene.answer = async () => {
    // Paused, and going on again, while its command took too long.
    scene.status = { ...running, resumedAtMs: scene.clock.now() };
    throw new ClusterError("deadline-exceeded", "the command did not end");
  };
  t.equal(await scene.after(1_000), "");
  t.equal(scene.probes, 2);
  scene.answer = async () => failed;
  t.equal(await scene.after(1_000), "healthy/1");
});

t.test("an engine that is away says nothing of a container's health", async (t) => {
  const scene = fixture();
  scene.answer = () => Promise.reject(new ClusterError("unavailable", "containerd is away"));
  t.equal(await scene.after(60_000), "");
  t.equal(scene.ended, false);
  scene.answer = async () => ({ exitCode: 0, output: "" });
  t.equal(await scene.after(1_000), "healthy/0");
});

t.test("what ended during its probe is not unhealthy", async (t) => {
  const scene = fixture();
  scene.answer = async () => {
    const exit = { exitCode: 0, atMs: 0, oomKilled: false, error: "" };
    scene.status = { state: "stopped", startedAtMs: 0, exit };
    throw new ClusterError("conflict", "container one is not running");
  };
  t.equal(await scene.after(10_000), "");
});
