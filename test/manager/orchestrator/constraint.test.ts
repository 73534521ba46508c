import t from "tap";
import type { TaskSpec } from "../../../model/service.ts";
import type { Task } from "../../../model/task.ts";
import { decideEvictions } from "../../../manager/orchestrator/constraint.ts";
import { nodeObject, taskSpec } from "../../sim/objects.ts";
import { parseTasks } from "./plan-notation.ts";

t.test("enforcer: the newest of what no longer fits has to go, the rest stays", (t) => {
  const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };
  const node = { ...nodeObject("n1", { nanoCpus: 2e9 }), meta };
  const placement = taskSpec().placement;
  const placed = parseTasks("1=running@n1+30 2=running@n1+10 3=running@n1+20 4=failed@n1").map((task) => ({
    task,
    reservations: { nanoCpus: 1e9 },
    placement,
  }));
  t.strictSame(
    decideEvictions(node, placed).map((task) => task.slot),
    [1],
  );
  const paused = { ...node, spec: { ...node.spec, availability: "pause" as const } };
  t.strictSame(decideEvictions(paused, placed), []);
  t.end();
});

interface Eviction {
  readonly name: string;
  readonly tasks: string;
  readonly node?: Parameters<typeof nodeObject>[1];
  readonly reserve?: TaskSpec["resources"]["reservations"];
  readonly constraints?: readonly string[];
  readonly generic?: Task["generic"];
  /** Slots that have to go. */
  readonly want: readonly number[];
}

const evictions: readonly Eviction[] = [
  {
    name: "what no longer meets its constraints goes, at whatever step it is",
    tasks: "1=running@n1 2=assigned@n1 3=preparing/ready@n1",
    constraints: ["node.labels.zone==a"],
    want: [1, 2, 3],
  },
  {
    name: "what nobody has sent there yet, or is to end, or has ended, is left alone",
    tasks: "1=pending@n1 2=running/shutdown@n1 3=failed@n1 4=running/remove@n1",
    constraints: ["node.labels.zone==a"],
    want: [],
  },
  {
    name: "memory that became less: only the surplus goes, the newest first",
    tasks: "1=running@n1+1 2=running@n1+2 3=running@n1+3",
    node: { memoryBytes: 2 * 2 ** 30 },
    reserve: { memoryBytes: 2 ** 30 },
    want: [3],
  },
  {
    name: "of tasks of one moment the order is still the same",
    tasks: "1=running@n1 2=running@n1 3=running@n1",
    node: { nanoCpus: 1e9 },
    reserve: { nanoCpus: 1e9 },
    want: [2, 3],
  },
  {
    name: "a large one goes, the small ones after it stay",
    tasks: "1=running@n1+1 2=running@n1+2",
    node: { nanoCpus: 3e9 },
    reserve: { nanoCpus: 2e9 },
    want: [2],
  },
  {
    name: "a counted resource that became less",
    tasks: "1=running@n1+1 2=running@n1+2",
    node: { generic: { generic: { ssd: 1 }, named: {} } },
    reserve: { generic: { ssd: 1 } },
    generic: [{ kind: "ssd", count: 1 }],
    want: [2],
  },
  {
    name: "a piece that is gone takes its task with it, and the others stay",
    tasks: "1=running@n1+1",
    node: { generic: { generic: { gpu: 1 }, named: { gpu: ["b"] } } },
    reserve: { generic: { gpu: 1 } },
    generic: [{ kind: "gpu", count: 1, names: ["a"] }],
    want: [1],
  },
  {
    name: "what a job has finished holds nothing",
    tasks: "1=complete/complete@n1+1~0 2=running/complete@n1+2~0",
    node: { nanoCpus: 1e9 },
    reserve: { nanoCpus: 1e9 },
    want: [],
  },
];

for (const { name, tasks, node = {}, reserve, constraints = [], generic, want } of evictions) {
  t.test(`enforcer: ${name}`, (t) => {
    const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };
    const placed = parseTasks(tasks).map((task) => ({
      task: { ...task, ...(generic !== undefined && { generic }) },
      reservations: reserve,
      placement: { ...taskSpec().placement, constraints },
    }));
    const evicted = decideEvictions({ ...nodeObject("n1", node), meta }, placed);
    t.strictSame(
      evicted.map(({ slot }) => slot).toSorted((a, b) => a - b),
      want,
    );
    t.end();
  });
}
