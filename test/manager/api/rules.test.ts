/** Rules that need several objects: what is taken by whom, what may be removed when, what is counted. */
import t from "tap";
import type { NodeId, TaskId } from "../../../model/ids.ts";
import type { NodeState } from "../../../model/node.ts";
import type { DesiredState, TaskState } from "../../../model/task.ts";
import { createTask } from "../../../manager/store/revisions.ts";
import { newId } from "../../../runtime/random.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { id, networkObject, nodeObject } from "../../sim/objects.ts";
import { ask, idOf, makeHarness, messageOf, type Harness } from "./harness.ts";
import { plainService } from "./specs.ts";

async function withIngress(): Promise<Harness> {
  const harness = await makeHarness({ clock: new VirtualClock() });
  await harness.store.update((tx) => tx.networks.create(networkObject("ingress", { ingress: true })));
  return harness;
}

async function versionOf(harness: Harness, path: string): Promise<number> {
  const { json } = await ask(harness, `GET ${path}`);
  return (json as { readonly Version: { readonly Index: number } }).Version.Index;
}

async function update(harness: Harness, name: string, spec: object): Promise<string> {
  const version = await versionOf(harness, `/services/${name}`);
  const answer = await ask(harness, `POST /services/${name}/update?version=${version}`, spec);
  return answer.status === 200 ? "ok" : messageOf(answer);
}

function publishing(name: string, port: object, mode = "vip"): object {
  return plainService(name, {
    EndpointSpec: { Mode: mode, Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, ...port }] },
  });
}

const onHosts = { PublishMode: "host" };
const taken =
  /^port '8080' is already in use by service 'first' \([0-9a-z]{25}\) as (an ingress|a host-published) port$/;

t.test(
  "a published port belongs to one service, but for those that open it on their own hosts",
  async (t) => {
    const harness = await withIngress();
    const create = async (spec: object): Promise<string> => {
      const answer = await ask(harness, "POST /services/create", spec);
      return answer.status === 201 ? "ok" : messageOf(answer);
    };
    t.equal(await create(publishing("first", {})), "ok");
    t.match(await create(publishing("second", {})), taken);
    t.match(await create(publishing("second", onHosts)), taken);
    t.equal(await create(publishing("second", { Protocol: "udp" })), "ok", "another protocol");
    t.match(await update(harness, "second", publishing("second", {})), taken, "also when it is changed");
    t.equal(
      await update(harness, "first", publishing("first", onHosts)),
      "ok",
      "the way of publishing changes",
    );
    t.match(await update(harness, "second", publishing("second", {})), taken, "ingress beside a host's");
    t.equal(await update(harness, "second", publishing("second", onHosts)), "ok", "two on their hosts");
    t.equal((await ask(harness, "DELETE /services/first")).status, 200);
    t.equal(await update(harness, "second", publishing("second", {})), "ok", "free with the service");
    t.equal(
      await update(harness, "second", publishing("second", {}, "dnsrr")),
      "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    );
    t.equal(await update(harness, "second", publishing("second", onHosts, "dnsrr")), "ok");
    t.equal(await update(harness, "second", publishing("second", {})), "ok", "and back");
  },
);

t.test("a rollback to a port that another service has taken meanwhile is refused", async (t) => {
  const harness = await withIngress();
  t.equal((await ask(harness, "POST /services/create", publishing("second", {}))).status, 201);
  t.equal(await update(harness, "second", plainService("second")), "ok");
  t.equal((await ask(harness, "POST /services/create", publishing("first", {}))).status, 201);
  const version = await versionOf(harness, "/services/second");
  const answer = await ask(harness, `POST /services/second/update?version=${version}&rollback=previous`);
  t.equal(answer.status, 400);
  t.match(messageOf(answer), taken);
});

t.test("payloads: the largest is taken and one byte more is not; names have 64 characters", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  for (const [kind, limit] of [
    ["secret", 512_000],
    ["config", 1_024_000],
  ] as const) {
    const create = async (name: string, bytes: number): Promise<number> => {
      const Data = Buffer.alloc(bytes, "x").toString("base64");
      return (await ask(harness, `POST /${kind}s/create`, { Name: name, Data })).status;
    };
    t.equal(await create("large", limit - 1), 201, kind);
    t.equal(await create("larger", limit), 400, kind);
    t.equal(await create("small", 1), 201, kind);
    t.equal(await create("n".repeat(64), 1), 201, kind);
    t.equal(await create("n".repeat(65), 1), 400, kind);
  }
  t.equal((await ask(harness, "POST /services/create", plainService("s".repeat(63)))).status, 201);
});

