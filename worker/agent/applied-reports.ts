/** Tells the managers what was applied, one after another, and not before clients here have forgotten what it withdrew. */
import type { Clock } from "../../runtime/clock.ts";

export class AppliedReports {
  readonly #clock: Pick<Clock, "monotonic" | "sleep">;
  readonly #signal: AbortSignal;
  #last: Promise<void> = Promise.resolve();

  /** @param signal - Ends all of it. */
  constructor(clock: Pick<Clock, "monotonic" | "sleep">, signal: AbortSignal) {
    this.#clock = clock;
    this.#signal = signal;
  }

  /** @param heldMs - How long to wait from now on. */
  tell(heldMs: number, send: () => void): void {
    const dueMs = this.#clock.monotonic() + heldMs;
    this.#last = this.#last.then(async () => {
      const leftMs = dueMs - this.#clock.monotonic();
      if (leftMs > 0) await this.#clock.sleep(leftMs, this.#signal).catch(() => undefined); // The next line sees the abort.
      if (!this.#signal.aborted) send();
    });
  }
}
