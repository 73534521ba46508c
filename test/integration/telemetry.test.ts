import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { issueForKey } from "../../manager/ca/issue.ts";
import { createKey, createRoot, type Root } from "../../manager/ca/root.ts";
import { createTask } from "../../manager/store/revisions.ts";
import type { Store } from "../../manager/store/store.ts";
import { superviseFabric } from "../../manager/telemetry/fabric.ts";
import { readLogs } from "../../manager/telemetry/logs.ts";
import type { ClusterId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { NodeRole } from "../../model/node.ts";
import type { LogOptions } from "../../proto/telemetry.ts";
import { systemClock } from "../../runtime/clock.ts";
import { FabricLink } from "../../runtime/fabric.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { TlsKeeper } from "../../runtime/tls.ts";
import { publishLogs } from "../../worker/logs/publish.ts";
import type { LogLine, LogReader } from "../../worker/logs/reader.ts";
import { loneStore } from "../sim/lone-store.ts";
import { id, nodeObject, serviceObject, serviceSpec } from "../sim/objects.ts";

/** One manager with a real nats-server, two workers that connect to it as on any cluster. */

const deps = { clock: systemClock, random: systemRandom, log: silentLog };
const clusterId = "c".repeat(25) as ClusterId;
const waitLimitMs = 10_000;
const follow: LogOptions = { stdout: true, stderr: true, follow: true, tail: "all" };
const once: LogOptions = { ...follow, follow: false };

interface World {
  readonly store: Store;
  readonly manager: FabricLink;
  readonly workers: readonly FabricLink[];
  /** Lines that a task's container has written, by task id; a reader follows them. */
  readonly output: Map<string, Output>;
  readonly signal: AbortSignal;
  readonly port: number;
  readonly root: Root;
}

class Output implements LogReader {
  readonly lines: LogLine[] = [];
  ended = false;
  readonly #readers = new Set<() => void>();

  write(text: string, stream: LogLine["stream"] = "stdout"): void {
    this.lines.push({ stream, timeMs: 1_700_000_000_000.5, line: Buffer.from(text), partial: false });
    for (const wake of this.#readers) wake();
  }

  get readers(): number {
    return this.#readers.size;
  }

  async *read(options: { follow: boolean }, signal: AbortSignal): AsyncGenerator<LogLine> {
    let wake = (): void => {};
    const woken = (): void => wake();
    this.#readers.add(woken);
    signal.addEventListener("abort", woken);
    try {
      for (let place = 0; !signal.aborted;) {
        const line = this.lines[place];
        if (line !== undefined) {
          place += 1;
          yield line;
        } else if (!options.follow || this.ended) {
          return;
        } else {
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    } finally {
      this.#readers.delete(woken);
    }
  }
}

async function world(test: { teardown(end: () => Promise<void>): void }): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), "shoal-telemetry-"));
  const port = await freePort();
  const root = await createRoot(deps);
  const { store } = loneStore(systemClock);
  const over = new AbortController();
  const { signal } = over;
  await store.update((tx) => {
    tx.nodes.create({ ...nodeObject("m1"), role: "manager" });
    tx.nodes.create(nodeObject("w1"));
    tx.nodes.create(nodeObject("w2"));
    const service = tx.services.create(serviceObject("web", serviceSpec()));
    for (const [task, node] of [
      ["t1", "w1"],
      ["t2", "w2"],
    ] as const) {
      createTask(tx, service, {
        id: id<TaskId>(task),
        slot: 1,
        nodeId: id<NodeId>(node),
        desiredState: "running",
      });
    }
  });
  const link = async (name: string, role: NodeRole, onConnected?: Parameters<FabricLink["run"]>[1]) => {
    const made = new FabricLink(deps, {
      nodeId: id(name),
      tls: await identityOf(root, id<NodeId>(name), role),
      host: () => "127.0.0.1",
      port,
    });
    return { made, running: made.run(signal, onConnected) };
  };
  const output = new Map<string, Output>([
    [id<TaskId>("t1"), new Output()],
    [id<TaskId>("t2"), new Output()],
  ]);
  const serving = superviseFabric(
    { ...deps, store, tls: await identityOf(root, id<NodeId>("m1"), "manager") },
    { binary: "nats-server", clusterId, folder, port },
    signal,
  );
  const manager = await link("m1", "manager");
  const workers = await Promise.all(
    ["w1", "w2"].map((name) =>
      link(name, "worker", (connection, connected) =>
        publishLogs(
          {
            ...deps,
            nodeId: id(name),
            answerTimeoutMs: 500,
            find: async (taskId) => {
              const reader = output.get(taskId);
              return reader && { taskId, serviceId: id<ServiceId>("web"), reader };
            },
          },
          connection,
          connected,
        ),
      ),
    ),
  );
  test.teardown(async () => {
    over.abort();
    await Promise.all([serving, manager.running, ...workers.map(({ running }) => running)]);
    rmSync(folder, { recursive: true, force: true });
  });
  const links = workers.map(({ made }) => made);
  for (const each of [manager.made, ...links]) await until("connected", () => isConnected(each));
  return { store, manager: manager.made, workers: links, output, signal, port, root };
}

