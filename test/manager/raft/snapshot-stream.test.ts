import { EventEmitter, once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Client,
  connectivityState,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  credentials,
} from "@grpc/grpc-js";
import type { SnapshotMeta, SnapshotMessage } from "raft-ts";
import t, { type Test } from "tap";
import { messageToWire, snapshotToWire } from "../../../manager/raft/codec.ts";
import { Keyring } from "../../../manager/raft/seal.ts";
import { type SnapshotFile, snapshotPartBytes } from "../../../manager/raft/snapshot-file.ts";
import { SnapshotInbox } from "../../../manager/raft/snapshot-inbox.ts";
import { openSnapshotCall, snapshotService } from "../../../manager/raft/snapshot-codec.ts";
import { receiveSnapshot } from "../../../manager/raft/snapshot-receiver.ts";
import { sendSnapshot } from "../../../manager/raft/snapshot-sender.ts";
import { SnapshotStore } from "../../../manager/raft/snapshot.ts";
import { ClusterError } from "../../../model/errors.ts";
import type { SnapshotPart, SnapshotReceipt } from "../../../proto/gen/shoal/raft.ts";
import { toStatus } from "../../../proto/status.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { SimDisk } from "../../sim/disk.ts";

const partCount = 40;
const data = new Uint8Array(partCount * snapshotPartBytes).map((_, at) => (at * 31) % 253);
const meta: SnapshotMeta = {
  index: 9,
  term: 2,
  configuration: { voters: ["a"], outgoing: [], learners: [], contexts: {} },
};

t.test("a snapshot arrives whole, and never more of it is under way than the window", async (t) => {
  const wire = await connected(t);
  const held: number[] = [];
  await wire.send((bytes) => held.push(bytes));
  t.equal(held.at(-1), data.length);
  t.equal(wire.received, 1);
  t.ok((await wire.stored()).equals(data));
});

t.test("after a broken stream the next one carries only what is missing", async (t) => {
  const wire = await connected(t);
  let held = 0;
  wire.cutAfterParts = 15;
  await t.rejects(
    wire.send((bytes) => (held = bytes)),
    "the stream broke",
  );
  t.ok(held >= 7 * snapshotPartBytes && held < data.length, `${held} bytes were held`);
  wire.cutAfterParts = Infinity;
  const before = wire.partsRead;
  await wire.send((bytes) => (held = bytes));
  t.ok(wire.partsRead - before <= partCount - 7, `${wire.partsRead - before} parts were read again`);
  t.equal(wire.received, 1);
  t.ok((await wire.stored()).equals(data));
});

t.test("a receiver that takes in nothing is given up after a bound", async (t) => {
  const wire = await connected(t);
  wire.isStuck = true;
  const sending = wire.send(() => {});
  const outcome = t.rejects(sending, { message: /took in nothing for 20000 ms/ });
  for (let turn = 0; turn < 30; turn += 1) await wire.clock.advance(1_000);
  await outcome;
});

t.test("a refusal comes back to the sender with its reason", async (t) => {
  const wire = await connected(t);
  wire.refusal = new ClusterError("resource-exhausted", "the snapshot cannot be taken: the disk is full");
  await t.rejects(
    wire.send(() => {}),
    { message: /the disk is full/ },
  );
});

t.test("a stream that ends together with its last receipt has brought the snapshot", async (t) => {
  const empty = { ...meta, dataBytes: 0, digest: "" };
  const file = { meta, identity: empty, async *parts() {} } as unknown as SnapshotFile;
  const call = Object.assign(new EventEmitter(), {
    write: () => call.emit("data", { heldBytes: 0, done: false }),
    // Both in one packet, so that nobody is woken between them.
    end: () => call.emit("data", { heldBytes: 0, done: true }) && call.emit("end"),
    cancel: () => t.fail("cancelled"),
  });
  const message: SnapshotMessage = { type: "snapshot", from: "a", to: "b", term: 2, snapshot: meta };
  const hello = { clusterId: "c", from: "a", to: "b", address: "" };
  const sending = { hello, message: messageToWire(message), file, onProgress: () => {} };
  // Of a call it needs no more than this.
  const stream = call as unknown as Parameters<typeof sendSnapshot>[1];
  await t.resolves(sendSnapshot({ clock: new VirtualClock() }, stream, sending));
});

