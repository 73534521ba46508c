import { once } from "node:events";
import { stat } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import type { IncomingMessage } from "node:http";
import { connect } from "node:net";
import t from "tap";
import { headerLimitBytes } from "../../../runtime/http.ts";
import { Host, id, messageOf, notMember, oneInterface } from "./host.ts";

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
  const { mode, gid } = await stat(host.settings.socket);
  t.equal(mode & 0o777, 0o660);
  t.equal(gid, host.settings.socketGroup);
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
  const sources = [
    ['"ListenAddr":"0.0.0.0:2377"', { kind: "chosen" }],
    ['"AdvertiseAddr":"eth0:4000"', { kind: "interface", name: "eth0" }],
    ['"AdvertiseAddr":"10.9.0.1"', { kind: "fixed" }],
    ['"AdvertiseAddr":"10.9.0.1","DataPathAddr":"eth0"', { kind: "interface", name: "eth0" }],
    ['"AdvertiseAddr":"eth0","DataPathAddr":"10.9.0.1"', { kind: "fixed" }],
    ['"ListenAddr":"eth0:2377"', { kind: "interface", name: "eth0" }],
  ] as const;
  for (const [fields, dataPathSource] of sources) {
    await host.ask(
      "POST",
      "/swarm/join",
      `{"ListenAddr":"0.0.0.0",${fields},"RemoteAddrs":["10.9.0.9:2377"]}`,
    );
    t.match(host.operations.at(-1), { request: { dataPathSource } }, fields);
  }
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
  t.match(`${info.out}${info.err}`, /WARNING: No swap limit support/);
  t.match(info.out, / HTTPS Proxy: http:\/\/xxxxx:xxxxx@proxy:3128\n No Proxy: 10\.0\.0\.0\/8\n/);
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
