import t from "tap";
import type { TaskSummary } from "../e2e/view.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import { isDrawn, nodeTable, runningTasks, serviceTable, versions } from "./tables.ts";

const task = (nodeId: string, image: string, state = "running"): TaskSummary => ({
  ID: `${nodeId}-${image}-${state}`,
  ServiceID: "s1",
  NodeID: nodeId,
  DesiredState: state,
  Spec: { ContainerSpec: { Image: `10.230.0.254:5000/${image}@sha256:00` } },
  Status: { State: state },
});
const node = (id: string, hostname: string, state: string, leader = false): NodeSummary => ({
  CreatedAt: "2026-01-01T00:00:00Z",
  ID: id,
  Spec: { Role: leader ? "manager" : "worker", Availability: "active" },
  Description: { Hostname: hostname },
  Status: { State: state },
  ...(leader ? { ManagerStatus: { Leader: true, Reachability: "reachable", Addr: "" } } : {}),
});
const tasks = [
  task("n1", "web:1"),
  task("n1", "web:2"),
  task("n2", "web:2"),
  task("n2", "web:1", "shutdown"),
];

t.test("versions count the running tasks of each image", async (t) => {
  t.equal(versions(tasks), "web:1 ▪  web:2 ▪▪");
});

t.test("nodes are in order of their names, and a lost one shows no tasks", async (t) => {
  const lines = nodeTable([node("n2", "host2", "down"), node("n1", "host1", "ready", true)], tasks).split(
    "\n",
  );
  t.match(lines[1], /^host1\s+leader\s+ready\s+▪▪ 2$/);
  t.match(lines[2], /^host2\s+worker\s+down\s+0$/);
});

t.test(
  "services show the running tasks on living nodes, of those wanted, and the state of their update",
  async (t) => {
    const service = {
      ID: "s1",
      Spec: { Name: "roll_web" },
      UpdateStatus: { State: "updating" },
      ServiceStatus: { RunningTasks: 3, DesiredTasks: 4 },
    };
    const alive = [node("n1", "host1", "ready"), node("n2", "host2", "ready")];
    t.match(serviceTable([service], alive, tasks), /roll_web +3\/4 +web:1 ▪ {2}web:2 ▪▪ +updating/);
    const one = [node("n1", "host1", "ready"), node("n2", "host2", "down")];
    t.match(serviceTable([service], one, tasks), /roll_web +2\/4 +web:1 ▪ {2}web:2 ▪ +updating/);
  },
);

t.test("nodes that a new leader has not heard yet are not shown as lost", async (t) => {
  const nodes = [node("n1", "host1", "unknown"), node("n2", "host2", "unknown")];
  const lines = nodeTable(nodes, tasks).split("\n");
  t.match(lines[1], /^host1\s+worker\s+not heard yet\s+▪▪ 2$/);
  const service = {
    ID: "s1",
    Spec: { Name: "roll_web" },
    ServiceStatus: { RunningTasks: 0, DesiredTasks: 3 },
  };
  t.match(serviceTable([service], nodes, tasks), /roll_web +3\/3/);
  t.equal(runningTasks(service, nodes, tasks).length, 0, "though nothing is concluded from it");
});

t.test("on a terminal each change is drawn, elsewhere what a step has come to", async (t) => {
  const look = { there: false, changed: true, sinceDrawnMs: 1_000 };
  t.equal(isDrawn({ ...look, terminal: true }), true);
  t.equal(isDrawn({ ...look, terminal: true, sinceDrawnMs: 10 }), false, "not at every look");
  t.equal(isDrawn({ ...look, terminal: true, changed: false }), false);
  t.equal(isDrawn({ ...look, terminal: false }), false);
  t.equal(isDrawn({ ...look, terminal: false, there: true }), true);
});
