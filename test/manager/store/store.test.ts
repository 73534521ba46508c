import t from "tap";
import { entryLimitChanges } from "../../../manager/store/group.ts";
import { ClusterError } from "../../../model/errors.ts";
import type { ServiceId, TaskId } from "../../../model/ids.ts";
import type { Task, TaskStatus } from "../../../model/task.ts";
import { StoreEntry } from "../../../proto/gen/shoal/store.ts";
import { maxProposalBytes } from "../../../manager/raft/group.ts";
import { Store } from "../../../manager/store/store.ts";
import { createTask, removeTask } from "../../../manager/store/revisions.ts";
import { VirtualClock, settle } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { clusterObject, id, nodeObject, serviceObject, serviceSpec } from "../../sim/objects.ts";

const web = id<ServiceId>("web");
const noData = new Uint8Array();

function heldStore(): { store: Store; proposals: { data: Uint8Array; settle: (error?: unknown) => void }[] } {
  const proposals: { data: Uint8Array; settle: (error?: unknown) => void }[] = [];
  const store = new Store({
    clock: new VirtualClock(),
    proposer: {
      propose: (data) =>
        new Promise((resolve, reject) => {
          const settleOne = (error?: unknown): void =>
            error === undefined ? resolve({ index: 0 }) : reject(error);
          proposals.push({ data, settle: settleOne });
        }),
      confirmLeader: async () => undefined,
    },
  });
  store.setLeading(1);
  return { store, proposals };
}

t.test("an update is visible once it resolves, with version and times stamped", async (t) => {
  const clock = new VirtualClock(1000);
  const { store } = loneStore(clock);
  const created = await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  t.equal(
    store.view((v) => v.services.byName("WEB")),
    created,
  );
  const first = { createdVersion: 1, specChangedVersion: 1, createdAtMs: 1000 };
  t.strictSame(created.meta, { ...first, version: 1, updatedAtMs: 1000 });
  await clock.advance(500);
  const updated = await store.update((tx) => tx.services.update({ ...created, specVersion: 7 }));
  t.strictSame(updated.meta, { ...first, version: 2, updatedAtMs: 1500 });
  const changed = await store.update((tx) => tx.services.update({ ...updated, spec: serviceSpec() }));
  t.equal(changed.meta.specChangedVersion, 3);
});

t.test("a stale version is refused with the text that clients know", async (t) => {
  const { store } = loneStore(new VirtualClock());
  const first = await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  await store.update((tx) => tx.services.update(first));
  const stale = store.update((tx) => tx.services.update(first));
  await t.rejects(stale, { code: "version-conflict", message: "update out of sequence" });
});

t.test("two updates of one object in one entry: the second must have seen the first", async (t) => {
  const { store, log } = loneStore(new VirtualClock());
  const first = await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  const results = await Promise.allSettled([
    store.update((tx) => tx.services.update({ ...first, specVersion: 1 })),
    store.update((tx) => tx.services.update({ ...first, specVersion: 2 })),
  ]);
  t.strictSame(
    results.map((result) => result.status),
    ["fulfilled", "rejected"],
  );
  t.equal(
    store.view((v) => v.services.get(web)?.specVersion),
    1,
  );
  t.equal(log.length, 2);
});

t.test("a refusal by what is not committed yet is told once it is", async (t) => {
  const { store, proposals } = heldStore();
  const created = store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  const told: string[] = [];
  const twin = store
    .update((tx) => tx.services.create(serviceObject("web", serviceSpec())))
    .catch((error: ClusterError) => told.push(error.code));
  await settle();
  t.equal(proposals.length, 1);
  t.strictSame(told, [], "a reader would not find what the refusal speaks of");
  store.apply(1, proposals[0]?.data ?? new Uint8Array());
  await Promise.all([created, twin]);
  t.strictSame(told, ["conflict"]);
});

