import t from "tap";
import { assignedNetwork } from "../../../manager/dispatcher/assignments.ts";
import { scaledHeartbeatPeriodMs } from "../../../manager/dispatcher/info.ts";
import { serveSession } from "../../../manager/dispatcher/service.ts";
import { withdrawalLimitMs } from "../../../manager/dispatcher/withdrawals.ts";
import type { Store } from "../../../manager/store/store.ts";
import type { Transaction } from "../../../manager/store/transaction.ts";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Labels } from "../../../model/meta.ts";
import type { Node } from "../../../model/node.ts";
import { type Task, type TaskState, taskStates } from "../../../model/task.ts";
import type { WorkerMessage } from "../../../proto/gen/shoal/dispatcher.ts";
import { aborted } from "../../../runtime/signal.ts";
import { settle } from "../../sim/clock.ts";
import { id, networkObject, nodeObject, serviceSpec, taskId } from "../../sim/objects.ts";
import { cluster, FakeStream, hello, leader, other, worker } from "./harness.ts";

t.test("a worker registers, is told everything, and reports", async (t) => {
  const { store, connect } = await cluster(t);
  const session = await connect(worker);
  t.match(session.infos(), [
    { heartbeatPeriodMs: 1_000, desiredRole: "worker", managers: [{ nodeId: leader, leader: true }] },
  ]);
  t.match(nodeOf(store, worker), {
    status: { state: "ready", address: "10.9.0.7" },
    description: { hostname: "worker-host" },
    dataPathAddress: "10.8.0.7",
  });
  const [complete] = session.assignments();
  t.match(complete, { complete: true, resultsIn: 1, more: false, tasks: [] });

  await store.update((tx) => createTask(tx, "one", worker, "assigned"));
  await settle();
  t.match(session.assignments()[1], {
    complete: false,
    appliesTo: 1,
    resultsIn: 2,
    tasks: [{ id: taskId("one") }],
  });

  session.send(statusOf("one", "running", 7));
  await settle();
  t.match(store.view((view) => view.tasks.get(taskId("one")))?.status, {
    state: "running",
    message: "started",
  });
  t.match(session.last(), { $case: "statusAck", value: { sequence: 7 } });
  t.equal(session.assignments().length, 2, "its own status is not sent back");

  await store.update((tx) => tx.tasks.remove(taskId("one")));
  await settle();
  t.match(session.assignments()[2], { appliesTo: 2, resultsIn: 3, removedTasks: [taskId("one")] });
});

t.test("a worker is told when a label changes what becomes of its tasks without managers", async (t) => {
  const { store, connect } = await cluster(t);
  await store.update((tx) => {
    tx.services.create({ id: id<ServiceId>("web"), spec: { ...serviceSpec(), name: "web" }, specVersion: 0 });
    createTask(tx, "one", worker, "assigned");
  });
  const session = await connect(worker);
  const label = async (labels: Labels): Promise<void> => {
    await store.update((tx) => {
      const web = tx.services.get(id("web"));
      if (web !== undefined) tx.services.update({ ...web, spec: { ...web.spec, labels } });
    });
    await settle();
  };
  const told = () =>
    session.assignments().flatMap(({ tasks }) => tasks.map(({ stopAfterMs }) => stopAfterMs));
  t.strictSame(told(), [undefined]);
  await label({ "shoal.on-unreachable": "stop:20s" });
  await label({ "shoal.on-unreachable": "stop:20s", other: "x" });
  t.strictSame(told(), [undefined, 20_000]);
  await label({});
  t.strictSame(told(), [undefined, 20_000, undefined]);
});

t.test(
  "a task whose service names no log driver has the cluster's, as it is when the task is told",
  async (t) => {
    const { store, connect } = await cluster(t);
    const driver = async (logDriver: { readonly name: string; readonly options: Labels }): Promise<void> => {
      await store.update((tx) => {
        const { cluster: known } = tx;
        if (known !== undefined) tx.clusters.update({ ...known, spec: { ...known.spec, logDriver } });
      });
    };
    const session = await connect(worker);
    const toldOf = async (name: string): Promise<unknown> => {
      await store.update((tx) => createTask(tx, name, worker, "assigned"));
      await settle();
      const told = session.assignments().flatMap(({ tasks }) => tasks);
      const json = told.find(({ id: each }) => each === taskId(name))?.revisionJson.toString() ?? "";
      return (JSON.parse(json) as { task: { logDriver?: unknown } }).task.logDriver;
    };
    t.equal(await toldOf("one"), undefined);
    const none = { name: "none", options: {} };
    await driver(none);
    t.strictSame(await toldOf("two"), none);
    const limited = { name: "json-file", options: { "max-size": "1m" } };
    await driver(limited);
    t.strictSame(await toldOf("three"), limited);
  },
);

