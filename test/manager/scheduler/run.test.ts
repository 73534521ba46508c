import t from "tap";
import { createTask } from "../../../manager/store/revisions.ts";
import { runScheduler } from "../../../manager/scheduler/run.ts";
import { Store } from "../../../manager/store/store.ts";
import type { Transaction } from "../../../manager/store/transaction.ts";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Node } from "../../../model/node.ts";
import type { TaskSpec } from "../../../model/service.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { id, nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";

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
