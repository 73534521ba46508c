import t from "tap";
import { type MembershipStep, planMembership, raftAddressOf } from "../../../manager/membership/plan.ts";
import type { NodeId } from "../../../model/ids.ts";
import type { Node, NodeRole } from "../../../model/node.ts";
import { id, nodeObject } from "../../sim/objects.ts";

/** "a:manager/manager/member" is node a with spec, role in effect, and what its object says of the group. */
function parseNode(text: string): Node {
  const [word = "", facts = ""] = text.split(":");
  const [spec, role, member] = facts.split("/");
  return {
    ...nodeObject(word, { spec: { role: spec as NodeRole } }),
    meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
    role: role as NodeRole,
    ...(member === "member" && { member: { address: `${word}:2377`, raftAddress: `${word}:2378` } }),
  };
}

function print(step: MembershipStep): string {
  switch (step.kind) {
    case "transfer-leadership":
      return "transfer";
    case "remove-member":
      return `remove ${word(step.nodeId)}`;
    case "set-role":
      return `${word(step.nodeId)} becomes ${step.role}`;
    case "set-member":
      return step.member === undefined
        ? `${word(step.nodeId)} is out`
        : `${word(step.nodeId)} is in at ${step.member.address}`;
  }
}

function word(nodeId: NodeId): string {
  return nodeId.replace(/0+$/, "");
}

const cases = [
  { name: "nothing to do", nodes: "a:manager/manager/member w:worker/worker", members: "a", want: "" },
  {
    name: "promotion first changes the role",
    nodes: "a:manager/manager/member w:manager/worker",
    members: "a",
    want: "w becomes manager",
  },
  {
    name: "a promoted node joins by itself",
    nodes: "a:manager/manager/member w:manager/manager",
    members: "a",
    want: "",
  },
  {
    name: "who has joined is written down",
    nodes: "a:manager/manager/member w:manager/manager",
    members: "a w",
    want: "w is in at w:2377",
  },
  {
    name: "demotion leaves the group first",
    nodes: "a:manager/manager/member b:worker/manager/member",
    members: "a b",
    want: "remove b",
  },
  {
    name: "who was let in while it was demoted leaves again",
    nodes: "a:manager/manager/member b:worker/worker/member",
    members: "a b",
    want: "remove b",
  },
  {
    name: "and loses the role after",
    nodes: "a:manager/manager/member b:worker/manager/member",
    members: "a",
    want: "b becomes worker, b is out",
  },
  {
    name: "a leader lets another one demote it",
    nodes: "a:worker/manager/member b:manager/manager/member",
    members: "a b",
    want: "transfer",
  },
  {
    name: "who left by itself is written down",
    nodes: "a:manager/manager/member b:manager/manager/member",
    members: "a",
    want: "b is out",
  },
  {
    name: "a member without a node is removed",
    nodes: "a:manager/manager/member",
    members: "a x",
    want: "remove x",
  },
  {
    name: "a demotion that was taken back does nothing",
    nodes: "a:manager/manager/member b:manager/manager/member",
    members: "a b",
    want: "",
  },
] as const;

for (const { name, nodes, members, want } of cases) {
  t.test(name, (t) => {
    const steps = planMembership({
      nodes: nodes.split(" ").map(parseNode),
      members: members.split(" ").map((word) => ({ nodeId: id<NodeId>(word), raftAddress: `${word}:2378` })),
      leaderId: id<NodeId>("a"),
    });
    t.equal(steps.map(print).join(", "), want);
    t.end();
  });
}

t.test("consensus listens one port above the cluster port", (t) => {
  t.equal(raftAddressOf("10.0.0.1:2377"), "10.0.0.1:2378");
  t.equal(raftAddressOf("[::1]:5000"), "[::1]:5001");
  t.end();
});
