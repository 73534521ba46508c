import t from "tap";
import type { ServiceSpec, UpdatePolicy } from "../../model/service.ts";
import { isTerminal } from "../../model/task.ts";
import { seededRandom } from "../../runtime/random.ts";
import { id, networkObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { ScenarioCluster } from "./cluster.ts";

const policy: UpdatePolicy = {
  parallelism: 2,
  delayMs: 300,
  failureAction: "pause",
  monitorMs: 500,
  maxFailureRatio: 0,
  order: "stop-first",
};
const nodes = ["n1", "n2", "n3", "n4"] as const;

function withImage(spec: ServiceSpec, image: string): ServiceSpec {
  return { ...spec, task: { ...spec.task, container: { ...spec.task.container, image } } };
}

/** Two live tasks never share an address. */
function sharedAddresses(c: ScenarioCluster): string[] {
  const seen = new Map<string, number>();
  for (const task of c.store.view((view) => view.tasks.list())) {
    if (isTerminal(task)) continue;
    for (const { address } of task.networks)
      if (address !== "") seen.set(address, (seen.get(address) ?? 0) + 1);
  }
  return [...seen].filter(([, count]) => count > 1).map(([address]) => address);
}

for (const order of ["stop-first", "start-first"] as const) {
  t.test(`an update, ${order}, goes on under a new leader and restarts nothing twice`, async (t) => {
    await using c = new ScenarioCluster();
    await c.start(nodes);
    await c.create("web", serviceSpec({ replicas: 6, update: { ...policy, order } }));
    await c.until(() => c.running("web").length === 6);
    await c.update("web", (spec) => withImage(spec, "web:2"));
    for (let term = 2; term < 12 && c.service("web").updateStatus?.state !== "completed"; term += 1) {
      await c.clock.advance(130);
      await c.changeLeader(term);
    }
    await c.until(() => c.service("web").updateStatus?.state === "completed");
    t.equal(c.running("web", "web:2").length, 6);
    t.equal(c.tasks("web").length, 12, "each slot was replaced once");
    t.strictSame(c.errors, []);
  });
}

t.test("a restart delay goes on under a new leader", async (t) => {
  await using c = new ScenarioCluster();
  await c.start(["n1"]);
  const restart = { delayMs: 2000 };
  await c.create("web", serviceSpec({ task: { ...taskSpec({ image: "crash:1" }), restart } }));
  await c.until(() => c.tasks("web").length === 2);
  await c.clock.advance(1000);
  await c.changeLeader(2);
  const waiting = c.tasks("web").find((task) => !isTerminal(task));
  t.equal(waiting?.desiredState, "ready");
  const took = await c.until(() =>
    c.tasks("web").some((task) => task.id === waiting?.id && task.desiredState === "running"),
  );
  t.ok(took >= 900 && took <= 1100, `${took}`);
});

for (let seed = 1; seed <= 12; seed += 1) {
  t.test(`seed ${seed}: whatever happens, services converge once it stops`, async (t) => {
    const random = seededRandom(seed);
    const pick = <T>(from: readonly T[]): T => from[random.integer(from.length)] as T;
    await using c = new ScenarioCluster();
    await c.start(nodes);
    await c.store.update((tx) =>
      tx.networks.create(networkObject("net", { ipam: [{ subnet: "192.168.0.0/25" }] })),
    );
    const networks = [{ networkId: id<never>("net"), aliases: [] }];
    const task = { ...taskSpec(), networks, restart: { delayMs: 200 } };
    const update = {
      ...policy,
      order: pick(["stop-first", "start-first"] as const),
      failureAction: pick(["pause", "continue", "rollback"] as const),
    };
    await c.create("web", serviceSpec({ replicas: 4, task, update }));
    await c.create("all", serviceSpec({ mode: { kind: "global" }, task, update }));
    let term = 1;
    let version = 1;
    for (let step = 0; step < 25; step += 1) {
      const service = pick(["web", "all"]);
      switch (random.integer(7)) {
        case 0:
          await c.update("web", (spec) => ({
            ...spec,
            mode: { kind: "replicated", replicas: random.integer(9) },
          }));
          break;
        case 1:
          version += 1;
          await c.update(service, (spec) => withImage(spec, `web:${version}`));
          break;
        case 2:
          await c.update(service, (spec) => withImage(spec, pick(["bad:1", "crash:1"])));
          break;
        case 3:
          await c.setNode(pick(nodes), pick(["down", "unreachable"] as const));
          break;
        case 4:
          await c.setNode(pick(nodes), "ready");
          break;
        case 5:
          await c.changeLeader((term += 1));
          break;
        case 6:
          if (c.service(service).previous !== undefined) await c.rollback(service);
          break;
      }
      await c.clock.advance(random.integer(1500));
      t.strictSame(sharedAddresses(c), [], `step ${step}`);
    }
    for (const node of nodes) await c.setNode(node, "ready");
    await c.update("web", (spec) => ({
      ...withImage(spec, "web:last"),
      mode: { kind: "replicated", replicas: 5 },
    }));
    await c.update("all", (spec) => withImage(spec, "web:last"));
    await c.until(
      () =>
        c.running("web", "web:last").length === 5 &&
        c.running("all", "web:last").length === 4 &&
        ["completed", undefined].includes(c.service("web").updateStatus?.state),
    );
    await c.clock.advance(30_000);
    for (const [name, want] of [
      ["web", 5],
      ["all", 4],
    ] as const) {
      t.equal(c.running(name).length, want);
      t.equal(c.tasks(name).filter((one) => !isTerminal(one)).length, want, "no task is left over");
      // Scaling up from nothing is no update.
      t.ok(["completed", undefined].includes(c.service(name).updateStatus?.state));
    }
    t.strictSame(c.errors, []);
  });
}
