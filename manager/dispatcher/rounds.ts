import type { Clock } from "../../runtime/clock.ts";
import type { Session } from "./session.ts";

/** Sessions that are told in one go; other work of the main thread gets its turn before the next ones. */
const stretchSessions = 64;
/** A shorter round is no burden, and the next one follows at once. */
const burdenMs = 5;
/** No rest is longer, also after a round in which the process stood still. */
const restLimitMs = 1_000;

/**
 * Tells sessions what is marked for them, in rounds: each tells everyone who waits. While little happens, that is at
 * once. Where rounds are a burden, the next one begins no sooner than the last one took, with all that the main thread
 * did meanwhile: so the more there is to do, the more each message carries, and the fewer there are.
 */
export class Rounds {
  readonly #clock: Clock;
  readonly #tell: (session: Session) => void;
  #waiting = new Set<Session>();
  #wake: () => void = () => {};
  #isUrgent = false;

  constructor(clock: Clock, tell: (session: Session) => void) {
    this.#clock = clock;
    this.#tell = tell;
  }

  /** @param when - `urgent`: somebody waits for what they will answer. */
  add(sessions: Iterable<Session>, when: "in time" | "urgent"): void {
    for (const session of sessions) this.#waiting.add(session);
    if (when === "urgent") this.#isUrgent = true;
    this.#wake();
  }

  /** Until the signal aborts, with which it rejects. */
  async run(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => this.#wake(), { once: true });
    for (;;) {
      while (this.#waiting.size === 0) await this.#woken(signal);
      const startMs = this.#clock.monotonic();
      await this.#round(signal);
      const tookMs = this.#clock.monotonic() - startMs;
      if (tookMs >= burdenMs) await this.#rest(Math.min(tookMs, restLimitMs), signal);
    }
  }

  async #round(signal: AbortSignal): Promise<void> {
    const sessions = this.#waiting;
    this.#waiting = new Set();
    this.#isUrgent = false;
    let told = 0;
    for (const session of sessions) {
      if (told > 0 && told % stretchSessions === 0) await this.#clock.sleep(0, signal);
      this.#tell(session);
      told += 1;
    }
  }

  async #rest(ms: number, signal: AbortSignal): Promise<void> {
    const rest = { isOver: false };
    const cancel = this.#clock.after(ms, () => {
      rest.isOver = true;
      this.#wake();
    });
    try {
      while (!rest.isOver && !this.#isUrgent) await this.#woken(signal);
    } finally {
      cancel();
    }
  }

  async #woken(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    await new Promise<void>((resolve) => (this.#wake = resolve));
    signal.throwIfAborted();
  }
}
