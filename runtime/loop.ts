import { setMaxListeners } from "node:events";
import { ClusterError, errorText } from "../model/errors.ts";
import { backoff, type BackoffOptions, defaultBackoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";
import type { Random } from "./random.ts";
import { within } from "./signal.ts";

export interface LoopDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** A body that ran at least this long before it failed starts its delays anew. */
const healthyAfterMs = 30_000;

export type LoopBody = (signal: AbortSignal) => Promise<void>;

/**
 * Runs `body` until it returns or the signal aborts. A body that throws is logged and started again after a growing
 * delay: loops are level-triggered, so a fresh start loses nothing. Never rejects.
 */
export async function runLoop(
  deps: LoopDeps,
  name: string,
  body: LoopBody,
  signal: AbortSignal,
  delays: BackoffOptions = defaultBackoff,
): Promise<void> {
  const { clock, random, log } = deps;
  let sequence = backoff(random, delays);
  while (!signal.aborted) {
    const startedMs = clock.monotonic();
    try {
      await body(signal);
      return;
    } catch (error) {
      if (signal.aborted) return;
      if (clock.monotonic() - startedMs >= healthyAfterMs) sequence = backoff(random, delays);
      const delayMs = Math.round(sequence.next().value);
      if (isExpected(error))
        log.warn({ loop: name, error: errorText(error), delayMs }, "loop failed and starts again");
      else log.error({ loop: name, error, delayMs }, "loop failed and starts again");
      await clock.sleep(delayMs, signal).catch(() => undefined); // Only the abort rejects; the condition above sees it.
    }
  }
}

/** Others that are away, as at every start of a cluster, are no fault of ours; where in our code they were missed says nothing. */
function isExpected(error: unknown): boolean {
  return error instanceof ClusterError && error.code === "unavailable";
}

/** Loops that end together: one abort, one bounded wait. */
export class LoopGroup {
  readonly #deps: LoopDeps;
  readonly #controller = new AbortController();
  readonly #running = new Map<symbol, { readonly name: string; readonly done: Promise<void> }>();

  /** @param signal - When given, its abort ends the group too. */
  constructor(deps: LoopDeps, signal?: AbortSignal) {
    this.#deps = deps;
    setMaxListeners(0, this.#controller.signal); // As many as there are waits; that is no leak.
    if (signal?.aborted === true) this.#controller.abort(signal.reason);
    signal?.addEventListener("abort", () => this.#controller.abort(signal.reason), {
      once: true,
      signal: this.#controller.signal,
    });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  start(name: string, body: LoopBody, delays: BackoffOptions = defaultBackoff): void {
    const key = Symbol(name);
    const done = runLoop(this.#deps, name, body, this.signal, delays).finally(() =>
      this.#running.delete(key),
    );
    this.#running.set(key, { name, done });
  }

  /** Starts a single piece of work whose failure is logged and changes nothing else. */
  background(name: string, work: Promise<unknown>): void {
    runInBackground(this.#deps.log, name, work, this.signal);
  }

  /** Ends every loop and waits for them, at most `boundMs`; laggards are named in the log and left behind. */
  async stop(reason: string, boundMs = 5_000): Promise<void> {
    if (!this.signal.aborted) this.#controller.abort(new Error(reason));
    const all = Promise.all([...this.#running.values()].map(({ done }) => done));
    await within(this.#deps.clock, boundMs, "ending loops", all).catch((error: unknown) => {
      const names = [...this.#running.values()].map(({ name }) => name);
      this.#deps.log.error({ error, loops: names }, "loops did not end in time");
    });
  }
}

/** For work nobody waits for: a failure is logged, never unhandled. After the signal aborts, it is expected. */
export function runInBackground(log: Log, name: string, work: Promise<unknown>, signal?: AbortSignal): void {
  work.catch((error: unknown) => {
    if (signal?.aborted !== true) log.error({ work: name, error }, "background work failed");
  });
}
