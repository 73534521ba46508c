import { array, assert, integer, property } from "fast-check";
import t from "tap";
import { parseCidr } from "../../../model/address.ts";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Labels } from "../../../model/meta.ts";
import type { Node } from "../../../model/node.ts";
import { revisionKey, type EndpointSpec, type Revision, type TaskSpec } from "../../../model/service.ts";
import { labelOf } from "../../../manager/scheduler/facts.ts";
import { explain } from "../../../manager/scheduler/filter.ts";
import { demandOf, type Demand } from "../../../manager/scheduler/demand.ts";
import { NodeIndex } from "../../../manager/scheduler/nodes.ts";
import {
  confirmGroup,
  placeBeside,
  placeGroup,
  type GroupOutcome,
} from "../../../manager/scheduler/place.ts";
import { id, nodeObject, taskSpec } from "../../sim/objects.ts";

const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };
const plain = { constraints: [], spread: [], maxReplicas: 0, platforms: [] } as const;

function demand(
  service: string,
  change: Partial<TaskSpec> = {},
  ports: EndpointSpec["ports"] = [],
  labels: Labels = {},
  subnets: readonly string[] = [],
): Demand {
  const serviceId = id<ServiceId>(service);
  const revision: Revision = {
    id: revisionKey(serviceId, 0),
    meta,
    serviceId,
    specVersion: 0,
    serviceName: service,
    serviceLabels: labels,
    task: taskSpec(change),
    endpoint: { mode: "vip", ports },
  };
  return demandOf(revision, {
    needsTunnel: false,
    blocks: subnets.flatMap((text) => parseCidr(text) ?? []),
  });
}

function onSubnets(...subnets: string[]): Demand {
  return demand("web", {}, [], {}, subnets);
}

function indexOf(...nodes: readonly ReturnType<typeof nodeObject>[]): NodeIndex {
  const index = new NodeIndex();
  for (const node of nodes) index.putNode({ ...node, meta });
  return index;
}

type Plugin = NonNullable<Node["description"]>["plugins"][number];

function withPlugins(name: string, ...plugins: readonly Plugin[]): Node {
  const node = nodeObject(name);
  if (node.description === undefined) throw new Error("it describes itself");
  return { ...node, meta, description: { ...node.description, plugins } };
}

let made = 0;
function ids(count: number): TaskId[] {
  return Array.from({ length: count }, () => id<TaskId>(`t${(made += 1)}x`));
}

function perNode({ placed }: GroupOutcome): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { nodeId } of placed) {
    const name = nodeId.replace(/0+$/, "");
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

t.test("a service is spread before the total load is looked at", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  for (const task of ids(5))
    index.place(task, { nodeId: id<NodeId>("a"), demand: demand("old"), active: true });
  t.strictSame(perNode(placeGroup(index, { demand: demand("web"), tasks: ids(4) }, 0)), { a: 2, b: 2 });
  t.strictSame(perNode(placeGroup(index, { demand: demand("one"), tasks: ids(1) }, 0)), { b: 1 });
  t.end();
});

t.test("a log driver is asked for where a node says which it has, and none never", (t) => {
  const log = { type: "Log", name: "local" };
  const index = indexOf(withPlugins("a", log), withPlugins("b", { type: "Volume", name: "local" }));
  const placed = (name: string): object =>
    perNode(
      placeGroup(index, { demand: demand(name, { logDriver: { name, options: {} } }), tasks: ids(2) }, 0),
    );
  t.strictSame(placed("fluentd"), { b: 2 });
  t.strictSame(placed("local"), { a: 1, b: 1 });
  t.strictSame(placed("none"), { a: 1, b: 1 });
  t.end();
});

function withSubnets(name: string, ...subnets: string[]): Node {
  const node = nodeObject(name);
  if (node.description === undefined) throw new Error("it describes itself");
  return { ...node, meta, description: { ...node.description, subnets } };
}

