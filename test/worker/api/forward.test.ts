import { once } from "node:events";
import { createServer, request as httpRequest, type Server } from "node:http";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import t from "tap";
import { outcomeUnknownText } from "../../../model/errors.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { bodyLimitBytes } from "../../../runtime/http.ts";
import { Host, messageOf } from "./host.ts";

t.test("a manager's routes are passed through, streams and ends included", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  let gone: () => void = () => undefined;
  const left = new Promise<void>((resolve) => (gone = resolve));
  await host.manager(t, (request, response) => {
    response.setHeader("content-type", "application/json");
    if (request.url === "/v1.44/services/create?x=1") {
      request.pipe(response.writeHead(201, { "x-seen": String(request.headers["x-registry-auth"] ?? "") }));
    } else if (request.url?.includes("logs") === true) {
      response.write("first\n");
      request.once("close", gone);
    } else
      response.end(
        JSON.stringify(
          request.url === "/networks"
            ? [{ Id: "n1", Name: "net" }]
            : { NodeID: "node1", ControlAvailable: true },
        ),
      );
  });
  const created = await host.ask("POST", "/v1.44/services/create?x=1", '{"Name":"web"}');
  t.strictSame([created.status, created.body.toString()], [201, '{"Name":"web"}']);
  const networks = JSON.parse((await host.ask("GET", "/networks")).body.toString()) as { Name: string }[];
  t.strictSame(
    networks.map(({ Name }) => Name),
    ["bridge", "host", "none", "net"],
  );
  t.match(JSON.parse((await host.ask("GET", "/info")).body.toString()), {
    Swarm: { ControlAvailable: true },
  });
  const follow = httpRequest({ socketPath: host.settings.socket, path: "/services/web/logs?follow=1" }).end();
  const [stream] = (await once(follow, "response")) as [IncomingMessage];
  const [first] = (await once(stream, "data")) as [Buffer];
  t.equal(first.toString(), "first\n");
  stream.destroy();
  await left;
  t.pass("the manager saw the client go");
});

t.test("bodies reach the manager as they are, whatever their size and form; so do answers", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const seen: IncomingHttpHeaders[] = [];
  await host.manager(t, async (request, response) => {
    seen.push(request.headers);
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    response.end(Buffer.concat(pieces));
  });
  for (const bytes of [0, 1, 1_000, 64 * 1024, 64 * 1024 + 1, 1_000_000]) {
    const text = JSON.stringify("x".repeat(bytes));
    t.ok((await host.ask("POST", "/services/create", text)).body.toString() === text, `${bytes} bytes`);
    t.equal(seen.at(-1)?.["content-length"], String(text.length));
  }
  const cut = httpRequest({
    socketPath: host.settings.socket,
    method: "POST",
    path: "/services/create",
    headers: { expect: "100-continue" },
  });
  cut.write('"in ');
  cut.end('parts"');
  const [answer] = (await once(cut, "response")) as [IncomingMessage];
  const [echo] = (await once(answer, "data")) as [Buffer];
  t.equal(echo.toString(), '"in parts"');
  t.match(seen.at(-1), { "transfer-encoding": "chunked", expect: undefined });
  t.equal((await host.ask("GET", "/services")).body.toString(), "", "none at all");
});

t.test("a client that goes away within its body leaves the front door as it was", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  await host.manager(t, (_request, response) => response.end("{}"));
  const socket = connect(host.settings.socket);
  await once(socket, "connect");
  socket.write("POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
  socket.destroy();
  await once(socket, "close");
  t.equal((await host.ask("GET", "/services/x")).status, 200);
});

t.test("events of the past are told in full, also where the manager answers late", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const line = '{"Type":"service","Action":"create"}\n';
  await host.manager(t, async (_request, response) => {
    // Meanwhile the end that was asked for has passed.
    for (let asked = 0; asked < 5; asked += 1) await host.ask("GET", "/_ping");
    response.end(line);
  });
  t.equal((await host.ask("GET", "/events?since=1&until=2")).body.toString(), line);
});

