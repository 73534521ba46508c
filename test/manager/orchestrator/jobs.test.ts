import { array, assert, constantFrom, integer, property, record } from "fast-check";
import t from "tap";
import type { TaskState } from "../../../model/task.ts";
import { decideGlobalJob, decideReplicatedJob } from "../../../manager/orchestrator/jobs.ts";
import { decideTrim } from "../../../manager/orchestrator/reaper.ts";
import { nodeObject, taskSpec } from "../../sim/objects.ts";
import { parseTasks, printPlan, scene, type SceneText } from "./plan-notation.ts";

type Case = SceneText & { readonly name: string; readonly want: string };

function job(
  maxConcurrent: number,
  totalCompletions: number,
  restart: object = {},
): NonNullable<SceneText["spec"]> {
  return {
    mode: { kind: "replicated-job", maxConcurrent, totalCompletions },
    task: { ...taskSpec(), restart },
  };
}

const first = { job: { iteration: 0, lastExecutionMs: 0 } };
const third = { job: { iteration: 2, lastExecutionMs: 0 } };

const replicated: readonly Case[] = [
  { name: "a new job begins with as many as may run at once", tasks: "", spec: job(2, 5), want: "+1c; +2c" },
  { name: "no more than the total are begun", tasks: "", spec: job(9, 2), want: "+1c; +2c" },
  { name: "nothing runs at once, nothing is begun", tasks: "", spec: job(0, 2), want: "" },
  {
    name: "the next slot follows when one is complete",
    tasks: "1=complete/complete@n1~0 2=running/complete@n2~0",
    spec: job(2, 5),
    want: "+3c",
  },
  {
    name: "near the end only the remainder is begun",
    tasks:
      "1=complete/complete@n1~0 2=complete/complete@n2~0 3=complete/complete@n1~0 4=running/complete@n2~0",
    spec: job(3, 5),
    want: "+5c",
  },
  {
    name: "a complete job does nothing",
    tasks: "1=complete/complete@n1~0 2=complete/complete@n2~0",
    spec: job(2, 2),
    want: "",
  },
  {
    name: "more complete than asked for does not underflow",
    tasks: "1=complete/complete@n1~0 2=complete/complete@n2~0 3=complete/complete@n2~0",
    spec: job(2, 2),
    want: "",
  },
  {
    name: "a failed task is restarted in its slot, by the restart policy, and holds its place",
    tasks: "1=failed/complete@n1~0 2=running/complete@n2~0",
    spec: job(2, 5),
    want: "-t1 +1r",
  },
  {
    name: "a restart goes on to complete when its delay is over",
    tasks: "1=failed/shutdown@n1~0 1=ready/ready@n1+100#1~0",
    spec: job(1, 1),
    nowMs: 5100,
    want: "^t2",
  },
  {
    name: "condition any never runs again what finished",
    tasks: "1=complete/complete@n1~0",
    spec: job(1, 1, { condition: "any" }),
    want: "",
  },
  {
    name: "condition none gives a failed slot up and goes on with the next",
    tasks: "1=failed/shutdown@n1~0",
    spec: job(1, 3, { condition: "none" }),
    want: "+2c",
  },
  {
    name: "attempts that are used up give the slot up, and the next follows",
    tasks: "1=failed/complete@n1#2~0",
    spec: job(1, 2, { maxAttempts: 2 }),
    want: "-t1; +2c",
  },
  {
    name: "a slot that was given up is not tried again",
    tasks: "1=failed/shutdown@n1#2~0",
    spec: job(1, 1, { maxAttempts: 2 }),
    want: "",
  },
  {
    name: "a task on a node that is down runs elsewhere at once",
    tasks: "1=running/complete@n1~0",
    spec: job(1, 1),
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "+1c",
  },
  {
    name: "condition none waits for a node that is down: its task may have finished",
    tasks: "1=running/complete@n1~0",
    spec: job(1, 2, { condition: "none" }),
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "",
  },
  {
    name: "condition none ends what runs on a drained node, which has not failed",
    tasks: "1=running/complete@n1~0",
    spec: job(1, 1, { condition: "none" }),
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    want: "-t1",
  },
  {
    name: "and begins it again, once it has stopped",
    tasks: "1=running/shutdown@n1~0",
    spec: job(1, 1, { condition: "none" }),
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    want: "+1r",
  },
  {
    name: "as one that was lost with its node for good",
    tasks: "1=orphaned/shutdown@n1~0",
    spec: job(1, 1, { condition: "none" }),
    want: "+1c",
  },
  {
    name: "what finished on a node that is down stays finished",
    tasks: "1=complete/complete@n1~0",
    spec: job(1, 1),
    nodes: [nodeObject("n1", { state: "down" })],
    want: "",
  },
  {
    name: "a node that comes back has a moment to say how its task is",
    tasks: "1=preparing/complete@n2+5~0 1=running/complete@n1~0",
    spec: job(1, 1),
    nodes: [nodeObject("n1", { sinceMs: 1_000 }), nodeObject("n2")],
    nowMs: 5_999,
    want: "@6000",
  },
  {
    name: "then it goes on, and the replacement that does not run yet goes",
    tasks: "1=preparing/complete@n2+5~0 1=running/complete@n1~0",
    spec: job(1, 1),
    nodes: [nodeObject("n1", { sinceMs: 1_000 }), nodeObject("n2")],
    nowMs: 6_000,
    want: "-t1",
  },
  {
    name: "of two that run, the replacement goes on: what the other says may be of before it was lost",
    tasks: "1=running/complete@n2+5~0 1=running/complete@n1~0",
    spec: job(1, 1),
    nodes: [nodeObject("n1", { sinceMs: 1_000 }), nodeObject("n2")],
    nowMs: 1_000,
    want: "-t2",
  },
  {
    name: "where the node came back with nothing that runs, the replacement does the work",
    tasks: "1=running/complete@n2+5~0 1=preparing/complete@n1~0",
    spec: job(1, 1),
    want: "-t2",
  },
  {
    name: "a node that is down and waited for is not asked to do it",
    tasks: "1=running/complete@n2+5~0 1=running/complete@n1~0",
    spec: { ...job(1, 1), labels: { "shoal.on-unreachable": "wait" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "",
  },
  {
    name: "a replacement is not needed once the lost task turns out to have finished",
    tasks: "1=running/complete@n2+5~0 1=complete/shutdown@n1~0",
    spec: job(1, 1),
    want: "-t1",
  },
  {
    name: "a new iteration ends what runs of the old and begins anew",
    tasks: "1=running/complete@n1~1 2=complete/complete@n2~1",
    spec: job(1, 2),
    service: third,
    want: "xt1; +1c",
  },
  {
    name: "iterations beyond the history are forgotten",
    tasks: "1=complete/complete@n1~0 1=failed/shutdown@n1~1 1=complete/complete@n2~2",
    spec: job(1, 1),
    service: third,
    historyLimit: 2,
    want: "!t1",
  },
  {
    name: "a negative limit forgets nothing",
    tasks: "1=complete/complete@n1~0 1=complete/complete@n2~2",
    spec: job(1, 1),
    service: third,
    historyLimit: -1,
    want: "",
  },
];

for (const { name, want, ...text } of replicated) {
  t.test(`replicated job: ${name}`, (t) => {
    t.equal(printPlan(decideReplicatedJob(scene({ service: first, ...text }))), want);
    t.end();
  });
}

const everywhere = { mode: { kind: "global-job" } } as const;
const globals: readonly Case[] = [
  { name: "one on each node that is ready", tasks: "", want: "+n1c; +n2c; +n3c" },
  {
    name: "a node that comes later runs it too",
    tasks: "0=complete/complete@n1~0 0=running/complete@n2~0",
    want: "+n3c",
  },
  {
    name: "none on nodes that are not ready, not active, or excluded",
    tasks: "",
    nodes: [
      nodeObject("n1", { state: "unreachable" }),
      nodeObject("n2", { spec: { availability: "pause" } }),
      nodeObject("n3", { spec: { availability: "drain" } }),
      nodeObject("n4", { state: "unknown" }),
    ],
    want: "",
  },
  {
    name: "constraints exclude, and end what runs there",
    tasks: "0=running/complete@n1~0",
    nodes: [nodeObject("n1"), nodeObject("n2")],
    spec: {
      ...everywhere,
      task: {
        ...taskSpec(),
        placement: { constraints: ["node.hostname==n2"], spread: [], maxReplicas: 0, platforms: [] },
      },
    },
    want: "-t1; +n2c",
  },
  {
    name: "drained nodes end theirs; one that is down or not heard keeps its own",
    tasks: "0=running/complete@n1~0 0=running/complete@n2~0 0=running/complete@n3~0",
    nodes: [
      nodeObject("n1", { spec: { availability: "drain" } }),
      nodeObject("n2", { state: "down" }),
      nodeObject("n3", { state: "unreachable" }),
    ],
    want: "-t1",
  },
  {
    name: "a node that returns runs what was interrupted",
    tasks: "0=shutdown/shutdown@n1~0",
    nodes: [nodeObject("n1")],
    want: "+n1c",
  },
  {
    name: "a failed task is restarted where it was",
    tasks: "0=failed/complete@n1~0",
    nodes: [nodeObject("n1")],
    want: "-t1 +n1r",
  },
  {
    name: "attempts are counted per node",
    tasks: "0=failed/complete@n1#1~0 0=failed/complete@n2~0",
    nodes: [nodeObject("n1"), nodeObject("n2")],
    spec: { ...everywhere, task: { ...taskSpec(), restart: { maxAttempts: 1 } } },
    want: "-t1; -t2 +n2r",
  },
  {
    name: "a new iteration replaces the old",
    tasks: "0=running/complete@n1~1 0=complete/complete@n2~1",
    nodes: [nodeObject("n1"), nodeObject("n2")],
    service: third,
    want: "xt1; +n1c; +n2c",
  },
  { name: "records of nodes that are gone go", tasks: "0=orphaned/complete@old~0", nodes: [], want: "!t1" },
];

for (const { name, want, ...text } of globals) {
  t.test(`global job: ${name}`, (t) => {
    t.equal(printPlan(decideGlobalJob(scene({ service: first, spec: everywhere, ...text }))), want);
    t.end();
  });
}

t.test("the reaper keeps what a job has to remember, whatever the limit", (t) => {
  const { service } = scene({ tasks: "", spec: job(1, 1), service: first });
  const kept = (tasks: string): string =>
    decideTrim(service, parseTasks(tasks), 0)
      .map((task) => task.id.replace(/x0*$/, ""))
      .join(" ");
  t.equal(kept("1=complete/complete+1~0"), "");
  t.equal(kept("1=failed/shutdown+1~0 1=complete/complete+2~0 1=shutdown/shutdown+3~0"), "t1");
  t.equal(kept("1=failed/shutdown+1~0 1=failed/shutdown+2~0"), "t1");
  t.end();
});

const states: readonly TaskState[] = ["pending", "running", "complete", "failed", "rejected"];

t.test("property: never more at once than asked, no slot twice, and a job that can go on does", (t) => {
  assert(
    property(
      array(record({ state: constantFrom(...states), given: constantFrom("complete", "shutdown") }), {
        maxLength: 8,
      }),
      integer({ min: 0, max: 5 }),
      integer({ min: 0, max: 9 }),
      (slots, most, total) => {
        // A task that is on its way is wanted; one that ended may have been put to rest.
        const text = slots
          .map(({ state, given }, i) => {
            const ended = state === "failed" || state === "rejected";
            return `${i + 1}=${state}/${ended ? given : "complete"}@n1~0`;
          })
          .join(" ");
        const before = scene({ tasks: text, spec: job(most, total), service: first });
        const plan = decideReplicatedJob(before);
        const created = plan.steps.flat().flatMap((each) => (each.kind === "create" ? [each.slot] : []));
        const fresh = created.filter((slot) => slot > slots.length);
        const active = slots.filter(
          ({ state, given }) =>
            state === "pending" ||
            state === "running" ||
            ((state === "failed" || state === "rejected") && given === "complete"),
        ).length;
        const room = Math.max(0, most - active);
        const left = Math.max(0, total - slots.length);
        return (
          new Set(created).size === created.length &&
          fresh.length === Math.min(room, left) &&
          created.every((slot) => slot <= Math.max(total, slots.length))
        );
      },
    ),
    { numRuns: 500 },
  );
  t.end();
});