const refusals = [
  {
    name: "not ready, drained and paused nodes",
    nodes: [
      nodeObject("a", { state: "down" }),
      nodeObject("b", { spec: { availability: "drain" } }),
      nodeObject("c", { spec: { availability: "pause" } }),
    ],
    demand: demand("web"),
    want: "no suitable node (3 nodes not available for new tasks)",
  },
  {
    name: "resources before constraints, most nodes first",
    nodes: [nodeObject("a", { nanoCpus: 1e9 }), nodeObject("b"), nodeObject("c")],
    demand: demand("web", {
      resources: { reservations: { nanoCpus: 2e9 } },
      placement: { ...plain, constraints: ["node.hostname==zzz"] },
    }),
    want: "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)",
  },
  {
    name: "platforms",
    nodes: [nodeObject("a")],
    demand: demand("web", { placement: { ...plain, platforms: [{ os: "linux", architecture: "arm64" }] } }),
    want: "no suitable node (unsupported platform on 1 node)",
  },
  {
    name: "volume drivers",
    nodes: [withPlugins("a", { type: "Volume", name: "local" })],
    demand: demand("web", {
      container: {
        ...taskSpec().container,
        mounts: [
          { type: "volume", source: "v", target: "/v", readOnly: false, volume: { driverName: "nfs" } },
        ],
      },
    }),
    want: "no suitable node (missing plugin on 1 node)",
  },
  {
    name: "log drivers",
    nodes: [withPlugins("a", { type: "Log", name: "local" })],
    demand: demand("web", { logDriver: { name: "fluentd", options: {} } }),
    want: "no suitable node (missing plugin on 1 node)",
  },
  {
    name: "no tunnels for an encrypted network",
    nodes: [
      nodeObject("a"),
      {
        ...nodeObject("b"),
        description: {
          ...(nodeObject("b").description as NonNullable<Node["description"]>),
          tunnel: { keys: [], problem: "the kernel has no WireGuard" },
        },
      },
    ],
    demand: { ...demand("web"), reach: { needsTunnel: true, blocks: [] } },
    want: "no suitable node (encrypted networks not possible on 2 nodes)",
  },
  {
    name: "hosts that have the addresses of a network",
    nodes: [withSubnets("a", "10.0.1.0/24"), withSubnets("b", "192.168.0.0/16", "10.0.0.0/8", "fd00::/64")],
    demand: onSubnets("10.0.1.0/24"),
    want: "no suitable node (addresses of a network belong to the host on 2 nodes)",
  },
  { name: "no nodes at all", nodes: [], demand: demand("web"), want: "no suitable node" },
];

t.test("a task goes to the host that has none of its networks' addresses", (t) => {
  const index = indexOf(withSubnets("a", "10.0.1.0/24"), withSubnets("b", "10.0.2.0/24"), nodeObject("c"));
  const wanted = onSubnets("10.0.1.0/24", "fd01::/64");
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(4) }, 0)), { b: 2, c: 2 });
  index.putNode(withSubnets("b", "fd01::/48"));
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(1) }, 0)), { c: 1 });
  t.end();
});

for (const { name, nodes, demand: wanted, want } of refusals) {
  t.test(`explained: ${name}`, (t) => {
    const outcome = placeGroup(indexOf(...nodes), { demand: wanted, tasks: ids(1) }, 0);
    t.equal(outcome.placed.length, 0);
    t.equal(outcome.reason, want);
    t.end();
  });
}

t.test("a platform matches under both names of a processor, and empty fields match all", (t) => {
  const index = indexOf(nodeObject("a"));
  for (const platform of [
    { os: "linux", architecture: "amd64" },
    { os: "", architecture: "X86_64" },
    { os: "linux", architecture: "" },
  ]) {
    const wanted = demand("web", { placement: { ...plain, platforms: [platform] } });
    t.equal(placeGroup(index, { demand: wanted, tasks: ids(1) }, 0).placed.length, 1);
  }
  t.end();
});

t.test("host ports and replica limits fill up as tasks are placed", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  const port = { protocol: "tcp", targetPort: 80, publishedPort: 80, publishMode: "host" } as const;
  const first = placeGroup(index, { demand: demand("web", {}, [port]), tasks: ids(3) }, 0);
  t.strictSame(
    [first.placed.length, first.reason],
    [2, "no suitable node (host-mode port already in use on 2 nodes)"],
  );
  const udp = placeGroup(
    index,
    { demand: demand("dns", {}, [{ ...port, protocol: "udp" }]), tasks: ids(2) },
    0,
  );
  t.equal(udp.placed.length, 2);
  const limited = demand("two", { placement: { ...plain, maxReplicas: 2 } });
  const third = placeGroup(index, { demand: limited, tasks: ids(5) }, 0);
  t.strictSame(
    [third.placed.length, third.reason],
    [4, "no suitable node (max replicas per node limit exceed)"],
  );
  t.end();
});

