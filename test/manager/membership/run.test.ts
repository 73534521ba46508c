import t, { type Test } from "tap";
import type { MemberFact } from "../../../manager/membership/plan.ts";
import { runMembership } from "../../../manager/membership/run.ts";
import { ClusterError } from "../../../model/errors.ts";
import type { NodeId } from "../../../model/ids.ts";
import type { Node, NodeRole } from "../../../model/node.ts";
import { silentLog } from "../../../runtime/log.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { clusterObject, id, nodeObject } from "../../sim/objects.ts";

const leader = id<NodeId>("leader");
const other = id<NodeId>("other");

t.test("promotion and demotion of a node, step by step", async (t) => {
  const { setRole, nodeOf, group } = await membership(t);
  await setRole("manager");
  t.equal(nodeOf().role, "manager", "its certificate may follow");
  t.equal(nodeOf().member, undefined);
  group.set([leader, other]);
  await settle();
  t.match(nodeOf().member, { address: "other:2377", raftAddress: "other:2378" });

  await setRole("worker");
  t.strictSame(group.removed, [other]);
  t.equal(nodeOf().role, "manager", "not before it is out of the group");
  group.set([leader]);
  await settle();
  t.equal(nodeOf().role, "worker");
  t.equal(nodeOf().member, undefined);
});

t.test("a refused removal is tried again, and the role waits for it", async (t) => {
  const { clock, setRole, nodeOf, group } = await membership(t);
  await setRole("manager");
  group.set([leader, other]);
  await settle();
  group.refusal = new ClusterError("failed-precondition", "too few reachable members would be left");
  await setRole("worker");
  await clock.advance(10_000);
  t.strictSame(group.removed, []);
  t.equal(nodeOf().role, "manager");
  group.refusal = undefined;
  await clock.advance(2_000);
  t.strictSame(group.removed, [other]);
});

t.test("a removed node is forgotten once its certificate has run out", async (t) => {
  const { store, clock } = await membership(t);
  const dayMs = 86_400_000;
  await store.update((tx) => {
    const { cluster } = tx;
    if (cluster === undefined) throw new Error("no cluster");
    const removedNodes = { old: clock.now() - 91 * dayMs, recent: clock.now() - dayMs };
    tx.clusters.update({ ...cluster, removedNodes });
  });
  await clock.advance(3_600_000 + 2_000);
  t.strictSame(Object.keys(store.view((view) => view.cluster?.removedNodes) ?? {}), ["recent"]);
});

t.test("other news of nodes is not planned for, and hides no change of roles", async (t) => {
  const { store, group, nodeOf, setRole } = await membership(t);
  const before = group.asked;
  for (const name of ["a", "b"]) await store.update((tx) => void tx.nodes.create(nodeObject(name)));
  await store.update(
    (tx) => void tx.nodes.update({ ...nodeOf(), status: { ...nodeOf().status, message: "x" } }),
  );
  await settle();
  t.equal(group.asked, before);
  const news = store.update((tx) => void tx.nodes.create(nodeObject("c")));
  group.set([leader, other]); // Nothing but a call tells of that.
  await news;
  await settle();
  t.match(nodeOf().member, { address: "other:2377" });
  await setRole("manager");
  t.equal(nodeOf().role, "manager");
});

async function membership(t: Test) {
  const clock = new VirtualClock();
  const { store } = loneStore(clock);
  await store.update((tx) => {
    tx.clusters.create(clusterObject());
    const member = { address: "leader:2377", raftAddress: "leader:2378" };
    tx.nodes.create({ ...nodeObject("leader", { spec: { role: "manager" } }), role: "manager", member });
    tx.nodes.create(nodeObject("other"));
  });
  const listeners = new Set<() => void>();
  let members: readonly MemberFact[] = [];
  const group = {
    /** How often the members were looked at. */
    asked: 0,
    removed: [] as NodeId[],
    refusal: undefined as ClusterError | undefined,
    set(nodeIds: readonly NodeId[]): void {
      members = nodeIds.map((nodeId) => ({ nodeId, raftAddress: `${nodeId.replace(/0+$/, "")}:2378` }));
      for (const listener of listeners) listener();
    },
    async changeMembership(change: { readonly kind: string; readonly nodeId: NodeId }): Promise<void> {
      if (group.refusal !== undefined) throw group.refusal;
      if (change.kind === "remove" && !group.removed.includes(change.nodeId))
        group.removed.push(change.nodeId);
    },
    async transferLeadership(): Promise<void> {},
  };
  group.set([leader]);
  const controller = new AbortController();
  const running = runMembership(
    {
      store,
      group,
      clock,
      log: silentLog,
      nodeId: leader,
      members: () => {
        group.asked += 1;
        return members;
      },
      onMembers(listener) {
        listeners.add(listener);
        return () => void listeners.delete(listener);
      },
    },
    controller.signal,
  );
  t.teardown(async () => {
    controller.abort(new Error("over"));
    await running;
    if (clock.waiting > 0) throw new Error(`${clock.waiting} timers are left`);
  });
  const nodeOf = (): Node => {
    const node = store.view((view) => view.nodes.get(other));
    if (node === undefined) throw new Error("no node");
    return node;
  };
  async function setRole(role: NodeRole): Promise<void> {
    await store.update((tx) => {
      const node = tx.nodes.get(other);
      if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, role } });
    });
    await settle();
  }
  await settle();
  return { store, clock, setRole, nodeOf, group };
}