t.test("statuses never go back, and only a task's own node may report it", async (t) => {
  const { store, connect } = await cluster(t);
  await store.update((tx) => {
    createTask(tx, "mine", worker, "running");
    createTask(tx, "foreign", other, "assigned");
  });
  const session = await connect(worker);
  session.send(statusOf("mine", "preparing", 1));
  session.send(statusOf("unknown", "running", 2));
  await settle();
  t.equal(store.view((view) => view.tasks.get(taskId("mine")))?.status.state, "running");
  t.match(
    session.last(),
    { $case: "statusAck", value: { sequence: 2 } },
    "reports of tasks that are gone are dropped",
  );
  session.send(statusOf("foreign", "running", 3));
  t.match(await session.over, { code: "permission-denied" });
  t.equal(store.view((view) => view.tasks.get(taskId("foreign")))?.status.state, "assigned");

  const again = await connect(worker);
  again.send({
    body: { $case: "statuses", value: { sequence: 1, statuses: [{ ...status("mine"), state: 832 }] } },
  });
  t.match(await again.over, { code: "invalid-argument" });
});

t.test("a closed connection makes a node unreachable, the grace makes it down", async (t) => {
  const { store, clock, connect } = await cluster(t);
  const session = await connect(worker);
  await clock.advance(1_000);
  session.close();
  await settle();
  t.match(nodeOf(store, worker)?.status, { state: "unreachable" });
  await clock.advance(1_800);
  t.match(
    nodeOf(store, worker)?.status,
    { state: "unreachable" },
    "the grace runs from the last sign of life",
  );
  await clock.advance(400);
  t.match(nodeOf(store, worker)?.status, { state: "down", message: "heartbeat failure" });
  await connect(worker);
  t.match(nodeOf(store, worker)?.status, { state: "ready", message: "" });
});

t.test("a silent session ends, one with heartbeats does not", async (t) => {
  const { store, clock, connect } = await cluster(t);
  const silent = await connect(worker);
  const lively = await connect(other);
  const cancel = clock.every(1_000, () => lively.send({ body: { $case: "heartbeat", value: {} } }));
  await clock.advance(3_500);
  t.match(await silent.over, { code: "unavailable", message: "heartbeat failure" });
  t.equal(nodeOf(store, worker)?.status.state, "down");
  await clock.advance(10_000);
  t.equal(nodeOf(store, other)?.status.state, "ready");
  cancel();
});

t.test(
  "a heartbeat that comes while its node is being marked down does not leave it down for ever",
  async (t) => {
    const { store, clock, connect } = await cluster(t);
    const session = await connect(worker);
    using watch = store.watch(["nodes"]);
    const late = (async () => {
      while (nodeOf(store, worker)?.status.state !== "down") {
        await watch.ready();
        watch.take();
      }
      session.send({ body: { $case: "heartbeat", value: {} } });
    })();
    await clock.advance(3_500);
    await late;
    t.match(
      await session.over,
      { code: "unavailable", message: "heartbeat failure" },
      "it has to register anew",
    );
    await connect(worker);
    t.equal(nodeOf(store, worker)?.status.state, "ready");
  },
);

t.test("a new leader gives nodes time: unknown after a second, down after the longer grace", async (t) => {
  const { store, clock, connect } = await cluster(t, { state: "ready" });
  t.equal(nodeOf(store, worker)?.status.state, "ready");
  await connect(other);
  await clock.advance(1_100);
  t.match(nodeOf(store, worker)?.status, { state: "unknown", message: /leadership change/ });
  t.equal(nodeOf(store, other)?.status.state, "ready", "it came in time");
  await clock.advance(4_500);
  t.equal(nodeOf(store, worker)?.status.state, "unknown");
  await clock.advance(1_000);
  t.match(nodeOf(store, worker)?.status, { state: "down", message: /unknown/ });
});

t.test("a node that gave up a leader without writes is given the time to find the next", async (t) => {
  const stall = new AbortController();
  const { store, clock, connect } = await cluster(t, { stall: aborted(stall.signal) });
  const session = await connect(worker);
  await clock.advance(1_000);
  session.controller.abort(new Error("the worker gave up"));
  stall.abort();
  await clock.advance(4_500);
  t.equal(nodeOf(store, worker)?.status.state, "unknown");
  await clock.advance(1_000);
  t.equal(nodeOf(store, worker)?.status.state, "down", "the grace still ends");
});