t.test("two levels of preference share evenly, and a full branch leaves its share to the others", (t) => {
  const zone = (name: string, labels: Record<string, string>, cpus: number): ReturnType<typeof nodeObject> =>
    nodeObject(name, { spec: { labels }, nanoCpus: cpus });
  const index = indexOf(
    zone("small", { zone: "1", rack: "1" }, 5e9),
    zone("x", { zone: "2", rack: "1" }, 1e12),
    zone("y", { zone: "2", rack: "2" }, 1e12),
    zone("z", { zone: "2", rack: "2" }, 1e12),
  );
  const wanted = demand("web", {
    resources: { reservations: { nanoCpus: 1e9 } },
    placement: { ...plain, spread: ["node.labels.zone", "node.labels.rack"] },
  });
  const counts = perNode(placeGroup(index, { demand: wanted, tasks: ids(12) }, 0));
  t.equal(counts["small"], 5);
  const rack2 = (counts["y"] ?? 0) + (counts["z"] ?? 0);
  t.equal((counts["x"] ?? 0) + rack2, 7);
  t.ok(Math.abs((counts["x"] ?? 0) - rack2) <= 1);
  t.end();
});

t.test("five recent failures of the same revision put a node behind, until they are old", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  const web = demand("web");
  for (let i = 0; i < 5; i += 1) index.failures.note(id<NodeId>("a"), web.key, 1000);
  t.strictSame(perNode(placeGroup(index, { demand: web, tasks: ids(3) }, 2000)), { b: 3 });
  t.strictSame(perNode(placeGroup(index, { demand: demand("other"), tasks: ids(2) }, 2000)), { a: 1, b: 1 });
  t.strictSame(perNode(placeGroup(index, { demand: web, tasks: ids(3) }, 400_000)), { a: 3 });
  t.end();
});

t.test("a preassigned task is confirmed on its node or told why not", (t) => {
  const index = indexOf(nodeObject("a", { nanoCpus: 1e9 }));
  const big = demand("web", { resources: { reservations: { nanoCpus: 1e9 } } });
  const [first, second] = ids(2) as [TaskId, TaskId];
  const confirm = (taskId: TaskId, node: string): string | undefined =>
    confirmGroup(index, big, [{ taskId, nodeId: id<NodeId>(node), replaces: false }])[0];
  t.equal(confirm(first, "a"), undefined);
  t.equal(confirm(second, "a"), "no suitable node (insufficient resources on 1 node)");
  t.equal(confirm(second, "gone"), "no suitable node");
  t.equal(explain(new Map()), "no suitable node");
  const limited = demand("web", { placement: { ...plain, maxReplicas: 1 } });
  const beside = (replaces: boolean): string | undefined =>
    confirmGroup(index, limited, [{ taskId: second, nodeId: id<NodeId>("a"), replaces }])[0];
  t.equal(beside(false), "no suitable node (max replicas per node limit exceed)");
  t.equal(beside(true), undefined, "a limit of replicas does not count the task that this one replaces");
  t.end();
});

t.test("property: no node is given more than it has, and equal nodes differ by one at most", (t) => {
  assert(
    property(
      array(integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 12 }),
      integer({ min: 1, max: 80 }),
      integer({ min: 1, max: 3 }),
      (sizes, count, need) => {
        const index = indexOf(...sizes.map((size, i) => nodeObject(`n${i}x`, { nanoCpus: size * 1e9 })));
        const wanted = demand("web", { resources: { reservations: { nanoCpus: need * 1e9 } } });
        const outcome = placeGroup(index, { demand: wanted, tasks: ids(count) }, 0);
        const room = sizes.map((size) => Math.floor(size / need));
        const counts = sizes.map(
          (_, i) => outcome.placed.filter(({ nodeId }) => nodeId === id(`n${i}x`)).length,
        );
        const all = room.reduce((sum, each) => sum + each, 0);
        const fits = counts.every((placed, i) => placed <= (room[i] ?? 0));
        const complete = outcome.placed.length === Math.min(count, all);
        // A node that still has room may not be two tasks behind any other.
        const most = Math.max(...counts);
        const even = counts.every((placed, i) => placed >= (room[i] ?? 0) || most - placed <= 1);
        return fits && complete && even && outcome.placed.length + outcome.unplaced.length === count;
      },
    ),
    { numRuns: 200 },
  );
  t.end();
});

