import {
  defaultHealthIntervalMs,
  defaultHealthRetries,
  defaultHealthStartIntervalMs,
  defaultHealthStartPeriodMs,
  defaultHealthTimeoutMs,
} from "../../model/defaults.ts";
import type { HealthCheck } from "../../model/service.ts";

/** How many results are kept for inspect, and how much of a probe's output. */
export const keptResults = 5;
export const keptOutputBytes = 4096;

const healthDefaults = {
  intervalMs: defaultHealthIntervalMs,
  timeoutMs: defaultHealthTimeoutMs,
  startPeriodMs: defaultHealthStartPeriodMs,
  startIntervalMs: defaultHealthStartIntervalMs,
  retries: defaultHealthRetries,
} as const;

/** A health check with every value given; `command` is what is executed in the container. */
export interface HealthPlan {
  readonly command: readonly string[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly startPeriodMs: number;
  readonly startIntervalMs: number;
  readonly retries: number;
}

export interface ProbeResult {
  /** Wall clock, unix milliseconds. */
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** 0 is healthy; -1 when the probe could not run or took too long. */
  readonly exitCode: number;
  readonly output: string;
}

export interface HealthState {
  readonly status: "starting" | "healthy" | "unhealthy";
  readonly failingStreak: number;
  /** Oldest first, at most `keptResults`. */
  readonly log: readonly ProbeResult[];
}

export const initialHealth: HealthState = { status: "starting", failingStreak: 0, log: [] };

/**
 * What to probe, from the task's own check over the image's. A value of 0 and an empty test inherit;
 * ["NONE"] in either turns checking off.
 */
export function planHealth(
  own: HealthCheck | undefined,
  image: HealthCheck | undefined,
): HealthPlan | undefined {
  const test = own !== undefined && own.test.length > 0 ? own.test : (image?.test ?? []);
  const command = probeCommand(test);
  if (command === undefined) return undefined;
  const pick = (field: keyof typeof healthDefaults): number =>
    positive(own?.[field]) ?? positive(image?.[field]) ?? healthDefaults[field];
  return {
    command,
    intervalMs: pick("intervalMs"),
    timeoutMs: pick("timeoutMs"),
    startPeriodMs: pick("startPeriodMs"),
    startIntervalMs: pick("startIntervalMs"),
    retries: pick("retries"),
  };
}

function probeCommand(test: readonly string[]): readonly string[] | undefined {
  const [kind, ...rest] = test;
  if (kind === undefined || kind === "NONE" || rest.length === 0) return undefined;
  if (kind === "CMD-SHELL") return ["/bin/sh", "-c", rest[0] ?? ""];
  return kind === "CMD" ? rest : undefined;
}

function positive(value: number | undefined): number | undefined {
  return value !== undefined && value > 0 ? value : undefined;
}

/**
 * Takes one result in. A success makes the container healthy at once. Failures count only after
 * the start period or once it has been healthy; `retries` of them in a row make it unhealthy.
 *
 * @param containerStartedAtMs - Same clock as `result.startedAtMs`.
 */
export function afterProbe(
  plan: HealthPlan,
  state: HealthState,
  result: ProbeResult,
  containerStartedAtMs: number,
): HealthState {
  const log = [...state.log, { ...result, output: cutOutput(result.output) }].slice(-keptResults);
  if (result.exitCode === 0) return { status: "healthy", failingStreak: 0, log };
  const inStartPeriod = result.startedAtMs - containerStartedAtMs < plan.startPeriodMs;
  if (state.status === "starting" && inStartPeriod) return { ...state, log };
  const failingStreak = state.failingStreak + 1;
  const status = failingStreak >= plan.retries ? "unhealthy" : state.status;
  return { status, failingStreak, log };
}

/** Pause before the next probe: short while the container may still be starting. */
export function nextProbeDelayMs(plan: HealthPlan, state: HealthState, sinceStartMs: number): number {
  const starting = state.status === "starting" && sinceStartMs < plan.startPeriodMs;
  return starting ? Math.min(plan.startIntervalMs, plan.intervalMs) : plan.intervalMs;
}

function cutOutput(output: string): string {
  return output.length <= keptOutputBytes ? output : output.slice(0, keptOutputBytes);
}
