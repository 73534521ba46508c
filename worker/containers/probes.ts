/** Probes of a local container, for as long as it runs. */
import type { Clock } from "../../runtime/clock.ts";
import type { Engine } from "../engine/engine.ts";
import { watchHealth } from "../health/probe.ts";
import { type HealthState, initialHealth, planHealth } from "../health/state.ts";
import type { Entry } from "./entry.ts";

/**
 * Keeps the entry's health until `signal` aborts; returns when there is nothing to probe.
 *
 * @param onStatus - Called when it changes.
 */
export async function probeHealth(
  { clock, engine }: { readonly clock: Clock; readonly engine: Engine },
  entry: Entry,
  onStatus: (status: HealthState["status"]) => void,
  signal: AbortSignal,
): Promise<void> {
  const { id } = entry.record;
  const record = await engine.inspect(id);
  if (record?.status.state !== "running") return;
  const plan = planHealth(record.healthcheck, undefined);
  if (plan === undefined) return;
  const { startedAtMs } = record.status;
  const isSameRun = (entry.record.health?.log.at(-1)?.startedAtMs ?? 0) >= startedAtMs;
  let known = isSameRun ? entry.record.health : undefined;
  if (known === undefined) entry.record = { ...entry.record, health: initialHealth };
  const onState = (state: HealthState): void => {
    const before = entry.record.health?.status;
    known = state;
    entry.record = { ...entry.record, health: state };
    if (state.status !== before) onStatus(state.status);
  };
  // A watch ends whenever the container is found unhealthy; a local container is only said to be.
  while (!signal.aborted) {
    const watch = { containerId: id, plan, containerStartedAtMs: startedAtMs, known, onState };
    await watchHealth({ clock, engine }, watch, signal);
  }
}