t.test("property: the index returns to nothing when all tasks are gone", (t) => {
  assert(
    property(array(integer({ min: 0, max: 2 }), { maxLength: 30 }), (moves) => {
      const index = indexOf(nodeObject("a"), nodeObject("b"));
      const wanted = demand("web", { resources: { reservations: { memoryBytes: 5 } } }, [
        { protocol: "tcp", targetPort: 1, publishedPort: 1, publishMode: "host" },
      ]);
      const tasks = ids(3);
      for (const [i, move] of moves.entries()) {
        const task = tasks[i % 3] as TaskId;
        if (move === 2) index.removeTask(task);
        else
          index.place(task, {
            nodeId: id<NodeId>(move === 0 ? "a" : "b"),
            demand: wanted,
            active: i % 2 === 0,
          });
      }
      for (const task of tasks) index.removeTask(task);
      const { usedBytes, active } = index.columns;
      return (
        index.rowsOf(wanted.serviceId).size === 0 &&
        [...index.servicesNamed("web")].length === 0 &&
        [...index.rowsWithPort("tcp/1")].length === 0 &&
        [...index.values()].every(({ row }) => usedBytes[row] === 0 && active[row] === 0)
      );
    }),
  );
  t.end();
});

function zoned(name: string, labels: Labels): ReturnType<typeof nodeObject> {
  return nodeObject(name, { spec: { labels }, nanoCpus: 4e9 });
}

t.test("preferred nodes are filled before the others, the first preference before the second", (t) => {
  const index = indexOf(
    zoned("a", { disk: "hdd", zone: "1" }),
    zoned("b", { disk: "ssd", zone: "2" }),
    zoned("c", { disk: "ssd", zone: "1" }),
  );
  const prefer = "node.labels.disk==ssd, node.labels.zone==1";
  const wanted = demand("web", { resources: { reservations: { nanoCpus: 1e9 } } }, [], {
    "shoal.prefer": prefer,
  });
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(3) }, 0)), { c: 3 });
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(7) }, 0)), { c: 1, b: 4, a: 2 });
  t.end();
});

t.test("a service can be preferred near another, or away from it", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"), nodeObject("c"));
  index.place(ids(1)[0] as TaskId, { nodeId: id<NodeId>("b"), demand: demand("DB"), active: true });
  const near = demand("near", {}, [], { "shoal.prefer": "service==db" });
  t.strictSame(perNode(placeGroup(index, { demand: near, tasks: ids(2) }, 0)), { b: 2 });
  const away = demand("away", {}, [], { "shoal.prefer": "service!=db" });
  t.strictSame(perNode(placeGroup(index, { demand: away, tasks: ids(4) }, 0)), { a: 2, c: 2 });
  t.end();
});

t.test("services that avoid each other never share a node, whoever came first", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  const shy = demand("shy", {}, [], { "shoal.avoid": "Noisy" });
  const noisy = demand("noisy");
  const [first] = ids(1);
  index.place(first as TaskId, { nodeId: id<NodeId>("a"), demand: noisy, active: true });
  t.strictSame(perNode(placeGroup(index, { demand: shy, tasks: ids(3) }, 0)), { b: 3 });
  const second = placeGroup(index, { demand: noisy, tasks: ids(2) }, 0);
  t.strictSame(perNode(second), { a: 2 });
  index.removeNode(id<NodeId>("a"));
  const third = placeGroup(index, { demand: noisy, tasks: ids(1) }, 0);
  t.equal(third.reason, "no suitable node (service to be avoided on 1 node)");
  t.end();
});

t.test("failures weigh only so much: where all nodes fail, tasks are spread as ever", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  const web = demand("web");
  for (let i = 0; i < 50; i += 1) index.failures.note(id<NodeId>("a"), web.key, 1000);
  for (let i = 0; i < 5; i += 1) index.failures.note(id<NodeId>("b"), web.key, 1000);
  t.strictSame(perNode(placeGroup(index, { demand: web, tasks: ids(4) }, 2000)), { a: 2, b: 2 });
  t.end();
});

t.test("generic resources are counted, and freed with the task", (t) => {
  const gpus = nodeObject("a");
  const description = gpus.description as NonNullable<Node["description"]>;
  const offer = { ...description.resources, generic: { gpu: 2 } };
  const index = indexOf({ ...gpus, description: { ...description, resources: offer } }, nodeObject("b"));
  const wanted = demand("web", { resources: { reservations: { generic: { gpu: 1 } } } });
  const tasks = ids(3);
  const outcome = placeGroup(index, { demand: wanted, tasks }, 0);
  t.strictSame(perNode(outcome), { a: 2 });
  t.equal(outcome.reason, "no suitable node (insufficient resources on 2 nodes)");
  t.ok(index.removeTask(tasks[0] as TaskId));
  t.equal(placeGroup(index, { demand: wanted, tasks: ids(1) }, 0).placed.length, 1);
  t.end();
});