t.test("what changed nothing is told once a quorum still knows this manager as leader", async (t) => {
  const answers: { settle: (error?: unknown) => void }[] = [];
  const store = new Store({
    clock: new VirtualClock(),
    proposer: {
      propose: () => Promise.reject(new Error("not expected")),
      confirmLeader: () =>
        new Promise((resolve, reject) =>
          answers.push({ settle: (error) => (error === undefined ? resolve() : reject(error)) }),
        ),
    },
  });
  const stale = (): Promise<unknown> =>
    store.update((tx) => tx.services.remove(web)).catch((error: unknown) => error);
  const confirm = async (error?: unknown): Promise<void> => {
    await settle();
    answers.shift()?.settle(error);
  };
  store.setLeading(1);
  const confirmed = stale();
  await confirm();
  t.match(await confirmed, { code: "not-found" });
  const deposed = stale();
  await confirm(new ClusterError("no-leader", "cut off"));
  t.match(await deposed, { code: "no-leader", message: "cut off" });
  const again = stale();
  await settle();
  store.setLeading(undefined);
  store.setLeading(3);
  await confirm();
  t.match(await again, { code: "no-leader" }, "what it saw was of an earlier term");
});

t.test("names are unique without regard to case and free again after removal", async (t) => {
  const { store } = loneStore(new VirtualClock());
  await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  const twin = { ...serviceObject("other", serviceSpec()), spec: { ...serviceSpec(), name: "Web" } };
  await t.rejects(
    store.update((tx) => tx.services.create(twin)),
    {
      code: "name-conflict",
      message: "name conflicts with an existing object: service Web already exists",
    },
  );
  await store.update((tx) => {
    tx.services.remove(web);
    tx.services.create(twin);
  });
  t.equal(
    store.view((v) => v.services.byName("web")?.id),
    id("other"),
  );
});

t.test("a write that throws leaves nothing, also for the next one in the same entry", async (t) => {
  const { store, proposals } = heldStore();
  const failing = store.update((tx) => {
    tx.services.create(serviceObject("web", serviceSpec()));
    throw new ClusterError("invalid-argument", "no");
  });
  const seen = store.update((tx) => {
    tx.nodes.create(nodeObject("n1"));
    return tx.services.byName("web");
  });
  const refused = t.rejects(failing, { code: "invalid-argument" });
  await settle();
  t.equal(proposals.length, 1);
  store.apply(1, proposals[0]?.data ?? new Uint8Array());
  await refused;
  t.equal(await seen, undefined);
  t.equal(
    store.view((v) => v.services.count),
    0,
  );
});

t.test("while an entry is on its way, further updates gather into one", async (t) => {
  const { store, proposals } = heldStore();
  const one = store.update((tx) => tx.nodes.create(nodeObject("n1")));
  await settle();
  const others = ["n2", "n3", "n4"].map((name) => store.update((tx) => tx.nodes.create(nodeObject(name))));
  await settle();
  t.equal(proposals.length, 1);
  t.equal(
    store.view((v) => v.nodes.count),
    0,
    "nothing shows before the commit",
  );
  store.apply(1, proposals[0]?.data ?? new Uint8Array());
  await one;
  await settle();
  t.equal(proposals.length, 2);
  store.apply(2, proposals[1]?.data ?? new Uint8Array());
  await Promise.all(others);
  t.equal(
    store.view((v) => v.nodes.count),
    4,
  );
});

t.test("without leadership an update is refused; losing it answers what waits", async (t) => {
  const { store, proposals } = heldStore();
  const flying = store.update((tx) => tx.nodes.create(nodeObject("n1")));
  await settle();
  const queued = store.update((tx) => tx.nodes.create(nodeObject("n2")));
  store.setLeading(undefined);
  await t.rejects(flying, { code: "no-leader", message: /took effect is not known/ });
  await t.rejects(queued, { code: "no-leader" });
  await t.rejects(
    store.update(() => 0),
    { code: "no-leader", message: /^The swarm does not have a leader/ },
  );
  store.apply(1, proposals[0]?.data ?? new Uint8Array());
  t.equal(
    store.view((v) => v.nodes.count),
    1,
    "an entry that commits after all is applied as it is",
  );
});

