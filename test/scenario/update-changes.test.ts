/** Which changes of a service replace which tasks, and what updates do to one another. */
import t from "tap";
import type { SecretId, TaskId } from "../../model/ids.ts";
import type { ServiceSpec, UpdatePolicy } from "../../model/service.ts";
import { enforcerMessage, isTerminal } from "../../model/task.ts";
import { id, networkObject, nodeObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { image, type ScenarioCluster, scale, started } from "./cluster.ts";

const policy: UpdatePolicy = {
  parallelism: 0,
  delayMs: 0,
  failureAction: "pause",
  monitorMs: 500,
  maxFailureRatio: 0,
  order: "stop-first",
};

interface Change {
  readonly name: string;
  readonly change: (spec: ServiceSpec) => ServiceSpec;
  /** How many of the three tasks are replaced. */
  readonly replaced: number;
}

function task(change: Partial<ServiceSpec["task"]>): Change["change"] {
  return (spec) => ({ ...spec, task: { ...spec.task, ...change } });
}

function container(change: Partial<ServiceSpec["task"]["container"]>): Change["change"] {
  return (spec) => task({ container: { ...spec.task.container, ...change } })(spec);
}

const plain = { constraints: [], spread: [], maxReplicas: 0, platforms: [] } as const;

const changes: readonly Change[] = [
  { name: "nothing", change: (spec) => spec, replaced: 0 },
  { name: "the service's labels", change: (spec) => ({ ...spec, labels: { a: "b" } }), replaced: 0 },
  {
    name: "how it is to be updated and rolled back",
    change: (spec) => ({ ...spec, update: { ...policy, delayMs: 9 }, rollback: policy }),
    replaced: 0,
  },
  {
    name: "a placement that every node still meets",
    change: task({ placement: { ...plain, constraints: ["node.role==worker"] } }),
    replaced: 0,
  },
  {
    name: "a placement that one node no longer meets",
    change: task({ placement: { ...plain, constraints: ["node.hostname!=n1"] } }),
    replaced: 1,
  },
  {
    name: "preferences and limits of placement",
    change: task({ placement: { ...plain, spread: ["node.labels.zone"], maxReplicas: 1 } }),
    replaced: 0,
  },
  {
    name: "a placement that fits, together with a port",
    change: (spec) => ({
      ...task({ placement: { ...plain, constraints: ["node.role==worker"] } })(spec),
      endpoint: {
        mode: "vip",
        ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 80, publishMode: "host" }],
      },
    }),
    replaced: 3,
  },
  { name: "--force", change: task({ forceUpdate: 1 }), replaced: 3 },
  { name: "the image", change: image("web:2"), replaced: 3 },
  {
    name: "command, arguments and environment",
    change: container({ command: ["a"], args: ["b"], env: ["C=d"] }),
    replaced: 3,
  },
  { name: "labels of the containers", change: container({ labels: { a: "b" } }), replaced: 3 },
  {
    name: "a mount",
    change: container({ mounts: [{ type: "tmpfs", target: "/tmp", readOnly: false }] }),
    replaced: 3,
  },
  { name: "limits", change: task({ resources: { limits: { memoryBytes: 2 ** 30 } } }), replaced: 3 },
  {
    name: "how ended tasks are restarted",
    change: task({ restart: { condition: "on-failure" } }),
    replaced: 3,
  },
  { name: "where logs go", change: task({ logDriver: { name: "none", options: {} } }), replaced: 3 },
  {
    name: "the way it is found",
    change: (spec) => ({ ...spec, endpoint: { mode: "dnsrr", ports: [] } }),
    replaced: 3,
  },
  { name: "networks", change: task({ networks: [{ networkId: id("net"), aliases: [] }] }), replaced: 3 },
];

async function settled(c: ScenarioCluster): Promise<void> {
  await c.until(() => {
    const { state } = c.service("web").updateStatus ?? {};
    const living = c.tasks("web").filter((each) => !isTerminal(each));
    return state !== "updating" && living.length === 3 && c.running("web").length === 3;
  });
}