t.test("a limit of replicas per node does not count the task that is replaced", (t) => {
  const index = indexOf(nodeObject("a"));
  const limited = demand("web", { placement: { ...plain, maxReplicas: 1 } });
  const [old, next, third] = ids(3) as [TaskId, TaskId, TaskId];
  t.equal(placeGroup(index, { demand: limited, tasks: [old] }, 0).placed.length, 1);
  t.equal(placeGroup(index, { demand: limited, tasks: [next] }, 0).placed.length, 0);
  t.equal(placeBeside(index, limited, next, id<NodeId>("a")), true);
  t.equal(placeBeside(index, limited, third, id<NodeId>("a")), false, "but only one");
  t.equal(placeBeside(index, limited, third, id<NodeId>("gone")), false);
  t.end();
});

t.test("a task whose spec adds a host port finds it free beside the one that it replaces", (t) => {
  const index = indexOf(nodeObject("a"));
  const port = { protocol: "tcp", targetPort: 80, publishedPort: 80, publishMode: "host" } as const;
  const [old, first, second] = ids(3) as [TaskId, TaskId, TaskId];
  t.equal(placeGroup(index, { demand: demand("web"), tasks: [old] }, 0).placed.length, 1);
  const updated = demand("web", { placement: { ...plain, maxReplicas: 1 } }, [port]);
  const confirm = (taskId: TaskId): string | undefined =>
    confirmGroup(index, updated, [{ taskId, nodeId: id<NodeId>("a"), replaces: true }])[0];
  t.equal(confirm(first), undefined);
  t.equal(confirm(second), "no suitable node (host-mode port already in use on 1 node)");
  index.removeTask(first);
  t.equal(placeBeside(index, updated, second, id<NodeId>("a")), true);
  t.end();
});

t.test("what is known of a node is asked again when it changes, and rows are used again", (t) => {
  const index = indexOf(...Array.from({ length: 200 }, (_, i) => nodeObject(`n${i}x`)));
  const wanted = demand("web", { placement: { ...plain, constraints: ["node.labels.a==b"] } });
  t.equal(placeGroup(index, { demand: wanted, tasks: ids(1) }, 0).placed.length, 0);
  index.putNode({ ...nodeObject("n150x", { spec: { labels: { a: "b" } } }), meta });
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(2) }, 0)), { n150x: 2 });
  index.removeNode(id<NodeId>("n150x"));
  t.equal(placeGroup(index, { demand: wanted, tasks: ids(1) }, 0).placed.length, 0);
  index.putNode({ ...nodeObject("new", { spec: { labels: { a: "b" } } }), meta });
  t.equal(index.rowCount, 200);
  t.strictSame(perNode(placeGroup(index, { demand: wanted, tasks: ids(2) }, 0)), { new: 2 });
  index.putNode({ ...nodeObject("n150x", { spec: { labels: { a: "b" } } }), meta });
  t.equal(index.rowsOf(wanted.serviceId).get(200), 2, "its tasks are counted when it returns");
  t.end();
});

t.test("label values that change for ever are not kept for ever, and branches stay right", (t) => {
  const index = indexOf(nodeObject("a"), nodeObject("b"));
  const spread = demand("web", { placement: { ...plain, spread: ["node.labels.zone"] } });
  for (let i = 0; i < 1_000; i += 1) {
    for (const name of ["a", "b"]) {
      index.putNode({ ...nodeObject(name, { spec: { labels: { zone: `${name}${i}` } } }), meta });
    }
    const tasks = ids(2);
    const outcome = perNode(placeGroup(index, { demand: spread, tasks }, 0));
    if (outcome["a"] !== 1 || outcome["b"] !== 1) t.fail(`round ${i}: ${JSON.stringify(outcome)}`);
    for (const task of tasks) index.removeTask(task);
  }
  t.ok(index.facts.valueCount("node.labels.zone") <= 130);
  t.end();
});

t.test("a node without the label is a branch of its own, whatever the label is called", (t) => {
  for (const name of ["constructor", "toString"]) {
    t.equal(labelOf(`node.labels.${name}`, { ...nodeObject("a"), meta }), "");
    t.equal(labelOf(`engine.labels.${name}`, { ...nodeObject("a"), meta }), "");
  }
  t.end();
});
