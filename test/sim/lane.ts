import type { Clock } from "../../runtime/clock.ts";
import type { Schedule } from "./raft-schedule.ts";
import { everyBy } from "./raft-thread.ts";

/** Far from zero, so that wall clock and monotonic time are told apart. */
const epochMs = 1_700_000_000_000;

/** One thread of a process. What is asked of it while it is paused waits, in order; once it has ended, nothing runs. */
export class Lane {
  readonly #schedule: Schedule;
  readonly #skewMs: number;
  readonly #queue: (() => void)[] = [];
  #pausedUntilMs = 0;
  #hasEnded = false;

  /** @param skewMs - By how much its wall clock is ahead of the world's. */
  constructor(schedule: Schedule, skewMs: number) {
    this.#schedule = schedule;
    this.#skewMs = skewMs;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get isPaused(): boolean {
    return this.#pausedUntilMs > this.#schedule.nowMs;
  }

  end(): void {
    this.#hasEnded = true;
    this.#queue.length = 0;
  }

  pause(ms: number): void {
    // Moments are whole microseconds.
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, Math.ceil((this.#schedule.nowMs + ms) * 1000) / 1000);
  }

  run(action: () => void): void {
    if (this.#hasEnded) return;
    if (this.#queue.length === 0 && !this.isPaused) return action();
    this.#queue.push(action);
    if (this.#queue.length === 1) this.#wake();
  }

  /** Runs it here after a while. @returns what cancels it. */
  after(ms: number, action: () => void): () => void {
    let isCancelled = false;
    const cancel = this.#schedule.after(ms, () =>
      this.run(() => {
        if (!isCancelled) action();
      }),
    );
    return () => {
      isCancelled = true;
      cancel();
    };
  }

  /** Time as this thread has it. */
  get clock(): Clock {
    const after = (ms: number, action: () => void): (() => void) => this.after(ms, action);
    return {
      now: () => Math.floor(epochMs + this.#skewMs + this.#schedule.nowMs),
      monotonic: () => this.#schedule.nowMs,
      after,
      every: everyBy(after),
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal?.aborted === true) return reject(signal.reason as Error);
          const onAbort = (): void => {
            cancel();
            reject(signal?.reason as Error);
          };
          const cancel = after(ms, () => {
            signal?.removeEventListener("abort", onAbort);
            resolve();
          });
          signal?.addEventListener("abort", onAbort, { once: true });
        }),
    };
  }

  #wake(): void {
    this.#schedule.after(this.#pausedUntilMs - this.#schedule.nowMs, () => {
      if (this.#hasEnded) return;
      if (!this.isPaused) this.#queue.shift()?.();
      if (this.#queue.length > 0) this.#wake();
    });
  }
}
