import t from "tap";
import { VirtualClock } from "../../sim/clock.ts";
import { id, networkObject, nodeObject, serviceSpec } from "../../sim/objects.ts";
import { createTask } from "../../../manager/store/revisions.ts";
import type { NodeId, TaskId } from "../../../model/ids.ts";
import type { TaskStatus } from "../../../model/task.ts";
import { whyNode, whyService, whyTask } from "../../../manager/api/why.ts";
import { makeHarness, type Harness } from "./harness.ts";

async function withTask(status: Partial<TaskStatus>, constraint?: string): Promise<Harness> {
  const harness = await makeHarness({ clock: new VirtualClock() });
  await harness.store.update((tx) => {
    const spec = serviceSpec();
    const placement = { ...spec.task.placement, constraints: constraint === undefined ? [] : [constraint] };
    const service = tx.services.create({
      id: id("web"),
      spec: { ...spec, task: { ...spec.task, placement } },
      specVersion: 0,
    });
    const task = createTask(tx, service, { id: id<TaskId>("t1"), slot: 1, desiredState: "running" });
    tx.tasks.update({ ...task, status: { ...task.status, ...status } });
  });
  return harness;
}

t.test("a task without a node: the refusals, node by node, and what to do about most of them", async (t) => {
  const reason = "no suitable node (scheduling constraints not satisfied on 2 nodes)";
  const { store } = await withTask({ state: "pending", error: reason }, "node.labels.zone==a");
  const answer = store.view((view) => {
    const service = view.services.byName("web");
    return service === undefined ? undefined : whyService(view, service, 0);
  });
  t.strictSame(answer, {
    Subject: "service web",
    Cause: `pending: ${reason}`,
    Evidence: ["m1: constraint (node.labels.zone==a)", "w1: constraint (node.labels.zone==a)"],
    Next: "shoal node update --label-add zone=a m1, or shoal service update --constraint-rm 'node.labels.zone==a' web",
  });
});

t.test("a host that can make no tunnels for an encrypted network is named with what it lacks", async (t) => {
  const { store } = await withTask({ state: "pending", error: "no suitable node" });
  await store.update((tx) => {
    const network = tx.networks.create(networkObject("safe", { driverOptions: { encrypted: "" } }));
    for (const revision of tx.revisions.byService(id("web"))) {
      const networks = [{ networkId: network.id, aliases: [] }];
      tx.revisions.update({ ...revision, task: { ...revision.task, networks } });
    }
    for (const node of tx.nodes.list()) {
      if (node.description === undefined) continue;
      const tunnel = { keys: [], problem: "the kernel has no WireGuard" };
      tx.nodes.update({ ...node, description: { ...node.description, tunnel } });
    }
  });
  const answer = store.view((view) => {
    const service = view.services.byName("web");
    return service === undefined ? undefined : whyService(view, service, 0);
  });
  t.match(answer, {
    Evidence: ["m1: tunnel (the kernel has no WireGuard)", "w1: tunnel (the kernel has no WireGuard)"],
    Next: /modprobe wireguard, or apt-get install wireguard-go/,
  });
});

t.test("a host that has a network's addresses is named with its own block", async (t) => {
  const { store } = await withTask({ state: "pending", error: "no suitable node" });
  await store.update((tx) => {
    const own = "10.0.9.0/24";
    const state = { subnet: own, gateway: "10.0.9.1", vni: 4100 };
    const network = tx.networks.create({ ...networkObject("wide"), state });
    for (const revision of tx.revisions.byService(id("web"))) {
      const networks = [{ networkId: network.id, aliases: [] }];
      tx.revisions.update({ ...revision, task: { ...revision.task, networks } });
    }
    for (const node of tx.nodes.list()) {
      if (node.description === undefined) continue;
      tx.nodes.update({ ...node, description: { ...node.description, subnets: ["172.31.0.0/16", own] } });
    }
  });
  const answer = store.view((view) => {
    const service = view.services.byName("web");
    return service === undefined ? undefined : whyService(view, service, 0);
  });
  t.match(answer, {
    Evidence: ["m1: subnet (10.0.9.0/24)", "w1: subnet (10.0.9.0/24)"],
    Next: /docker network create -d overlay --subnet BLOCK/,
  });
});