async function identityOf(root: Root, nodeId: NodeId, role: NodeRole): Promise<TlsKeeper> {
  const { keys, keyPem } = await createKey();
  const certificatePem = await issueForKey(deps, root, keys.publicKey, {
    nodeId,
    clusterId,
    role,
    validityMs: 7_200_000,
  });
  return new TlsKeeper({ certificatePem, keyPem, rootPem: root.certificatePem });
}

function isConnected(link: FabricLink): boolean {
  try {
    return !link.connection.isClosed();
  } catch {
    return false;
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const endMs = systemClock.monotonic() + waitLimitMs;
  while (!condition()) {
    if (systemClock.monotonic() > endMs) throw new Error(`not within ${waitLimitMs} ms: ${what}`);
    await systemClock.sleep(10);
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

const web = { serviceIds: [id<ServiceId>("web")], taskIds: [] };

t.test("lines of all tasks of a service arrive, each task's in order", async (t) => {
  const { store, manager, output, signal } = await world(t);
  for (let line = 0; line < 1_000; line += 1) output.get(id("t1"))?.write(`one ${line}`);
  output.get(id("t2"))?.write("two", "stderr");
  const seen: string[] = [];
  const times = new Set<string>();
  for await (const { taskId, stream, line, atNs } of readLogs(
    { ...deps, store, link: manager },
    web,
    once,
    signal,
  )) {
    seen.push(`${taskId.slice(0, 2)} ${stream} ${Buffer.from(line).toString()}`);
    times.add(atNs);
  }
  t.equal(seen.length, 1_001);
  t.strictSame([...times], ["1700000000000500000"]);
  t.strictSame(
    seen.filter((line) => line.includes("one")).map((line) => Number(line.trim().split(" ").at(-1))),
    Array.from({ length: 1_000 }, (_, index) => index),
  );
  t.ok(seen.some((line) => line.endsWith("stderr two\n")));
});

t.test("a follower sees lines as they come, and the node stops reading when the follower goes", async (t) => {
  const { store, manager, output, signal } = await world(t);
  const first = output.get(id("t1"));
  first?.write("before");
  const seen: string[] = [];
  for await (const { line } of readLogs({ ...deps, store, link: manager }, web, follow, signal)) {
    seen.push(Buffer.from(line).toString());
    if (seen.length === 1) first?.write("after");
    else break;
  }
  t.strictSame(seen, ["before\n", "after\n"]);
  const worker = output.get(id("t2"));
  first?.write("for nobody");
  worker?.write("for nobody");
  t.ok((first?.readers ?? 0) <= 1);
});

t.test("a follower that pauses longer than a node waits for an answer misses nothing", async (t) => {
  const { store, manager, output, signal } = await world(t);
  const first = output.get(id("t1"));
  const count = 2_000;
  for (let line = 0; line < count; line += 1) first?.write(`${line}`);
  let waits = 0;
  const after: typeof systemClock.after = (_ms, callback) =>
    systemClock.after(50, () => {
      waits += 1;
      callback();
    });
  const clock = { ...systemClock, after };
  const seen: number[] = [];
  for await (const { line } of readLogs({ ...deps, clock, store, link: manager }, web, follow, signal)) {
    if (seen.length === 0) await until("the node was told to wait twelve times", () => waits >= 12);
    if (seen.push(Number(Buffer.from(line).toString())) === count) break;
  }
  t.strictSame(
    seen,
    Array.from({ length: count }, (_, index) => index),
  );
});

t.test("a follower goes on where it was when a node's connection is made anew", async (t) => {
  const { store, manager, workers, output, signal } = await world(t);
  const first = output.get(id("t1"));
  for (let line = 0; line < 3; line += 1) first?.write(`${line}`);
  const seen: string[] = [];
  const clock: typeof systemClock = {
    ...systemClock,
    monotonic: () => systemClock.monotonic() * 50, // A node's silence is found out sooner.
    every: (ms, callback) => systemClock.every(ms / 50, callback),
  };
  for await (const { line } of readLogs({ ...deps, clock, store, link: manager }, web, follow, signal)) {
    if (seen.push(Buffer.from(line).toString().trim()) === 3) {
      await workers[0]?.connection.close();
      await until("it is connected again", () => workers[0] !== undefined && isConnected(workers[0]));
      first?.write("3");
    }
    if (seen.length === 4) break;
  }
  t.strictSame(seen, ["0", "1", "2", "3"]);
});

t.test("a node without a connection is named after the lines of the others", async (t) => {
  const { store, manager, workers, output, signal } = await world(t);
  output.get(id("t1"))?.write("here");
  workers[1]?.connection.close().catch(() => {});
  await store.update((tx) => {
    tx.nodes.create(nodeObject("w9"));
    const service = tx.services.byName("web");
    if (service === undefined) throw new Error("no service");
    createTask(tx, service, {
      id: id<TaskId>("t3"),
      slot: 2,
      nodeId: id<NodeId>("w9"),
      desiredState: "running",
    });
  });
  const seen: string[] = [];
  await t.rejects(
    async () => {
      for await (const { line } of readLogs({ ...deps, store, link: manager }, web, once, signal))
        seen.push(Buffer.from(line).toString());
    },
    { code: "unavailable", message: /incomplete log stream.*node w9.* is not available/ },
  );
  t.ok(seen.includes("here\n"));
});

t.test("nodes that come while nats-server starts are known to it, and do not end it", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "shoal-telemetry-"));
  const root = await createRoot(deps);
  const port = await freePort();
  const { store } = loneStore(systemClock);
  const over = new AbortController();
  const failures: unknown[] = [];
  const own = await identityOf(root, id<NodeId>("m1"), "manager");
  const tls = await identityOf(root, id<NodeId>("w1"), "worker");
  const serving = superviseFabric(
    { ...deps, log: { ...silentLog, error: (fields) => void failures.push(fields) }, store, tls: own },
    { binary: "nats-server", clusterId, folder, port },
    over.signal,
  );
  const link = new FabricLink(deps, { nodeId: id("w1"), tls, host: () => "127.0.0.1", port });
  const linked = link.run(over.signal);
  t.teardown(async () => {
    over.abort();
    await Promise.all([serving, linked]);
    rmSync(folder, { recursive: true, force: true });
  });
  for (const name of ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "w1"]) {
    await store.update((tx) => void tx.nodes.create(nodeObject(name)));
    await systemClock.sleep(1);
  }
  await until("the last node is let in", () => isConnected(link));
  t.strictSame(failures, []);
});

