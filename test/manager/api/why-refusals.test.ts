import t from "tap";
import { createTask } from "../../../manager/store/revisions.ts";
import type { Answer } from "../../../manager/api/why-update.ts";
import { whyService } from "../../../manager/api/why.ts";
import { defaultUpdatePolicy } from "../../../model/defaults.ts";
import type { NodeId, TaskId } from "../../../model/ids.ts";
import { noResources } from "../../../model/resources.ts";
import type { PortSpec, ServiceSpec, TaskSpec, UpdateStatus } from "../../../model/service.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { id, nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";
import { makeHarness, type Harness } from "./harness.ts";

const hosts = ["host10", "host2", "host1"];
const published: PortSpec = {
  name: "",
  protocol: "tcp",
  targetPort: 80,
  publishedPort: 8080,
  publishMode: "host",
};
const withPort = { endpoint: { mode: "vip", ports: [published] } } as const;

/** On three hosts of four CPUs and 8 GiB; `other` runs on each of them, the service waits. */
async function ask(
  task: Partial<TaskSpec>,
  change: Partial<ServiceSpec>,
  other?: ServiceSpec,
): Promise<Answer> {
  const { store } = await makeHarness({ clock: new VirtualClock() });
  await store.update((tx) => {
    for (const node of tx.nodes.list()) tx.nodes.remove(node.id);
    for (const host of hosts) tx.nodes.create({ ...nodeObject(host), id: id(`${host}-`) });
    if (other !== undefined) {
      const service = tx.services.create({ id: id(other.name), spec: other, specVersion: 0 });
      for (const [index, host] of hosts.entries()) {
        const made = createTask(tx, service, {
          id: id<TaskId>(`o${index}`),
          slot: index + 1,
          desiredState: "running",
          nodeId: id(`${host}-`),
        });
        tx.tasks.update({ ...made, status: { ...made.status, state: "running" } });
      }
    }
    const spec = { ...serviceSpec(), task: taskSpec(task), ...change };
    const service = tx.services.create({ id: id("web"), spec, specVersion: 0 });
    const made = createTask(tx, service, { id: id<TaskId>("t1"), slot: 1, desiredState: "running" });
    tx.tasks.update({ ...made, status: { ...made.status, state: "pending", error: "no suitable node" } });
  });
  return askOfWeb(store);
}

function askOfWeb(store: Harness["store"]): Answer {
  return store.view((view) => {
    const service = view.services.byName("web");
    if (service === undefined) throw new Error("the service is gone");
    return whyService(view, service, 0);
  });
}

const reserving = (resources: Partial<typeof noResources>): Partial<TaskSpec> => ({
  resources: { reservations: { ...noResources, ...resources } },
});
const placed = (constraints: readonly string[], maxReplicas = 0): Partial<TaskSpec> => ({
  placement: { constraints, spread: [], maxReplicas, platforms: [] },
});

const cases: readonly {
  readonly name: string;
  readonly task?: Partial<TaskSpec>;
  readonly change?: Partial<ServiceSpec>;
  readonly other?: ServiceSpec;
  /** Of host1, which comes first, then host2 and host10. */
  readonly refusal: string;
  readonly next: string;
}[] = [
  {
    name: "a label: the expression, and how to give it",
    task: placed(["node.role==worker", "node.labels.disk == ssd"]),
    refusal: "constraint (node.labels.disk == ssd)",
    next: "shoal node update --label-add disk=ssd host1, or shoal service update --constraint-rm 'node.labels.disk == ssd' web",
  },
  {
    name: "what no node can be given is taken out",
    task: placed(["node.hostname==gone"]),
    refusal: "constraint (node.hostname==gone)",
    next: "shoal service update --constraint-rm 'node.hostname==gone' web",
  },
  {
    name: "memory: wanted and free, and what would fit",
    task: reserving({ memoryBytes: 900 * 2 ** 30 }),
    other: { ...serviceSpec(), name: "db", task: taskSpec(reserving({ memoryBytes: 2 ** 30 })) },
    refusal: "resource (memory: 900GiB wanted, 7GiB free)",
    next: "shoal service update --reserve-memory 7168m web, which is what the emptiest has free",
  },
  {
    name: "processors and a device",
    task: reserving({ nanoCpus: 5e9, generic: { gpu: 1 } }),
    refusal: "resource (CPUs: 5 wanted, 4 free; gpu: 1 wanted, 0 free)",
    next: "shoal service update --reserve-cpu N --generic-resource-rm gpu web",
  },
  {
    name: "a host's port: which, and who has it",
    change: withPort,
    other: { ...serviceSpec(), name: "proxy", ...withPort },
    refusal: "host-port (8080/tcp, which proxy has)",
    next: "shoal service update --publish-rm 80 --publish-add mode=host,target=80,published=PORT web",
  },
];

