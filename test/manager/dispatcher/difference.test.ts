import * as fc from "fast-check";
import t from "tap";
import {
  assignedAttachment,
  assignedHost,
  assignedNetwork,
  assignedPayload,
  assignedTask,
  endpointOf,
} from "../../../manager/dispatcher/assignments.ts";
import {
  isAssigned,
  needsResources,
  networksOf,
  payloadsOf,
} from "../../../manager/dispatcher/assignments.ts";
import {
  type Difference,
  emptyDifference,
  NodeAssignments,
  toMessages,
} from "../../../manager/dispatcher/difference.ts";
import type { StoreEvent } from "../../../manager/store/change.ts";
import type { StoreView, Transaction } from "../../../manager/store/transaction.ts";
import { attachmentId } from "../../../model/attachment.ts";
import type { NetworkId, NodeId, SecretId, ServiceId } from "../../../model/ids.ts";
import { revisionKey } from "../../../model/service.ts";
import type { DesiredState, Task, TaskState } from "../../../model/task.ts";
import type { Assignments } from "../../../proto/gen/shoal/dispatcher.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { id, networkObject, nodeObject, taskId, taskSpec } from "../../sim/objects.ts";

/** What the worker holds: every item by its key, without the state that is never sent again. */
type Held = Map<string, string>;

const here = id<NodeId>("node0");
const nodeWords = ["node0", "node1"] as const;
const networkWords = ["net0", "net1", "net2"] as const;
const states = ["pending", "assigned", "running", "failed"] as const satisfies readonly TaskState[];
const desired = ["ready", "running", "shutdown"] as const satisfies readonly DesiredState[];

type Step =
  | {
      readonly kind: "put";
      readonly task: number;
      readonly node: number;
      readonly state: number;
      readonly desired: number;
      readonly networks: readonly number[];
    }
  | { readonly kind: "remove"; readonly task: number }
  | { readonly kind: "node"; readonly node: number; readonly down: boolean; readonly address: number }
  | { readonly kind: "allocate"; readonly network: number }
  | { readonly kind: "attach"; readonly container: number; readonly node: number; readonly network: number }
  | { readonly kind: "give"; readonly address: number }
  | { readonly kind: "detach" }
  | { readonly kind: "take" };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("put" as const),
      task: fc.nat(5),
      node: fc.nat(1),
      state: fc.nat(states.length - 1),
      desired: fc.nat(desired.length - 1),
      networks: fc.subarray([0, 1, 2]),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), task: fc.nat(5) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("node" as const),
      node: fc.nat(1),
      down: fc.boolean(),
      address: fc.nat(2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("allocate" as const), network: fc.nat(2) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("attach" as const),
      container: fc.nat(2),
      node: fc.nat(1),
      network: fc.nat(2),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("give" as const), address: fc.integer({ min: 2, max: 9 }) }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: "detach" as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: "take" as const }) },
);

t.test("whatever happens, the differences add up to what the node should have", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { store } = loneStore(new VirtualClock());
      await store.update(seed);
      using watch = store.watch(["tasks", "nodes", "networks", "attachments"]);
      const uses = new Set<NetworkId>();
      const assignments = new NodeAssignments(here, {
        holds: () => undefined,
        begins: (networkId) => void uses.add(networkId),
        ends: (networkId) => void uses.delete(networkId),
      });
      const held: Held = new Map();
      const check = (): void => {
        for (const event of watch.take()) store.view((view) => markEvent(event, assignments, view));
        store.view((view) => {
          const difference = assignments.take(view);
          if (difference !== undefined) apply(held, difference);
          const want = expected(view);
          if (print(held) !== print(want)) {
            throw new Error(
              `held ${JSON.stringify([...held.keys()])}, wanted ${JSON.stringify([...want.keys()])}`,
            );
          }
          if (assignments.take(view) !== undefined) throw new Error("a second look found more");
        });
      };
      store.view((view) => assignments.markAll(view));
      check();
      for (const step of steps) {
        if (step.kind === "take") check();
        else await store.update((tx) => perform(tx, step));
      }
      check();
    }),
    { numRuns: 300 },
  );
});

