/** A leader's dispatcher over a lone store, and workers' sessions with it. */
import { EventEmitter } from "node:events";
import type { Test } from "tap";
import { Dispatcher } from "../../../manager/dispatcher/dispatcher.ts";
import { serveSession } from "../../../manager/dispatcher/service.ts";
import type { Store } from "../../../manager/store/store.ts";
import type { NodeId, ServiceId } from "../../../model/ids.ts";
import { revisionKey } from "../../../model/service.ts";
import type { Assignments, ManagerMessage, WorkerMessage } from "../../../proto/gen/shoal/dispatcher.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { clusterObject, id, nodeObject, taskSpec } from "../../sim/objects.ts";

export const leader = id<NodeId>("leader");
export const worker = id<NodeId>("worker");
export const other = id<NodeId>("other");

/** Time that can also pass without any timer firing, as when the process is stopped. */
export class PausableClock extends VirtualClock {
  #skippedMs = 0;

  override now(): number {
    return super.now() + this.#skippedMs;
  }

  override monotonic(): number {
    return super.monotonic() + this.#skippedMs;
  }

  pause(ms: number): void {
    this.#skippedMs += ms;
  }
}

export class FakeStream extends EventEmitter {
  readonly sent: ManagerMessage[] = [];
  full = false;
  #paused = false;
  #waiting: WorkerMessage[] = [];
  over: Promise<unknown> = Promise.resolve();
  readonly controller = new AbortController();

  write(message: ManagerMessage): boolean {
    this.sent.push(message);
    return !this.full;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    while (!this.#paused && this.#waiting.length > 0) this.emit("data", this.#waiting.shift());
  }

  send(message: WorkerMessage): void {
    if (this.#paused || this.listenerCount("data") === 0) this.#waiting.push(message);
    else this.emit("data", message);
  }

  close(): void {
    this.controller.abort(new Error("gone"));
  }

  infos() {
    return this.sent.flatMap(({ body }) => (body?.$case === "info" ? [body.value] : []));
  }

  assignments(): Assignments[] {
    return this.sent.flatMap(({ body }) => (body?.$case === "assignments" ? [body.value] : []));
  }

  heartbeats(): number {
    return this.sent.filter(({ body }) => body?.$case === "heartbeat").length;
  }

  last() {
    return this.sent.at(-1)?.body;
  }
}

export async function cluster(
  t: Test,
  options: { readonly state?: "ready" | "unknown"; readonly stall?: Promise<void> } = {},
) {
  const clock = new PausableClock();
  const { store } = loneStore(clock);
  await store.update((tx) => {
    tx.clusters.create(clusterObject());
    const member = { address: "10.9.0.1:2377", raftAddress: "10.9.0.1:2378" };
    tx.nodes.create({ ...nodeObject("leader", { state: "down" }), role: "manager", member });
    tx.nodes.create(nodeObject("worker", { state: options.state ?? "unknown" }));
    tx.nodes.create(nodeObject("other", { state: options.state ?? "unknown" }));
    tx.revisions.create({
      id: revisionKey(id<ServiceId>("web"), 0),
      serviceId: id<ServiceId>("web"),
      specVersion: 0,
      serviceName: "web",
      serviceLabels: {},
      task: taskSpec(),
      endpoint: { mode: "vip", ports: [] },
    });
  });
  const leadership = new AbortController();
  const slowStore: Pick<Store, "view" | "update" | "batch" | "watch"> = {
    view: (read) => store.view(read),
    update: async (write, signal) => {
      await options.stall;
      return store.update(write, signal);
    },
    batch: (items, write, signal) => store.batch(items, write, signal),
    watch: (tables, signal) => store.watch(tables, signal),
  };
  const deps = { store: slowStore, clock, random: seededRandom(1), log: silentLog, nodeId: leader };
  const dispatcher = new Dispatcher(deps, leadership.signal);
  const running = dispatcher.run(leadership.signal);
  t.teardown(async () => {
    leadership.abort(new Error("over"));
    await running;
    if (clock.waiting > 0) throw new Error(`${clock.waiting} timers are left`);
  });
  const door = {
    dispatcher: () => (leadership.signal.aborted ? undefined : dispatcher),
    leaderAddress: () => "10.9.0.2:2377",
  };
  function open(nodeId: NodeId): FakeStream {
    const stream = new FakeStream();
    const served = serveSession(
      door,
      stream as never,
      { nodeId, address: "10.9.0.7" },
      stream.controller.signal,
    );
    stream.over = served.catch((error: unknown) => error);
    return stream;
  }
  async function connect(nodeId: NodeId): Promise<FakeStream> {
    const stream = open(nodeId);
    stream.send(hello(nodeId.replace(/0+$/, "")));
    await settle();
    return stream;
  }
  return { store, clock, open, connect, lose: () => leadership.abort(new Error("lost")) };
}

export function hello(name: string, tunnel?: unknown, ipv6Addresses?: readonly string[]): WorkerMessage {
  const description = {
    hostname: `${name}-host`,
    platform: { architecture: "x86_64", os: "linux" },
    resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
    engineVersion: "1",
    engineLabels: {},
    plugins: [{ type: "Network", name: "overlay" }],
    ...(tunnel !== undefined && { tunnel }),
    ...(ipv6Addresses !== undefined && { ipv6Addresses }),
  };
  return {
    body: {
      $case: "hello",
      value: { description: { json: Buffer.from(JSON.stringify(description)) }, dataPathAddress: "10.8.0.7" },
    },
  };
}
