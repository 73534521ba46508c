import t from "tap";
import * as fc from "fast-check";
import { systemClock } from "../../../runtime/clock.ts";
import { ask, idOf, makeHarness, messageOf } from "./harness.ts";
import { fullService, plainService } from "./specs.ts";

const container = (change: object): object => ({
  Name: "x",
  TaskTemplate: { ContainerSpec: { Image: "a:1", ...change } },
});
const template = (change: object): object => ({
  Name: "x",
  TaskTemplate: { ContainerSpec: { Image: "a:1" }, ...change },
});
const hostPort = (change: object = {}): object => ({
  TargetPort: 80,
  PublishedPort: 80,
  PublishMode: "host",
  ...change,
});

/** A request, its status and its message: the texts are what clients match. */
const refusals: readonly (readonly [line: string, body: unknown, status: number, message: string])[] = [
  ["GET /services/none", undefined, 404, "service none not found"],
  ["GET /tasks/none", undefined, 404, "task none not found"],
  ["GET /nodes/self", undefined, 404, "node self not found"],
  ["GET /networks/a/b:c", undefined, 404, "network a/b:c not found"],
  ["GET /networks/host", undefined, 404, "network host not found"],
  ["GET /secrets/none", undefined, 404, "secret none not found"],
  ["GET /configs/none", undefined, 404, "config none not found"],
  ["PUT /services", undefined, 404, "page not found"],
  ["GET /v1.23/services", undefined, 400, ""],
  [
    "GET /v1.51/services",
    undefined,
    400,
    "client version 1.51 is too new. Maximum supported API version is 1.50",
  ],
  [
    "GET /services?status=maybe",
    undefined,
    400,
    'invalid value for status: maybe: strconv.ParseBool: parsing "maybe": invalid syntax',
  ],
  ['GET /services?filters={"foo":["x"]}', undefined, 400, "invalid filter 'foo'"],
  ["GET /services?filters=x", undefined, 400, "invalid filter"],
  ['GET /nodes?filters={"role":["king"]}', undefined, 400, "Invalid role filter: 'king'"],
  ['GET /tasks?filters={"service":["none"]}', undefined, 404, "service none not found"],
  ['GET /tasks?filters={"desired-state":["happy"]}', undefined, 400, "Invalid desired-state filter: 'happy'"],
  ["DELETE /services/WEB", undefined, 404, "service WEB not found"],
  ['GET /services?filters={"name":[null]}', undefined, 400, "invalid filter"],
  ['GET /services?filters={"name":[["web"]]}', undefined, 400, "invalid filter"],
  [
    "POST /services/web/update?version=99999999999999999999",
    plainService("web"),
    400,
    `invalid service version '99999999999999999999': strconv.ParseUint: parsing "99999999999999999999": value out of range`,
  ],
  [
    "POST /services/create",
    template({ RestartPolicy: { Condition: "never" } }),
    400,
    'invalid RestartCondition: "never"',
  ],
  [
    "POST /services/create",
    { ...plainService("x"), UpdateConfig: { FailureAction: "explode" } },
    400,
    "unrecognized update failure action explode",
  ],
  [
    "POST /services/create",
    { ...plainService("x"), UpdateConfig: { Order: "last-first" } },
    400,
    "unrecognized update order last-first",
  ],
  [
    "POST /services/create",
    container({ Mounts: [{ Type: "x", Target: "/x" }] }),
    400,
    'invalid MountType: "x"',
  ],
  [
    "POST /services/create",
    container({ Mounts: [{ Type: "bind", Source: "/a", Target: "/x", BindOptions: { Propagation: "z" } }] }),
    400,
    'invalid MountPropagation: "z"',
  ],
  ["POST /services/create", template({ Runtime: "attachment" }), 400, "unsupported runtime"],
  ["POST /services/create", template({ Runtime: "plugin" }), 400, "mismatched Runtime and *Spec fields"],
  [
    "POST /services/create",
    { Name: "x", TaskTemplate: { PluginSpec: { Name: "p" } } },
    400,
    "mismatched Runtime and *Spec fields",
  ],
  [
    "POST /services/create",
    { Name: "x", TaskTemplate: { Runtime: "plugin", PluginSpec: { Name: "p" } } },
    501,
    "runtime plugin is not available; container is",
  ],
  [
    "POST /services/create",
    container({ Secrets: [{ SecretID: "x", SecretName: "x" }] }),
    400,
    "malformed secret reference, no target provided",
  ],
  [
    "POST /services/create",
    container({ Configs: [{ ConfigID: "x", ConfigName: "x", File: { Name: "/x" }, Runtime: {} }] }),
    400,
    "invalid Config: cannot specify both File and Runtime",
  ],
  [
    "POST /services/create",
    container({ Configs: [{ ConfigID: "<c1>", ConfigName: "another", File: { Name: "/x" } }] }),
    400,
    "config not found: another",
  ],
  ["POST /secrets/create", { Data: "eA==" }, 400, "name must be provided"],
  ["POST /configs/c1/update?version=2", { Labels: {} }, 400, "only updates to Labels are allowed"],
  [
    "POST /nodes/w1/update?version=1",
    { Role: "king", Availability: "active" },
    400,
    'invalid Role: "king" (manager, worker is expected)',
  ],
  [
    "POST /networks/create",
    { Name: "host", Driver: "overlay" },
    409,
    "network with name host already exists",
  ],
  ["GET /services/web/logs", undefined, 400, "Bad parameters: you must choose at least one stream"],
  [
    "POST /services/web/update?version=x",
    plainService("web"),
    400,
    `invalid service version 'x': strconv.ParseUint: parsing "x": invalid syntax`,
  ],
  [
    "POST /services/web/update?version=1",
    plainService("web"),
    500,
    "rpc error: code = Unknown desc = update out of sequence",
  ],
  ["POST /services/web/update?version=3", plainService("other"), 501, "renaming services is not supported"],
  [
    "POST /services/web/update?version=3",
    plainService("web", { Mode: { Global: {} } }),
    501,
    "service mode change is not allowed",
  ],
  [
    "POST /services/web/update?version=3&rollback=previous",
    undefined,
    400,
    "service <web> does not have a previous spec",
  ],
  ["POST /services/create", '{"Name":', 400, "invalid JSON: Unexpected end of JSON input"],
  ["POST /services/create", "{} {}", 400, "unexpected content after JSON"],
  ["POST /services/create", "[]", 400, "invalid JSON: body must be an object, got an array"],
  ["POST /services/create", { Name: 5 }, 400, "invalid JSON: Name must be a string, got number"],
  ["POST /services/create", { Name: "x" }, 400, "mismatched Runtime and *Spec fields"],
  [
    "POST /services/create",
    { Name: "x", Mode: { Global: {}, Replicated: {} }, TaskTemplate: { ContainerSpec: {} } },
    400,
    "must specify only one service mode",
  ],
  [
    "POST /services/create",
    plainService("web"),
    409,
    "name conflicts with an existing object: service web already exists",
  ],
  ["POST /services/create", plainService("a b"), 400, "name must be valid as a DNS name component"],
  ["POST /services/create", plainService("a".repeat(64)), 400, "name must be 63 characters or fewer"],
  ["POST /services/create", container({ Image: "" }), 400, "ContainerSpec: image reference must be provided"],
  [
    "POST /services/create",
    container({ Image: "A B" }),
    400,
    'ContainerSpec: "A B" is not a valid repository/tag',
  ],
  [
    "POST /services/create",
    container({
      Mounts: [
        { Type: "volume", Target: "/x" },
        { Type: "tmpfs", Target: "/x" },
      ],
    }),
    400,
    "ContainerSpec: duplicate mount point: /x",
  ],
  [
    "POST /services/create",
    container({ Mounts: [{ Type: "image", Target: "/x" }] }),
    501,
    "mounts of type image are not available yet; bind, volume and tmpfs are",
  ],
  [
    "POST /services/create",
    container({ Healthcheck: { Interval: 5 } }),
    400,
    "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
  ],
  [
    "POST /services/create",
    container({ Secrets: [{ SecretID: "x", SecretName: "s", File: { Name: "s" } }] }),
    400,
    "secret not found: s",
  ],
  [
    "POST /services/create",
    container({ Secrets: [{ SecretName: "s", File: { Name: "s" } }] }),
    400,
    "malformed secret reference",
  ],
  [
    "POST /services/create",
    container({ Env: ["X={{.Foo}}"] }),
    400,
    'expanding env failed: expanding env "X={{.Foo}}": template: expansion:1: can\'t evaluate {{.Foo}}: known are',
  ],
  [
    "POST /services/create",
    template({ Resources: { Limits: { NanoCPUs: 100_000 } } }),
    400,
    "invalid cpu value 0.0001: Must be at least 0.001",
  ],
  [
    "POST /services/create",
    template({ Resources: { Reservations: { MemoryBytes: 1 } } }),
    400,
    "invalid memory value 1: Must be at least 4MiB",
  ],
  [
    "POST /services/create",
    template({ RestartPolicy: { Delay: -1 } }),
    400,
    "TaskSpec: restart-delay cannot be negative",
  ],
  [
    "POST /services/create",
    template({ Placement: { Constraints: ["node.role=worker"] } }),
    400,
    "constraint expected one operator from ==, !=",
  ],
  ["POST /services/create", template({ Networks: [{ Target: "none" }] }), 404, "network none not found"],
  [
    "POST /services/create",
    plainService("x", { UpdateConfig: { MaxFailureRatio: 2 } }),
    400,
    "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
  ],
  [
    "POST /services/create",
    plainService("x", { EndpointSpec: { Mode: "magic" } }),
    400,
    'invalid resolution mode: "magic"',
  ],
  [
    "POST /services/create",
    plainService("x", { EndpointSpec: { Ports: [hostPort(), hostPort()] } }),
    400,
    "EndpointSpec: duplicate published ports provided",
  ],
  [
    "POST /services/create",
    plainService("x", { EndpointSpec: { Mode: "dnsrr", Ports: [hostPort({ PublishMode: "ingress" })] } }),
    400,
    "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
  ],
  [
    "POST /services/create",
    plainService("x", { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
    400,
    "published port 8080/tcp: ingress mode is not available yet; publish it on the task's own host with mode=host (docker: --publish mode=host,published=8080,target=80)",
  ],
  [
    "POST /services/create",
    plainService("x", { Mode: { ReplicatedJob: {} }, UpdateConfig: { Parallelism: 1 } }),
    400,
    "Jobs may not have an update config",
  ],
  [
    "POST /services/create",
    '{"Mode":{"Replicated":{"Replicas":18446744073709551615}},"TaskTemplate":{"ContainerSpec":{}}}',
    400,
    "invalid JSON: Mode.Replicated.Replicas is 18446744073709552000: at most 2^53-1 is supported",
  ],
  [
    "POST /nodes/m1/update?version=1",
    { Role: "worker", Availability: "active" },
    400,
    "attempting to demote the last manager of the swarm",
  ],
  [
    "POST /nodes/w1/update?version=1",
    { Role: "worker", Availability: "asleep" },
    400,
    'invalid Availability: "asleep" (active, pause, drain is expected)',
  ],
  [
    "DELETE /nodes/m1?force=1",
    undefined,
    400,
    "node <m1> is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
  ],
  ["DELETE /nodes/w1", undefined, 400, "node <w1> is not down and can't be removed"],
  [
    "POST /networks/create",
    { Name: "bridge", Driver: "overlay" },
    409,
    "network with name bridge already exists",
  ],
  [
    "POST /networks/create",
    { Name: "net1", Driver: "overlay" },
    409,
    "network with name net1 already exists",
  ],
  [
    "POST /networks/create",
    { Name: "n", Driver: "overlay", Ingress: true, Attachable: true },
    400,
    "ingress network cannot be attachable",
  ],
  [
    "POST /networks/create",
    { Name: "n", Driver: "overlay", IPAM: { Config: [{ Subnet: "10.7.0.0/24", Gateway: "10.8.0.1" }] } },
    400,
    "invalid gateway 10.8.0.1: an address inside 10.7.0.0/24 is expected",
  ],
  [
    "POST /networks/create",
    { Name: "n", Driver: "overlay", IPAM: { Config: [{ Subnet: "10.6.0.0/16" }] } },
    400,
    "invalid pool request: Pool overlaps with other one on this address space: 10.6.0.0/16 with 10.6.1.0/24",
  ],
  ["DELETE /networks/host", undefined, 403, "host is a pre-defined network and cannot be removed"],
  ["DELETE /networks/net1", undefined, 400, "network <net1> is in use by service <web>"],
  [
    "POST /secrets/create",
    { Name: "s", Data: "" },
    400,
    "secret data must be larger than 0 and less than 512000 bytes",
  ],
  [
    "POST /secrets/create",
    { Name: "s", Data: "A".repeat(682_668) },
    400,
    "secret data must be larger than 0 and less than 512000 bytes",
  ],
  [
    "POST /configs/create",
    { Name: "-", Data: "YQ==" },
    400,
    "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]",
  ],
  ["POST /configs/create", { Name: "c1", Data: "YQ==" }, 409, "config c1 already exists"],
  ["POST /configs/c1/update?version=", { Name: "c1" }, 400, "invalid config version"],
  [
    "POST /configs/c1/update?version=2",
    { Name: "c1", Data: "Yg==" },
    400,
    "only updates to Labels are allowed",
  ],
  ["DELETE /configs/c1", undefined, 400, "config 'c1' is in use by the following service: web"],
  [
    "POST /swarm/update?version=0",
    { Name: "default" },
    500,
    "rpc error: code = Unknown desc = update out of sequence",
  ],
  ["POST /swarm/update?version=1", { Name: "other" }, 400, 'swarm spec must be named "default"'],
  [
    "POST /swarm/update?version=1",
    { CAConfig: { NodeCertExpiry: 1 } },
    400,
    "minimum certificate expiry time is: 1h0m0s",
  ],
  [
    "GET /events?since=yesterday",
    undefined,
    400,
    'invalid value for since: "yesterday" (unix seconds, RFC 3339 or a duration such as 10m is expected)',
  ],
];

t.test("refusals carry the status and the text that clients know", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const network = idOf(await ask(harness, "POST /networks/create", { Name: "net1", Driver: "overlay" }));
  const config = idOf(await ask(harness, "POST /configs/create", { Name: "c1", Data: "YQ==" }));
  const taken = { Name: "taken", Driver: "overlay", IPAM: { Config: [{ Subnet: "10.6.1.0/24" }] } };
  t.equal((await ask(harness, "POST /networks/create", taken)).status, 201);
  const spec = plainService("web", {
    TaskTemplate: {
      ContainerSpec: {
        Image: "a:1",
        Configs: [{ ConfigID: config, ConfigName: "c1", File: { Name: "/c" } }],
      },
      Networks: [{ Target: "net1" }],
    },
  });
  const web = idOf(await ask(harness, "POST /services/create", spec));
  const ids: Record<string, string> = {
    web,
    net1: network,
    c1: config,
    m1: "m1".padEnd(25, "0"),
    w1: "w1".padEnd(25, "0"),
  };
  const version = harness.store.view((view) => view.services.get(web)?.meta.version);
  for (const [line, body, status, message] of refusals) {
    const current = line.replace("/services/web/update?version=3", `/services/web/update?version=${version}`);
    const text = typeof body === "object" ? JSON.stringify(body) : body;
    const sent = typeof text === "string" ? text.replaceAll("<c1>", config) : text;
    const answer = await ask(harness, current, sent);
    const want = message.replaceAll(/<(\w+)>/g, (_, word: string) => ids[word] ?? word);
    t.equal(answer.status, status, `${line} ${answer.text}`);
    t.equal(messageOf(answer).slice(0, want.length), want, line);
  }
});

t.test("every field that can be set comes back as it was sent, and can be sent back", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const network = idOf(await ask(harness, "POST /networks/create", { Name: "net1", Driver: "overlay" }));
  const secret = idOf(await ask(harness, "POST /secrets/create", { Name: "s1", Data: "cw==" }));
  const config = idOf(await ask(harness, "POST /configs/create", { Name: "c1", Data: "Yw==" }));
  const sent = fullService({ network, secret, config });
  t.equal((await ask(harness, "POST /services/create", sent)).status, 201);
  const shown = (await ask(harness, "GET /services/full")).json as {
    Version: { Index: number };
    Spec: object;
  };
  t.strictSame(dropNulls(shown.Spec), dropNulls(sent));
  const again = await ask(harness, `POST /services/full/update?version=${shown.Version.Index}`, shown.Spec);
  t.equal(again.status, 200, again.text);
  const after = (await ask(harness, "GET /services/full")).json as { Spec: object };
  t.strictSame(after.Spec, shown.Spec);
});

function dropNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(dropNulls);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, each]) => each !== null)
      .map(([key, each]) => [key, dropNulls(each)]),
  );
}

t.test("defaults are shown only when asked for, and are never stored", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /services/create", plainService("web"));
  const plain = (await ask(harness, "GET /services/web")).json as { Spec: object };
  t.strictSame(plain.Spec, {
    Name: "web",
    Labels: {},
    TaskTemplate: {
      ContainerSpec: { Image: "app:1", Isolation: "default" },
      ForceUpdate: 0,
      Runtime: "container",
    },
    Mode: { Replicated: { Replicas: 1 } },
  });
  const filled = (await ask(harness, "GET /services/web?insertDefaults=true")).json as { Spec: object };
  const update = {
    Parallelism: 1,
    FailureAction: "pause",
    Monitor: 5e9,
    MaxFailureRatio: 0,
    Order: "stop-first",
  };
  t.strictSame(filled.Spec, {
    Name: "web",
    Labels: {},
    TaskTemplate: {
      ContainerSpec: { Image: "app:1", Isolation: "default", StopGracePeriod: 10e9, DNSConfig: {} },
      Resources: { Limits: {}, Reservations: {} },
      RestartPolicy: { Condition: "any", Delay: 5e9, MaxAttempts: 0 },
      Placement: {},
      ForceUpdate: 0,
      Runtime: "container",
    },
    Mode: { Replicated: { Replicas: 1 } },
    UpdateConfig: update,
    RollbackConfig: update,
    EndpointSpec: { Mode: "vip" },
  });
});

