/** All time comes from here, so that a simulation can own it. */
export interface Clock {
  /** Wall clock, unix milliseconds; may jump. */
  now(): number;
  /** Monotonic milliseconds with fraction; only differences mean anything. */
  monotonic(): number;
  /** Settles after `ms`; rejects with the signal's reason when it aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Calls `callback` once after `ms`; the result cancels it. */
  after(ms: number, callback: () => void): () => void;
  /** Calls `callback` every `ms` until cancelled by the result. */
  every(ms: number, callback: () => void): () => void;
}

/** A Node timer counts at most this long; what is set for longer would ring at once. */
const longestTimerMs = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error);
      const cancel = systemClock.after(ms, () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      });
      function onAbort(): void {
        cancel();
        reject(signal?.reason as Error);
      }
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  },
  after(ms, callback) {
    let restMs = ms;
    const begin = (): NodeJS.Timeout => {
      if (!(restMs > longestTimerMs)) return setTimeout(callback, restMs);
      restMs -= longestTimerMs;
      return setTimeout(() => (timer = begin()), longestTimerMs);
    };
    let timer = begin();
    return () => clearTimeout(timer);
  },
  every(ms, callback) {
    const timer = setInterval(callback, Math.min(ms, longestTimerMs));
    return () => clearInterval(timer);
  },
};
