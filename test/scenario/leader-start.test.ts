/** What a manager that begins to lead finds half done, and what it makes of it. */
import t from "tap";
import { createTask } from "../../manager/store/revisions.ts";
import type { Transaction } from "../../manager/store/transaction.ts";
import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Availability, NodeState } from "../../model/node.ts";
import { isTerminal, type Task, type TaskState } from "../../model/task.ts";
import { id, nodeObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { type ScenarioCluster, started } from "./cluster.ts";

function setTask(tx: Transaction, task: Task | undefined, state: TaskState): void {
  if (task === undefined) throw new Error("no such task");
  tx.tasks.update({
    ...task,
    status: { ...task.status, state, error: "it broke", atMs: tx.nowMs, appliedAtMs: tx.nowMs },
  });
}

function setNode(
  tx: Transaction,
  name: string,
  { state, availability }: { readonly state?: NodeState; readonly availability?: Availability },
): void {
  const node = tx.nodes.get(id(name));
  if (node === undefined) throw new Error(`no node ${name}`);
  tx.nodes.update({
    ...node,
    spec: { ...node.spec, ...(availability !== undefined && { availability }) },
    status: { ...node.status, ...(state !== undefined && { state, sinceMs: tx.nowMs }) },
  });
}

function on(c: ScenarioCluster, service: string, node: string): Task[] {
  return c.tasks(service).filter((task) => task.nodeId === id(node));
}

for (const state of ["failed", "rejected", "complete", "shutdown"] as const) {
  t.test(`a task that was ${state} when nobody led is replaced, after its delay`, async (t) => {
    await using c = await started(["n1", "n2"]);
    await c.create("web", serviceSpec({ replicas: 2 }));
    await c.until(() => c.running("web").length === 2);
    await c.changeLeader(2, (tx) => setTask(tx, tx.tasks.bySlot(id("web"), 1)[0], state));
    const tookMs = await c.until(() => c.running("web").length === 2);
    t.ok(tookMs >= 5_000, `the restart delay: ${tookMs}`);
    t.equal(c.tasks("web").length, 3);
    t.strictSame(c.errors, []);
  });
}

t.test("a node that went down when nobody led loses its tasks at once", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("web", serviceSpec({ replicas: 4 }));
  await c.until(() => c.running("web").length === 4);
  await c.changeLeader(2, (tx) => setNode(tx, "n1", { state: "down" }));
  await c.until(() => c.running("web").length === 4, 1_000);
  t.ok(c.running("web").every((task) => task.nodeId === id("n2")));
  t.strictSame(c.errors, []);
});

t.test("a node that was removed or drained when nobody led has no task left", async (t) => {
  await using c = await started(["n1", "n2", "n3"]);
  await c.create("web", serviceSpec({ replicas: 6 }));
  await c.create("agent", serviceSpec({ mode: { kind: "global" } }));
  await c.until(() => c.running("web").length === 6 && c.running("agent").length === 3);
  await c.changeLeader(2, (tx) => {
    tx.nodes.remove(id("n1"));
    setNode(tx, "n2", { availability: "drain" });
  });
  await c.until(() => c.running("web").filter((task) => task.nodeId === id("n3")).length === 6);
  await c.until(() => on(c, "agent", "n2").every(isTerminal));
  t.equal(c.running("agent").length, 1);
  t.equal(on(c, "agent", "n1").length, 0, "records of a node that is gone go");
  t.strictSame(c.errors, []);
});

t.test("tasks whose service was removed when nobody led are ended and forgotten", async (t) => {
  await using c = await started(["n1"]);
  await c.create("web", serviceSpec({ replicas: 2 }));
  await c.create("agent", serviceSpec({ mode: { kind: "global" } }));
  await c.until(() => c.running("web").length === 2 && c.running("agent").length === 1);
  await c.changeLeader(2, (tx) => {
    tx.services.remove(id("web"));
    tx.services.remove(id("agent"));
  });
  await c.until(() => c.tasks("web").length + c.tasks("agent").length === 0);
  t.equal(
    c.store.view((view) => view.revisions.count),
    0,
  );
  t.strictSame(c.errors, []);
});

