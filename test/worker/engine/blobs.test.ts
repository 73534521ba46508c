import { Server, ServerCredentials, type ServerDuplexStream, status } from "@grpc/grpc-js";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";

import {
  ContentService,
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponse,
} from "../../../proto/gen/containerd/content.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { writeBlob } from "../../../worker/engine/blobs.ts";
import { Connection } from "../../../worker/engine/connection.ts";

type WriteStream = ServerDuplexStream<WriteContentRequest, WriteContentResponse>;

const digest = `sha256:${"0".repeat(64)}`;
const none = new AbortController().signal;

async function serve(t: Test, write: (stream: WriteStream) => void, root?: string): Promise<Connection> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-blobs-"));
  const socket = join(directory, "containerd.sock");
  const server = new Server();
  server.addService({ write: ContentService.write }, { write });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
  const connection = new Connection(socket, root);
  t.teardown(async () => {
    connection.close();
    server.forceShutdown();
    await rm(directory, { recursive: true });
  });
  await connection.ready();
  return connection;
}

/** containerd's part: what it holds of one blob, and every request that it got. */
class Content {
  readonly requests: Omit<WriteContentRequest, "data">[] = [];
  held = Buffer.alloc(0);
  /** Answers are kept back until {@link answer} is called. */
  isHolding = false;
  /** Requests that have no answer yet, at most. */
  mostWaiting = 0;
  #waiting: (() => void)[] = [];

  readonly write = (stream: WriteStream): void => {
    stream.on("data", ({ data, ...request }: WriteContentRequest) => {
      this.requests.push(request);
      const { action } = request;
      if (action === WriteAction.WRITE && request.offset !== this.held.length) {
        stream.emit("error", { code: status.INVALID_ARGUMENT, details: "out of order" });
        return;
      }
      if (action === WriteAction.WRITE) this.held = Buffer.concat([this.held, data]);
      const offset = this.held.length;
      const total = request.total;
      this.#waiting.push(
        () =>
          void stream.write({
            action,
            offset,
            total,
            digest: "",
          }),
      );
      this.mostWaiting = Math.max(this.mostWaiting, this.#waiting.length);
      if (!this.isHolding || action !== WriteAction.WRITE) this.answer();
    });
    stream.on("end", () => stream.end());
  };

  answer(): void {
    for (const send of this.#waiting.splice(0)) send();
  }
}

/** What it holds is in a file, as containerd has it. */
async function inFile(t: Test, content: Content, { reference = `shoal/1/shoal-${digest}`, held = "" } = {}) {
  const root = await mkdtemp(join(tmpdir(), "shoal-ingest-"));
  t.teardown(() => rm(root, { recursive: true }));
  const directory = join(root, "io.containerd.content.v1.content", "ingest", "0123");
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, "ref"), reference);
  const path = join(directory, "data");
  await writeFile(path, held);
  const other = join(directory, "..", "4567");
  await mkdir(other);
  await writeFile(join(other, "ref"), `shoal/2/shoal-sha256:${"1".repeat(64)}`);
  await writeFile(join(other, "data"), held);
  Object.defineProperty(content, "held", {
    get: () => readFileSync(path),
    set: (data: Buffer) => {
      writeFileSync(path, data);
    },
  });
  return { root, path, other: join(other, "data") };
}

async function* inPieces(data: Buffer, pieceBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += pieceBytes) yield data.subarray(at, at + pieceBytes);
}

t.test(
  "a write that was given up before it began is an error of its caller and of nobody else",
  async (t) => {
    const connection = await serve(t, () => undefined);
    const stop = new AbortController();
    stop.abort(new Error("no longer wanted"));
    async function* source(): AsyncGenerator<Buffer> {}
    const blob = { digest, size: 1, lease: "l", source };
    await t.rejects(writeBlob(connection, blob, stop.signal), { message: "no longer wanted" });
    await connection.ready(); // Time for a late error of the stream, which would end the process.
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
  },
);

