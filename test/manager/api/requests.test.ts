import t from "tap";
import * as fc from "fast-check";
import { systemClock } from "../../../runtime/clock.ts";
import { ask, idOf, makeHarness, messageOf } from "./harness.ts";
import { refusals } from "./refusals.ts";
import { fullService, plainService } from "./specs.ts";

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
      Placement: {},
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
  const versionIn = (json: unknown): number => (json as { Version: { Index: number } }).Version.Index;
  await ask(harness, `POST /services/web/update?version=${versionIn(json)}`, plainService("web"));
  t.strictSame(
    harness.store.view((view) => view.services.byName("web")?.registryAuth),
    { username: "u", password: "hidden" },
  );
  // A client that was logged out and was told to send its credentials.
  const { json: updated } = await ask(harness, "GET /services/web");
  await ask(harness, `POST /services/web/update?version=${versionIn(updated)}`, plainService("web"), {
    "x-registry-auth": "e30=",
  });
  t.equal(
    harness.store.view((view) => view.services.byName("web")?.registryAuth),
    undefined,
  );
});

t.test("certificates may be valid for longer than JavaScript counts nanoseconds exactly", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  type Swarm = { readonly Version: { readonly Index: number }; readonly Spec: object };
  const { Version, Spec } = (await ask(harness, "GET /swarm")).json as Swarm;
  const yearNs = "31536000000000000";
  const body = JSON.stringify({ ...Spec, CAConfig: { NodeCertExpiry: 0 } }).replace(
    'Expiry":0',
    `Expiry":${yearNs}`,
  );
  t.equal((await ask(harness, `POST /swarm/update?version=${Version.Index}`, body)).status, 200);
  t.match((await ask(harness, "GET /swarm")).text, `"NodeCertExpiry":${yearNs}`);
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

t.test("a list of tasks that is sent in pieces is whole, each task once", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  const replicas = 450;
  await ask(
    harness,
    "POST /services/create",
    plainService("web", { Mode: { Replicated: { Replicas: replicas } } }),
  );
  await harness.fillTasks();
  const { status, json } = await ask(harness, "GET /tasks");
  t.equal(status, 200);
  const slots = (json as { readonly Slot: number }[]).map(({ Slot }) => Slot);
  t.strictSame(
    slots.toSorted((a, b) => a - b),
    Array.from({ length: replicas }, (_, i) => i + 1),
  );
});

t.test(
  "a network with IPv6 is shown in both families, as are those on it; without it its subnets do not count",
  async (t) => {
    const harness = await makeHarness({ clock: systemClock });
    t.teardown(() => harness.api.close());
    const Config = [{ Subnet: "fd00:1::/64" }, { Subnet: "10.1.0.0/24" }];
    for (const [Name, EnableIPv6] of [
      ["dual", true],
      ["single", false],
    ] as const)
      await ask(harness, "POST /networks/create", {
        Name,
        EnableIPv6,
        IPAM: { Config: EnableIPv6 ? Config : [Config[0]] },
      });
    const dual = {
      subnet: "10.1.0.0/24",
      gateway: "10.1.0.1",
      further: [{ subnet: "fd00:1::/64", gateway: "fd00:1::1" }],
    };
    await harness.store.update((tx) => {
      const network = tx.networks.byName("dual");
      if (network !== undefined) tx.networks.update({ ...network, state: { ...dual, vni: 4096 } });
    });
    t.match((await ask(harness, "GET /networks/dual")).json, {
      EnableIPv4: true,
      EnableIPv6: true,
      IPAM: {
        Config: [
          { Subnet: "10.1.0.0/24", Gateway: "10.1.0.1" },
          { Subnet: "fd00:1::/64", Gateway: "fd00:1::1" },
        ],
      },
    });
    t.match((await ask(harness, "GET /networks/single")).json, { EnableIPv6: false, IPAM: { Config: [] } });
  },
);

t.test("an ingress network has IPv6 unless it is not to, any other one only if it is", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  for (const [network, EnableIPv6] of [
    [{ Ingress: true }, true],
    [{ Ingress: true, EnableIPv6: false }, false],
    [{}, false],
  ] as const) {
    await harness.store.update((tx) => {
      const before = tx.networks.ingress();
      if (before !== undefined) tx.networks.remove(before.id);
    });
    const { json } = await ask(harness, "POST /networks/create", {
      Name: "in",
      Driver: "overlay",
      ...network,
    });
    const id = (json as { Id: string }).Id;
    t.match((await ask(harness, `GET /networks/${id}`)).json, { EnableIPv6 });
    await ask(harness, `DELETE /networks/${id}`);
  }
});

t.test("a service may have a name that every object of the language has", async (t) => {
  const harness = await makeHarness({ clock: systemClock });
  t.teardown(() => harness.api.close());
  await ask(harness, "POST /networks/create", { Name: "net1", Driver: "overlay" });
  const task = { ContainerSpec: { Image: "app:1" }, Networks: [{ Target: "net1" }] };
  await ask(harness, "POST /services/create", plainService("constructor", { TaskTemplate: task }));
  await harness.fillTasks();
  const answer = await ask(harness, "GET /networks/net1?verbose=true");
  t.match(answer.json, { Services: { constructor: { Tasks: [{ EndpointIP: "10.0.1.5" }] } } });
});
