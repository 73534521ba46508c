import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { Agent, createServer, request as httpRequest } from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { outcomeUnknownText } from "../../../model/errors.ts";
import type { ClusterId, NodeId, TaskId } from "../../../model/ids.ts";
import type { HostSettings, NodeIdentity, SwarmOperation, SwarmOutcome } from "../../../proto/host.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { bodyLimitBytes, headerLimitBytes } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { openFrontDoor } from "../../../worker/api/server.ts";
import type { HostInterface, NodeView } from "../../../worker/api/deps.ts";
import { containerName, createRequest, taskSpec } from "../../../worker/task/request.ts";
import { assignment } from "../agent/fixtures.ts";
import { FakeEngine } from "../../sim/engine.ts";
import { FakeNetwork, fakeNetworks } from "../../sim/network.ts";

const oneInterface: HostInterface[] = [{ name: "eth0", addresses: ["10.9.0.1"] }];
const notMember =
  'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.';

interface HasTeardown {
  teardown(work: () => Promise<void>): void;
}

/** A front door over fakes; what it asks of shoald and the manager is scripted. */
class Host {
  view: NodeView = { state: "inactive", error: "", managers: [] };
  interfaces: HostInterface[] = oneInterface;
  outcome: SwarmOutcome = { kind: "done", nodeId: "node1" };
  readonly operations: SwarmOperation[] = [];
  readonly engine = new FakeEngine(systemClock, { registry: { "web:1": { output: ["hello"] } } });
  readonly network = new FakeNetwork();
  readonly directory: string;
  readonly settings: HostSettings;
  readonly #toManager = new Agent({ keepAlive: true });

  private constructor(directory: string) {
    this.directory = directory;
    this.settings = {
      stateDir: directory,
      runDir: directory,
      socket: join(directory, "shoal.sock"),
      managerSocket: join(directory, "manager.sock"),
      hostname: "host1",
      containerd: "",
      runtime: "crun",
      runtimeRoot: "",
      cgroupParent: "/shoal",
      insecureRegistries: ["10.0.0.1:5000"],
      engineLabels: { zone: "a" },
      bridgeSubnet: "172.20.0.0/16",
      natsServer: "",
      logLevel: "error",
    };
  }

  static async open(t: HasTeardown): Promise<Host> {
    const host = new Host(await mkdtemp(join(tmpdir(), "shoal-door-")));
    await writeFile(host.settings.socket, ""); // What a killed process leaves.
    const door = await host.serve();
    t.teardown(async () => {
      await door.close();
      await rm(host.directory, { recursive: true });
    });
    return host;
  }

  async serve() {
    const networks = await fakeNetworks(this.network, this.settings);
    return openFrontDoor({
      clock: systemClock,
      log: silentLog,
      settings: this.settings,
      engine: this.engine,
      network: this.network,
      networks,
      toManager: this.#toManager,
      node: () => this.view,
      healthOf: () => undefined,
      swarm: async (operation) => {
        this.operations.push(operation);
        return this.outcome;
      },
      interfaces: () => this.interfaces,
    });
  }

  become(role: "manager" | "worker"): void {
    this.view = {
      state: "active",
      error: "",
      identity: {
        nodeId: "node1",
        clusterId: "c" as ClusterId,
        role,
        dataPathAddress: "10.9.0.1",
      } as NodeIdentity,
      managers: [{ nodeId: "m1", address: "10.9.0.2:2377" }],
    };
  }

  /** Answers swarm routes in the manager's place. */
  async manager(
    t: HasTeardown,
    answer: (request: IncomingMessage, response: ServerResponse) => void,
  ): Promise<void> {
    const server = createServer(answer).listen(this.settings.managerSocket);
    await once(server, "listening");
    t.teardown(async () => {
      server.closeAllConnections();
      server.close();
    });
  }

  async ask(method: string, path: string, body?: string): Promise<Answer> {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const request = httpRequest({ socketPath: this.settings.socket, method, path, headers });
    request.end(body);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const pieces: Buffer[] = [];
    for await (const piece of response) pieces.push(piece as Buffer);
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(pieces) };
  }

  docker(...args: string[]): Promise<{ code: number; out: string; err: string }> {
    const env = {
      PATH: process.env["PATH"],
      HOME: this.directory,
      DOCKER_HOST: `unix://${this.settings.socket}`,
    };
    return new Promise((resolve) => {
      execFile("docker", args, { env, timeout: 20_000 }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code), out, err }),
      );
    });
  }

  /** A running container of a task. */
  async run(taskId: string, id: string): Promise<void> {
    const { signal } = new AbortController();
    await this.engine.pull("web:1", {}, signal);
    const host = {
      nodeId: "node1" as NodeId,
      hostname: "host1",
      platform: { architecture: "x86_64", os: "linux" },
    };
    const task = assignment(taskId);
    const attached = await this.network.attach(
      {
        taskId: taskId as TaskId,
        containerId: id,
        networks: [],
        host: false,
        none: false,
        ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 8080, publishMode: "host" }],
        hostname: "x",
        name: containerName(task, host.nodeId),
        extraHosts: [],
      },
      signal,
    );
    await this.engine.create(
      createRequest(task, id, taskSpec(task, host), host, attached, () => undefined),
      signal,
    );
    await this.engine.start(id, signal);
  }
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

