import { once } from "node:events";
import { createServer } from "node:http";
import { connect, type Socket } from "node:net";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { ClusterError } from "../../../model/errors.ts";
import {
  carry,
  finish,
  refuse,
  seize,
  type Seized,
  turn,
  withoutUpgrade,
} from "../../../worker/api/hijack.ts";
import { VirtualClock } from "../../sim/clock.ts";

const never = new AbortController().signal;

t.test("input that comes between the answer and the first look at it is not lost", async (t) => {
  const input: Buffer[] = [];
  let onSent = (): void => {};
  const sent = new Promise<void>((resolve) => (onSent = resolve));
  let onOver = (): void => {};
  const over = new Promise<void>((resolve) => (onOver = resolve));
  const client = await connectTo(t, (seized) => {
    void (async () => {
      turn(seized, { tty: false, version: "1.44" });
      await sent;
      // The event loop looks at its sockets before each of these.
      for (let turns = 0; turns < 10; turns += 1) await new Promise((resolve) => setImmediate(resolve));
      const written = {
        write: (bytes: Uint8Array) => Promise.resolve(void input.push(Buffer.from(bytes))),
        end: () => Promise.resolve(onOver()),
      };
      await carry(
        seized.socket,
        seized.head,
        {
          tty: false,
          output: [untilOver(over)],
          input: written,
          onInputEnd: "end",
          detachKeys: undefined,
          ending: new AbortController().signal,
        },
        "raw",
      );
      finish({ clock: new VirtualClock(0), ending: never }, seized);
    })();
  });
  let answer = "";
  client.on("data", (piece: string) => void (answer += piece));
  await once(client, "data");
  client.end("GET / typed\n".repeat(1_000), () => onSent());
  await once(client, "end");
  t.equal(Buffer.concat(input).toString(), "GET / typed\n".repeat(1_000));
  t.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
  t.match(answer, /over$/);
});

t.test("a connection that was refused is closed once its client has closed it", async (t) => {
  let onClosed = (): void => {};
  const closed = new Promise<void>((resolve) => (onClosed = resolve));
  const client = await connectTo(t, (seized) => {
    seized.socket.once("close", onClosed);
    refuse(seized, new ClusterError("conflict", "it has run"));
  });
  const [answer] = (await once(client, "data")) as [string];
  t.match(answer, /^HTTP\/1\.1 409 /);
  client.end("what nobody will read");
  await closed;
});

t.test("a client that reads slowly gets the last of the output, however long after its end", async (t) => {
  const clock = new VirtualClock(0);
  const text = "x".repeat(1024 * 1024);
  let onFinishing = (): void => {};
  const finishing = new Promise<void>((resolve) => (onFinishing = resolve));
  const client = await connectTo(t, (seized) => {
    turn(seized, { tty: false, version: "1.44" });
    t.equal(seized.socket.write(text), false, "more than the connection takes");
    finish({ clock, ending: never }, seized);
    onFinishing();
  });
  client.pause();
  await finishing;
  await clock.advance(60_000);
  let answer = "";
  client.on("data", (piece: string) => void (answer += piece)).resume();
  await once(client, "end");
  t.ok(answer.endsWith(text));
  client.destroy();
});

for (const how of ["it is given up", "the worker ends"] as const) {
  t.test(`a client that never takes the last output is let go once ${how}`, async (t) => {
    const clock = new VirtualClock(0);
    const ending = new AbortController();
    let onFinishing = (): void => {};
    const finishing = new Promise<void>((resolve) => (onFinishing = resolve));
    let onClosed = (): void => {};
    const closed = new Promise<void>((resolve) => (onClosed = resolve));
    const client = await connectTo(t, (seized) => {
      turn(seized, { tty: false, version: "1.44" });
      seized.socket.write("x".repeat(1024 * 1024));
      seized.socket.once("close", onClosed);
      finish({ clock, ending: ending.signal }, seized);
      onFinishing();
    });
    client.pause();
    await finishing;
    if (how === "the worker ends") ending.abort();
    else await clock.advance(600_000);
    await closed;
    client.destroy();
  });
}

