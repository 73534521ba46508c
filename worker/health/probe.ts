import { ClusterError, errorText } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Engine } from "../engine/engine.ts";
import { afterProbe, initialHealth, keptOutputBytes, nextProbeDelayMs } from "./state.ts";
import type { HealthPlan, HealthState, ProbeResult } from "./state.ts";

interface ProbeDeps {
  readonly clock: Clock;
  readonly engine: Engine;
}

/**
 * Runs one probe in a running container. Rejects only when `signal` aborts.
 *
 * @returns Undefined when it says nothing of the container: it stood still or has ended, or the engine was away.
 */
async function probe(
  { clock, engine }: ProbeDeps,
  containerId: string,
  plan: HealthPlan,
  signal: AbortSignal,
): Promise<ProbeResult | undefined> {
  if ((await goingOnSince(engine, containerId)) === undefined) return undefined;
  const startedAtMs = clock.now();
  const request = { args: plan.command, timeoutMs: plan.timeoutMs, outputLimitBytes: keptOutputBytes };
  try {
    const { exitCode, output } = await engine.exec(containerId, request, signal);
    const result = { startedAtMs, endedAtMs: clock.now(), exitCode, output };
    return exitCode === 0 || (await hasGoneOn()) ? result : undefined;
  } catch (error) {
    signal.throwIfAborted();
    const isAway = error instanceof ClusterError && error.code === "unavailable";
    if (isAway || !(await hasGoneOn())) return undefined;
    const tookTooLong = error instanceof ClusterError && error.code === "deadline-exceeded";
    const output = tookTooLong ? `Health check exceeded timeout (${plan.timeoutMs}ms)` : errorText(error);
    return { startedAtMs, endedAtMs: clock.now(), exitCode: -1, output };
  }

  async function hasGoneOn(): Promise<boolean> {
    const sinceMs = await goingOnSince(engine, containerId);
    return sinceMs !== undefined && sinceMs < startedAtMs;
  }
}

/** Unix milliseconds; undefined while it stands still or does not run. */
async function goingOnSince(engine: Engine, containerId: string): Promise<number | undefined> {
  const { status } = (await engine.inspect(containerId)) ?? {};
  return status?.state === "running" && status.paused !== true ? (status.resumedAtMs ?? 0) : undefined;
}

export interface HealthWatch {
  readonly containerId: string;
  readonly plan: HealthPlan;
  /** Wall clock, unix milliseconds. */
  readonly containerStartedAtMs: number;
  /** What is known from before a restart of the worker. */
  readonly known: HealthState | undefined;
  /** After every probe. */
  onState(state: HealthState): void;
}

/** First pause of the eager probes; each further one is twice as long. */
const firstEagerMs = 100;

/**
 * Probes until `signal` aborts or the container is unhealthy. Docker's first probe comes after a whole
 * pause; here the time until then is used for eager probes, of which only a success counts. A
 * command that is still running delays the next.
 */
export async function watchHealth(deps: ProbeDeps, watch: HealthWatch, signal: AbortSignal): Promise<void> {
  const { clock } = deps;
  const { plan, containerStartedAtMs } = watch;
  let state = watch.known ?? initialHealth;
  const firstMs = nextProbeDelayMs(plan, state, clock.now() - containerStartedAtMs);
  let eagerMs = firstEagerMs;
  let waitedMs = 0;
  while (state.status === "starting" && waitedMs + eagerMs < firstMs) {
    await clock.sleep(eagerMs, signal);
    const beganAtMs = clock.now();
    const result = await probe(deps, watch.containerId, plan, signal);
    if (result?.exitCode === 0) take(result);
    waitedMs += eagerMs + (clock.now() - beganAtMs);
    eagerMs *= 2;
  }
  if (state.status === "starting") await clock.sleep(Math.max(0, firstMs - waitedMs), signal);
  else await pause();
  for (;;) {
    const result = await probe(deps, watch.containerId, plan, signal);
    if (result !== undefined) {
      take(result);
      if (isUnhealthy()) return;
    }
    await pause();
  }

  function take(result: ProbeResult): void {
    state = afterProbe(plan, state, result, containerStartedAtMs);
    watch.onState(state);
  }

  function isUnhealthy(): boolean {
    return state.status === "unhealthy";
  }

  function pause(): Promise<void> {
    return clock.sleep(nextProbeDelayMs(plan, state, clock.now() - containerStartedAtMs), signal);
  }
}