t.test("an entry decided on a state that another entry replaced is void everywhere", async (t) => {
  const follower = new Store({
    clock: new VirtualClock(),
    proposer: { propose: () => Promise.reject(new Error("no")), confirmLeader: async () => undefined },
  });
  const a = heldStore();
  const b = heldStore();
  void a.store.update((tx) => tx.nodes.create(nodeObject("a")));
  const mine = b.store.update((tx) => {
    if (tx.nodes.count === 1) tx.nodes.create(nodeObject("b2"));
    else tx.nodes.create(nodeObject("b"));
  });
  await settle();
  const ofA = a.proposals[0]?.data ?? new Uint8Array();
  const ofB = b.proposals[0]?.data ?? new Uint8Array();
  for (const store of [follower, b.store]) {
    store.apply(1, ofA);
    store.apply(2, ofB);
  }
  t.strictSame(
    follower.view((v) => v.nodes.list().map((n) => n.id)),
    [id("a")],
  );
  await settle();
  b.store.apply(3, b.proposals[1]?.data ?? new Uint8Array());
  await mine;
  t.ok(
    b.store.view((v) => v.nodes.has(id("b2"))),
    "the proposer decided anew on the new state",
  );
});

t.test("a refused proposal rejects its updates and the next ones go on", async (t) => {
  const { store, proposals } = heldStore();
  const first = store.update((tx) => tx.nodes.create(nodeObject("n1")));
  await settle();
  proposals[0]?.settle(new Error("queue full"));
  await t.rejects(first, { code: "unavailable", message: /queue full/ });
  const second = store.update((tx) => tx.nodes.create(nodeObject("n2")));
  await settle();
  store.apply(5, proposals[1]?.data ?? new Uint8Array());
  await second;
  t.equal(
    store.view((v) => v.nodes.count),
    1,
  );
});

t.test("a batch splits into entries and keeps the steps before the one that fails", async (t) => {
  const { store, log } = loneStore(new VirtualClock());
  const service = await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  const ids = Array.from({ length: 12_000 }, (_, i) => i + 1);
  await store.batch(ids, (tx, slot) => {
    createTask(tx, service, { id: id<TaskId>(`t${slot}x`), slot, desiredState: "running" });
  });
  t.equal(
    log.length,
    1 + Math.ceil((ids.length + 1) / entryLimitChanges),
    "one for the service, the others for its revision and tasks",
  );
  t.equal(
    store.view((v) => v.tasks.countByService(web)),
    12_000,
  );
  const failing = store.batch([1, 2, 3], (tx, i) => {
    tx.nodes.create(nodeObject(`n${i}`));
    if (i === 2) throw new ClusterError("conflict", "second");
  });
  await t.rejects(failing, { message: "second" });
  t.strictSame(
    store.view((v) => v.nodes.list().map((n) => n.id)),
    [id("n1")],
  );
});

t.test("no entry is larger than the group takes, and what does not fit waits for the next one", async (t) => {
  const { store, log } = loneStore(new VirtualClock());
  const large = (name: string) => serviceObject(name, serviceSpec({ labels: { text: "x".repeat(900_000) } }));
  const results = await Promise.allSettled([
    store.update((tx) => tx.services.create(large("one"))),
    store.update((tx) => tx.services.create(large("two"))),
    store.batch(["three", "four"], (tx, name) => void tx.services.create(large(name))),
    store.update((tx) => {
      tx.services.create(large("five"));
      tx.services.create(large("six"));
    }),
    store.update((tx) => tx.services.create(serviceObject("small", serviceSpec()))),
  ]);
  t.strictSame(
    results.map(({ status }) => status),
    ["fulfilled", "fulfilled", "fulfilled", "rejected", "fulfilled"],
    "only what can never fit is refused",
  );
  t.ok(
    log.every((data) => data.length < maxProposalBytes),
    log.map((data) => data.length).join(" "),
  );
  t.equal(
    store.view((view) => view.services.count),
    5,
  );
});

