import t from "tap";
import { createTask } from "../../../manager/store/revisions.ts";
import type { Answer } from "../../../manager/api/why-update.ts";
import { whyService } from "../../../manager/api/why.ts";
import type { TaskId } from "../../../model/ids.ts";
import { noResources } from "../../../model/resources.ts";
import type { PortSpec, ServiceSpec, TaskSpec } from "../../../model/service.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { id, nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";
import { makeHarness } from "./harness.ts";

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
  return store
    .update((tx) => {
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
    })
    .then(() =>
      store.view((view) => {
        const service = view.services.byName("web");
        if (service === undefined) throw new Error("the service is gone");
        return whyService(view, service, 0);
      }),
    );
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
