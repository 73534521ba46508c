import { getEnvironmentData, isMainThread, setEnvironmentData } from "node:worker_threads";

const key = "loop-delay";
const everyMs = 1;

/**
 * How late timers come in the worker threads of this process. To be made before the threads are, in a process into which
 * this file was loaded ahead of everything else (`--import`).
 */
export class LoopDelay {
  readonly #lateUs = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

  constructor() {
    setEnvironmentData(key, this.#lateUs);
  }

  /** The longest delay in any of the threads since this was asked before, in milliseconds. */
  take(): number {
    return Atomics.exchange(this.#lateUs, 0, 0) / 1000;
  }
}

if (!isMainThread) watch(getEnvironmentData(key));

function watch(shared: unknown): void {
  if (!(shared instanceof Int32Array)) return;
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    const lateUs = Math.round((now - last - everyMs) * 1000);
    if (lateUs > Atomics.load(shared, 0)) Atomics.store(shared, 0, lateUs);
    last = now;
  }, everyMs).unref();
}