t.test("two payloads cannot be one file", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  for (const [kind, Kind] of [
    ["secret", "Secret"],
    ["config", "Config"],
  ] as const) {
    const references: object[] = [];
    for (const name of ["a", "b"]) {
      const object = idOf(await ask(harness, `POST /${kind}s/create`, { Name: name, Data: "eA==" }));
      references.push({ [`${Kind}ID`]: object, [`${Kind}Name`]: name, File: { Name: "same" } });
    }
    const spec = { ContainerSpec: { Image: "a:1", [`${Kind}s`]: references } };
    const answer = await ask(harness, "POST /services/create", { Name: kind, TaskTemplate: spec });
    t.equal(answer.status, 400);
    t.equal(messageOf(answer), `${kind} references 'a' and 'b' have a conflicting target: 'same'`);
  }
});

t.test("what is used is named and kept, what is not used goes", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  for (const [kind, Kind] of [
    ["secret", "Secret"],
    ["config", "Config"],
  ] as const) {
    const object = idOf(await ask(harness, `POST /${kind}s/create`, { Name: "x", Data: "eA==" }));
    const reference = { [`${Kind}ID`]: object, [`${Kind}Name`]: "x", File: { Name: "x" } };
    const spec = { ContainerSpec: { Image: "a:1", [`${Kind}s`]: [reference] } };
    for (const name of ["two", "one"])
      await ask(harness, "POST /services/create", { Name: `${kind}-${name}`, TaskTemplate: spec });
    const refused = await ask(harness, `DELETE /${kind}s/x`);
    t.equal(refused.status, 400);
    t.equal(messageOf(refused), `${kind} 'x' is in use by the following services: ${kind}-one, ${kind}-two`);
    for (const name of ["one", "two"]) await ask(harness, `DELETE /services/${kind}-${name}`);
    t.equal((await ask(harness, `DELETE /${kind}s/x`)).status, 204);
  }
});

t.test("a network is kept while a service names it, and not for tasks that outlive theirs", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const network = idOf(await ask(harness, "POST /networks/create", { Name: "net", Driver: "overlay" }));
  const template = { ContainerSpec: { Image: "a:1" }, Networks: [{ Target: "net" }] };
  const web = idOf(await ask(harness, "POST /services/create", { Name: "web", TaskTemplate: template }));
  await harness.fillTasks();
  t.equal(
    messageOf(await ask(harness, "DELETE /networks/net")),
    `network ${network} is in use by service ${web}`,
  );
  t.equal(await update(harness, "web", plainService("web")), "ok");
  t.match(messageOf(await ask(harness, "DELETE /networks/net")), `network ${network} is in use by task `);
  await ask(harness, "DELETE /services/web");
  t.equal((await ask(harness, "DELETE /networks/net")).status, 204);
});

t.test("ids and names of secrets and configs are alternatives, labels are not", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const ids: string[] = [];
  for (const [name, label] of [
    ["alpha", "1"],
    ["beta", "2"],
    ["gamma", "2"],
  ] as const) {
    const body = { Name: name, Data: "eA==", Labels: { l: label } };
    ids.push(idOf(await ask(harness, "POST /secrets/create", body)));
  }
  const names = async (filters: object): Promise<string[]> => {
    const { json } = await ask(
      harness,
      `GET /secrets?filters=${encodeURIComponent(JSON.stringify(filters))}`,
    );
    return (json as { readonly Spec: { readonly Name: string } }[]).map(({ Spec }) => Spec.Name).toSorted();
  };
  t.strictSame(await names({ id: [ids[0]], name: ["ga"] }), ["alpha", "gamma"]);
  t.strictSame(await names({ names: { beta: true }, name: { al: true } }), ["alpha", "beta"]);
  t.strictSame(await names({ name: ["alpha", "gamma"], label: ["l=2"] }), ["gamma"]);
  t.strictSame(await names({ label: ["l="] }), ["alpha", "beta", "gamma"]);
});