t.test("field names match in any case, unknown ones are ignored, null is absent", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const body = '{"NAME":"c","labels":null,"data":"YQ==","Extra":{"a":[1]},"__proto__":{"x":1}}';
  t.equal((await ask(harness, "POST /configs/create", body)).status, 201);
  const { json } = await ask(harness, "GET /configs/c");
  t.match(json, { Spec: { Name: "c", Labels: {}, Data: "YQ==" } });
});

t.test("a body needs the media type of JSON, and an empty one needs none", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const wrong = await ask(harness, "POST /configs/create", "{}", { "content-type": "text/plain" });
  t.equal(wrong.status, 400);
  t.equal(messageOf(wrong), "unsupported Content-Type header (text/plain): must be 'application/json'");
  t.match(messageOf(await ask(harness, "POST /configs/create")), "name must be provided");
  const large = await ask(harness, "POST /configs/create", `"${"x".repeat(3 * 1024 * 1024)}"`);
  t.equal(large.status, 413);
  t.match(messageOf(large), "request body too large");
});

t.test("both shapes of filters work everywhere, labels are joined by and", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /services/create", plainService("web", { Labels: { a: "1", b: "2" } }));
  await ask(harness, "POST /services/create", plainService("other", { Labels: { a: "1" } }));
  await harness.fillTasks();
  const count = async (path: string, filters: unknown): Promise<number> => {
    const { json } = await ask(harness, `GET ${path}?filters=${encodeURIComponent(JSON.stringify(filters))}`);
    return (json as unknown[]).length;
  };
  t.equal(await count("/services", { label: { a: true, "b=2": true } }), 1);
  t.equal(await count("/services", { label: ["a=1"] }), 2);
  t.equal(await count("/services", { label: ["a=2"] }), 0);
  t.equal(await count("/services", { name: ["we"] }), 1, "names by prefix");
  t.equal(await count("/services", { name: ["WE"] }), 0, "letter by letter");
  t.equal(await count("/services", { name: null }), 2, "null is no filter");
  t.equal(await count("/services", null), 2, "and so for all of them");
  t.equal(await count("/services", { mode: ["global"] }), 0);
  t.equal(await count("/tasks", { service: { web: true } }), 1);
  t.equal(await count("/tasks", { label: ["b=2"] }), 1, "a service's labels count for its tasks");
  t.equal(await count("/tasks", { node: ["m1"] }), 0);
  t.equal(await count("/tasks", { node: ["w1"], "desired-state": ["running"] }), 2);
  t.equal(await count("/tasks", { name: ["web.1"] }), 1);
  t.equal(await count("/nodes", { role: ["manager"] }), 1);
  t.equal(await count("/networks", { name: ["ost"] }), 0);
});