const messageOf = ({ body }: Answer) => (JSON.parse(body.toString()) as { message: string }).message;
const id = "ab".repeat(32);

t.test("ping answers HEAD and GET with the headers clients negotiate by", async (t) => {
  const host = await Host.open(t);
  for (const [method, path, body] of [
    ["GET", "/_ping", "OK"],
    ["HEAD", "/v1.41/_ping", ""],
  ] as const) {
    const answer = await host.ask(method, path);
    t.equal(answer.body.toString(), body);
    t.match(answer.headers, {
      "api-version": "1.50",
      ostype: "linux",
      "docker-experimental": "false",
      "builder-version": "1",
      swarm: "inactive",
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-cache, no-store, must-revalidate",
    });
  }
  host.become("manager");
  t.equal((await host.ask("HEAD", "/_ping")).headers["swarm"], "active/manager");
  t.equal((await stat(host.settings.socket)).mode & 0o777, 0o660);
});

t.test("a socket that somebody answers on is not taken over", async (t) => {
  const host = await Host.open(t);
  await t.rejects(host.serve(), { code: "conflict", message: /another process answers/ });
});

t.test("errors have the API's status, text and exact content type", async (t) => {
  const host = await Host.open(t);
  const cases = [
    ["GET", "/nothing", 404, "page not found"],
    ["DELETE", "/info", 404, "page not found"],
    ["GET", "/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.50"],
    ["GET", "/containers/nope/json", 404, "No such container: nope"],
    ["GET", "/images/a/b:1/json", 404, "No such image: a/b:1"],
    ["GET", "/networks/nope", 404, "network nope not found"],
    ["DELETE", "/networks/bridge", 403, "bridge is a pre-defined network and cannot be removed"],
    ["GET", "/containers/json?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D", 400, "invalid filter 'foo'"],
    ["GET", "/networks/%25", 404, "network % not found"],
    ["GET", "/services/%", 400, "'/services/%' is not a valid url component"],
    ["GET", "/services/%ff%fe", 400, "'/services/%ff%fe' is not a valid url component"],
    ["GET", "/services", 503, notMember],
    ["GET", "/v1.50/swarm", 503, notMember],
    ["POST", "/networks/create", 400, "invalid name: name is empty"],
    ["DELETE", "/networks/nope", 404, "network nope not found"],
    ["POST", "/swarm/leave", 503, "This node is not part of a swarm"],
    ["POST", "/swarm/unlock", 503, "This node is not part of a swarm"],
  ] as const;
  for (const [method, path, status, message] of cases) {
    const answer = await host.ask(method, path);
    t.strictSame([answer.status, messageOf(answer)], [status, message], `${method} ${path}`);
    t.equal(answer.headers["content-type"], "application/json");
  }
  const overlay = await host.ask(
    "POST",
    "/networks/create",
    JSON.stringify({ Name: "o", Driver: "overlay" }),
  );
  t.strictSame([overlay.status, messageOf(overlay)], [503, notMember], "the cluster's");
  host.become("worker");
  t.match(
    messageOf(await host.ask("GET", "/services")),
    /^This node is not a swarm manager. Worker nodes can't be used/,
  );
  host.become("manager");
  t.match(
    messageOf(await host.ask("GET", "/services")),
    /Manager is being prepared or has trouble connecting/,
  );
});

t.test("swarm init resolves addresses and passes the rest on", async (t) => {
  const host = await Host.open(t);
  const answer = await host.ask(
    "POST",
    "/swarm/init",
    '{"ListenAddr":"0.0.0.0:2377","spec":{"Labels":{"a":"b"}}}',
  );
  t.strictSame([answer.status, answer.body.toString()], [200, '"node1"\n']);
  t.match(host.operations, [
    {
      kind: "init",
      request: {
        listenAddress: "0.0.0.0:2377",
        advertiseAddress: "10.9.0.1:2377",
        dataPathAddress: "10.9.0.1",
        dataPathPort: 4789,
        subnetBits: 24,
        availability: "active",
        spec: { Labels: { a: "b" } },
      },
    },
  ]);
  await host.ask(
    "POST",
    "/swarm/init",
    '{"ListenAddr":"eth0","AdvertiseAddr":"eth0:4000","DataPathAddr":"10.9.0.1"}',
  );
  t.match(host.operations[1], {
    request: { listenAddress: "10.9.0.1:2377", advertiseAddress: "10.9.0.1:4000" },
  });
  host.outcome = { kind: "failed", code: "unavailable", message: "This node is already part of a swarm." };
  t.strictSame((await host.ask("POST", "/swarm/init", '{"ListenAddr":"0.0.0.0"}')).status, 503);
});