t.test("pieces stay under the limit, are one unit, and lose nothing", (t) => {
  const { store } = loneStore(new VirtualClock());
  return store.update(seed).then(() => {
    store.view((view) => {
      const task = taskOf({ kind: "put", task: 0, node: 0, state: 1, desired: 1, networks: [] });
      const one = assignedTask(view, {
        ...task,
        meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
      });
      t.ok(one);
      if (one === undefined) return;
      const tasks = Array.from({ length: 50 }, (_, index) => ({ ...one, id: `task${index}` }));
      const difference: Difference = { ...nothing, tasks, removedTasks: ["gone"] };
      const messages = toMessages(difference, { complete: true, appliesTo: 0, resultsIn: 1 }, 5_000);
      t.ok(messages.length > 5);
      t.strictSame(
        messages.map(({ more }) => more),
        messages.map((_, index) => index < messages.length - 1),
      );
      t.ok(messages.every(({ complete, resultsIn }) => complete && resultsIn === 1));
      t.strictSame(
        messages.flatMap((message) => message.tasks.map((task) => task.id)),
        tasks.map((task) => task.id),
      );
      const empty = toMessages(nothing, { complete: true, appliesTo: 0, resultsIn: 1 }, 5_000);
      t.equal(empty.length, 1, "even nothing is said");
    });
  });
});

const nothing = emptyDifference();

function seed(tx: Transaction): void {
  for (const word of nodeWords) tx.nodes.create({ ...nodeObject(word), index: word === "node0" ? 1 : 2 });
  for (const word of networkWords) {
    const driverOptions: Record<string, string> = word === "net2" ? { encrypted: "" } : {};
    tx.networks.create(networkObject(word, { driverOptions }));
  }
  tx.secrets.create({ id: id<SecretId>("secret"), spec: { name: "s", labels: {}, data: "c2VjcmV0" } });
  const spec = taskSpec();
  const file = { name: "s", uid: "0", gid: "0", mode: 0o444 };
  for (const specVersion of [0, 1]) {
    const secrets = specVersion === 0 ? [] : [{ secretId: id<SecretId>("secret"), secretName: "s", file }];
    tx.revisions.create({
      id: revisionKey(id<ServiceId>("web"), specVersion),
      serviceId: id<ServiceId>("web"),
      specVersion,
      serviceName: "web",
      serviceLabels: {},
      task: { ...spec, container: { ...spec.container, secrets } },
      endpoint: { mode: "vip", ports: [] },
    });
  }
}

function taskOf(step: Extract<Step, { kind: "put" }>): Omit<Task, "meta"> {
  return {
    id: taskId(`task${step.task}`),
    serviceId: id<ServiceId>("web"),
    specVersion: step.task % 2,
    slot: step.task + 1,
    nodeId: id<NodeId>(nodeWords[step.node] ?? "node0"),
    desiredState: desired[step.desired] ?? "running",
    status: { state: states[step.state] ?? "assigned", atMs: 0, message: "", error: "", appliedAtMs: 0 },
    networks: step.networks.map((network) => ({
      networkId: id<NetworkId>(networkWords[network] ?? "net0"),
      address: `10.0.${network}.${step.task + 2}/24`,
      aliases: [],
    })),
  };
}

function perform(tx: Transaction, step: Step): void {
  switch (step.kind) {
    case "put": {
      const task = taskOf(step);
      const known = tx.tasks.get(task.id);
      if (known === undefined) tx.tasks.create(task);
      else tx.tasks.update({ ...task, meta: known.meta });
      return;
    }
    case "remove":
      if (tx.tasks.has(taskId(`task${step.task}`))) tx.tasks.remove(taskId(`task${step.task}`));
      return;
    case "node": {
      const node = tx.nodes.get(id<NodeId>(nodeWords[step.node] ?? "node0"));
      if (node === undefined) return;
      const state = step.down ? "down" : "ready";
      tx.nodes.update({ ...node, status: { state, message: "", address: `10.9.0.${step.address}` } });
      return;
    }
    case "allocate": {
      const network = tx.networks.get(id<NetworkId>(networkWords[step.network] ?? "net0"));
      if (network === undefined) return;
      const subnet = `10.0.${step.network}`;
      tx.networks.update({
        ...network,
        state: { subnet: `${subnet}.0/24`, gateway: `${subnet}.1`, vni: 4096 },
      });
      return;
    }
    case "attach": {
      const place = {
        nodeId: id<NodeId>(nodeWords[step.node] ?? "node0"),
        networkId: id<NetworkId>(networkWords[step.network] ?? "net0"),
        containerId: `c${step.container}`,
      };
      const attachment = {
        ...place,
        id: attachmentId(place),
        attempt: "1",
        names: ["web", "alias"],
        asked: "",
      };
      if (!tx.attachments.has(attachment.id)) tx.attachments.create(attachment);
      return;
    }
    case "give": {
      const [last] = tx.attachments.list().slice(-1);
      if (last !== undefined) tx.attachments.update({ ...last, address: `10.0.9.${step.address}/24` });
      return;
    }
    case "detach": {
      const [first] = tx.attachments.list();
      if (first !== undefined) tx.attachments.remove(first.id);
      return;
    }
    case "take":
      return;
  }
}

