import t from "tap";
import { defaultUpdatePolicy } from "../../model/defaults.ts";
import { isTerminal } from "../../model/task.ts";
import { id, nodeObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { scale, started } from "./cluster.ts";

t.test("named pieces of a node are each given to one task, and freed when it has ended", async (t) => {
  await using c = await started([]);
  await c.store.update((tx) => {
    tx.nodes.create(nodeObject("n1", { generic: { generic: { gpu: 2 }, named: { gpu: ["a", "b"] } } }));
    tx.nodes.create(nodeObject("n2"));
  });
  const spec = serviceSpec({
    replicas: 3,
    task: taskSpec({ resources: { reservations: { generic: { gpu: 1 } } } }),
  });
  const held = (): string[] =>
    c
      .tasks("web")
      .filter((task) => !isTerminal(task))
      .flatMap(({ generic = [] }) => generic.flatMap(({ names = [] }) => names))
      .toSorted();
  await c.create("web", spec);
  await c.until(() => c.running("web").length === 2);
  t.strictSame(held(), ["a", "b"]);
  await c.clock.advance(1_000);
  const waits = c.tasks("web").find((task) => task.status.state === "pending");
  t.equal(waits?.status.error, "no suitable node (insufficient resources on 2 nodes)");
  await c.update("web", (spec) => ({ ...scale(2)(spec), task: { ...spec.task, forceUpdate: 1 } }));
  await c.until(
    () => c.running("web").length === 2 && c.tasks("web").filter((task) => !isTerminal(task)).length === 2,
  );
  t.strictSame(held(), ["a", "b"]);
  // The node comes back with other pieces: who holds one that is gone has to go, and gets one that is there.
  await c.store.update((tx) => {
    const node = tx.nodes.get(id("n1"));
    if (node?.description === undefined) throw new Error("no node");
    const resources = { ...node.description.resources, generic: { gpu: 2 }, named: { gpu: ["b", "c"] } };
    tx.nodes.update({ ...node, description: { ...node.description, resources } });
  });
  await c.until(() => c.running("web").length === 2 && held().join() === "b,c");
  t.strictSame(c.errors, []);
});

t.test(
  "with automatic rebalance a new node gets its share, a few at a time, once it has proved itself",
  async (t) => {
    await using c = await started(["n1"]);
    await c.create(
      "web",
      serviceSpec({ replicas: 6, update: { ...defaultUpdatePolicy, order: "start-first" } }),
    );
    await c.until(() => c.running("web").length === 6);
    const on = (name: string): number => c.running("web").filter((task) => task.nodeId === id(name)).length;
    const now = (): number => c.clock.now();
    await c.store.update((tx) => {
      const node = nodeObject("n2");
      tx.nodes.create({ ...node, status: { ...node.status, sinceMs: now() } });
    });
    await c.clock.advance(120_000);
    t.equal(on("n2"), 0, "off by default");
    await c.store.update((tx) => {
      const { cluster } = tx;
      if (cluster === undefined) throw new Error("no cluster");
      tx.clusters.update({ ...cluster, spec: { ...cluster.spec, labels: { "shoal.auto-rebalance": "1" } } });
      const node = tx.nodes.get(id("n2"));
      if (node !== undefined) tx.nodes.update({ ...node, status: { ...node.status, sinceMs: now() } });
    });
    await c.clock.advance(55_000);
    t.equal(on("n2"), 0, "it has only just come");
    let fewest = 6;
    let most = 0;
    await c.until(() => {
      fewest = Math.min(fewest, c.running("web").length);
      most = Math.max(
        most,
        c.tasks("web").filter((task) => task.moving === true && !isTerminal(task)).length,
      );
      return on("n2") === 3 && c.tasks("web").filter((task) => !isTerminal(task)).length === 6;
    });
    t.equal(fewest, 6, "start-first: never one less");
    t.equal(most, 1, "the budget");
    const settled = c.tasks("web").map((task) => task.id);
    await c.clock.advance(120_000);
    t.strictSame(
      c.tasks("web").map((task) => task.id),
      settled,
      "what is even stays",
    );
    t.strictSame(c.errors, []);
  },
);
