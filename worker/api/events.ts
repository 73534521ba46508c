import { hasLabel } from "../../model/meta.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { parseFilters } from "../../runtime/http.ts";
import type { Filters } from "../../runtime/http.ts";
import type { ContainerRecord, EngineEvent } from "../engine/engine.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { followClusterEvents } from "./cluster-events.ts";
import { parseTime } from "./time.ts";
import { anyOf } from "../../runtime/signal.ts";

const keptEvents = 256;
/** A reader that is further behind loses its stream. */
const backlogLimit = 4_096;
/** How long after `until` the manager beside us may take to tell what it kept. */
const clusterLimitMs = 5_000;
const filterKeys = [
  "config",
  "container",
  "daemon",
  "event",
  "image",
  "label",
  "network",
  "node",
  "plugin",
  "scope",
  "secret",
  "service",
  "type",
  "volume",
];

export interface LocalEvent {
  readonly type: "container" | "image" | "network" | "volume";
  readonly action: string;
  readonly id: string;
  readonly image: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly atMs: number;
}

type ContainerEvent = Extract<EngineEvent, { kind: "container" }>;

/** Listens to the engine once for all readers, and keeps the last events for those who ask about the past. */
export class EventFeed {
  readonly #deps: FrontDoorDeps;
  readonly #kept: LocalEvent[] = [];
  readonly #readers = new Set<(event: LocalEvent) => void>();

  constructor(deps: FrontDoorDeps) {
    this.#deps = deps;
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    for await (const event of this.#deps.engine.events(signal)) {
      const local = toLocal(event);
      if (local === undefined) continue;
      if (event.kind === "container" && event.action === "start") await this.#publishVolumes(event, "mount");
      this.publish(local);
      if (event.kind === "container" && event.action === "die") await this.#publishVolumes(event, "unmount");
    }
  }