t.test("one token is renewed, the other stays", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const tokens = async (): Promise<unknown> =>
    ((await ask(harness, "GET /swarm")).json as { readonly JoinTokens: unknown }).JoinTokens;
  const rotate = async (which: string): Promise<void> => {
    const version = await versionOf(harness, "/swarm");
    const answer = await ask(harness, `POST /swarm/update?version=${version}&${which}=true`, {
      Name: "default",
    });
    t.equal(answer.status, 200, answer.text);
  };
  await rotate("rotateWorkerToken");
  t.strictSame(await tokens(), { Worker: "new worker", Manager: "m" });
  await rotate("rotateManagerToken");
  t.strictSame(await tokens(), { Worker: "new worker", Manager: "new manager" });
  t.notMatch((await ask(harness, "GET /swarm")).text, "secret key");
});

t.test("a manager is not demoted where its group would lose its quorum", async (t) => {
  const reached = new Set<string>();
  const cluster = { reachable: (node: NodeId) => reached.has(node) };
  const harness = await makeHarness({ clock: new VirtualClock(), cluster });
  await harness.store.update((tx) => {
    for (const name of ["m2", "m3"]) {
      const manager = nodeObject(name, { spec: { role: "manager" } });
      tx.nodes.create({
        ...manager,
        role: "manager",
        member: { address: `${name}:2377`, raftAddress: `${name}:2378` },
      });
    }
  });
  const demote = async (name: string): Promise<string> => {
    const version = await versionOf(harness, `/nodes/${name}`);
    const body = { Role: "worker", Availability: "active" };
    return messageOf(await ask(harness, `POST /nodes/${name}/update?version=${version}`, body));
  };
  t.match(await demote("m2"), /loss of quorum/, "of m1 and m3 only m1 is heard");
  reached.add(id("m3"));
  t.equal(await demote("m2"), "", "two of two are");
});

t.test("what the swarm writes beside a spec makes no update of it stale", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const seen = await versionOf(harness, "/nodes/w1");
  const setState = (state: NodeState): Promise<void> =>
    harness.store.update((tx) => {
      const node = tx.nodes.get(id("w1"));
      if (node !== undefined) tx.nodes.update({ ...node, status: { ...node.status, state } });
    });
  const change = async (version: number): Promise<number> => {
    const body = { Role: "worker", Availability: "active", Labels: { seen: String(version) } };
    return (await ask(harness, `POST /nodes/w1/update?version=${version}`, body)).status;
  };
  await setState("down");
  await setState("ready");
  t.not(await versionOf(harness, "/nodes/w1"), seen);
  t.equal(await change(seen), 200, "the spec is the one that the client knows");
  const now = await versionOf(harness, "/nodes/w1");
  t.equal(await change(seen), 500, "another client's spec would be lost");
  t.equal(await change(now + 1), 500, "a version that never was");
  t.equal(await change(now), 200);
});

t.test("a node keeps what an update does not send away, and stale updates are refused", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const version = await versionOf(harness, "/nodes/w1");
  const change = async (at: number, body: object): Promise<number> =>
    (await ask(harness, `POST /nodes/w1/update?version=${at}`, body)).status;
  const labelled = { Role: "worker", Availability: "drain", Labels: { zone: "a" } };
  t.equal(await change(version, labelled), 200);
  t.equal(await change(version, labelled), 500, "out of sequence");
  const { json } = await ask(harness, "GET /nodes/w1");
  t.match(json, { Spec: labelled, Status: { State: "ready" } });
  t.equal((await ask(harness, "DELETE /nodes/w1")).status, 400, "ready, so not without force");
  await harness.store.update((tx) => {
    const node = tx.nodes.get(id("w1"));
    if (node !== undefined) tx.nodes.update({ ...node, status: { ...node.status, state: "down" } });
  });
  t.equal((await ask(harness, "DELETE /nodes/w1")).status, 200);
});

interface Counted {
  readonly name: string;
  readonly mode: object;
  /** "state/desired" of each task, "~" for one of an older iteration, "!" for one on a node that is down. */
  readonly tasks: readonly string[];
  readonly want: object;
}

