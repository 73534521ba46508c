import { setMaxListeners } from "node:events";

import { ClusterError } from "../model/errors.ts";
import type { Clock } from "./clock.ts";

/** A signal that depends on others, or on a timer; disposing it lets go of them. */
export interface LinkedSignal extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Aborts as the first of them does. Instead of `AbortSignal.any`: with that, Node 20 leaves a trace in each source for as long as
 * the source lives, and keeps what listens for good unless one of them aborts.
 */
export function anyOf(...sources: readonly AbortSignal[]): LinkedSignal {
  const controller = new AbortController();
  const release = (): void => {
    for (const source of sources) source.removeEventListener("abort", forward);
  };
  const forward = (): void => {
    release();
    controller.abort(sources.find(({ aborted: isAborted }) => isAborted)?.reason);
  };
  for (const source of sources) {
    setMaxListeners(0, source); // The end of a process may well stand for all that it does.
    source.addEventListener("abort", forward, { once: true });
  }
  if (sources.some(({ aborted: isAborted }) => isAborted)) forward();
  return { signal: controller.signal, [Symbol.dispose]: release };
}

/**
 * @param what - For the text: "<what> took more than <ms> ms".
 * @param signal - When given, its abort ends the wait too.
 */
export function deadline(clock: Clock, ms: number, what: string, signal?: AbortSignal): LinkedSignal {
  const late = new AbortController();
  const cancel = clock.after(ms, () => late.abort(timeout(`${what} took more than ${ms} ms`)));
  const either = anyOf(late.signal, ...(signal === undefined ? [] : [signal]));
  return {
    signal: either.signal,
    [Symbol.dispose]() {
      cancel();
      either[Symbol.dispose]();
    },
  };
}

/** Settles as `promise` does, or rejects with `deadline-exceeded` after `ms`; the work itself goes on. */
export async function within<T>(clock: Clock, ms: number, what: string, promise: Promise<T>): Promise<T> {
  using limit = deadline(clock, ms, what);
  return await orAborted(promise, limit.signal);
}

/** Settles as `promise` does, or rejects with the signal's reason once it aborts. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** Resolves when the signal aborts; for whoever only waits for the end. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function timeout(message: string): ClusterError {
  return new ClusterError("deadline-exceeded", message);
}