t.test("up to date: a change of labels keeps tasks so, a new image does not", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /services/create", plainService("web"));
  await harness.fillTasks();
  const current = async (): Promise<number> => {
    const { json } = await ask(harness, 'GET /tasks?filters={"service":["web"],"_up-to-date":["true"]}');
    return (json as unknown[]).length;
  };
  const update = async (spec: object): Promise<void> => {
    const { json } = await ask(harness, "GET /services/web");
    const version = (json as { Version: { Index: number } }).Version.Index;
    t.equal((await ask(harness, `POST /services/web/update?version=${version}`, spec)).status, 200);
  };
  t.equal(await current(), 1);
  await update(plainService("web", { Labels: { a: "b" }, Mode: { Replicated: { Replicas: 4 } } }));
  t.equal(await current(), 1);
  await update({ Name: "web", TaskTemplate: { ContainerSpec: { Image: "app:2" } } });
  t.equal(await current(), 0);
});

t.test("a node that is removed is refused from then on and its tasks are given up", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /services/create", plainService("web"));
  await harness.fillTasks();
  t.equal((await ask(harness, "DELETE /nodes/w1?force=true")).status, 200);
  harness.store.view((view) => {
    t.equal(view.nodes.count, 1);
    t.strictSame(Object.keys(view.cluster?.removedNodes ?? {}), ["w1".padEnd(25, "0")]);
    t.equal(view.tasks.list()[0]?.status.state, "orphaned");
  });
});