for (const { name, change, replaced } of changes) {
  t.test(`${replaced} of 3 tasks are replaced for a change of ${name}`, async (t) => {
    await using c = await started(["n1", "n2", "n3"]);
    await c.store.update((tx) => tx.networks.create(networkObject("net")));
    await c.create("web", serviceSpec({ replicas: 3, update: policy }));
    await settled(c);
    const before = new Set(c.tasks("web").map((each) => each.id));
    await c.update("web", change);
    await c.clock.advance(20);
    await settled(c);
    const stayed = c.running("web").filter((each) => before.has(each.id)).length;
    t.equal(3 - stayed, replaced);
    t.equal(c.service("web").updateStatus?.state, replaced === 0 ? undefined : "completed");
    t.strictSame(c.errors, []);
  });
}

t.test("with a task that is beyond its new constraints a change of scale keeps the rest", async (t) => {
  await using c = await started(["n1", "n2", "n3"]);
  await c.create("web", serviceSpec({ replicas: 3, update: policy }));
  await settled(c);
  const before = new Set<TaskId>(c.tasks("web").map((each) => each.id));
  await c.update("web", (spec) =>
    scale(5)(task({ placement: { ...plain, constraints: ["node.hostname!=n1"] } })(spec)),
  );
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  t.equal(c.running("web").length, 5);
  t.equal(c.running("web").filter((each) => before.has(each.id)).length, 2);
  t.ok(c.running("web").every((each) => each.nodeId !== id("n1")));
  t.strictSame(c.errors, []);
});

t.test("a newer update takes the place of one that is under way", async (t) => {
  await using c = await started(["n1", "n2"]);
  const slowly = { ...policy, parallelism: 1, delayMs: 2_000 };
  await c.create("web", serviceSpec({ replicas: 3, update: slowly }));
  await settled(c);
  await c.update("web", image("web:2"));
  await c.until(() => c.running("web", "web:2").length === 1);
  await c.update("web", image("web:3"));
  t.equal(c.service("web").updateStatus, undefined, "the status of the old one is gone");
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  t.equal(c.running("web", "web:3").length, 3);
  const images = new Set(c.tasks("web").map(({ specVersion }) => specVersion));
  t.equal(images.size, 3, "one slot had all three");
  t.strictSame(c.errors, []);
});

t.test("back to the old spec in mid-update: what was not replaced yet stays", async (t) => {
  await using c = await started(["n1", "n2"]);
  const slowly = { ...policy, parallelism: 1, delayMs: 2_000 };
  await c.create("web", serviceSpec({ replicas: 3, update: slowly, rollback: policy }));
  await settled(c);
  const before = new Set(c.tasks("web").map((each) => each.id));
  await c.update("web", image("web:2"));
  await c.until(() => c.running("web", "web:2").length === 1);
  await c.rollback("web");
  await c.until(() => c.service("web").updateStatus?.state === "rollback_completed");
  t.equal(c.running("web").filter((each) => before.has(each.id)).length, 2);
  t.equal(c.running("web", "web:1").length, 3);
  t.strictSame(c.errors, []);
});

t.test("a service that is removed in mid-update leaves nothing", async (t) => {
  for (const order of ["stop-first", "start-first"] as const) {
    await using c = await started(["n1"]);
    await c.create("web", serviceSpec({ replicas: 4, update: { ...policy, order, parallelism: 1 } }));
    await c.until(() => c.running("web").length === 4);
    await c.update("web", image("web:2"));
    await c.until(() => c.running("web", "web:2").length === 1);
    await c.store.update((tx) => tx.services.remove(id("web")));
    await c.until(() => c.tasks("web").length === 0);
    await c.clock.advance(60_000);
    t.equal(c.tasks("web").length, 0);
    t.equal(
      c.store.view((view) => view.revisions.count),
      0,
    );
    t.strictSame(c.errors, []);
  }
});

t.test("a rollback by itself keeps in the history why it was", async (t) => {
  await using c = await started(["n1", "n2"]);
  const update: UpdatePolicy = { ...policy, failureAction: "rollback" };
  const once = { ...taskSpec(), restart: { condition: "none" } } as const;
  await c.create("web", serviceSpec({ replicas: 2, task: once, update, rollback: policy }));
  await c.until(() => c.running("web").length === 2);
  await c.update("web", image("bad:1"));
  await c.until(() => c.service("web").updateStatus?.state === "rollback_completed");
  t.equal(c.running("web", "web:1").length, 2);
  t.equal(c.tasks("web").filter(({ status }) => status.state === "rejected").length, 2);
  t.strictSame(c.errors, []);
});