t.test(
  "bytes arrive in order, from where an interrupted write ended, whatever the size of their pieces",
  async (t) => {
    const data = Buffer.from(systemRandom.bytes(3_000_000));
    for (const pieceBytes of [70_000, 1_000_000]) {
      const content = new Content();
      const connection = await serve(t, content.write);
      content.held = data.subarray(0, 12_345);
      const progress: number[] = [];
      const outcome = await writeBlob(
        connection,
        {
          digest,
          size: data.length,
          lease: "l",
          labels: { of: "a test" },
          source: (offset) => inPieces(data.subarray(offset), pieceBytes),
          onProgress: (bytes) => void progress.push(bytes),
        },
        none,
      );
      t.equal(outcome, "written");
      t.ok(content.held.equals(data));
      t.equal(progress[0], 12_345);
      t.equal(progress.at(-1), data.length);
      t.match(content.requests[0], { action: WriteAction.STAT, ref: `shoal-${digest}`, total: data.length });
      t.match(content.requests.at(-1), {
        action: WriteAction.COMMIT,
        offset: data.length,
        expected: digest,
        labels: { of: "a test" },
      });
    }
  },
);

t.test("no more than a few requests wait for a slow containerd", async (t) => {
  const data = Buffer.from(systemRandom.bytes(4_000_000));
  const content = new Content();
  content.isHolding = true;
  const connection = await serve(t, content.write);
  let taken = 0;
  async function* source(): AsyncGenerator<Buffer> {
    for await (const piece of inPieces(data, 256 * 1024)) {
      taken += 1;
      yield piece;
    }
  }
  const writing = writeBlob(connection, { digest, size: data.length, lease: "l", source }, none);
  while (content.mostWaiting < 4) await new Promise((resolve) => setImmediate(resolve));
  await connection.ready();
  t.equal(content.mostWaiting, 4);
  t.equal(taken, 5, "and one is ready");
  content.isHolding = false;
  content.answer();
  await writing;
  t.equal(content.mostWaiting, 4);
  t.ok(content.held.equals(data));
});

t.test("too much, too little, and a refusal in the middle", async (t) => {
  const data = Buffer.from(systemRandom.bytes(1_000_000));
  const content = new Content();
  const connection = await serve(t, content.write);
  const blob = { digest, lease: "l", source: (offset: number) => inPieces(data.subarray(offset), 100_000) };
  await t.rejects(writeBlob(connection, { ...blob, size: 900_000 }, none), {
    code: "data-loss",
    message: /larger than the 900000 bytes/,
  });
  content.held = Buffer.alloc(0);
  await t.rejects(writeBlob(connection, { ...blob, size: 1_100_000 }, none), {
    code: "data-loss",
    message: /ended after 1000000 of 1100000 bytes/,
  });
  t.notOk(content.requests.some(({ action }) => action === WriteAction.COMMIT));
  const full = await serve(t, (stream) => {
    stream.on("data", ({ action }: WriteContentRequest) => {
      if (action === WriteAction.WRITE) {
        stream.emit("error", { code: status.RESOURCE_EXHAUSTED, details: "no space left on device" });
        return;
      }
      stream.write({ action, offset: 0, total: 0, digest: "" });
    });
  });
  await t.rejects(writeBlob(full, { ...blob, size: data.length }, none), {
    message: /no space left on device/,
  });
});

t.test("whoever gives up a write that waits gets away at once", async (t) => {
  const content = new Content();
  content.isHolding = true;
  const connection = await serve(t, content.write);
  const stop = new AbortController();
  const source = () => inPieces(Buffer.alloc(100), 100);
  const writing = writeBlob(connection, { digest, size: 100, lease: "l", source }, stop.signal);
  while (content.mostWaiting < 1 || content.held.length < 100)
    await new Promise((resolve) => setImmediate(resolve));
  stop.abort(new Error("no longer wanted"));
  await t.rejects(writing, { message: "no longer wanted" });
});