t.test("addresses and bodies that cannot be are refused with the API's texts", async (t) => {
  const host = await Host.open(t);
  host.interfaces = [...oneInterface, { name: "eth1", addresses: ["10.8.0.1"] }];
  const cases = [
    [
      "init",
      '{"ListenAddr":"0.0.0.0:2377"}',
      "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (10.9.0.1 on eth0 and 10.8.0.1 on eth1)",
    ],
    [
      "init",
      '{"ListenAddr":"0.0.0.0","AdvertiseAddr":"0.0.0.0"}',
      "advertise address must be a non-zero IP address or network interface (with optional port number)",
    ],
    [
      "init",
      '{"ListenAddr":"0.0.0.0","AdvertiseAddr":"1.2.3.4"}',
      /^must specify a listening address because the address to advertise is not recognized/,
    ],
    ["init", "{}", 'invalid ListenAddr ""'],
    [
      "init",
      '{"ListenAddr":"0.0.0.0","AdvertiseAddr":"eth0","Spec":{"Name":"x"}}',
      'swarm spec must be named "default"',
    ],
    ["init", "{", /^invalid JSON: /],
    ["join", '{"JoinToken":"x"}', "at least 1 RemoteAddr is required to join"],
  ] as const;
  for (const [path, body, message] of cases) {
    const answer = await host.ask("POST", `/swarm/${path}`, body);
    t.equal(answer.status, 400, body);
    t.match(messageOf(answer), message);
  }
  t.equal(
    (await host.ask("POST", "/swarm/init", `{"x":"${"y".repeat(2_000_000)}"}`)).status,
    400,
    "too large",
  );
  t.strictSame(host.operations, []);
});

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
  t.equal((await host.ask("GET", "/services/x")).status, 503, "nobody there");
  t.equal(await run(), 1);
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

t.test("what is no HTTP is answered in the API's form, and the connection ends", async (t) => {
  const host = await Host.open(t);
  const cases = [
    ["\0\u0016garbage\r\n\r\n", 400, "malformed HTTP request"],
    [`GET /_ping HTTP/1.1\r\nX: ${"a".repeat(headerLimitBytes)}\r\n\r\n`, 431, /^request header too large/],
  ] as const;
  for (const [sent, status, message] of cases) {
    const socket = connect(host.settings.socket);
    socket.write(sent);
    const pieces: Buffer[] = [];
    socket.on("data", (piece: Buffer) => pieces.push(piece)).on("error", () => undefined);
    await once(socket, "close");
    const [head = "", body = ""] = Buffer.concat(pieces).toString().split("\r\n\r\n");
    t.match(head, new RegExp(`^HTTP/1.1 ${status} `));
    t.match((JSON.parse(body) as { message: string }).message, message);
  }
});

t.test("containers: list, inspect, logs and events", async (t) => {
  const host = await Host.open(t);
  const events = httpRequest({ socketPath: host.settings.socket, path: "/events" }).end();
  const [stream] = (await once(events, "response")) as [IncomingMessage];
  await host.run("t1", id);
  const [event] = (await once(stream, "data")) as [Buffer];
  t.match(JSON.parse(event.toString().split("\n")[0] ?? ""), {
    Type: "container",
    Action: "create",
    id,
    scope: "local",
  });
  stream.destroy();
  const [listed] = JSON.parse((await host.ask("GET", "/containers/json")).body.toString()) as object[];
  t.match(listed, {
    Id: id,
    Names: ["/web.1.t1"],
    State: "running",
    Status: "Up Less than a second",
    Ports: [{ PrivatePort: 80, PublicPort: 8080, Type: "tcp" }],
    Labels: { "com.docker.swarm.task.id": "t1" },
  });
  for (const name of [id, id.slice(0, 6), "web.1.t1", "%2Fweb.1.t1"]) {
    t.equal((await host.ask("GET", `/v1.44/containers/${name}/json`)).status, 200, name);
  }
  const logs = await host.ask("GET", `/containers/${id}/logs?stdout=1`);
  t.equal(logs.headers["content-type"], "application/vnd.docker.multiplexed-stream");
  t.strictSame(logs.body, Buffer.from([1, 0, 0, 0, 0, 0, 0, 6, ...Buffer.from("hello\n")]));
  t.match(messageOf(await host.ask("GET", `/containers/${id}/logs`)), /you must choose at least one stream/);
  host.engine.exit(id, 3);
  t.strictSame(JSON.parse((await host.ask("GET", "/containers/json")).body.toString()), []);
  const [ended] = JSON.parse((await host.ask("GET", "/containers/json?all=1")).body.toString()) as object[];
  t.match(ended, { State: "exited", Status: "Exited (3) Less than a second ago" });
});