t.test("credentials for a registry are kept, survive an update and are never shown", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const auth = Buffer.from(JSON.stringify({ username: "u", password: "hidden" })).toString("base64url");
  await ask(harness, "POST /services/create", plainService("web"), { "x-registry-auth": auth });
  const { json, text } = await ask(harness, "GET /services/web");
  t.notMatch(text, "hidden");
  const version = (json as { Version: { Index: number } }).Version.Index;
  await ask(harness, `POST /services/web/update?version=${version}`, plainService("web"));
  t.strictSame(
    harness.store.view((view) => view.services.byName("web")?.registryAuth),
    { username: "u", password: "hidden" },
  );
});

t.test("whatever the body, no request fails with 500 or breaks the server", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const names = [
    "Name",
    "Labels",
    "TaskTemplate",
    "ContainerSpec",
    "Image",
    "Mounts",
    "Env",
    "Mode",
    "Replicated",
    "Replicas",
    "EndpointSpec",
    "Ports",
    "Data",
    "Driver",
    "IPAM",
    "Config",
    "Resources",
    "Limits",
    "NanoCPUs",
    "Healthcheck",
    "Secrets",
    "__proto__",
    "constructor",
  ];
  const tree = fc.letrec((tie) => ({
    node: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.jsonValue(),
      fc.dictionary(fc.constantFrom(...names), tie("node"), { maxKeys: 5 }),
      fc.array(tie("node"), { maxLength: 3 }),
    ),
  })).node;
  const lines = [
    "POST /services/create",
    "POST /networks/create",
    "POST /secrets/create",
    "POST /configs/create",
    "POST /nodes/w1/update?version=9",
    "POST /swarm/update?version=9",
    "POST /networks/prune",
  ];
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...lines),
      fc.oneof(
        tree.map((each) => JSON.stringify(each)),
        fc.string(),
      ),
      async (line, body) => {
        const { status, json, text } = await ask(harness, line, body, { "content-type": "application/json" });
        // A stale version is the one 500 that the API knows.
        if (status >= 500 && status !== 501 && !text.includes("out of sequence"))
          throw new Error(`${status} ${text}`);
        if (typeof json !== "object" && text !== "") throw new Error(`not JSON: ${text}`);
      },
    ),
    { numRuns: 400, seed: 42 },
  );
  t.equal((await ask(harness, "GET /nodes")).status, 200);
});

t.test("a list of tasks shows every change, though texts are kept", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /networks/create", { Name: "net1", Driver: "overlay" });
  const networks = [{ Target: "net1" }];
  await ask(harness, "POST /services/create", {
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "app:1" }, Networks: networks },
  });
  await harness.fillTasks("starting");
  const first = async (): Promise<unknown> => ((await ask(harness, "GET /tasks")).json as unknown[])[0];
  t.match(await first(), {
    Status: { State: "starting" },
    NetworksAttachments: [{ Network: { DriverState: {} } }],
  });
  t.strictSame(await first(), await first());
  await harness.store.update((tx) => {
    const [task] = tx.tasks.list();
    if (task !== undefined) tx.tasks.update({ ...task, status: { ...task.status, state: "running" } });
    const network = tx.networks.byName("net1");
    if (network !== undefined) {
      tx.networks.update({ ...network, state: { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4096 } });
    }
  });
  t.match(await first(), {
    Status: { State: "running" },
    NetworksAttachments: [{ Network: { IPAMOptions: { Configs: [{ Subnet: "10.0.1.0/24" }] } } }],
  });
});