t.test("a large blob goes into containerd's own file, from where an interrupted write ended", async (t) => {
  const data = Buffer.from(systemRandom.bytes(3_000_000));
  const content = new Content();
  const { root, other } = await inFile(t, content, { held: "\0".repeat(12_345) });
  content.held = data.subarray(0, 12_345);
  const connection = await serve(t, content.write, root);
  const progress: number[] = [];
  const outcome = await writeBlob(
    connection,
    {
      digest,
      size: data.length,
      lease: "l",
      labels: { of: "a test" },
      source: (offset) => inPieces(data.subarray(offset), 70_000),
      onProgress: (bytes) => void progress.push(bytes),
    },
    none,
  );
  t.equal(outcome, "written");
  t.ok(content.held.equals(data));
  t.equal((await readFile(other)).length, 12_345, "another's is left alone");
  t.equal(progress[0], 12_345);
  t.equal(progress.at(-1), data.length);
  t.strictSame(
    content.requests.map(({ action }) => action),
    [WriteAction.STAT, WriteAction.STAT, WriteAction.COMMIT],
  );
  t.match(content.requests.at(-1), { offset: data.length, expected: digest, labels: { of: "a test" } });
});

for (const { name, reference, size } of [
  { name: "of another namespace", reference: `moby/1/shoal-${digest}`, size: 0 },
  { name: "that has more than containerd says", reference: `shoal/1/shoal-${digest}`, size: 7 },
]) {
  t.test(`a file ${name} is left alone: the bytes go by calls`, async (t) => {
    const data = Buffer.from(systemRandom.bytes(2_500_000));
    const place = new Content();
    const { root, path } = await inFile(t, place, { reference, held: "x".repeat(size) });
    const content = new Content();
    const connection = await serve(t, content.write, root);
    const source = (offset: number) => inPieces(data.subarray(offset), 100_000);
    t.equal(await writeBlob(connection, { digest, size: data.length, lease: "l", source }, none), "written");
    t.ok(content.held.equals(data));
    t.equal((await readFile(path)).length, size);
  });
}

t.test("too much and too little for the file, and a source that is given up", async (t) => {
  const data = Buffer.from(systemRandom.bytes(3_000_000));
  const content = new Content();
  const { root } = await inFile(t, content);
  const connection = await serve(t, content.write, root);
  const blob = { digest, lease: "l", source: (offset: number) => inPieces(data.subarray(offset), 100_000) };
  await t.rejects(writeBlob(connection, { ...blob, size: 2_900_000 }, none), {
    code: "data-loss",
    message: /larger than the 2900000 bytes/,
  });
  content.held = Buffer.alloc(0);
  await t.rejects(writeBlob(connection, { ...blob, size: 6_100_000 }, none), {
    code: "data-loss",
    message: /ended after 3000000 of 6100000 bytes/,
  });
  content.held = Buffer.alloc(0);
  const stop = new AbortController();
  async function* source(): AsyncGenerator<Buffer> {
    yield data;
    stop.abort(new Error("no longer wanted"));
    yield data;
  }
  await t.rejects(writeBlob(connection, { digest, size: 6_000_000, lease: "l", source }, stop.signal), {
    message: "no longer wanted",
  });
  t.ok(content.held.length <= data.length);
  t.notOk(content.requests.some(({ action }) => action === WriteAction.COMMIT));
});

t.test("of two writers of one blob the second is refused while the first has its file", async (t) => {
  const data = Buffer.from(systemRandom.bytes(3_000_000));
  const content = new Content();
  const { root } = await inFile(t, content);
  const connection = await serve(t, content.write, root);
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let asked = (): void => undefined;
  const begun = new Promise<void>((resolve) => (asked = resolve));
  async function* slow(): AsyncGenerator<Buffer> {
    asked();
    await released;
    yield data;
  }
  const blob = { digest, size: data.length, lease: "l" };
  const first = writeBlob(connection, { ...blob, source: slow }, none);
  await begun;
  await t.rejects(writeBlob(connection, { ...blob, source: slow }, none), { code: "unavailable" });
  release();
  t.equal(await first, "written");
  t.ok(content.held.equals(data));
});
