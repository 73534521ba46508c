import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";

/** Nothing was started or stopped for this long: between two steps of an update a host may rest for a moment. */
const idleAfterMs = 1_000;
/** A host that is never idle does it all the same. */
const longestWaitMs = 30_000;
/** More than that is held by what has ended than is worth it. */
const mostWaiting = 100;
/** So that what begins meanwhile still finds a free processor. */
const atOnce = 2;

export interface Deferred<Result> {
  readonly done: Promise<Result>;
  /** Somebody waits for it after all: it begins now. */
  hurry(): void;
}

interface Entry {
  readonly dueMs: number;
  readonly begin: () => Promise<void>;
  readonly giveUp: (reason: Error) => void;
}

/**
 * Work that nobody waits for, such as clearing up after what has ended. It costs a processor as much as starting does, so it
 * is put off while this host starts or stops containers; oldest first, bounded in time and number.
 */
export class IdleQueue {
  readonly #clock: Clock;
  #starting = 0;
  #activeAtMs: number;
  #running = 0;
  #waiting: Entry[] = [];
  #cancelLook: () => void = () => undefined;
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#activeAtMs = clock.monotonic() - idleAfterMs;
  }

  /** While this goes on the host is not idle. It must end by itself. */
  async busy<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#starting += 1;
    try {
      return await work();
    } finally {
      this.#starting -= 1;
      this.active();
    }
  }

  /** Something was begun or ended just now. */
  active(): void {
    this.#activeAtMs = this.#clock.monotonic();
    this.#plan();
  }

  /** @param signal - While it waits its turn; later it is the work's matter. */
  whenIdle<Result>(work: () => Promise<Result>, signal?: AbortSignal): Deferred<Result> {
    let entry: Entry | undefined;
    const done = new Promise<Result>((resolve, reject) => {
      const onAbort = (): void => {
        if (entry !== undefined && this.#take(entry)) reject(signal?.reason as Error);
      };
      if (this.#closed) return reject(closed());
      if (signal?.aborted === true) return reject(signal.reason as Error);
      signal?.addEventListener("abort", onAbort, { once: true });
      entry = {
        dueMs: this.#clock.monotonic() + longestWaitMs,
        begin: async () => {
          signal?.removeEventListener("abort", onAbort);
          await work().then(resolve, reject);
        },
        giveUp: (reason) => {
          signal?.removeEventListener("abort", onAbort);
          reject(reason);
        },
      };
      this.#waiting.push(entry);
      this.#look();
    });
    const hurry = (): void => {
      if (entry !== undefined && this.#take(entry)) void entry.begin();
    };
    return { done, hurry };
  }

  /** What has not begun is given up. */
  close(): void {
    this.#closed = true;
    this.#cancelLook();
    for (const { giveUp } of this.#waiting.splice(0)) giveUp(closed());
  }

  #take(entry: Entry): boolean {
    const at = this.#waiting.indexOf(entry);
    if (at >= 0) this.#waiting.splice(at, 1);
    return at >= 0;
  }

  #look(): void {
    const nowMs = this.#clock.monotonic();
    while (this.#running < atOnce) {
      const [first] = this.#waiting;
      if (first === undefined) return;
      const isIdle = this.#starting === 0 && nowMs - this.#activeAtMs >= idleAfterMs;
      if (!isIdle && nowMs < first.dueMs && this.#waiting.length <= mostWaiting) break;
      this.#waiting.shift();
      void this.#run(first);
    }
    this.#plan();
  }

  async #run({ begin }: Entry): Promise<void> {
    this.#running += 1;
    await begin();
    this.#running -= 1;
    this.#look();
  }

  /** Looks again when it would be idle, or has to do it all the same. */
  #plan(): void {
    this.#cancelLook();
    const [first] = this.#waiting;
    if (first === undefined || this.#running === atOnce || this.#closed) return;
    const idleAtMs = this.#starting > 0 ? Infinity : this.#activeAtMs + idleAfterMs;
    const waitMs = Math.min(idleAtMs, first.dueMs) - this.#clock.monotonic();
    this.#cancelLook = this.#clock.after(Math.max(0, Math.ceil(waitMs)), () => this.#look());
  }
}

function closed(): ClusterError {
  return new ClusterError("unavailable", "the engine is closed");
}