t.test("indexes follow every change, inside a transaction and after it", async (t) => {
  const { store } = loneStore(new VirtualClock());
  const node = id<never>("n1");
  await store.update((tx) => {
    const service = tx.services.create(serviceObject("web", serviceSpec()));
    const task = createTask(tx, service, {
      id: id<TaskId>("t1"),
      slot: 3,
      desiredState: "running",
    });
    t.strictSame(tx.tasks.bySlot(web, 3), [task]);
    t.equal(tx.tasks.byNode(node).length, 0);
    tx.tasks.update({ ...task, nodeId: node });
    t.equal(tx.tasks.byNode(node).length, 1);
    t.equal(tx.tasks.countByService(web), 1);
  });
  t.equal(
    store.view((v) => v.tasks.byNode(node)[0]?.id),
    id("t1"),
  );
  t.equal(
    store.view((v) => v.revisions.count),
    1,
  );
  await store.update((tx) => {
    for (const service of tx.services.list()) tx.services.update({ ...service, specVersion: 9 });
    for (const task of tx.tasks.byService(web)) removeTask(tx, task);
    t.equal(tx.tasks.byNode(node).length, 0);
  });
  t.equal(
    store.view((v) => v.tasks.count + v.tasks.byNode(node).length),
    0,
  );
  t.equal(
    store.view((v) => v.revisions.count),
    0,
    "an old revision goes with its last task",
  );
});

t.test("a follower takes a task step by step, and what is no step as a whole", async (t) => {
  const clock = new VirtualClock();
  const { store, log } = loneStore(clock);
  const follower = new Store({
    clock,
    proposer: { propose: () => Promise.reject(new Error("no")), confirmLeader: async () => undefined },
  });
  const service = await store.update((tx) => {
    tx.nodes.create(nodeObject("n1"));
    return tx.services.create(serviceObject("web", serviceSpec()));
  });
  const taskId = id<TaskId>("t1");
  await store.update((tx) => createTask(tx, service, { id: taskId, slot: 3, desiredState: "ready" }));
  const current = (of: Store): Task | undefined => of.view((view) => view.tasks.get(taskId));
  const sizes: number[] = [];
  const change = async (next: (task: Task) => Task): Promise<void> => {
    await clock.advance(7);
    await store.update((tx) => {
      const task = tx.tasks.get(taskId);
      if (task !== undefined) tx.tasks.update(next(task));
    });
    for (let i = follower.appliedIndex; i < log.length; i += 1) follower.apply(i + 1, log[i] ?? noData);
    t.strictSame(current(follower), current(store));
    t.strictSame(
      follower.view((view) => view.tasks.byNode(id("n1"))),
      store.view((view) => view.tasks.byNode(id("n1"))),
    );
    sizes.push(log.at(-1)?.length ?? 0);
  };
  const status = (change: Partial<TaskStatus>) => (task: Task) => ({
    ...task,
    status: { ...task.status, ...change },
  });
  await change((task) => ({ ...status({ state: "assigned", atMs: clock.now() })(task), nodeId: id("n1") }));
  await change(status({ state: "running", atMs: clock.now() + 3, message: "started", pid: 7 }));
  await change((task) => ({ ...task, desiredState: "shutdown" }));
  await change(status({ state: "failed", error: "killed", exitCode: 137, containerId: "odd" }));
  const largestStep = Math.max(...sizes);
  await change((task) => ({ ...task, moving: true }));
  await change((task) => ({
    ...task,
    networks: [{ networkId: id("net"), address: "10.0.1.2/24", aliases: [] }],
  }));
  await change(({ nodeId: _nodeId, ...rest }) => rest);
  t.ok(largestStep < (sizes.at(-1) ?? 0));
});

t.test("a step of a task that is not there stops the manager", async (t) => {
  const { store, log } = loneStore(new VirtualClock());
  const service = await store.update((tx) => tx.services.create(serviceObject("web", serviceSpec())));
  const task = await store.update((tx) =>
    createTask(tx, service, { id: id<TaskId>("t1"), slot: 1, desiredState: "running" }),
  );
  await store.update((tx) => tx.tasks.update({ ...task, desiredState: "shutdown" }));
  const step = StoreEntry.decode(log.at(-1) ?? noData);
  const other = loneStore(new VirtualClock()).store;
  const whole = StoreEntry.encode({ ...step, basis: 0 }).finish();
  t.throws(() => other.apply(1, whole), { code: "data-loss", message: /not there/ });
});