t.test("events go on with the manager's next process, which tells again what was before", async (t) => {
  const host = await Host.open(t, {
    ...systemClock,
    sleep: () => new Promise((resolve) => setImmediate(resolve)),
  });
  const line = (name: string, second: number): string =>
    `{"Type":"service","Actor":{"ID":"${name}"},"timeNano":${second}000000000}\n`;
  const nowS = Math.floor(Date.now() / 1_000) + 60; // Later than the request by the clock of events.
  const asked: string[] = [];
  const serve = (lines: readonly string[]): Server =>
    createServer((request, response) => {
      asked.push(request.url ?? "");
      response.write(lines.join(""));
    }).listen(host.settings.managerSocket);
  const request = httpRequest({ socketPath: host.settings.socket, path: "/events" }).end();
  const [stream] = (await once(request, "response")) as [IncomingMessage];
  t.teardown(() => void stream.destroy());
  const told = createInterface({ input: stream })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => `${(await told.next()).value}\n`;

  const first = serve([line("one", nowS)]);
  host.become("manager"); // After the client had asked.
  t.equal(await next(), line("one", nowS));
  first.closeAllConnections();
  first.close();
  await once(first, "close");

  const second = serve([
    line("zero", nowS - 30),
    line("one", nowS),
    line("two", nowS),
    line("three", nowS + 1),
  ]);
  t.teardown(() => {
    second.closeAllConnections();
    second.close();
  });
  t.equal(await next(), line("two", nowS));
  t.equal(await next(), line("three", nowS + 1));
  t.same(asked, ["/events", `/events?since=${nowS}`]);
});

t.test("what shoald carries out is its own, also on a manager", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  await host.manager(t, () => t.fail("nothing comes through"));
  for (const path of ["/swarm/init", "/v1.44/swarm/init/"]) {
    t.match(messageOf(await host.ask("POST", path, '{"ListenAddr":"0.0.0.0"}')), /already part of a swarm/);
  }
});

t.test("requests share a connection to the manager, and reach the one that comes after it", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const run = async () => {
    const server = createServer((request, response) => request.resume().on("end", () => response.end("{}")));
    let connections = 0;
    server.on("connection", () => (connections += 1));
    server.listen(host.settings.managerSocket);
    await once(server, "listening");
    for (const method of ["GET", "POST", "GET"]) t.equal((await host.ask(method, "/services/x")).status, 200);
    const closed = once(server, "close");
    server.closeAllConnections();
    server.close();
    await closed;
    return connections;
  };
  t.equal(await run(), 1);
  t.equal(await run(), 1);
});

t.test("a manager that is just starting is waited for, and hears the whole request", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const asked = ["", '"small"', JSON.stringify("x".repeat(1_000_000))].map((body) =>
    host.ask("POST", "/services/create", body),
  );
  await host.ask("GET", "/_ping"); // By then they have found nobody.
  await host.manager(t, (request, response) => void request.pipe(response));
  const answers = await Promise.all(asked);
  t.strictSame(
    answers.map(({ status, body }) => [status, body.length]),
    [
      [200, 0],
      [200, 7],
      [200, 1_000_002],
    ],
  );
});

t.test("a node that is demoted while its manager is waited for says so", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const answer = host.ask("GET", "/services");
  await host.ask("GET", "/_ping");
  host.become("worker");
  t.match(messageOf(await answer), /Worker nodes can't be used/);
});

t.test("a manager that does not come is not waited for without end", async (t) => {
  const host = await Host.open(t, { ...systemClock, monotonic: () => systemClock.monotonic() * 100 });
  host.become("manager");
  t.match(messageOf(await host.ask("GET", "/services")), /Manager is being prepared/);
});

t.test(
  "a manager that dies over a write leaves its outcome unknown, over a read it is only away",
  async (t) => {
    const host = await Host.open(t);
    host.become("manager");
    await host.manager(t, (request) => request.socket.destroy());
    t.equal(messageOf(await host.ask("POST", "/services/create", "{}")), outcomeUnknownText);
    t.match(messageOf(await host.ask("GET", "/services/x")), /Manager is being prepared/);
  },
);

t.test("a body beyond the manager's limit is refused before it is sent on", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  await host.manager(t, () => t.fail("nothing comes through"));
  const request = httpRequest({
    socketPath: host.settings.socket,
    method: "POST",
    path: "/configs/create",
    headers: { "content-type": "application/json", "content-length": bodyLimitBytes + 1 },
  });
  request.flushHeaders();
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const [body] = (await once(response, "data")) as [Buffer];
  request.on("error", () => undefined).destroy();
  t.equal(response.statusCode, 413);
  t.match(body.toString(), `request body too large: at most ${bodyLimitBytes} bytes are accepted`);
});
