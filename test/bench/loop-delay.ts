import { openSync, readSync } from "node:fs";
import { getEnvironmentData, isMainThread, setEnvironmentData } from "node:worker_threads";

const key = "loop-delay";
const everyMs = 1;
const slots = 2;
/** Three numbers of nanoseconds and counts. */
const schedstatBytes = 128;

/** The latest that any timer came, and the most that a thread itself ran before a timer that came late. */
export interface Delay {
  readonly lateMs: number;
  /** Without the time in which it waited: for a processor, or for the collector's other threads. */
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
  const ranMs = processorTime();
  let last = { nowMs: performance.now(), ranMs: ranMs() };
  setInterval(() => {
    const now = { nowMs: performance.now(), ranMs: ranMs() };
    const lateMs = now.nowMs - last.nowMs - everyMs;
    raise(shared, 0, lateMs);
    raise(shared, 1, Math.min(lateMs, now.ranMs - last.ranMs));
    last = now;
  }, everyMs).unref();
}

function raise(shared: Int32Array, slot: number, ms: number): void {
  const us = Math.round(ms * 1000);
  if (us > Atomics.load(shared, slot)) Atomics.store(shared, slot, us);
}

/** How long this thread has run, in milliseconds (`sched-stats` of the kernel). */
function processorTime(): () => number {
  const fd = openSync("/proc/thread-self/schedstat", "r");
  const bytes = Buffer.alloc(schedstatBytes);
  return () => {
    const [ranNs = "0"] = bytes.toString("latin1", 0, readSync(fd, bytes, 0, schedstatBytes, 0)).split(" ");
    return Number(ranNs) / 1e6;
  };
}