t.test("a pause of the manager makes no node look dead", async (t) => {
  const { store, clock, connect } = await cluster(t);
  const session = await connect(worker);
  await clock.advance(500);
  clock.pause(10_000);
  await clock.advance(1_000);
  t.equal(nodeOf(store, worker)?.status.state, "ready");
  session.send({ body: { $case: "heartbeat", value: {} } });
  await clock.advance(2_500);
  t.equal(nodeOf(store, worker)?.status.state, "ready");
  await clock.advance(1_000);
  t.equal(nodeOf(store, worker)?.status.state, "down", "the grace still ends");
});

t.test("a node has one session: the newer one", async (t) => {
  const { store, connect } = await cluster(t);
  const first = await connect(worker);
  const second = await connect(worker);
  t.match(await first.over, { code: "unavailable", message: /took over/ });
  await settle();
  t.equal(nodeOf(store, worker)?.status.state, "ready", "the old one's end does not count");
  await store.update((tx) => createTask(tx, "one", worker, "assigned"));
  await settle();
  t.equal(second.assignments().length, 2);
});

t.test("who is not in the cluster, or does not begin with Hello, gets no session", async (t) => {
  const { open } = await cluster(t);
  const stranger = open(id<NodeId>("stranger"));
  stranger.send(hello("x"));
  t.match(await stranger.over, { code: "not-found" });
  const rude = open(worker);
  rude.send({ body: { $case: "heartbeat", value: {} } });
  t.match(await rude.over, { code: "invalid-argument" });
  const broken = open(worker);
  broken.send({
    body: { $case: "hello", value: { description: { json: Buffer.from("{}") }, dataPathAddress: "" } },
  });
  t.match(await broken.over, { code: "invalid-argument", message: /platform/ });
});

t.test("a removed node's session ends for good", async (t) => {
  const { store, clock, connect } = await cluster(t);
  const session = await connect(worker);
  await store.update((tx) => tx.nodes.remove(worker));
  t.match(await session.over, { code: "permission-denied", message: /was removed from swarm/ });
  await clock.advance(10_000);
  t.equal(nodeOf(store, worker), undefined);
});

t.test("role and managers reach the worker when they change", async (t) => {
  const { store, connect } = await cluster(t);
  const session = await connect(worker);
  await store.update((tx) => tx.nodes.update({ ...must(tx.nodes.get(worker)), role: "manager" }));
  await settle();
  t.match(session.infos().at(-1), { desiredRole: "manager" });
  await store.update((tx) => {
    const member = { address: "10.9.0.9:2377", raftAddress: "10.9.0.9:2378" };
    tx.nodes.update({ ...must(tx.nodes.get(other)), member });
  });
  await settle();
  t.equal(session.infos().at(-1)?.managers.length, 2);
  t.equal(session.infos().length, 3, "nothing is said twice");
});

t.test("hosts are told the MTU of a network that names its links, of others they know by their own", (t) => {
  const mtuOf = (...driverOptions: readonly [string, string][]) =>
    assignedNetwork({
      meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
      ...networkObject("net", { driverOptions: Object.fromEntries(driverOptions) }),
      state: { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4097 },
    })?.mtu;
  const option = ["com.docker.network.driver.mtu", "1400"] as const;
  t.equal(mtuOf(), 0);
  t.equal(mtuOf([...option]), 1350);
  t.equal(mtuOf([...option], ["encrypted", ""]), 1290);
  t.end();
});

