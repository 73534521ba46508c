import t from "tap";
import type { ApiNode, ApiTask } from "../../cli/api-types.ts";
import type { Client } from "../../cli/client.ts";
import { nextToUpgrade, quorumProblem, upgradeNode } from "../../cli/node-upgrade.ts";

function node(id: string, reachability?: "reachable" | "unreachable"): ApiNode {
  return {
    ID: id,
    Version: { Index: 1 },
    Spec: { Role: "worker", Availability: "active", Labels: {} },
    Description: { Hostname: id, Engine: { EngineVersion: "1" } },
    Status: { State: "ready", Addr: "10.0.0.1" },
    ...(reachability !== undefined && { ManagerStatus: { Reachability: reachability, Addr: "" } }),
  } as ApiNode;
}

const quorums = [
  { name: "a worker is nothing to the managers", managers: ["r"], id: "w", want: true },
  { name: "one of three", managers: ["r", "r", "r"], id: "m0", want: true },
  { name: "one of three, another is away", managers: ["r", "r", "u"], id: "m0", want: false },
  { name: "the only one", managers: ["r"], id: "m0", want: false },
  { name: "one of two", managers: ["r", "r"], id: "m0", want: false },
  { name: "one of five, another is away", managers: ["r", "r", "r", "r", "u"], id: "m0", want: true },
];
for (const { name, managers, id, want } of quorums) {
  t.test(`upgrade and majority: ${name}`, (t) => {
    const nodes = managers.map((one, i) => node(`m${i}`, one === "r" ? "reachable" : "unreachable"));
    t.equal(quorumProblem([...nodes, node("w")], id) === undefined, want);
    t.end();
  });
}

t.test("managers are upgraded before workers, and who leads by then is the last of them", (t) => {
  const leads = (id: string, leader: string): ApiNode => {
    const status = { Leader: id === leader, Reachability: "reachable", Addr: "" };
    return { ...node(id, "reachable"), ManagerStatus: status };
  };
  const group = (leader: string): ApiNode[] => [
    ...["m0", "m1", "m2"].map((id) => leads(id, leader)),
    node("w0"),
    node("w1"),
  ];
  t.equal(nextToUpgrade(group("m0"), ["w1", "m0", "m2", "w0", "m1"]), "m2");
  t.equal(nextToUpgrade(group("m1"), ["w1", "m0", "w0", "m1"]), "m0", "it has moved meanwhile");
  t.equal(nextToUpgrade(group("m1"), ["w1", "w0", "m1"]), "m1");
  t.equal(nextToUpgrade(group("m1"), ["w1", "w0"]), "w1");
  t.equal(nextToUpgrade(group("m1"), ["gone"]), "gone", "asking for it will say so");
  t.end();
});

/** One node whose task is gone at the second look, and what was asked of it. */
function oneNode(states: readonly string[]): { readonly client: Client; readonly asked: string[] } {
  const asked: string[] = [];
  let availability = "active";
  let looks = 0;
  const client = {
    async get(path: string) {
      if (path === "/nodes") return [node("n1")];
      if (path.startsWith("/nodes/")) {
        return { ...node("n1"), Spec: { ...node("n1").Spec, Availability: availability } };
      }
      const state = states[Math.min(looks, states.length - 1)] ?? "";
      looks += 1;
      return [{ ID: "t1", Status: { State: state } } as ApiTask];
    },
    async post(path: string, _query: unknown, body: { Availability: string }) {
      availability = body.Availability;
      asked.push(`${path} ${body.Availability} after ${looks}`);
    },
  };
  return { client: client as unknown as Client, asked };
}

t.test("a node is emptied, upgraded by the command, and opened again", async (t) => {
  const { client, asked } = oneNode(["running", "shutdown"]);
  const run = 'test "$SHOAL_NODE_HOSTNAME $SHOAL_NODE_ADDR" = "n1 10.0.0.1"';
  await upgradeNode(client, "n1", { run, timeoutMs: 10_000, force: false });
  t.strictSame(asked, ["/nodes/n1/update drain after 0", "/nodes/n1/update active after 2"]);
});

t.test(
  "a command that fails, and tasks that stay, leave the node drained and say how to go on",
  async (t) => {
    const failing = oneNode(["shutdown"]);
    await t.rejects(upgradeNode(failing.client, "n1", { run: "exit 3", timeoutMs: 10_000, force: false }), {
      message:
        "n1: the command ended with 3; the node stays drained; to open it: shoal node update --availability active n1",
    });
    t.equal(failing.asked.length, 1);
    const stuck = oneNode(["running"]);
    await t.rejects(upgradeNode(stuck.client, "n1", { timeoutMs: 0, force: false }), {
      message: /1 tasks are still there; ask shoal why t1/,
    });
    t.equal(stuck.asked.length, 1);
  },
);