t.test("a worker may not read other nodes' lines, nor publish in their name", async (t) => {
  const { workers } = await world(t);
  const connection = workers[0]?.connection;
  if (connection === undefined) throw new Error("no worker");
  const refused: string[] = [];
  void (async () => {
    for await (const status of connection.status())
      if (status.type === "error") refused.push(status.error.message);
  })();
  connection.publish(`shoal.log.${id("w2")}.x`, "forged");
  connection.subscribe("shoal.log.>", { callback: (error) => void refused.push(error?.message ?? "") });
  await until(
    "both refused",
    () => refused.some((text) => /publish/i.test(text)) && refused.some((text) => /subscription/i.test(text)),
  );
  t.pass("refused by the server");
});

t.test("a certificate of another authority gets no connection", async (t) => {
  const { port } = await world(t);
  const other = await createRoot(deps);
  const over = new AbortController();
  const link = new FabricLink(deps, {
    nodeId: id("w1"),
    tls: await identityOf(other, id<NodeId>("w1"), "worker"),
    host: () => "127.0.0.1",
    port,
  });
  let connected = false;
  const refusals: unknown[] = [];
  t.teardown(() => over.abort());
  const running = new FabricLink(
    { ...deps, log: { ...silentLog, warn: (fields) => void refusals.push(fields) } },
    {
      nodeId: id("w1"),
      tls: await identityOf(other, id<NodeId>("w1"), "worker"),
      host: () => "127.0.0.1",
      port,
    },
  ).run(over.signal, () => (connected = true));
  await until("refused once", () => refusals.length > 0);
  over.abort();
  await running;
  t.equal(connected, false);
  t.throws(() => link.connection, { code: "unavailable" });
});