t.test("output that is lost is told as an error of the daemon, not as an end", async (t) => {
  const ends: string[] = [];
  const serve =
    (form: "raw" | "framed") =>
    (seized: Seized): void => {
      turn(seized, { tty: form === "raw", version: "1.44" });
      const ending = new AbortController().signal;
      const what = { tty: form === "raw", output: [losing()], onInputEnd: "nothing", ending } as const;
      void carry(seized.socket, seized.head, { ...what, detachKeys: undefined }, form).then((end) => {
        ends.push(end);
        finish({ clock: new VirtualClock(0), ending: never }, seized);
      });
    };
  for (const form of ["framed", "raw"] as const) {
    const client = await connectTo(t, serve(form));
    let answer = "";
    client.on("data", (piece: string) => void (answer += piece));
    await once(client, "end");
    client.end();
    const body = answer.slice(answer.indexOf("\r\n\r\n") + 4);
    const want =
      form === "framed"
        ? "\x01\0\0\0\0\0\0\x04some\x03\0\0\0\0\0\0\x0eoutput is lost"
        : "some\r\noutput is lost\r\n";
    t.equal(body, want);
  }
  t.strictSame(ends, ["output-ended", "output-ended"]);
});

async function* losing(): AsyncGenerator<{ stream: "stdout"; bytes: Uint8Array }> {
  yield { stream: "stdout", bytes: Buffer.from("some") };
  throw new ClusterError("resource-exhausted", "output is lost");
}

/** A client that has asked, of a server that gives away the socket of each request. */
async function connectTo(t: Test, take: (seized: Seized) => void): Promise<Socket> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-hijack-"));
  const path = join(directory, "api.sock");
  const server = createServer((request) => {
    request.resume().once("end", () => take(seize(request)));
  });
  t.teardown(async () => {
    server.close();
    await rm(directory, { recursive: true, force: true });
  });
  server.listen(path);
  await once(server, "listening");
  const client = connect({ path, allowHalfOpen: true }).setEncoding("latin1");
  client.write("POST /exec/1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
  return client;
}

async function* untilOver(over: Promise<void>): AsyncGenerator<{ stream: "stdout"; bytes: Uint8Array }> {
  await over;
  yield { stream: "stdout", bytes: Buffer.from("over") };
}

t.test("an upgrade that nobody offers is an ordinary request, and its connection goes on", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "shoal-hijack-"));
  const path = join(directory, "api.sock");
  const server = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request
      .on("data", (piece: Buffer) => void pieces.push(piece))
      .on("end", () => {
        const { upgrade = "none", accept = "none" } = request.headers;
        const body = Buffer.concat(pieces).toString();
        response.end(`<${request.method} ${request.url} ${upgrade} ${accept} ${body}>`);
      });
  });
  server.on("upgrade", (request, socket, head) => withoutUpgrade(server, request, { socket, head }));
  t.teardown(async () => {
    server.close();
    await rm(directory, { recursive: true, force: true });
  });
  server.listen(path);
  await once(server, "listening");
  const client = connect(path).setEncoding("latin1");
  let told = "";
  client.on("data", (text: string) => (told += text));
  const answered = async (...wanted: string[]): Promise<void> => {
    while (!wanted.every((want) => told.includes(want))) await once(client, "data");
    told = "";
  };
  const offer =
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: TLS/1.2\r\nHTTP2-Settings: AAMAAA\r\nAccept: a/b";
  client.write(`GET /_ping HTTP/1.1\r\nHost: x\r\n${offer}\r\n\r\n`);
  await answered("<GET /_ping none a/b >");
  client.write(`POST /a%20b HTTP/1.1\r\nHost: x\r\n${offer}\r\nContent-Length: 6\r\n\r\n123`);
  await new Promise((resolve) => setImmediate(resolve));
  client.write("456GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
  await answered("<POST /a%20b none a/b 123456>", "<GET /next none none >");
  client.write(`POST /c HTTP/1.1\r\nHost: x\r\n${offer}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n`);
  await new Promise((resolve) => setImmediate(resolve));
  client.write("2\r\nde\r\n0\r\n\r\n");
  await answered("<POST /c none a/b abcde>");
  client.destroy();
});
