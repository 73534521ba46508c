/** `GET /events`: what the store commits, as a stream. */
import { parseFilters } from "../../runtime/http.ts";
import { type Call, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { eventFilterKeys, eventMatches, printEvent, type SwarmEvent, toSwarmEvent } from "./events-json.ts";
import { parseTime } from "./query.ts";

/** Events kept for `since`. */
export const eventHistoryLimit = 256;
/** Events a slow reader may fall behind before its stream ends. */
export const eventBacklogLimit = 4_096;

interface Reader {
  readonly queue: SwarmEvent[];
  wake: () => void;
  lost: boolean;
}

/** Watches the store once for all readers. */
export class EventFeed {
  readonly #deps: Pick<ApiDeps, "store" | "clock">;
  readonly #history: SwarmEvent[] = [];
  readonly #readers = new Set<Reader>();

  constructor(deps: Pick<ApiDeps, "store" | "clock">) {
    this.#deps = deps;
  }

  /** Runs until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, clock } = this.#deps;
    using commits = store.watch(["services", "nodes", "networks", "secrets", "configs"], signal);
    for await (const batch of commits) {
      for (const each of batch) {
        const event = toSwarmEvent(each, clock.now());
        if (event !== undefined) this.#publish(event);
      }
    }
  }

  #publish(event: SwarmEvent): void {
    this.#history.push(event);
    if (this.#history.length > eventHistoryLimit) this.#history.shift();
    for (const reader of this.#readers) {
      if (reader.queue.length >= eventBacklogLimit) reader.lost = true;
      else reader.queue.push(event);
      reader.wake();
    }
  }

  /**
   * Kept events from `sinceMs` on, then new ones until `untilMs`, the signal, or until the reader falls
   * `eventBacklogLimit` behind.
   */
  async *read(
    { sinceMs, untilMs }: { readonly sinceMs: number | undefined; readonly untilMs: number | undefined },
    signal: AbortSignal,
  ): AsyncGenerator<SwarmEvent> {
    const { clock } = this.#deps;
    let ended = false;
    const reader: Reader = {
      queue: sinceMs === undefined ? [] : this.#history.filter((event) => event.atMs >= sinceMs),
      wake: () => {},
      lost: false,
    };
    const end = (): void => {
      ended = true;
      reader.wake();
    };
    const waitMs = untilMs === undefined ? undefined : Math.max(0, untilMs - clock.now());
    const cancelTimer = waitMs === undefined ? () => {} : clock.after(waitMs, end);
    if (waitMs === 0 || signal.aborted) ended = true;
    signal.addEventListener("abort", end, { once: true });
    this.#readers.add(reader);
    try {
      for (;;) {
        const event = reader.queue.shift();
        if (event !== undefined) {
          if (untilMs === undefined || event.atMs <= untilMs) yield event;
          continue;
        }
        if (ended || reader.lost) return;
        await new Promise<void>((resolve) => (reader.wake = resolve));
      }
    } finally {
      this.#readers.delete(reader);
      signal.removeEventListener("abort", end);
      cancelTimer();
    }
  }
}

export function eventRoutes(feed: EventFeed): readonly Route[] {
  return [
    { method: "GET", path: "/events", local: true, handle: (deps, call) => streamEvents(feed, deps, call) },
  ];
}

function streamEvents(feed: EventFeed, { clock }: ApiDeps, call: Call): Reply {
  const filters = parseFilters(call.query.get("filters"), eventFilterKeys);
  const sinceMs = parseTime(call.query.get("since"), "since", clock.now());
  const untilMs = parseTime(call.query.get("until"), "until", clock.now());
  async function* lines(): AsyncGenerator<Uint8Array> {
    for await (const event of feed.read({ sinceMs, untilMs }, call.signal)) {
      if (eventMatches(event, filters)) yield Buffer.from(printEvent(event));
    }
  }
  return { kind: "stream", contentType: "application/json", chunks: lines() };
}