t.test("networks of the host beside those of the cluster: made, found, listed, pruned", async (t) => {
  const host = await Host.open(t);
  host.become("manager");
  const asked: string[] = [];
  await host.manager(t, (request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const shared = [
      {
        Name: "shared",
        Id: "s1",
        Driver: "overlay",
        Scope: "swarm",
        IPAM: { Config: [{ Subnet: "10.0.1.0/24" }] },
      },
    ];
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(request.method === "POST" ? { NetworksDeleted: ["shared"] } : shared));
  });
  const create = (body: object) => host.ask("POST", "/networks/create", JSON.stringify(body));
  const made = await create({
    Name: "mine",
    Labels: { a: "b" },
    IPAM: { Config: [{ Subnet: "10.5.0.0/24" }] },
  });
  t.equal(made.status, 201);
  const { Id } = JSON.parse(made.body.toString()) as { Id: string };
  t.strictSame([messageOf(await create({ Name: "shared" }))], ["network with name shared already exists"]);
  const within = await create({ Name: "x", IPAM: { Config: [{ Subnet: "10.0.0.0/16" }] } });
  t.strictSame([within.status, /with network shared/.test(messageOf(within))], [403, true]);
  t.equal(host.network.bridges[0]?.subnet, "10.5.0.0/24");
  const names = async (filters: object) => {
    const query = encodeURIComponent(JSON.stringify(filters));
    const answer = await host.ask("GET", `/networks?filters=${query}`);
    return (JSON.parse(answer.body.toString()) as { Name: string }[]).map(({ Name }) => Name);
  };
  t.strictSame(await names({}), ["bridge", "host", "none", "mine", "shared"]);
  t.strictSame(
    await names({ type: ["custom"], driver: ["bridge"] }),
    ["mine", "shared"],
    "the manager answers for its own",
  );
  t.strictSame(await names({ dangling: ["true"] }), ["mine", "shared"]);
  t.strictSame(await names({ label: ["a=b"] }), ["mine", "shared"]);
  t.strictSame(await names({ label: ["a=c"] }), ["shared"]);
  t.match(JSON.parse((await host.ask("GET", `/networks/${Id.slice(0, 8)}`)).body.toString()), {
    Name: "mine",
    Scope: "local",
    IPAM: { Config: [{ Subnet: "10.5.0.0/24", Gateway: "10.5.0.1" }] },
    Labels: { a: "b" },
    Containers: {},
  });
  const pruned = await host.ask("POST", "/networks/prune");
  t.strictSame(JSON.parse(pruned.body.toString()), { NetworksDeleted: ["mine", "shared"] });
  t.ok(asked.includes("POST /networks/prune"));
  t.strictSame(host.network.bridges, []);
  t.equal((await host.ask("POST", "/networks/mine/connect", JSON.stringify({ Container: "c" }))).status, 404);
});

t.test("the docker client understands version, info, ps, images, network ls and the refusals", async (t) => {
  const host = await Host.open(t);
  await host.run("t1", id);
  t.equal(
    (await host.docker("version", "--format", "{{.Server.APIVersion}} {{.Server.Version}}")).out,
    "1.50 0.1.0\n",
  );
  const info = await host.docker("info");
  t.equal(info.code, 0, info.err);
  t.match(info.out, /Swarm: inactive/);
  t.match(info.out, / Name: host1/);
  const listed = await host.docker("ps", "--no-trunc", "--format", "{{.Names}} {{.Status}} {{.Ports}}");
  t.match(listed.out, /^web\.1\.t1 Up .* 0\.0\.0\.0:8080->80\/tcp\n$/);
  t.match((await host.docker("inspect", "--type", "container", id)).out, /"Status": "running"/);
  t.equal((await host.docker("logs", id)).out, "hello\n");
  t.match((await host.docker("images", "--format", "{{.Repository}}:{{.Tag}}")).out, /web:1/);
  t.match((await host.docker("network", "ls")).out, /bridge\s+bridge\s+local/);
  const services = await host.docker("service", "ls");
  t.strictSame([services.code, services.err.trim()], [1, `Error response from daemon: ${notMember}`]);
  const left = await host.docker("swarm", "leave");
  t.equal(left.err.trim(), "Error response from daemon: This node is not part of a swarm");
  host.interfaces = [...oneInterface, { name: "eth1", addresses: ["10.8.0.1"] }];
  const init = await host.docker("swarm", "init");
  t.match(init.err, /could not choose an IP address to advertise .* - specify one with --advertise-addr/);
});
