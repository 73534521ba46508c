import { ClusterError, errorText } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Engine } from "../engine/engine.ts";
import { afterProbe, initialHealth, keptOutputBytes, nextProbeDelayMs } from "./state.ts";
import type { HealthPlan, HealthState, ProbeResult } from "./state.ts";

interface ProbeDeps {
  readonly clock: Clock;
  readonly engine: Engine;
}

/** Runs one probe in a running container. Rejects only when `signal` aborts. */
async function probe(
  { clock, engine }: ProbeDeps,
  containerId: string,
  plan: HealthPlan,
  signal: AbortSignal,
): Promise<ProbeResult> {
  const startedAtMs = clock.now();
  const request = { args: plan.command, timeoutMs: plan.timeoutMs, outputLimitBytes: keptOutputBytes };
  try {
    const { exitCode, output } = await engine.exec(containerId, request, signal);
    return { startedAtMs, endedAtMs: clock.now(), exitCode, output };
  } catch (error) {
    signal.throwIfAborted();
    const tookTooLong = error instanceof ClusterError && error.code === "deadline-exceeded";
    const output = tookTooLong ? `Health check exceeded timeout (${plan.timeoutMs}ms)` : errorText(error);
    return { startedAtMs, endedAtMs: clock.now(), exitCode: -1, output };
  }
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
    const result = await probe(deps, watch.containerId, plan, signal);
    if (result.exitCode === 0) take(result);
    waitedMs += eagerMs + (result.endedAtMs - result.startedAtMs);
    eagerMs *= 2;
  }
  if (state.status === "starting") await clock.sleep(Math.max(0, firstMs - waitedMs), signal);
  else await pause();
  for (;;) {
    take(await probe(deps, watch.containerId, plan, signal));
    if (isUnhealthy()) return;
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
