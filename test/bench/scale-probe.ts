/** Loaded into a manager ahead of everything else (`--import`): tells whoever started it how its main thread fares. */
import { type IntervalHistogram, monitorEventLoopDelay, PerformanceObserver } from "node:perf_hooks";
import { isMainThread } from "node:worker_threads";

export interface ProbeRequest {
  readonly kind: "probe";
}

/** Since the last probe. */
export interface ProbeAnswer {
  readonly kind: "probe";
  /** How late the main thread's event loop was. */
  readonly delayP99Ms: number;
  readonly delayMaxMs: number;
  /** The longest collection of garbage in the main thread, and all of them together. */
  readonly longestGcMs: number;
  readonly gcMs: number;
  readonly heapBytes: number;
  readonly rssBytes: number;
}

const resolutionMs = 1;

/** Started late, so that the managers' own start does not count. */
let delays: IntervalHistogram | undefined;
let gc = { longestMs: 0, sumMs: 0 };

// Not before the manager listens itself: the first listener would get its first message alone.
if (isMainThread) process.on("newListener", onNewListener);

function onNewListener(event: string | symbol): void {
  if (event !== "message") return;
  process.off("newListener", onNewListener);
  process.on("message", (message: { readonly kind: string }) => {
    if (message.kind === "probe") process.send?.(probe());
  });
}

function probe(): ProbeAnswer {
  if (delays === undefined) {
    delays = monitorEventLoopDelay({ resolution: resolutionMs });
    delays.enable();
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) {
        gc = { longestMs: Math.max(gc.longestMs, duration), sumMs: gc.sumMs + duration };
      }
    }).observe({ entryTypes: ["gc"] });
  }
  const { heapUsed, rss } = process.memoryUsage();
  const answer: ProbeAnswer = {
    kind: "probe",
    delayP99Ms: lateMs(delays.percentile(99)),
    delayMaxMs: lateMs(delays.max),
    longestGcMs: gc.longestMs,
    gcMs: gc.sumMs,
    heapBytes: heapUsed,
    rssBytes: rss,
  };
  delays.reset();
  gc = { longestMs: 0, sumMs: 0 };
  return answer;
}

/** The histogram holds nanoseconds between two timers, which are `resolutionMs` apart at best. */
function lateMs(ns: number): number {
  return Math.max(0, ns / 1e6 - resolutionMs);
}
