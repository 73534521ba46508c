import type { Clock } from "../../runtime/clock.ts";
import { aborted, deadline } from "../../runtime/signal.ts";

/** A client that does not read must not keep others from hearing that a container has ended. */
const limitMs = 2_000;

/**
 * Clients that attach and wait, such as dockerode, stop listening once their wait is answered. So that is done after
 * whatever the container has said was written to those who are attached, as with Docker.
 */
export class AttachedOutput {
  readonly #clock: Clock;
  readonly #open = new Map<string, Set<Promise<unknown>>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param told - Settles once an attached client was told everything, or is gone. */
  add(id: string, told: Promise<unknown>): void {
    const open = this.#open.get(id) ?? new Set();
    this.#open.set(id, open.add(told));
    const over = (): void => {
      open.delete(told);
      if (open.size === 0) this.#open.delete(id);
    };
    told.then(over, over);
  }

  /** Settles once all who are attached were told, or after two seconds. */
  async told(id: string): Promise<void> {
    const open = this.#open.get(id);
    if (open === undefined) return;
    using limit = deadline(this.#clock, limitMs, "output of those who are attached");
    await Promise.race([Promise.allSettled(open), aborted(limit.signal)]);
  }
}