t.test("a task that failed: its error, its exit code, and its output next", async (t) => {
  const { store } = await withTask({
    state: "failed",
    message: "started",
    error: "task: non-zero exit (3)",
    exitCode: 3,
  });
  const answer = store.view((view) => {
    const [task] = view.tasks.list();
    return task === undefined ? undefined : whyTask(view, task, 0);
  });
  t.match(answer, {
    Cause: "failed: task: non-zero exit (3)",
    Evidence: ["wanted: running; observed: failed: started", "exit code 3"],
    Next: "shoal service logs --tail 20 web",
  });
});

t.test("a service at rest has nothing to say, a paused update says how to go back", async (t) => {
  const { store } = await withTask({ state: "running" });
  const ask = (): unknown =>
    store.view((view) => {
      const service = view.services.byName("web");
      return service === undefined ? undefined : whyService(view, service, 0);
    });
  t.match(ask(), { Cause: "nothing is wrong: 1 of 1 wanted tasks run", Next: "" });
  await store.update((tx) => {
    const service = tx.services.byName("web");
    if (service === undefined) return;
    const previous = { spec: service.spec, specVersion: 0 };
    tx.services.update({ ...service, previous, updateStatus: { state: "paused", message: "update paused" } });
  });
  t.match(ask(), { Cause: "update paused", Next: "shoal service rollback web" });
});

const nodes = [
  { name: "down", change: { state: "down" }, cause: /^it is down: no heartbeat came for 60s/ },
  { name: "unreachable", change: { state: "unreachable" }, cause: /^it is unreachable: it keeps its tasks/ },
  { name: "drained", change: { spec: { availability: "drain" } }, cause: /^drained/ },
  { name: "paused", change: { spec: { availability: "pause" } }, cause: /^paused/ },
  { name: "ready", change: {}, cause: /^nothing is wrong/ },
] as const;

for (const { name, change, cause } of nodes) {
  t.test(`a node that is ${name} says so`, async (t) => {
    const { store } = await makeHarness({ clock: new VirtualClock() });
    const node = nodeObject("n9", change);
    await store.update((tx) => tx.nodes.create({ ...node, status: { ...node.status, sinceMs: 1_000 } }));
    const answer = store.view((view) => {
      const stored = view.nodes.get(node.id);
      return stored === undefined ? undefined : whyNode(view, stored, 61_000);
    });
    t.match(answer?.Cause, cause);
  });
}

t.test(
  "tasks on a node that is down do not count as running, and the node is asked about next",
  async (t) => {
    const { store } = await withTask({ state: "running" });
    await store.update((tx) => {
      const node = tx.nodes.create(nodeObject("lost", { state: "down" }));
      const [task] = tx.tasks.list();
      if (task !== undefined) tx.tasks.update({ ...task, nodeId: node.id });
    });
    const answer = store.view((view) => {
      const service = view.services.byName("web");
      return service === undefined ? undefined : whyService(view, service, 0);
    });
    t.match(answer, {
      Cause: "1 of its tasks are on nodes that are down: lost",
      Evidence: ["0 of 1 wanted tasks run", /task t1.*: on its node running/],
      Next: "shoal why lost",
    });
  },
);

const jobs = [
  { name: "all complete", states: ["complete", "complete"], cause: "finished: 2 of 2 complete" },
  { name: "some at work", states: ["complete", "running"], cause: "on its way: 1 of 2 wanted tasks run" },
  {
    name: "one given up",
    states: ["complete", "failed"],
    cause: "given up: 1 of 2 complete; the restart policy allows no other task for 1",
  },
] as const;
for (const { name, states, cause } of jobs) {
  t.test(`a job, ${name}, says so`, async (t) => {
    const harness = await makeHarness({ clock: new VirtualClock() });
    await harness.store.update((tx) => {
      const service = tx.services.create({
        id: id("job"),
        spec: {
          ...serviceSpec(),
          name: "job",
          mode: { kind: "replicated-job", maxConcurrent: 2, totalCompletions: 2 },
        },
        specVersion: 0,
        job: { iteration: 0, lastExecutionMs: 0 },
      });
      for (const [i, state] of states.entries()) {
        const desiredState = state === "failed" ? "shutdown" : "complete";
        const task = createTask(tx, service, {
          id: id<TaskId>(`t${i}`),
          slot: i + 1,
          desiredState: "complete",
        });
        tx.tasks.update({ ...task, desiredState, status: { ...task.status, state } });
      }
    });
    const answer = harness.store.view((view) => {
      const service = view.services.byName("job");
      return service === undefined ? undefined : whyService(view, service, 0);
    });
    t.equal(answer?.Cause, cause);
  });
}