for (const { name, task = {}, change = {}, other, refusal, next } of cases) {
  t.test(`no node takes it, ${name}`, async (t) => {
    const { Evidence, Next } = await ask(task, change, other);
    t.strictSame(
      Evidence,
      ["host1", "host2", "host10"].map((host) => `${host}: ${refusal}`),
    );
    t.equal(Next, next);
  });
}

const startFirst = { ...defaultUpdatePolicy, order: "start-first" } as const;
const global = { kind: "global" } as const;
const replicas = (count: number): ServiceSpec["mode"] => ({ kind: "replicated", replicas: count });

/** Of a service whose own tasks have its port; another of them waits for it. */
const held: readonly {
  readonly name: string;
  readonly change: Partial<ServiceSpec>;
  /** Those that run: "host", ">" before one that was asked to stop, "!" before a host that is down. */
  readonly running: string;
  readonly updateStatus?: UpdateStatus;
  readonly next: string;
}[] = [
  {
    name: "more replicas than nodes: as many as there are",
    change: { mode: replicas(4) },
    running: "host1 host2 host10",
    next: "shoal service scale web=3, since each node has that port once",
  },
  {
    name: "what a node that is down may still run is none of them",
    change: { mode: replicas(3) },
    running: "host1 host2 !host10",
    next: "shoal service scale web=2, since each node has that port once",
  },
  {
    name: "a new task waits for the one that it is to replace: the order, since the number is right already",
    change: { mode: replicas(3), update: startFirst },
    running: "host1 host2 host10",
    next: "shoal service update --update-order stop-first web, since each node has that port once",
  },
  {
    name: "of a service on every node, which has no number: the order",
    change: { mode: global, update: startFirst },
    running: "host1 host2 host10",
    next: "shoal service update --update-order stop-first web, since each node has that port once",
  },
  {
    name: "during a rollback, by its own order",
    change: { mode: replicas(3), rollback: startFirst },
    running: "host1 host2 host10",
    updateStatus: { state: "rollback_started", message: "" },
    next: "shoal service update --update-order stop-first web, since each node has that port once",
  },
  {
    name: "the order is right already: its tasks",
    change: { mode: global },
    running: "host1 host2 host10",
    next: "shoal service ps web",
  },
  {
    name: "one that was asked to stop gives the port back by itself",
    change: { mode: replicas(3) },
    running: ">host1 host2 host10",
    next: "shoal service ps web, until the task that stops has ended",
  },
];

for (const { name, change, running, updateStatus, next } of held) {
  t.test(`its own tasks have its port, ${name}`, async (t) => {
    const { store } = await makeHarness({ clock: new VirtualClock() });
    await store.update((tx) => {
      for (const node of tx.nodes.list()) tx.nodes.remove(node.id);
      const spec = { ...serviceSpec(), ...withPort, ...change };
      const status = updateStatus === undefined ? {} : { updateStatus };
      const service = tx.services.create({ id: id("web"), spec, specVersion: 0, ...status });
      const isGlobal = spec.mode.kind === "global";
      for (const [index, text] of running.split(" ").entries()) {
        const [, mark = "", host = ""] = /^([>!]?)(.*)$/.exec(text) ?? [];
        const nodeId = id<NodeId>(`${host}-`);
        tx.nodes.create({ ...nodeObject(host, { state: mark === "!" ? "down" : "ready" }), id: nodeId });
        const made = createTask(tx, service, {
          id: id<TaskId>(`o${index}`),
          slot: isGlobal ? 0 : index + 1,
          desiredState: mark === ">" ? "shutdown" : "running",
          nodeId,
        });
        tx.tasks.update({ ...made, status: { ...made.status, state: "running" } });
      }
      const made = createTask(tx, service, {
        id: id<TaskId>("t1"),
        slot: isGlobal ? 0 : 1,
        desiredState: "running",
        ...(isGlobal && { nodeId: id<NodeId>("host1-") }),
      });
      tx.tasks.update({ ...made, status: { ...made.status, state: "pending", error: "no suitable node" } });
    });
    const { Evidence, Next } = askOfWeb(store);
    t.equal(Evidence[0], "host1: host-port (8080/tcp, which web has)");
    t.equal(Next, next);
  });
}