function print(held: Held): string {
  const keys = [...held.keys()].toSorted();
  return JSON.stringify(keys.map((key) => [key, held.get(key)]));
}

/** As the dispatcher does it, without its short cuts: those must not make a difference. */
function markEvent(event: StoreEvent, assignments: NodeAssignments, view: StoreView): void {
  if (event.kind === "resync") throw new Error("not in this test");
  const markEndpoints = (task: Task): void => {
    for (const networkId of networksOf(task)) assignments.markEndpoint(networkId, task.id);
  };
  switch (event.table) {
    case "tasks":
      assignments.markTask(event.object.id, "compare");
      markEndpoints(event.object);
      if (event.kind === "updated") markEndpoints(event.previous);
      return;
    case "nodes":
      for (const task of view.tasks.byNode(event.object.id)) markEndpoints(task);
      for (const each of view.attachments.byNode(event.object.id))
        assignments.markEndpoint(each.networkId, each.id);
      assignments.markHost(event.object.id);
      return;
    case "attachments":
      assignments.markAttachment(event.object.id);
      assignments.markEndpoint(event.object.networkId, event.object.id);
      return;
    case "networks":
      assignments.markNetwork(event.object.id);
      return;
    case "cluster":
    case "services":
    case "secrets":
    case "configs":
    case "revisions":
      return; // They do not change in this test.
  }
}

function apply(held: Held, difference: Difference): void {
  const [message] = toMessages(difference, { complete: false, appliesTo: 0, resultsIn: 1 }, 1e9);
  if (message === undefined) throw new Error("no message");
  const {
    removedTasks,
    removedNetworks,
    removedEndpoints,
    removedHosts,
    removedPayloads,
    removedAttachments,
  }: Assignments = message;
  const drop = (prefix: string, keys: readonly string[]): void => {
    for (const key of keys)
      if (!held.delete(prefix + key)) throw new Error(`removed what was never sent: ${key}`);
  };
  drop("t:", removedTasks);
  drop("n:", removedNetworks);
  drop("e:", removedEndpoints);
  drop("h:", removedHosts);
  drop("p:", removedPayloads);
  drop("a:", removedAttachments);
  for (const task of message.tasks) held.set(`t:${task.id}`, JSON.stringify({ ...task, statusState: "" }));
  for (const network of message.networks) held.set(`n:${network.id}`, JSON.stringify(network));
  for (const endpoint of message.endpoints) held.set(`e:${endpoint.key}`, JSON.stringify(endpoint));
  for (const attachment of message.attachments) held.set(`a:${attachment.id}`, JSON.stringify(attachment));
  for (const host of message.hosts) held.set(`h:${host.nodeId}`, JSON.stringify(host));
  for (const payload of message.payloads) held.set(`p:${payload.id}`, JSON.stringify(payload));
}

/** From scratch, the slow and obvious way. */
function expected(view: StoreView): Held {
  const want: Held = new Map();
  const own = view.tasks.list().filter((task) => isAssigned(task, here));
  for (const task of own) {
    want.set(`t:${task.id}`, JSON.stringify({ ...assignedTask(view, task), statusState: "" }));
  }
  const live = own.filter((task) => needsResources(task, here));
  for (const id of new Set(live.flatMap((task) => payloadsOf(view, task)))) {
    want.set(`p:${id}`, JSON.stringify(assignedPayload(view, id)));
  }
  const containers = view.attachments.byNode(here).filter(({ address }) => address !== undefined);
  for (const each of containers) want.set(`a:${each.id}`, JSON.stringify(assignedAttachment(each)));
  for (const networkId of new Set([
    ...live.flatMap(networksOf),
    ...containers.map((each) => each.networkId),
  ])) {
    const network = view.networks.get(networkId);
    const item = network && assignedNetwork(network);
    if (item === undefined) continue;
    want.set(`n:${networkId}`, JSON.stringify(item));
    // Whoever is on an encrypted network builds tunnels to the other hosts.
    for (const node of item.encrypted ? view.nodes.list() : []) {
      const host = node.id === here ? undefined : assignedHost(node);
      if (host !== undefined) want.set(`h:${node.id}`, JSON.stringify(host));
    }
    for (const { id } of [...view.tasks.list(), ...view.attachments.byNetwork(networkId)]) {
      const endpoint = endpointOf(view, id, networkId);
      if (endpoint !== undefined) want.set(`e:${endpoint.key}`, JSON.stringify(endpoint));
    }
  }
  return want;
}