const ended = [
  {
    name: "given up",
    states: ["running", "failed"],
    want: {
      Cause: "given up: 1 of 2 wanted tasks run; the restart policy allows no other task for 1 of 2",
      Next: "shoal service logs --tail 20 web, then shoal service update --force web",
    },
  },
  {
    name: "finished",
    states: ["complete", "complete"],
    want: { Cause: "finished: 0 of 2 wanted tasks run; the restart policy allows no other task for 2 of 2" },
  },
  {
    name: "given up, beside one that waits for its addresses",
    states: ["failed", "new"],
    want: { Cause: "new: no address is left on network tiny", Next: "shoal service inspect web" },
  },
] as const;
for (const { name, states, want } of ended) {
  t.test(`a service whose tasks are ${name} says so`, async (t) => {
    const { store } = await makeHarness({ clock: new VirtualClock() });
    await store.update((tx) => {
      const service = tx.services.create({
        id: id("web"),
        spec: serviceSpec({ replicas: 2 }),
        specVersion: 0,
      });
      for (const [i, state] of states.entries()) {
        const isOver = state === "failed" || state === "complete";
        const task = createTask(tx, service, {
          id: id<TaskId>(`t${i}`),
          slot: i + 1,
          desiredState: "running",
        });
        tx.tasks.update({
          ...task,
          desiredState: isOver ? "shutdown" : "running",
          status: {
            ...task.status,
            state,
            error: state === "new" ? "no address is left on network tiny" : "",
          },
        });
      }
    });
    const answer = store.view((view) => {
      const service = view.services.byName("web");
      return service === undefined ? undefined : whyService(view, service, 0);
    });
    t.match(answer, want);
  });
}

t.test("a task is asked about with what it was made for, on the node that was chosen for it", async (t) => {
  const error = "no suitable node (scheduling constraints not satisfied on 1 node)";
  const { store } = await withTask({ state: "pending", error }, "node.labels.zone==a");
  await store.update((tx) => {
    const service = tx.services.byName("web");
    const [task] = tx.tasks.list();
    if (service === undefined || task === undefined) throw new Error("nothing is there");
    tx.services.update({ ...service, spec: serviceSpec(), specVersion: service.meta.version });
    tx.tasks.update({ ...task, nodeId: id("w1") });
  });
  const answer = store.view((view) => {
    const [task] = view.tasks.list();
    return task === undefined ? undefined : whyTask(view, task, 0);
  });
  t.strictSame(answer?.Evidence, ["w1: constraint (node.labels.zone==a)"]);
});

t.test(
  "a place is a slot or a node, as for the orchestrators: a record that has neither is none",
  async (t) => {
    const { store } = await makeHarness({ clock: new VirtualClock() });
    await store.update((tx) => {
      const spec = serviceSpec({ mode: { kind: "global" } });
      const service = tx.services.create({ id: id("web"), spec, specVersion: 0 });
      for (const node of [{ nodeId: id<NodeId>("w1") }, {}]) {
        const word = "nodeId" in node ? "t1" : "t2";
        const task = createTask(tx, service, {
          id: id<TaskId>(word),
          slot: 0,
          desiredState: "running",
          ...node,
        });
        tx.tasks.update({ ...task, status: { ...task.status, state: "running" } });
      }
    });
    const answer = store.view((view) => {
      const service = view.services.byName("web");
      return service === undefined ? undefined : whyService(view, service, 0);
    });
    t.equal(answer?.Cause, "nothing is wrong: 1 of 1 wanted tasks run");
  },
);
