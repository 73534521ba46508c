import type { Clock } from "../../runtime/clock.ts";

/**
 * A late call makes up for the ticks that went by, or a busy machine would stretch elections and leases differently on
 * each member. No more than these: a thread that was held up must not think that the others were silent.
 */
const maxAtOnce = 4;

/** Turns the calls of a timer, late as they may be, into ticks that keep time. */
export class TickCounter {
  readonly #tickMs: number;
  #countedMs: number;

  /** @param nowMs - Monotonic, as in {@link due}. */
  constructor(tickMs: number, nowMs: number) {
    this.#tickMs = tickMs;
    this.#countedMs = nowMs;
  }

  /** @returns how many ticks have gone by since the last call, to the nearest, at most four. */
  due(nowMs: number): number {
    const ticks = Math.round((nowMs - this.#countedMs) / this.#tickMs);
    this.#countedMs = ticks > maxAtOnce ? nowMs : this.#countedMs + ticks * this.#tickMs;
    return Math.min(ticks, maxAtOnce);
  }
}

/** Calls `onTick` for every tick that goes by, until cancelled by the result. */
export function everyTick(clock: Clock, tickMs: number, onTick: () => void): () => void {
  const ticks = new TickCounter(tickMs, clock.monotonic());
  return clock.every(tickMs, () => {
    for (let due = ticks.due(clock.monotonic()); due > 0; due -= 1) onTick();
  });
}