t.test(
  "the enforcer asks what the service wants now, also of tasks that no update has reached",
  async (t) => {
    await using c = await started([]);
    await c.store.update((tx) => {
      for (const name of ["n1", "n2"])
        tx.nodes.create(nodeObject(name, { spec: { labels: { zone: name } } }));
    });
    await c.create("web", serviceSpec({ replicas: 2, update: { ...policy, parallelism: 1 } }));
    await c.until(() => c.running("web").length === 2);
    await c.update("web", (spec) =>
      image("bad:1")(task({ placement: { ...plain, constraints: ["node.labels.zone==n2"] } })(spec)),
    );
    await c.until(() => c.service("web").updateStatus?.state === "paused");
    const [old] = c.running("web", "web:1");
    if (old?.nodeId === undefined) throw new Error("nothing is left of the old version");
    await c.store.update((tx) => {
      const node = old.nodeId === undefined ? undefined : tx.nodes.get(old.nodeId);
      if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, labels: { zone: "n3" } } });
    });
    await c.clock.advance(100);
    const rejected = c.tasks("web").find((each) => each.id === old.id);
    t.match(rejected?.status, {
      state: "rejected",
      message: enforcerMessage,
      error: "assigned node no longer meets constraints",
    });
    t.strictSame(c.errors, []);
  },
);

t.test("nothing is rolled back to a secret that is gone: the update pauses and says so", async (t) => {
  await using c = await started(["n1"]);
  const secretId = id<SecretId>("key");
  await c.store.update((tx) =>
    tx.secrets.create({ id: secretId, spec: { name: "key", labels: {}, data: "eA==" } }),
  );
  const file = { name: "key", uid: "0", gid: "0", mode: 292 };
  const withKey = container({ secrets: [{ secretId, secretName: "key", file }] });
  const update: UpdatePolicy = { ...policy, failureAction: "rollback" };
  await c.create("web", withKey(serviceSpec({ replicas: 1, update })));
  await c.until(() => c.running("web").length === 1);
  await c.update("web", (spec) => image("bad:1")(container({ secrets: [] })(spec)));
  await c.store.update((tx) => tx.secrets.remove(secretId));
  await c.until(() => c.service("web").updateStatus?.state === "paused");
  const why = "cannot roll back: secret key not found, to which the previous spec refers";
  t.match(c.service("web").updateStatus?.message, new RegExp(`^update paused due to failure .*; ${why}$`));
  await t.rejects(c.rollback("web"), { message: why });
  t.equal(c.service("web").spec.task.container.image, "bad:1");
  t.strictSame(c.errors, []);
});

t.test(
  "nothing is rolled back to a port that another service has meanwhile, which goes on to be updated",
  async (t) => {
    await using c = await started(["n1"]);
    await c.store.update((tx) => void tx.networks.create(networkObject("ingress", { ingress: true })));
    const update: UpdatePolicy = { ...policy, failureAction: "rollback" };
    const port = { targetPort: 80, publishedPort: 8080, protocol: "tcp", publishMode: "host" } as const;
    const publishes = (publishedPort: number): Pick<ServiceSpec, "endpoint"> => ({
      endpoint: { mode: "vip", ports: [{ ...port, publishMode: "ingress", publishedPort }] },
    });
    await c.create("web", serviceSpec({ replicas: 1, update, ...publishes(80) }));
    await c.until(() => c.running("web").length === 1);
    await c.update("web", (spec) => image("bad:1")({ ...spec, ...publishes(8080) }));
    await c.create("other", serviceSpec({ replicas: 1, ...publishes(80) }));
    await c.until(() => c.service("web").updateStatus?.state === "paused");
    t.match(
      c.service("web").updateStatus?.message,
      /; cannot roll back: port '80' is already in use by service 'other' \(.*\) as an ingress port$/,
    );
    t.equal(c.service("web").spec.task.container.image, "bad:1");
    t.strictSame(c.errors, []);
  },
);