t.test("keys of tunnels go to whoever is on an encrypted network, and back to the node", async (t) => {
  const { store, connect, open } = await cluster(t);
  const network = networkObject("net", { driverOptions: { encrypted: "" } });
  const state = { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4097 };
  await store.update((tx) => void tx.networks.create({ ...network, state }));
  const session = await connect(worker);
  const key = Buffer.alloc(32, 1).toString("base64");
  const next = Buffer.alloc(32, 2).toString("base64");
  const peer = open(other);
  peer.send(hello("other", { keys: [{ publicKey: key, slot: 0 }] }));
  await settle();
  t.match(peer.infos(), [{ nodeIndex: must(nodeOf(store, other)).index, tunnelKeys: [key] }]);
  t.strictSame(session.assignments()[0]?.hosts, [], "it has no use for them yet");
  const attached = [{ networkId: network.id, address: "10.0.1.2/24", ipv6: "fd00:1::2/64", aliases: [] }];
  await store.update((tx) => createTask(tx, "one", worker, "assigned", attached));
  await settle();
  t.match(session.assignments()[1], {
    networks: [{ encrypted: true, mtu: 0 }],
    endpoints: [{ address: "10.0.1.2", ipv6: "fd00:1::2" }],
    tasks: [{ networks: [{ address: "10.0.1.2/24", ipv6: "fd00:1::2/64" }] }],
    hosts: [{ nodeId: leader }, { nodeId: other, tunnelKeys: [{ publicKey: key, slot: 0 }] }],
  });
  const keys = [
    { publicKey: key, slot: 0 },
    { publicKey: next, slot: 1 },
  ];
  const said = hello("other", { keys }).body;
  if (said?.$case !== "hello" || said.value.description === undefined) throw new Error("it is a hello");
  peer.send({ body: { $case: "description", value: said.value.description } });
  await settle();
  t.match(session.assignments()[2]?.hosts, [{ nodeId: other, tunnelKeys: keys }]);
  t.match(peer.infos()[1], { tunnelKeys: [key, next] });
  const further = hello("other", { keys }, ["2001:db8::2"]).body;
  if (further?.$case !== "hello" || further.value.description === undefined) throw new Error("it is a hello");
  peer.send({ body: { $case: "description", value: further.value.description } });
  await settle();
  t.match(
    session.assignments()[3]?.hosts,
    [{ nodeId: other, ipv6Addresses: ["2001:db8::2"] }],
    "and so do addresses by which clients may come",
  );
  t.equal(peer.infos().length, 2, "which the node knows itself");
});

t.test(
  "a task hears that it stops once every host has withdrawn it, also those whose workers restart meanwhile",
  async (t) => {
    const { store, clock, connect } = await cluster(t);
    const network = networkObject("net");
    const state = { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4097 };
    await store.update((tx) => {
      tx.networks.create({ ...network, state });
      for (const [name, nodeId, address] of [
        ["one", worker, "10.0.1.2/24"],
        ["two", other, "10.0.1.3/24"],
      ] as const)
        createTask(tx, name, nodeId, "running", [{ networkId: network.id, address, aliases: [] }]);
    });
    const before = await connect(worker);
    const restarting = await connect(other);
    const toldOf = (session: FakeStream): unknown[] =>
      session
        .assignments()
        .flatMap(({ tasks }) => tasks)
        .filter((task) => task.id === taskId("one"))
        .map(({ desiredState }) => desiredState);
    const applied = async (session: FakeStream): Promise<void> => {
      const sequence = session.assignments().at(-1)?.resultsIn ?? 0;
      session.send({ body: { $case: "applied", value: { sequence } } });
      await settle();
    };
    await applied(before);
    restarting.close();
    await settle();
    const stop = { desiredState: "shutdown" } as const;
    await store.update((tx) => tx.tasks.update({ ...must(tx.tasks.get(taskId("one"))), ...stop }));
    await settle();
    await applied(before);
    t.strictSame(toldOf(before), ["running"], "the other host may still send it clients");
    before.close();
    const after = await connect(worker);
    t.strictSame(toldOf(after), ["running"], "a new session is told no more than the one before");
    const restarted = await connect(other);
    await applied(after);
    t.strictSame(toldOf(after), ["running"]);
    await applied(restarted);
    t.strictSame(toldOf(after), ["running", "shutdown"]);

    restarted.close();
    await store.update((tx) =>
      tx.tasks.update({ ...must(tx.tasks.get(taskId("one"))), desiredState: "running" }),
    );
    await settle();
    await store.update((tx) => tx.tasks.update({ ...must(tx.tasks.get(taskId("one"))), ...stop }));
    await settle();
    await applied(after);
    t.strictSame(toldOf(after).at(-1), "running");
    const pass = async (passMs: number): Promise<void> => {
      for (let ms = 0; ms < passMs; ms += 500) {
        after.send({ body: { $case: "heartbeat", value: {} } });
        await clock.advance(500);
      }
    };
    await pass(3_500);
    t.equal(nodeOf(store, other)?.status.state, "down");
    t.strictSame(toldOf(after).at(-1), "running", "down says no more than that its worker is not heard");
    await pass(withdrawalLimitMs - 3_500);
    t.strictSame(toldOf(after).at(-1), "shutdown", "nobody waits for ever");
  },
);