t.test("records of orphans without a service, and of what was to be removed, are gone at once", async (t) => {
  await using c = await started(["n1"]);
  await c.create("web", serviceSpec({ replicas: 3 }));
  await c.until(() => c.running("web").length === 3);
  await c.changeLeader(2, (tx) => {
    const [first, second, third] = tx.tasks.byService(id("web"));
    if (first === undefined || second === undefined || third === undefined) throw new Error("no tasks");
    setTask(tx, first, "orphaned");
    tx.tasks.update({ ...second, desiredState: "remove", status: { ...second.status, state: "shutdown" } });
    tx.tasks.update({ ...third, desiredState: "remove", status: { ...third.status, state: "pending" } });
    tx.services.remove(id("web"));
  });
  t.equal(c.tasks("web").length, 0);
  t.strictSame(c.errors, []);
});

t.test("of two tasks of a global service on one node one is left", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("agent", serviceSpec({ mode: { kind: "global" } }));
  await c.until(() => c.running("agent").length === 2);
  const [kept] = on(c, "agent", "n1");
  await c.changeLeader(2, (tx) => {
    const service = tx.services.get(id<ServiceId>("agent"));
    if (service === undefined) throw new Error("no service");
    createTask(tx, service, {
      id: id<TaskId>("extra"),
      slot: 0,
      nodeId: id<NodeId>("n1"),
      desiredState: "running",
    });
  });
  await c.until(() => on(c, "agent", "n1").filter((task) => !isTerminal(task)).length === 1);
  t.strictSame(
    c
      .running("agent")
      .filter((task) => task.nodeId === id("n1"))
      .map((task) => task.id),
    [kept?.id],
    "the one that runs",
  );
  t.strictSame(c.errors, []);
});

t.test(
  "a global task that failed when nobody led is restarted on its node, with its attempts counted on",
  async (t) => {
    await using c = await started(["n1"]);
    const restart = { maxAttempts: 2, delayMs: 100 };
    await c.create("agent", serviceSpec({ mode: { kind: "global" }, task: { ...taskSpec(), restart } }));
    for (const term of [2, 3]) {
      await c.until(() => c.running("agent").length === 1);
      await c.changeLeader(term, (tx) =>
        setTask(
          tx,
          tx.tasks.byService(id("agent")).find((task) => !isTerminal(task)),
          "failed",
        ),
      );
    }
    await c.until(() => c.running("agent").length === 1);
    await c.changeLeader(4, (tx) =>
      setTask(
        tx,
        tx.tasks.byService(id("agent")).find((task) => !isTerminal(task)),
        "failed",
      ),
    );
    await c.clock.advance(60_000);
    t.equal(c.running("agent").length, 0, "the first and two more were all");
    t.equal(c.tasks("agent").length, 3);
    t.strictSame(c.errors, []);
  },
);

t.test("a job begins on a node that was not heard when it became eligible, once it is", async (t) => {
  await using c = await started(["n1"]);
  await c.store.update((tx) => tx.nodes.create(nodeObject("n2", { spec: { availability: "drain" } })));
  await c.create("scan", serviceSpec({ mode: { kind: "global-job" }, image: "done:1" }));
  const done = (): number => c.tasks("scan").filter((task) => task.status.state === "complete").length;
  await c.until(() => done() === 1);
  await c.changeLeader(2, (tx) => setNode(tx, "n2", { state: "unknown" }));
  await c.setAvailability("n2", "active");
  await c.clock.advance(1_000);
  t.equal(c.tasks("scan").length, 1, "not while it is not heard");
  await c.setNode("n2", "ready");
  await c.until(() => done() === 2, 5_000);
  t.strictSame(c.errors, []);
});

t.test("a record that somebody deleted is made anew", async (t) => {
  await using c = await started(["n1"]);
  await c.create("web", serviceSpec({ replicas: 2 }));
  await c.until(() => c.running("web").length === 2);
  const lost = c.tasks("web").find(({ slot }) => slot === 1)?.id;
  await c.store.update((tx) => lost !== undefined && tx.tasks.remove(lost));
  await c.until(() => c.running("web").length === 2);
  t.strictSame(
    c
      .tasks("web")
      .map(({ slot }) => slot)
      .toSorted((a, b) => a - b),
    [1, 2],
  );
  t.strictSame(c.errors, []);
});
