import type { Clock } from "../../runtime/clock.ts";
import type { Schedule } from "./raft-schedule.ts";

/** From one thread to another. */
const handoverMs = 0.05;

/** A thread of a simulated process: it does what it is asked for in order, and nothing while it is paused. */
export class SimThread {
  readonly #schedule: Schedule;
  readonly #queue: (() => void)[] = [];
  #pausedUntilMs = 0;
  /** When the latest of what was posted arrives. */
  #arrivesMs = 0;
  #hasEnded = false;

  constructor(schedule: Schedule) {
    this.#schedule = schedule;
  }

  /** With its process: nothing of what was asked happens any more. */
  end(): void {
    this.#hasEnded = true;
  }

  pauseUntil(ms: number): void {
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, ms);
  }

  /** At once, unless it is paused or has not come to what it was asked for before. */
  run(action: () => void): void {
    if (this.#hasEnded) return;
    if (this.#queue.length === 0 && this.#pausedUntilMs <= this.#schedule.nowMs) return action();
    this.#queue.push(action);
    if (this.#queue.length === 1) this.#wake();
  }

  /** By a message from another thread. */
  post(action: () => void): void {
    this.#arrivesMs = Math.max(this.#schedule.nowMs + handoverMs, this.#arrivesMs);
    this.#schedule.after(this.#arrivesMs - this.#schedule.nowMs, () => this.run(action));
  }

  #wake(): void {
    this.#schedule.after(this.#pausedUntilMs - this.#schedule.nowMs, () => {
      if (this.#hasEnded) return;
      if (this.#pausedUntilMs <= this.#schedule.nowMs) this.#queue.shift()?.();
      if (this.#queue.length > 0) this.#wake();
    });
  }
}

/** A clock that knows the time by `now`, and waits by `after`. */
export function clockOf({ now, after }: { now: () => number; after: Clock["after"] }): Clock {
  return {
    now,
    monotonic: now,
    after,
    sleep: (ms) => new Promise((resolve) => after(ms, resolve)),
    every: everyBy(after),
  };
}

/** `Clock.every` on a clock that waits by `after`. */
export function everyBy(after: Clock["after"]): Clock["every"] {
  return (ms, callback) => {
    const tick = (): void => {
      cancel = after(ms, tick);
      callback();
    };
    let cancel = after(ms, tick);
    return () => cancel();
  };
}
