import { array, assert, integer, property } from "fast-check";
import t from "tap";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Labels } from "../../../model/meta.ts";
import { revisionKey } from "../../../model/service.ts";
import { demandOf, type Demand } from "../../../manager/scheduler/demand.ts";
import { NodeIndex } from "../../../manager/scheduler/nodes.ts";
import { planMoves, type MovableService, type Move } from "../../../manager/scheduler/rebalance.ts";
import { id, nodeObject, taskSpec } from "../../sim/objects.ts";

const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };

function demand(service: string, constraints: readonly string[] = [], labels: Labels = {}): Demand {
  const serviceId = id<ServiceId>(service);
  return demandOf({
    id: revisionKey(serviceId, 0),
    meta,
    serviceId,
    specVersion: 0,
    serviceName: service,
    serviceLabels: labels,
    task: taskSpec({ placement: { constraints, spread: [], maxReplicas: 0, platforms: [] } }),
    endpoint: { mode: "vip", ports: [] },
  });
}

/** Services by the nodes of their tasks, one letter each. */
function cluster(
  nodes: string,
  services: Readonly<Record<string, string>>,
  constraints: readonly string[] = [],
  atOnce = Infinity,
): { readonly index: NodeIndex; readonly services: MovableService[] } {
  const index = new NodeIndex();
  for (const name of nodes) index.putNode({ ...nodeObject(name), meta });
  const movable = Object.entries(services).map(([name, placed]): MovableService => {
    const wanted = demand(name, constraints);
    const tasks = placed.split("").map((letter, i) => {
      const taskId = id<TaskId>(`${name}x${i + 1}x`);
      const nodeId = id<NodeId>(letter);
      index.place(taskId, { nodeId, demand: wanted, active: true });
      return { taskId, nodeId };
    });
    return { demand: wanted, tasks, atOnce };
  });
  return { index, services: movable };
}

const short = (word: string): string => word.replace(/0+$/, "");
const print = (moves: readonly Move[]): string =>
  moves.map(({ taskId, from, to }) => `${short(taskId)}:${short(from)}>${short(to)}`).join(" ");

const cases = [
  { name: "even is even", nodes: "abc", services: { web: "abc" }, want: "" },
  { name: "one more on a node is no reason", nodes: "ab", services: { web: "aab" }, want: "" },
  { name: "two more is", nodes: "ab", services: { web: "aa" }, want: "webx1x:a>b" },
  {
    name: "a new node gets its share",
    nodes: "abc",
    services: { web: "aaabbb" },
    want: "webx4x:b>c webx1x:a>c",
  },
  {
    name: "services that are even in themselves leave a node that has clearly more in all",
    nodes: "ab",
    services: { s1: "a", s2: "a", s3: "a", s4: "a" },
    want: "s1x1x:a>b",
  },
  {
    name: "and stay where the difference is small",
    nodes: "ab",
    services: { s1: "a", s2: "a" },
    want: "",
  },
  {
    name: "nothing goes where it may not be",
    nodes: "ab",
    services: { web: "aaaa" },
    constraints: ["node.hostname==a"],
    want: "",
  },
  {
    name: "the budget is kept",
    nodes: "ab",
    services: { web: "aaaaaaaa" },
    budget: 2,
    want: "webx1x:a>b webx2x:a>b",
  },
  {
    name: "each service moves no more at once than it may",
    nodes: "ab",
    services: { web: "aaaaaaaa", db: "aaaa" },
    atOnce: 1,
    want: "webx1x:a>b dbx1x:a>b",
  },
] as const;

for (const { name, nodes, services, want, ...rest } of cases) {
  t.test(`rebalance: ${name}`, (t) => {
    const constraints = "constraints" in rest ? rest.constraints : [];
    const made = cluster(nodes, services, constraints, "atOnce" in rest ? rest.atOnce : Infinity);
    t.equal(print(planMoves(made.index, made.services, "budget" in rest ? rest.budget : 100)), want);
    t.end();
  });
}

t.test(
  "property: a plan moves no task twice, makes each service even, and leaves nothing to a second one",
  (t) => {
    assert(
      property(
        array(array(integer({ min: 0, max: 3 }), { maxLength: 9 }), { minLength: 1, maxLength: 5 }),
        (placed) => {
          const letters = "abcd";
          const services = Object.fromEntries(
            placed.map((nodes, i) => [`s${i}`, nodes.map((node) => letters[node] ?? "a").join("")]),
          );
          const made = cluster(letters, services);
          const moves = planMoves(made.index, made.services, 1_000);
          const twice = new Set(moves.map(({ taskId }) => taskId)).size < moves.length;
          const to = new Map(moves.map((move) => [move.taskId, move.to]));
          const after = made.services.map(({ demand: wanted, tasks }) => ({
            demand: wanted,
            tasks: tasks.map(({ taskId, nodeId }) => ({ taskId, nodeId: to.get(taskId) ?? nodeId })),
            atOnce: Infinity,
          }));
          const even = after.every(({ tasks }) => {
            const counts = letters
              .split("")
              .map((name) => tasks.filter(({ nodeId }) => nodeId === id(name)).length);
            return Math.max(...counts) - Math.min(...counts) <= 1;
          });
          return !twice && even && planMoves(made.index, after, 1_000).length <= 1;
        },
      ),
      { numRuns: 300 },
    );
    t.end();
  },
);