t.test("a worker that does not read gets everything at once, later", async (t) => {
  const { store, connect } = await cluster(t);
  const session = await connect(worker);
  session.full = true;
  await store.update((tx) => createTask(tx, "t0", worker, "assigned")); // Fills it.
  await settle();
  for (const name of ["t1", "t2", "t3"]) {
    await store.update((tx) => createTask(tx, name, worker, "assigned"));
    await settle();
  }
  t.equal(session.assignments().length, 2);
  session.full = false;
  session.emit("drain");
  await settle();
  t.strictSame(
    session.assignments()[2]?.tasks.map((task) => task.id),
    ["t1", "t2", "t3"].map(taskId),
  );
});

t.test("a worker hears of its leader every period, also while nothing is read from it", async (t) => {
  const { clock, connect } = await cluster(t);
  const session = await connect(worker);
  session.pause();
  await clock.advance(2_500);
  t.equal(session.heartbeats(), 2);
  session.full = true;
  await clock.advance(1_000);
  t.equal(session.heartbeats(), 3, "the one that filled it");
  await clock.advance(5_000);
  t.equal(session.heartbeats(), 3, "what is full already holds signs of life");
  session.close();
  await clock.advance(5_000);
  t.equal(session.heartbeats(), 3);
});

t.test("where nodes are many, heartbeats are fewer, and everyone is told", async (t) => {
  const { store, clock, connect } = await cluster(t);
  const session = await connect(worker);
  const names = Array.from({ length: 998 }, (_, index) => `${index}-more`);
  await store.update((tx) => {
    for (const name of names) tx.nodes.create(nodeObject(name, { state: "down" }));
  });
  await settle();
  t.strictSame(
    session.infos().map((info) => info.heartbeatPeriodMs),
    [1_000, 2_000],
  );
  session.send({ body: { $case: "heartbeat", value: {} } }); // As workers do when the period changes.
  const before = session.heartbeats();
  await clock.advance(4_500);
  t.equal(session.heartbeats() - before, 2);
  t.equal(nodeOf(store, worker)?.status.state, "ready", "the grace has grown as well");
  await store.update((tx) => tx.nodes.remove(id<NodeId>("1-more")));
  await settle();
  t.strictSame(
    session.infos().map((info) => info.heartbeatPeriodMs),
    [1_000, 2_000, 1_000],
  );
});

t.test("the period of heartbeats, by what is asked for and how many nodes there are", (t) => {
  for (const [askedMs, nodes, expected] of [
    [1_000, 1, 1_000],
    [1_000, 1_000, 1_000],
    [1_000, 1_001, 2_000],
    [1_000, 5_000, 8_000],
    [1_000, 10_000, 16_000],
    [5_000, 5_000, 5_000],
    [100, 101, 200],
  ] as const) {
    t.equal(scaledHeartbeatPeriodMs(askedMs, nodes), expected, `${nodes} nodes, ${askedMs} ms`);
  }
  t.end();
});

t.test("losing the leadership redirects every worker; a follower does so at once", async (t) => {
  const { connect, lose } = await cluster(t);
  const session = await connect(worker);
  lose();
  t.equal(await session.over, undefined);
  t.match(session.last(), { $case: "redirect", value: { leaderAddress: "10.9.0.2:2377" } });

  const stream = new FakeStream();
  const door = { dispatcher: () => undefined, leaderAddress: () => undefined };
  await serveSession(
    door,
    stream as never,
    { nodeId: worker, address: "10.9.0.7" },
    new AbortController().signal,
  );
  t.match(stream.last(), { $case: "redirect", value: { leaderAddress: "" } });
});

function status(task: string) {
  return {
    taskId: taskId(task),
    state: taskStates.running as number,
    atMs: 1,
    message: "started",
    error: "",
    containerId: "",
    pid: 0,
    ports: [],
  };
}

function statusOf(task: string, state: TaskState, sequence: number): WorkerMessage {
  return {
    body: {
      $case: "statuses",
      value: { sequence, statuses: [{ ...status(task), state: taskStates[state] }] },
    },
  };
}

function createTask(
  tx: Transaction,
  name: string,
  nodeId: NodeId,
  state: TaskState,
  networks: Task["networks"] = [],
): void {
  tx.tasks.create({
    id: taskId(name) satisfies TaskId,
    serviceId: id<ServiceId>("web"),
    specVersion: 0,
    slot: 1,
    nodeId,
    desiredState: "running",
    status: { state, atMs: 0, message: "", error: "", appliedAtMs: 0 },
    networks,
  });
}

function nodeOf(store: Store, nodeId: NodeId): Node | undefined {
  return store.view((view) => view.nodes.get(nodeId));
}

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("expected a value");
  return value;
}