t.test("a follower and a restored snapshot hold exactly what the leader holds", async (t) => {
  const clock = new VirtualClock();
  const { store, log } = loneStore(clock);
  const service = await store.update((tx) => {
    tx.clusters.create(clusterObject());
    tx.nodes.create(nodeObject("n1"));
    return tx.services.create(serviceObject("web", serviceSpec()));
  });
  await clock.advance(10);
  const task = await store.update((tx) =>
    createTask(tx, service, {
      id: id<TaskId>("t1"),
      slot: 1,
      desiredState: "ready",
      restarts: 2,
    }),
  );
  await clock.advance(10);
  await store.update((tx) =>
    tx.tasks.update({
      ...task,
      nodeId: id("n1"),
      generic: [
        { kind: "gpu", count: 1, names: ["a"] },
        { kind: "ssd", count: 2 },
      ],
      networks: [
        { networkId: id("net"), address: "10.0.1.2/24", aliases: ["a"] },
        { networkId: id("dual"), address: "10.0.2.2/24", ipv6: "fd00:2::2/64", aliases: [] },
      ],
      status: {
        state: "failed",
        atMs: clock.now() - 50,
        message: "odd text",
        error: "task: non-zero exit (1)",
        containerId: "ab".repeat(32),
        pid: 0,
        exitCode: -1,
        ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 8080 }],
        appliedAtMs: clock.now(),
      },
    }),
  );
  const everything = (s: Store): unknown =>
    s.view((v) => [v.cluster, v.nodes.list(), v.services.list(), v.tasks.list(), v.revisions.list()]);
  const follower = new Store({
    clock,
    proposer: { propose: () => Promise.reject(new Error("no")), confirmLeader: async () => undefined },
  });
  log.forEach((data, i) => follower.apply(i + 1, data));
  t.strictSame(everything(follower), everything(store));
  const restored = new Store({
    clock,
    proposer: { propose: () => Promise.reject(new Error("no")), confirmLeader: async () => undefined },
  });
  const bytes = Buffer.concat([...store.snapshot()]);
  const odd = Array.from({ length: Math.ceil(bytes.length / 7) }, (_, i) => bytes.subarray(i * 7, i * 7 + 7));
  using watch = restored.watch(["tasks"]);
  restored.restore(odd);
  t.strictSame(everything(restored), everything(store));
  t.equal(restored.appliedIndex, store.appliedIndex);
  t.strictSame(watch.take(), [{ kind: "resync" }]);
  t.throws(() => restored.restore(bytes.subarray(0, -3)), { code: "data-loss" });
  t.strictSame(everything(restored), everything(store), "a damaged snapshot replaces nothing");
});

t.test("a watch sees each commit once and ends with its signal", async (t) => {
  const { store } = loneStore(new VirtualClock());
  const scope = new AbortController();
  const kinds: string[][] = [];
  const reading = (async () => {
    for await (const events of store.watch(["nodes"], scope.signal)) {
      kinds.push(events.map((event) => event.kind));
    }
  })();
  await store.update((tx) => {
    tx.nodes.create(nodeObject("n1"));
    tx.nodes.create(nodeObject("n2"));
    tx.services.create(serviceObject("web", serviceSpec()));
  });
  await settle();
  await store.update((tx) => tx.nodes.remove(id("n1")));
  await settle();
  scope.abort();
  await reading;
  t.strictSame(kinds, [["created", "created"], ["removed"]]);
});

t.test("waitApplied settles at its index, or with its signal", async (t) => {
  const { store } = loneStore(new VirtualClock());
  const waiting = store.waitApplied(3);
  store.apply(2, new Uint8Array());
  store.apply(4, new Uint8Array());
  await waiting;
  const scope = new AbortController();
  const never = store.waitApplied(9, scope.signal);
  scope.abort(new Error("gone"));
  await t.rejects(never, { message: "gone" });
});