const counted: readonly Counted[] = [
  {
    name: "replicated: what runs of what is wanted",
    mode: { Replicated: { Replicas: 3 } },
    tasks: ["running/running", "starting/running", "failed/shutdown", "running/shutdown"],
    want: { RunningTasks: 2, DesiredTasks: 3 },
  },
  {
    name: "global: as many as are wanted somewhere",
    mode: { Global: {} },
    tasks: ["running/running", "pending/running", "shutdown/shutdown"],
    want: { RunningTasks: 1, DesiredTasks: 2 },
  },
  {
    name: "replicated: what a node that is down was running is missed",
    mode: { Replicated: { Replicas: 2 } },
    tasks: ["running/running", "!running/running"],
    want: { RunningTasks: 1, DesiredTasks: 2 },
  },
  {
    name: "global: what a node that is down was running is not waited for",
    mode: { Global: {} },
    tasks: ["running/running", "!running/running"],
    want: { RunningTasks: 1, DesiredTasks: 1 },
  },
  {
    name: "replicated job: how many at once, and completions of the present iteration",
    mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 5 } },
    tasks: ["complete/complete", "running/complete", "~complete/complete", "failed/shutdown"],
    want: { RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 1 },
  },
  {
    name: "global job: those that are not finished yet",
    mode: { GlobalJob: {} },
    tasks: ["complete/complete", "running/complete", "assigned/complete", "~running/remove"],
    want: { RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 1 },
  },
];

for (const { name, mode, tasks, want } of counted) {
  t.test(`the status of a service, ${name}`, async (t) => {
    const harness = await makeHarness({ clock: new VirtualClock() });
    const service = idOf(await ask(harness, "POST /services/create", plainService("x", { Mode: mode })));
    if (tasks.some((text) => text.startsWith("~")))
      t.equal(await update(harness, "x", plainService("x", { Mode: mode })), "ok");
    await harness.store.update((tx) => {
      const stored = tx.services.get(service);
      if (stored === undefined) throw new Error("no service");
      tx.nodes.create(nodeObject("away", { state: "down" }));
      for (const [at, text] of tasks.entries()) {
        const [state, desired] = text.replace(/[~!]/, "").split("/") as [TaskState, DesiredState];
        const node = {
          nodeId: id<NodeId>(text.startsWith("!") ? "away" : "w1"),
          slot: "Replicated" in mode ? at + 1 : 0,
        };
        const task = createTask(tx, stored, {
          id: newId<TaskId>(harness.deps.random),
          ...node,
          desiredState: desired,
        });
        const old = text.startsWith("~") ? { jobIteration: 0 } : {};
        tx.tasks.update({ ...task, ...old, status: { ...task.status, state } });
      }
    });
    const { json } = await ask(harness, "GET /services?status=true");
    t.match((json as { readonly ServiceStatus: object }[])[0]?.ServiceStatus, want);
  });
}

t.test(
  "a config with a template is relabelled by whoever does not repeat the template, and by who repeats it",
  async (t) => {
    const harness = await makeHarness({ clock: new VirtualClock() });
    const spec = { Name: "c", Data: "YQ==", Templating: { Name: "golang" } };
    const config = idOf(await ask(harness, "POST /configs/create", spec));
    const relabel = async (more: object): Promise<unknown> => {
      const { Version } = (await ask(harness, `GET /configs/${config}`)).json as {
        Version: { Index: number };
      };
      const path = `POST /configs/${config}/update?version=${Version.Index}`;
      return (await ask(harness, path, { Name: "c", Labels: { a: "b" }, ...more })).status;
    };
    t.equal(await relabel({}), 200);
    t.equal(await relabel({ Templating: { Name: "golang" } }), 200);
    t.match((await ask(harness, `GET /configs/${config}`)).json, {
      Spec: { Templating: { Name: "golang" } },
    });
    t.equal(await relabel({ Templating: { Name: "other" } }), 400);
  },
);

t.test("a job's tasks are found by the names they are shown by", async (t) => {
  const harness = await makeHarness({ clock: new VirtualClock() });
  const mode = { ReplicatedJob: { TotalCompletions: 2, MaxConcurrent: 2 } };
  const service = idOf(await ask(harness, "POST /services/create", plainService("job", { Mode: mode })));
  await harness.store.update((tx) => {
    const stored = tx.services.get(service);
    if (stored === undefined) throw new Error("no service");
    for (const slot of [1, 2]) {
      createTask(tx, stored, {
        id: newId<TaskId>(harness.deps.random),
        nodeId: id<NodeId>("w1"),
        slot,
        desiredState: "complete",
      });
    }
  });
  const found = async (name: string): Promise<readonly (number | undefined)[]> => {
    const filters = encodeURIComponent(JSON.stringify({ name: [name] }));
    const { json } = await ask(harness, `GET /tasks?filters=${filters}`);
    return (json as { readonly Slot?: number }[]).map(({ Slot }) => Slot);
  };
  t.strictSame(await found("job.1"), [1]);
  t.strictSame(await found("job.2"), []);
  t.strictSame(await found("job.w1"), [undefined]);
});