  /** What a prune gave back. */
  publishPruned(type: LocalEvent["type"], reclaimedBytes: number): void {
    const attributes = { reclaimed: String(reclaimedBytes) };
    this.publish({ type, action: "prune", id: "", image: "", attributes, atMs: this.#deps.clock.now() });
  }

  /** Of a container that has gone meanwhile nothing is told. */
  async #publishVolumes({ id, atMs }: ContainerEvent, action: "mount" | "unmount"): Promise<void> {
    const record = await this.#deps.engine.inspect(id);
    for (const { type, name = "", target, readOnly } of record?.mounts ?? []) {
      if (type !== "volume") continue;
      const more = { destination: target, propagation: "", "read/write": String(!readOnly) };
      const attributes = { driver: "local", container: id, ...(action === "mount" && more) };
      this.publish({ type: "volume", action, id: name, image: "", attributes, atMs });
    }
  }

  publish(event: LocalEvent): void {
    this.#kept.push(event);
    if (this.#kept.length > keptEvents) this.#kept.shift();
    for (const reader of this.#readers) reader(event);
  }

  /** What is done to a container without the engine's knowing. */
  publishContainer(
    action: string,
    { id, name, image, labels }: ContainerRecord,
    more: Readonly<Record<string, string>>,
    atMs: number,
  ): void {
    this.publish({
      type: "container",
      action,
      id,
      image,
      attributes: { ...labels, image, name, ...more },
      atMs,
    });
  }

  /**
   * `GET /events`: lines of JSON; this host's events and, while it is a manager, those of the cluster. Ends with
   * `signal` or once `until` is past.
   *
   * @param url - Path and query as asked, for the manager beside us.
   * @throws {ClusterError} `invalid-argument` for a bad filter or time.
   */
  read(query: URLSearchParams, url: string, signal: AbortSignal): AsyncGenerator<string> {
    const nowMs = this.#deps.clock.now();
    const filters = parseFilters(query.get("filters"), filterKeys);
    const sinceMs = parseTime(query.get("since"), nowMs);
    const untilMs = parseTime(query.get("until"), nowMs);
    if (sinceMs !== undefined && untilMs !== undefined && sinceMs > untilMs) {
      throw new ClusterError(
        "invalid-argument",
        `\`since\` time (${query.get("since")}) cannot be after \`until\` time (${query.get("until")})`,
      );
    }
    return this.#lines({ filters, sinceMs, untilMs, url }, signal);
  }

  async *#lines(
    {
      filters,
      sinceMs,
      untilMs,
      url,
    }: { filters: Filters; sinceMs: number | undefined; untilMs: number | undefined; url: string },
    signal: AbortSignal,
  ): AsyncGenerator<string> {
    const { clock, log } = this.#deps;
    const over = new AbortController();
    const either = anyOf(signal, over.signal).signal;
    /** Ends the stream of the cluster, which goes on past `until`: what it kept may come later than that. */
    const left = new AbortController();
    const queue: string[] = [];
    let wake = (): void => undefined;
    const push = (line: string): void => {
      if (queue.length < backlogLimit) queue.push(line);
      else {
        over.abort(new Error("the reader is too slow"));
        left.abort();
      }
      wake();
    };
    const take = (event: LocalEvent): void => {
      if (matches(event, filters)) push(print(event));
    };
    either.addEventListener("abort", () => wake(), { once: true });
    if (sinceMs !== undefined) {
      for (const event of this.#kept) {
        if (event.atMs >= sinceMs && (untilMs === undefined || event.atMs <= untilMs)) take(event);
      }
    }
    this.#readers.add(take);
    const cancelUntil =
      untilMs === undefined ? undefined : clock.after(Math.max(0, untilMs - clock.now()), () => over.abort());
    const asked = anyOf(signal, left.signal).signal;
    const cluster = followClusterEvents(this.#deps, { url, untilMs }, push, asked);
    cluster.catch((error: unknown) => {
      if (!asked.aborted) log.warn({ error: errorText(error) }, "events of the cluster ended");
    });
    try {
      for (;;) {
        const line = queue.shift();
        if (line !== undefined) yield line;
        else if (either.aborted) {
          this.#readers.delete(take);
          const cancelLimit = clock.after(clusterLimitMs, () => left.abort());
          // Its last lines belong to the past asked for. That it failed is said above.
          if (!signal.aborted) await cluster.catch(() => undefined);
          cancelLimit();
          yield* queue;
          return;
        } else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      this.#readers.delete(take);
      cancelUntil?.();
      over.abort();
      left.abort();
    }
  }
}

function toLocal(event: EngineEvent): LocalEvent | undefined {
  switch (event.kind) {
    case "container": {
      const { action, id, name, image, labels, exit, ranMs, signal, atMs } = event;
      const attributes = {
        ...labels,
        image,
        name,
        ...(exit !== undefined && { exitCode: String(exit.exitCode) }),
        ...(ranMs !== undefined && { execDuration: String(Math.round(ranMs / 1_000)) }),
        ...(signal !== undefined && { signal }),
      };
      return { type: "container", action, id, image, attributes, atMs };
    }
    case "image": {
      const { action, id, reference, atMs } = event;
      return { type: "image", action, id, image: reference, attributes: { name: reference }, atMs };
    }
    case "engine":
    case "lagged":
      return undefined;
  }
}

/** Nanoseconds do not fit a JavaScript number: their digits are put in as text. */
function print({ type, action, id, image, attributes, atMs }: LocalEvent): string {
  const isOld = type === "container" || type === "image"; // The first two kinds have their names of old as well.
  const json = JSON.stringify({
    ...(isOld && { status: action, id, from: image }),
    Type: type,
    Action: action,
    Actor: { ID: id, Attributes: attributes },
    scope: "local",
    time: Math.floor(atMs / 1_000),
  });
  return `${json.slice(0, -1)},"timeNano":${Math.floor(atMs)}000000}\n`;
}

function matches(event: LocalEvent, filters: Filters): boolean {
  return [...filters].every(([key, values]) => {
    const named = [event.id, event.attributes["name"] ?? ""];
    switch (key) {
      case "type":
        return values.includes(event.type);
      case "event":
        return values.some((value) => event.action === value || event.action.startsWith(`${value}:`));
      case "scope":
        return values.includes("local");
      case "volume":
      case "network":
        return event.type === key && values.some((value) => named.includes(value));
      case "container":
        return (
          event.type === "container" && values.some((value) => named.some((name) => name.startsWith(value)))
        );
      case "image":
        return values.includes(event.image) || (event.type === "image" && values.includes(event.id));
      case "label":
        return values.every((value) => hasLabel(event.attributes, value));
      default:
        return false;
    }
  });
}
