import type { ConfChange, Configuration } from "raft-ts";
import t from "tap";
import type { MembershipChange } from "../../../manager/raft/group.ts";
import { encodeContext, planMembership, promotable } from "../../../manager/raft/membership.ts";
import type { NodeId } from "../../../model/ids.ts";

/** "n1.a n2.b/learner": members by id, addresses after their names. */
function group(text: string): Configuration {
  const members = text.split(" ").map((word) => {
    const [id = "", learner] = word.split("/");
    return { id, learner: learner !== undefined };
  });
  return {
    voters: members.filter(({ learner }) => !learner).map(({ id }) => id),
    outgoing: [],
    learners: members.filter(({ learner }) => learner).map(({ id }) => id),
    contexts: Object.fromEntries(
      members.map(({ id }) => [id, encodeContext({ raftAddress: `${id}:1`, promote: true })]),
    ),
  };
}

function print(steps: readonly ConfChange[]): string {
  return steps.map((step) => `${step.kind} ${"id" in step ? step.id : ""}`).join(", ");
}

function add(memberId: string, raftAddress = `${memberId}:1`): MembershipChange {
  return { kind: "add", nodeId: memberId.slice(0, 2) as NodeId, memberId, raftAddress };
}

function remove(node: string): MembershipChange {
  return { kind: "remove", nodeId: node as NodeId };
}

const plans = [
  { name: "a new node starts as a learner", have: "n1.a", change: add("n2.b"), want: "add-learner n2.b" },
  { name: "joining twice changes nothing", have: "n1.a n2.b", change: add("n2.b"), want: "" },
  {
    name: "a new address is taken over",
    have: "n1.a n2.b",
    change: add("n2.b", "other:1"),
    want: "update n2.b",
  },
  {
    name: "a node that lost its state replaces its old member",
    have: "n1.a n2.b",
    change: add("n2.c"),
    want: "remove n2.b, add-learner n2.c",
  },
  { name: "removing who is not there is done", have: "n1.a", change: remove("n2"), want: "" },
  { name: "a learner can always go", have: "n1.a n2.b/learner", change: remove("n2"), want: "remove n2.b" },
] as const;

for (const { name, have, change, want } of plans) {
  t.test(name, (t) => {
    t.equal(print(planMembership(change, group(have), () => false)), want);
    t.end();
  });
}

const removals = [
  { have: "n1.a", reachable: "n1.a", ok: false },
  { have: "n1.a n2.b", reachable: "n1.a n2.b", ok: true },
  { have: "n1.a n2.b", reachable: "n2.b", ok: false },
  { have: "n1.a n2.b n3.c", reachable: "n1.a n2.b n3.c", ok: true },
  { have: "n1.a n2.b n3.c", reachable: "n1.a n2.b", ok: false },
  { have: "n1.a n2.b n3.c", reachable: "n1.a n3.c", ok: true },
  { have: "n1.a n2.b n3.c n4.d n5.e", reachable: "n1.a n3.c n4.d", ok: true },
  { have: "n1.a n2.b n3.c n4.d n5.e", reachable: "n1.a n2.b n3.c", ok: false },
] as const;

for (const { have, reachable, ok } of removals) {
  t.test(`removing n2 of ${have} with ${reachable} reachable is ${ok ? "allowed" : "refused"}`, (t) => {
    const node = have === "n1.a" ? "n1" : "n2";
    const plan = (): unknown =>
      planMembership(remove(node), group(have), (id) => reachable.split(" ").includes(id));
    if (ok) t.doesNotThrow(plan);
    else t.throws(plan, { code: "failed-precondition" });
    t.end();
  });
}

t.test("a learner is promoted once it answers and is near the end of the log", (t) => {
  const have = group("n1.a n2.b/learner");
  const peer = { id: "n2.b", match: 950, active: true };
  t.equal(promotable(have, 1000, [peer]), "n2.b");
  t.equal(promotable(have, 1000, [{ ...peer, match: 500 }]), undefined);
  t.equal(promotable(have, 1000, [{ ...peer, active: false }]), undefined);
  t.equal(promotable(have, 20, [{ ...peer, match: 0 }]), undefined, "never heard of its log");
  t.end();
});
