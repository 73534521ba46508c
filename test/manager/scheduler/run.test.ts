import t from "tap";
import { createTask } from "../../../manager/store/revisions.ts";
import { runScheduler } from "../../../manager/scheduler/run.ts";
import { Store } from "../../../manager/store/store.ts";
import type { Transaction } from "../../../manager/store/transaction.ts";
import type { NetworkId, NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Node } from "../../../model/node.ts";
import { enforcerMessage, type Task } from "../../../model/task.ts";
import type { TaskSpec } from "../../../model/service.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { id, networkObject, nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";

/** A leading store whose entries are committed one by one, when the test says so. */
class HeldStore {
  readonly clock = new VirtualClock();
  readonly store: Store;
  readonly #held: Uint8Array[] = [];
  #index = 0;

  constructor() {
    this.store = new Store({
      clock: this.clock,
      random: seededRandom(1),
      proposer: {
        propose: (data) => {
          this.#held.push(data);
          return new Promise(() => {}); // It is answered by being applied.
        },
        confirmLeader: async () => undefined,
      },
    });
    this.store.setLeading(1);
  }

  /** Commits what was proposed, and gives all that wait for it their turn. */
  async commitNext(): Promise<void> {
    const data = this.#held.shift();
    if (data === undefined) throw new Error("nothing was proposed");
    this.#index += 1;
    this.store.apply(this.#index, data);
    await settle();
  }

  async commitAll(): Promise<void> {
    while (this.#held.length > 0) await this.commitNext();
  }
}

const plain = { constraints: [], spread: [], maxReplicas: 0, platforms: [] } as const;
const taskId = id<TaskId>("task");
const described = {
  hostname: "a",
  platform: { architecture: "x86_64", os: "linux" },
  engineVersion: "1",
  engineLabels: {},
  plugins: [],
};
const resources = { nanoCpus: 4e9, memoryBytes: 8e9, generic: {} };

interface Race {
  readonly name: string;
  readonly task?: Partial<TaskSpec>;
  /** What becomes of the node once the scheduler has chosen it. */
  readonly change: (node: Node) => Node | undefined;
  readonly want: string;
}

const races: readonly Race[] = [
  {
    name: "a label that a constraint asks for",
    task: { placement: { ...plain, constraints: ["node.labels.zone==a"] } },
    change: (node) => ({ ...node, spec: { ...node.spec, labels: {} } }),
    want: "pending no suitable node (scheduling constraints not satisfied on 1 node)",
  },
  {
    name: "a label that nothing asks for",
    change: (node) => ({ ...node, spec: { ...node.spec, labels: {} } }),
    want: "assigned ",
  },
  {
    name: "its CPUs",
    task: { resources: { reservations: { nanoCpus: 2e9 } } },
    change: (node) => ({
      ...node,
      description: { ...described, resources: { ...resources, nanoCpus: 1e9 } },
    }),
    want: "pending no suitable node (insufficient resources on 1 node)",
  },
  {
    name: "its memory, of which enough is left",
    task: { resources: { reservations: { memoryBytes: 2e9 } } },
    change: (node) => ({
      ...node,
      description: { ...described, resources: { ...resources, memoryBytes: 2e9 } },
    }),
    want: "assigned ",
  },
  {
    name: "a generic resource",
    task: { resources: { reservations: { generic: { gpu: 1 } } } },
    change: (node) => ({ ...node, description: { ...described, resources } }),
    want: "pending no suitable node (insufficient resources on 1 node)",
  },
  {
    name: "its platform",
    task: { placement: { ...plain, platforms: [{ architecture: "amd64", os: "linux" }] } },
    change: (node) => ({
      ...node,
      description: { ...described, resources, platform: { architecture: "riscv64", os: "linux" } },
    }),
    want: "pending no suitable node (unsupported platform on 1 node)",
  },
  {
    name: "its availability",
    change: (node) => ({ ...node, spec: { ...node.spec, availability: "pause" } }),
    want: "pending no suitable node (1 node not available for new tasks)",
  },
  {
    name: "that it is heard of",
    change: (node) => ({ ...node, status: { ...node.status, state: "down" } }),
    want: "pending no suitable node (1 node not available for new tasks)",
  },
  { name: "everything: it is removed", change: () => undefined, want: "pending no suitable node" },
];

for (const { name, task, change, want } of races) {
  t.test(`a node loses between the choice and the commit of it: ${name}`, async (t) => {
    const held = new HeldStore();
    const { store, clock } = held;
    const ended = new AbortController();
    void store.update((tx) => {
      const node = nodeObject("a");
      const offered = { ...described, resources: { ...resources, generic: { gpu: 1 } } };
      tx.nodes.create({ ...node, description: offered, spec: { ...node.spec, labels: { zone: "a" } } });
      tx.services.create({
        id: id<ServiceId>("web"),
        spec: serviceSpec({ task: taskSpec(task) }),
        specVersion: 0,
      });
    });
    await settle();
    await held.commitNext();
    const loop = runScheduler({ store, clock, random: seededRandom(2), log: silentLog }, ended.signal);
    await settle();
    void store.update(createPending);
    await settle();
    // In the entry after the task's, which is on its way before the scheduler sees the task.
    void store.update((tx) => changeNode(tx, change));
    await held.commitNext();
    await held.commitAll();
    const { status } = store.view((view) => view.tasks.get(taskId)) ?? {};
    t.equal(`${status?.state} ${status?.error}`, want);
    ended.abort();
    await loop;
  });
}

function createPending(tx: Transaction): void {
  const service = tx.services.get(id<ServiceId>("web"));
  if (service === undefined) throw new Error("no service");
  createTask(tx, service, { id: taskId, slot: 1, desiredState: "running", restarts: 0 });
  const task = tx.tasks.get(taskId);
  if (task === undefined) throw new Error("no task");
  tx.tasks.update({ ...task, status: { ...task.status, state: "pending" } });
}

function changeNode(tx: Transaction, change: Race["change"]): void {
  const node = tx.nodes.get(id<NodeId>("a"));
  if (node === undefined) throw new Error("no node");
  const changed = change(node);
  if (changed === undefined) tx.nodes.remove(node.id);
  else tx.nodes.update(changed);
}

/** The scheduler's loop alone, on a store that commits at once; the test plays everybody else. */
class LoopBench implements AsyncDisposable {
  readonly clock = new VirtualClock();
  readonly store = loneStore(this.clock).store;
  readonly #ended = new AbortController();
  #loop = Promise.resolve();
  #made = 0;

  constructor(nodes: readonly Parameters<typeof nodeObject>[]) {
    void this.store.update((tx) => {
      for (const node of nodes) tx.nodes.create(nodeObject(...node));
    });
  }

  async start(): Promise<void> {
    const { store, clock } = this;
    const deps = { store, clock, random: seededRandom(2), log: silentLog };
    this.#loop = runScheduler(deps, this.#ended.signal);
    await settle();
  }

  async service(name: string, task: Partial<TaskSpec> = {}, specVersion = 0): Promise<void> {
    await this.store.update((tx) => {
      const service = {
        id: id<ServiceId>(name),
        spec: serviceSpec({ name, task: taskSpec(task) }),
        specVersion,
      };
      const stored = tx.services.get(service.id);
      if (stored === undefined) tx.services.create(service);
      else tx.services.update({ ...stored, specVersion });
    });
  }

  /** A task that waits for a node, or for the confirmation of the one that is given. */
  async pend(name: string, change: Partial<Task> = {}): Promise<TaskId> {
    const task = id<TaskId>(`${name}${(this.#made += 1)}x`);
    await this.store.update((tx) => this.#create(tx, name, { ...change, id: task }));
    await settle();
    return task;
  }

  /** Several in one entry. */
  async pendTogether(...tasks: readonly (readonly [string, Partial<Task>])[]): Promise<TaskId[]> {
    const made = tasks.map(([name]) => id<TaskId>(`${name}${(this.#made += 1)}x`));
    await this.store.update((tx) => {
      for (const [at, [name, change]] of tasks.entries())
        this.#create(tx, name, { ...change, id: made[at] ?? id("none") });
    });
    await settle();
    return made;
  }

  #create(tx: Transaction, name: string, { status, ...change }: Partial<Task> & Pick<Task, "id">): void {
    const service = tx.services.get(id<ServiceId>(name));
    if (service === undefined) throw new Error(`no service ${name}`);
    const made = createTask(tx, service, { slot: 1, desiredState: "running", restarts: 0, ...change });
    tx.tasks.update({ ...made, status: { ...made.status, state: "pending", ...status } });
  }

  async report(task: TaskId, status: Partial<Task["status"]>): Promise<void> {
    await this.store.update((tx) => {
      const stored = tx.tasks.get(task);
      if (stored !== undefined) tx.tasks.update({ ...stored, status: { ...stored.status, ...status } });
    });
    await settle();
  }

  /** "assigned a", or "pending" with the reason. */
  show(task: TaskId): string {
    const { status, nodeId } = this.store.view((view) => view.tasks.get(task)) ?? {};
    return `${status?.state} ${status?.error || (nodeId ?? "-").replace(/0+$/, "")}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await this.#loop;
  }
}

const oneCpu = { resources: { reservations: { nanoCpus: 1e9 } } };

t.test("a network that got its subnet late is kept off hosts that have it themselves", async (t) => {
  await using bench = new LoopBench([["a", { subnets: ["10.0.9.0/24"] }], ["b"]]);
  const networkId = id<NetworkId>("late");
  await bench.store.update((tx) => tx.networks.create(networkObject("late")));
  await bench.service("web", { networks: [{ networkId, aliases: [] }] });
  await bench.start();
  const early = await bench.pend("web", { status: { state: "new" } as Task["status"] });
  await bench.store.update((tx) => {
    const network = tx.networks.get(networkId);
    if (network === undefined) throw new Error("no network");
    tx.networks.update({ ...network, state: { subnet: "10.0.9.0/24", gateway: "10.0.9.1", vni: 4096 } });
  });
  await bench.report(early, { state: "pending" });
  t.equal(bench.show(early), "assigned b");
  t.equal(bench.show(await bench.pend("web")), "assigned b");
});

t.test("tasks without a ready node go to the first that becomes so", async (t) => {
  await using bench = new LoopBench([
    ["a", { state: "down" }],
    ["b", { spec: { availability: "drain" } }],
  ]);
  await bench.start();
  await bench.service("web");
  const first = await bench.pend("web");
  t.equal(bench.show(first), "pending no suitable node (2 nodes not available for new tasks)");
  await bench.store.update((tx) => {
    const node = tx.nodes.get(id("b"));
    if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, availability: "active" } });
  });
  await settle();
  t.equal(bench.show(first), "assigned b");
  await bench.service("big", { resources: { reservations: { nanoCpus: 30e9 } } });
  const big = await bench.pend("big");
  t.match(bench.show(big), /^pending /);
  await bench.store.update((tx) => tx.nodes.create(nodeObject("c", { nanoCpus: 32e9 })));
  await settle();
  t.equal(bench.show(big), "assigned c");
});

t.test(
  "what a task reserved is free when it has ended or its record is gone, not when it is asked to stop",
  async (t) => {
    await using bench = new LoopBench([["a", { nanoCpus: 1e9 }]]);
    await bench.start();
    await bench.service("web", oneCpu);
    const first = await bench.pend("web");
    const second = await bench.pend("web", { slot: 2 });
    const full = "pending no suitable node (insufficient resources on 1 node)";
    t.strictSame([bench.show(first), bench.show(second)], ["assigned a", full]);
    await bench.store.update((tx) => {
      const task = tx.tasks.get(first);
      if (task !== undefined) tx.tasks.update({ ...task, desiredState: "shutdown" });
    });
    await settle();
    t.equal(bench.show(second), full, "it may still run");
    await bench.report(first, { state: "shutdown" });
    t.equal(bench.show(second), "assigned a");
    const third = await bench.pend("web", { slot: 3 });
    await bench.store.update((tx) => tx.tasks.remove(second));
    await settle();
    t.equal(bench.show(third), "assigned a");
  },
);

t.test("a scheduler that begins counts what nodes hold, and nothing of what has ended", async (t) => {
  await using bench = new LoopBench([["a", { nanoCpus: 2e9 }]]);
  await bench.service("web", oneCpu);
  const there = { nodeId: id<NodeId>("a"), status: { state: "running" } as Task["status"] };
  await bench.pend("web", there);
  await bench.pend("web", { ...there, slot: 2, status: { state: "failed" } as Task["status"] });
  const first = await bench.pend("web", { slot: 3 });
  const second = await bench.pend("web", { slot: 4 });
  await bench.start();
  t.strictSame([bench.show(first), bench.show(second)].toSorted(), [
    "assigned a",
    "pending no suitable node (insufficient resources on 1 node)",
  ]);
});

t.test("tasks whose node is chosen come before those that go anywhere", async (t) => {
  await using bench = new LoopBench([["a", { nanoCpus: 1e9 }]]);
  await bench.start();
  await bench.service("web", oneCpu);
  await bench.service("agent", oneCpu);
  const [web, agent] = (await bench.pendTogether(["web", {}], ["agent", { slot: 0, nodeId: id("a") }])) as [
    TaskId,
    TaskId,
  ];
  t.match(bench.show(web), /^pending no suitable node/);
  t.equal(bench.show(agent), "assigned a");
});

t.test("a task that is to end gets no node, and one whose record is gone is forgotten", async (t) => {
  await using bench = new LoopBench([]);
  await bench.start();
  await bench.service("web");
  const ended = await bench.pend("web", { desiredState: "shutdown" });
  const gone = await bench.pend("web", { slot: 2 });
  await bench.store.update((tx) => tx.tasks.remove(gone));
  await bench.store.update((tx) => tx.nodes.create(nodeObject("a")));
  await settle();
  t.equal(bench.show(ended), "pending -");
  t.equal(bench.show(gone), "undefined -");
});

t.test("a node on which a revision failed five times comes last for it, and for nothing else", async (t) => {
  const other = { placement: { ...plain, constraints: ["node.hostname==a"] } };
  await using bench = new LoopBench([["a"]]);
  await bench.start();
  await bench.service("web");
  await bench.service("agent");
  await bench.service("bound", other);
  for (let n = 1; n <= 5; n += 1) {
    await bench.report(await bench.pend("web"), { state: n === 5 ? "rejected" : "failed" });
    // Neither what could not go elsewhere nor what the enforcer took away says anything about the node.
    await bench.report(await bench.pend("agent", { slot: 0, nodeId: id("a") }), { state: "failed" });
    await bench.report(await bench.pend("bound"), { state: "rejected", message: enforcerMessage });
  }
  await bench.store.update((tx) => tx.nodes.create(nodeObject("b")));
  await settle();
  await bench.service("load");
  for (let n = 1; n <= 2; n += 1) await bench.pend("load", { nodeId: id("b"), slot: n });
  t.equal(bench.show(await bench.pend("web")), "assigned b", "though b has more to do");
  t.equal(bench.show(await bench.pend("agent", { slot: 1 })), "assigned a");
  t.equal(bench.show(await bench.pend("bound")), "assigned a");
  await bench.service("web", {}, 7);
  t.equal(bench.show(await bench.pend("web", { slot: 2 })), "assigned a", "a new spec begins without blame");
});