t.test("a stream to a peer that is away waits for its return", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "shoal-stream-"));
  const address = `unix:${join(directory, "peer.sock")}`;
  const plain = { credentials: credentials.createInsecure(), server: ServerCredentials.createInsecure() };
  const client = new Client(address, plain.credentials, { "grpc.initial_reconnect_backoff_ms": 100 });
  const server = new Server();
  t.teardown(async () => {
    client.close();
    server.forceShutdown();
    await rm(directory, { recursive: true });
  });
  const channel = client.getChannel();
  const isAway = (): boolean => channel.getConnectivityState(true) === connectivityState.TRANSIENT_FAILURE;
  while (!isAway()) {
    const state = channel.getConnectivityState(true);
    await new Promise<void>((resolve) => channel.watchConnectivityState(state, Infinity, () => resolve()));
  }
  const call = openSnapshotCall(client);
  const answer = once(call, "data");
  call.write({ hello: undefined, message: undefined, data: Buffer.alloc(0), offset: 0 });
  server.addService(snapshotService, {
    sendSnapshot: (stream: ServerDuplexStream<SnapshotPart, SnapshotReceipt>) => {
      stream.write({ heldBytes: 7, done: false });
      stream.on("data", () => {});
      stream.on("end", () => stream.end());
    },
  });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(address, plain.server, (error) => (error === null ? resolve() : reject(error)));
  });
  t.match(await answer, [{ heldBytes: 7 }]);
  const ended = once(call, "end");
  call.end();
  await ended;
});

/** A sender and a receiver with a disk each, and a real connection between them. */
async function connected(t: Test) {
  const seal = await Keyring.load({ disk: new SimDisk(), random: seededRandom(1) }, "/key", "create");
  const source = new SnapshotStore({ disk: new SimDisk() }, { directory: "/from", seal });
  await source.prepare();
  const writer = await source.begin(meta);
  await writer.append(data);
  await writer.finish();
  await source.keep(writer);
  const target = new SnapshotStore({ disk: new SimDisk() }, { directory: "/to", seal });
  await target.prepare();
  const inbox = new SnapshotInbox(target);
  const clock = new VirtualClock();
  const state = {
    clock,
    received: 0,
    partsRead: 0,
    cutAfterParts: Infinity,
    isStuck: false,
    refusal: undefined as ClusterError | undefined,
    send,
    stored,
  };
  const server = new Server();
  server.addService(snapshotService, {
    sendSnapshot: (call: Parameters<typeof receiveSnapshot>[1]) => {
      const greet = () => {
        if (state.refusal !== undefined) throw state.refusal;
        return "a";
      };
      const offer: Parameters<typeof receiveSnapshot>[0]["offer"] = async (message, identity) => {
        if (state.isStuck) await new Promise<never>(() => {});
        return inbox.offer(message.snapshot, identity, async (finished) => {
          state.received += 1;
          await target.keep(finished);
        });
      };
      receiveSnapshot({ greet, offer, refusal: toStatus, log: silentLog }, call);
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });

  async function send(onProgress: (heldBytes: number) => void): Promise<void> {
    const file = await source.open();
    if (file === undefined) throw new Error("no snapshot");
    const message: SnapshotMessage = { type: "snapshot", from: "a", to: "b", term: 2, snapshot: meta };
    const wire = { ...messageToWire(message), snapshot: snapshotToWire(meta, file.identity) };
    const hello = { clusterId: "c", from: "a", to: "b", address: "" };
    const call = openSnapshotCall(client);
    const counted = Object.create(file, {
      parts: { value: (from: number) => cut(file, from, call) },
    }) as SnapshotFile;
    try {
      await sendSnapshot({ clock }, call, { hello, message: wire, file: counted, onProgress });
    } finally {
      await file.close();
    }
  }

  async function* cut(
    file: SnapshotFile,
    from: number,
    call: { cancel(): void },
  ): AsyncGenerator<{ offset: number; data: Uint8Array }> {
    let sent = 0;
    for await (const part of file.parts(from)) {
      if (sent === state.cutAfterParts) call.cancel();
      sent += 1;
      state.partsRead += 1;
      yield part;
    }
  }

  async function stored(): Promise<Buffer> {
    const file = await target.newestReadable();
    const parts: Uint8Array[] = [];
    for await (const part of file?.parts() ?? []) parts.push(part.data);
    await file?.close();
    return Buffer.concat(parts);
  }

  return state;
}
