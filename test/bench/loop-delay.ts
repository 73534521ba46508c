import { openSync, readSync } from "node:fs";
import { getEnvironmentData, isMainThread, setEnvironmentData } from "node:worker_threads";

const key = "loop-delay";
const everyMs = 1;
const slots = 2;
/** Three numbers of nanoseconds and counts. */
const schedstatBytes = 128;

/** The latest that any timer came, and the latest of what the threads' own work made them come. */
export interface Delay {
  readonly lateMs: number;
  /** Without the time in which the thread was ready to run and no processor was free. */
  readonly ownMs: number;
}

/**
 * How late timers come in the worker threads of this process. To be made before the threads are, in a process into which
 * this file was loaded ahead of everything else (`--import`).
 */
export class LoopDelay {
  readonly #us = new Int32Array(new SharedArrayBuffer(slots * Int32Array.BYTES_PER_ELEMENT));

  constructor() {
    setEnvironmentData(key, this.#us);
  }

  /** The longest delays in any of the threads since this was asked before. */
  take(): Delay {
    return {
      lateMs: Atomics.exchange(this.#us, 0, 0) / 1000,
      ownMs: Atomics.exchange(this.#us, 1, 0) / 1000,
    };
  }
}

if (!isMainThread) watch(getEnvironmentData(key));

function watch(shared: unknown): void {
  if (!(shared instanceof Int32Array)) return;
  const waitedMs = processorWait();
  let last = { nowMs: performance.now(), waitedMs: waitedMs() };
  setInterval(() => {
    const now = { nowMs: performance.now(), waitedMs: waitedMs() };
    const lateMs = now.nowMs - last.nowMs - everyMs;
    raise(shared, 0, lateMs);
    raise(shared, 1, lateMs - (now.waitedMs - last.waitedMs));
    last = now;
  }, everyMs).unref();
}

function raise(shared: Int32Array, slot: number, ms: number): void {
  const us = Math.round(ms * 1000);
  if (us > Atomics.load(shared, slot)) Atomics.store(shared, slot, us);
}

/** How long this thread has been ready to run without a processor, in milliseconds (`sched-stats` of the kernel). */
function processorWait(): () => number {
  const fd = openSync("/proc/thread-self/schedstat", "r");
  const bytes = Buffer.alloc(schedstatBytes);
  return () => {
    const [, waitedNs = "0"] = bytes
      .toString("latin1", 0, readSync(fd, bytes, 0, schedstatBytes, 0))
      .split(" ");
    return Number(waitedNs) / 1e6;
  };
}
