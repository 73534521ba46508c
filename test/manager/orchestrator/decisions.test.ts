import t from "tap";
import type { RestartPolicy, UpdatePolicy, UpdateStatus } from "../../../model/service.ts";
import { isEqual, isTaskDirty } from "../../../manager/orchestrator/dirty.ts";
import { decideTrim, isForgotten } from "../../../manager/orchestrator/reaper.ts";
import { decideReplicated } from "../../../manager/orchestrator/replicated.ts";
import { nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";
import { parseTasks, printPlan, scene, type SceneText } from "./plan-notation.ts";

type Case = SceneText & { readonly name: string; readonly want: string };

function withRestart(restart: RestartPolicy, replicas = 1): NonNullable<SceneText["spec"]> {
  return { replicas, task: { ...taskSpec(), restart } };
}

const startFirst: UpdatePolicy = {
  parallelism: 1,
  delayMs: 0,
  failureAction: "pause",
  maxFailureRatio: 0,
  order: "start-first",
};

const replicated: readonly Case[] = [
  { name: "a new service fills its slots", tasks: "", spec: { replicas: 2 }, want: "+1; +2" },
  { name: "a gap is filled first", tasks: "1=running 3=running", spec: { replicas: 3 }, want: "+2" },
  { name: "enough is enough", tasks: "1=running 2=pending", spec: { replicas: 2 }, want: "" },
  {
    name: "scaling down takes the high slot",
    tasks: "1=running@n1 2=running@n2 3=running@n3",
    spec: { replicas: 2 },
    want: "xt3",
  },
  {
    name: "scaling down takes the fuller node first",
    tasks: "1=running@n1 2=running@n1 3=running@n2",
    spec: { replicas: 2 },
    want: "xt2",
  },
  {
    name: "scaling down takes what has no node first",
    tasks: "1=pending 2=running@n1 3=running@n2",
    spec: { replicas: 2 },
    want: "xt1",
  },
  {
    name: "scaling down takes what does not run before what does",
    tasks: "1=starting@n1 2=running@n2 3=running@n3",
    spec: { replicas: 2 },
    want: "xt1",
  },
  {
    name: "seven on three nodes, down to three: one stays on each",
    tasks: "1=running@n1 2=running@n1 3=running@n1 4=running@n2 5=running@n2 6=running@n3 7=running@n3",
    spec: { replicas: 3 },
    want: "xt2; xt5; xt7; xt3",
  },
  { name: "a failed task is replaced, after its delay", tasks: "1=failed@n1", want: "-t1 +1r" },
  {
    name: "a waiting replacement wakes us when its delay ends",
    tasks: "1=failed/shutdown@n1 1=ready/ready@n1+100#1",
    nowMs: 100,
    want: "@5100",
  },
  {
    name: "a waiting replacement starts when its delay ended",
    tasks: "1=failed/shutdown@n1 1=ready/ready@n1+100#1",
    nowMs: 5100,
    want: "^t2",
  },
  {
    name: "a replacement waits for the old to stop, at most a minute",
    tasks: "1=running/shutdown@n1 1=ready/ready@n2+100#1!0",
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    nowMs: 200,
    want: "@60100",
  },
  {
    name: "a replacement that fails while it waits keeps waiting",
    tasks: "1=failed/shutdown@n1 1=rejected/ready@n1+100#1",
    nowMs: 200,
    want: "@5100",
  },
  {
    name: "tasks of a node that is down are replaced at once",
    tasks: "1=running@n1 2=running@n2",
    spec: { replicas: 2 },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "+1",
  },
  {
    name: "a task whose node is down ends once its replacement runs",
    tasks: "1=running@n2+5 1=running@n1",
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "-t2",
  },
  {
    name: "until then it stays, so that a node that returns first loses nothing",
    tasks: "1=pending+5 1=running@n1",
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "",
  },
  {
    name: "and the replacement goes instead",
    tasks: "1=starting@n2+5 1=running@n1",
    want: "-t1",
  },
  {
    name: "replace:30s waits for the node so long",
    tasks: "1=running@n1",
    spec: { labels: { "shoal.on-unreachable": "replace:30s" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 29_999,
    want: "@30000",
  },
  {
    name: "and then replaces",
    tasks: "1=running@n1",
    spec: { labels: { "shoal.on-unreachable": "replace:30s" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 30_000,
    want: "+1",
  },
  {
    name: "also when an older task of its slot ends meanwhile",
    tasks: "1=running@n1+5 1=failed@n2",
    spec: { labels: { "shoal.on-unreachable": "replace:30s" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 100,
    want: "-t2 @30000",
  },
  {
    name: "a task that would not be restarted waits for its node",
    tasks: "1=running@n1",
    spec: withRestart({ condition: "none" }),
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "",
  },
  {
    name: "and so does one whose attempts are used up, while what ended goes",
    tasks: "1=running@n1#3 1=failed@n2#2",
    spec: withRestart({ maxAttempts: 3 }),
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "-t2",
  },
  {
    name: "on a node that is drained, or gone, it ends",
    tasks: "1=running@n1 2=running@gone",
    spec: { ...withRestart({ condition: "none" }), replicas: 2 },
    nodes: [nodeObject("n1", { state: "down", spec: { availability: "drain" } }), nodeObject("n2")],
    want: "-t2",
  },
  {
    name: "a task told to move is replaced where nothing is ever restarted",
    tasks: "1=running@n1>",
    spec: withRestart({ condition: "none" }),
    want: "-t1 +1r",
  },
  {
    name: "and where all attempts are used up",
    tasks: "1=running@n1#3>",
    spec: withRestart({ maxAttempts: 3 }),
    want: "-t1 +1r",
  },
  {
    name: "a move is no attempt within the window",
    tasks: "1=failed@n2+300#1 1=shutdown/shutdown@n1+200#1",
    spec: withRestart({ maxAttempts: 2, windowMs: 60_000 }),
    nowMs: 400,
    want: "-t1 +1r!2",
  },
  {
    name: "wait leaves the task to its node for ever",
    tasks: "1=running@n1",
    spec: { labels: { "shoal.on-unreachable": "wait" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 9e9,
    want: "",
  },
  {
    name: "unless the node is drained",
    tasks: "1=running@n1",
    spec: { labels: { "shoal.on-unreachable": "wait" } },
    nodes: [nodeObject("n1", { state: "down", spec: { availability: "drain" } }), nodeObject("n2")],
    want: "+1",
  },
  {
    name: "stop gives the worker the time it has to stop, and the containers their grace",
    tasks: "1=running@n1",
    spec: { labels: { "shoal.on-unreachable": "stop:20s" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    want: "@35000",
  },
  {
    name: "a drained node's task of a start-first service stays until its replacement runs",
    tasks: "1=starting@n2+5 1=running@n1",
    spec: { update: { ...startFirst } },
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    want: "",
  },
  {
    name: "so does one that an update has not come round to",
    tasks: "1=running@n1",
    spec: { update: { ...startFirst } },
    service: { specVersion: 5, updateStatus: { state: "paused", message: "" } },
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    want: "+1",
  },
  {
    name: "and one whose replacement has to leave as well",
    tasks: "1=starting@n1+5 1=running@n1",
    spec: { update: { ...startFirst } },
    nodes: [nodeObject("n1", { spec: { availability: "drain" } }), nodeObject("n2")],
    want: "-t1? +1r",
  },
  {
    name: "a task that is to move is replaced in the service's order: stop-first",
    tasks: "1=running@n1>",
    want: "-t1 +1r",
  },
  {
    name: "a task that is to move is replaced in the service's order: start-first",
    tasks: "1=running@n1>",
    spec: { update: { ...startFirst } },
    want: "+1",
  },
  {
    name: "and ends when its replacement runs",
    tasks: "1=running@n2+5 1=running@n1>",
    spec: { update: { ...startFirst } },
    want: "-t2",
  },
  {
    name: "tasks of a node that is not heard stay",
    tasks: "1=running@n1 2=running@n2",
    spec: { replicas: 2 },
    nodes: [nodeObject("n1", { state: "unreachable" }), nodeObject("n2", { state: "unknown" })],
    want: "",
  },
  {
    name: "condition none: ended stays ended and counts",
    tasks: "1=failed@n1",
    spec: withRestart({ condition: "none" }),
    want: "-t1",
  },
  {
    name: "condition on-failure: finished counts",
    tasks: "1=complete/shutdown@n1",
    spec: withRestart({ condition: "on-failure" }),
    want: "",
  },
  {
    name: "condition on-failure: failed is replaced",
    tasks: "1=failed@n1",
    spec: withRestart({ condition: "on-failure" }),
    want: "-t1 +1r",
  },
  {
    name: "attempts are used up",
    tasks: "1=failed@n1#2",
    spec: withRestart({ maxAttempts: 2 }),
    want: "-t1",
  },
  {
    name: "attempts are left",
    tasks: "1=failed@n1#1",
    spec: withRestart({ maxAttempts: 2 }),
    want: "-t1 +1r!2",
  },
  {
    name: "attempts outside the window do not count",
    tasks: "1=failed/shutdown@n1+1000#1 1=failed@n1+90000#2",
    spec: withRestart({ maxAttempts: 2, windowMs: 10_000, delayMs: 0 }),
    nowMs: 90_000,
    want: "-t2 +1r!2",
  },
  {
    name: "attempts inside the window count",
    tasks: "1=failed/shutdown@n1+85000#1 1=failed@n1+90000#2",
    spec: withRestart({ maxAttempts: 2, windowMs: 10_000, delayMs: 0 }),
    nowMs: 90_000,
    want: "-t2",
  },
];

for (const { name, want, ...text } of replicated) {
  t.test(`replicated: ${name}`, (t) => {
    t.equal(printPlan(decideReplicated(scene(text))), want);
    t.end();
  });
}

const policy: UpdatePolicy = {
  parallelism: 1,
  delayMs: 0,
  failureAction: "pause",
  monitorMs: 1000,
  maxFailureRatio: 0,
  order: "stop-first",
};
const updating: UpdateStatus = {
  state: "updating",
  message: "update in progress",
  startedAtMs: 1000,
  startedVersion: 1000,
};

const updates: readonly Case[] = [
  {
    name: "it begins with as many slots as may go at once",
    tasks: "1=running@n1 2=running@n2 3=running@n3",
    spec: { replicas: 3, update: { ...policy, parallelism: 2 } },
    service: { specVersion: 5 },
    want: "updating; -t1 +1r; -t2 +2r",
  },
  {
    name: "parallelism 0 takes all",
    tasks: "1=running@n1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, parallelism: 0, order: "start-first" } },
    service: { specVersion: 5 },
    want: "updating; +1; +2",
  },
  {
    name: "a slot is busy until its new task runs",
    tasks: "1=starting@n1:v5+1000 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2000,
    want: "@601000",
  },
  {
    name: "the next slot waits for the delay",
    tasks: "1=running@n1:v5+1500 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, delayMs: 3000 } },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2000,
    want: "@4500",
  },
  {
    name: "the next slot follows when the new task runs",
    tasks: "1=running@n1:v5+1500 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2000,
    want: "-t3 +2r",
  },
  {
    name: "start-first ends the old task when the new one runs",
    tasks: "1=running@n1:v5+1500 1=running@n1",
    spec: { replicas: 1, update: { ...policy, order: "start-first" } },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 1600,
    want: "-t2",
  },
  {
    name: "the last slot is watched for the monitor",
    tasks: "1=running@n1:v5+1500 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2000,
    want: "@2500",
  },
  {
    name: "it completes after the monitor",
    tasks: "1=running@n1:v5+1500 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2500,
    want: "completed",
  },
  {
    name: "a failure within the monitor pauses",
    tasks: "1=failed/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1 2=running@n2",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "paused @6600",
  },
  {
    name: "a failure exactly at the tolerated ratio does not",
    tasks: "1=failed/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, maxFailureRatio: 0.5 } },
    service: { specVersion: 5, updateStatus: updating },
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "-t4 +2r @6600",
  },
  {
    name: "a failure after the monitor does not count",
    tasks: "1=failed/shutdown@n1:v5+9000 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+9000#1 2=running@n2",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    ranSinceMs: { t1: 2000 },
    nowMs: 9000,
    want: "-t4 +2r @14000",
  },
  {
    name: "failure action rollback goes back",
    tasks: "1=rejected/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1",
    spec: { replicas: 1, update: { ...policy, failureAction: "rollback" } },
    service: { specVersion: 5, updateStatus: updating, previous: { spec: serviceSpec(), specVersion: 0 } },
    nowMs: 1600,
    want: "roll-back @6600",
  },
  {
    name: "failure action rollback without a previous spec pauses",
    tasks: "1=rejected/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1",
    spec: { replicas: 1, update: { ...policy, failureAction: "rollback" } },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 1600,
    want: "paused @6600",
  },
  {
    name: "a new task that does not run within the deadline counts as failed",
    tasks: "1=pending:v5+1000 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 601_000,
    want: "paused",
  },
  {
    name: "under a leader whose clock is an hour behind, tasks it made count as the update's",
    tasks: "1=running@n1:v5+1500^1001 1=shutdown/shutdown@n1:v0+3600500^900 2=running@n2:v0+3600500^901",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: { ...updating, startedAtMs: 3_601_000 } },
    nowMs: 2000,
    want: "-t3 +2r",
  },
  {
    name: "under a leader whose clock is an hour ahead, a task still has its time to start",
    tasks: "1=starting@n1:v5+1000 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 3_602_000,
    leadsSinceMs: 3_601_500,
    want: "@4201500",
  },
  {
    name: "a paused update does nothing but take back the extra task",
    tasks: "1=preparing@n1:v5+1500 1=running@n1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, order: "start-first" } },
    service: { specVersion: 5, updateStatus: { ...updating, state: "paused" } },
    nowMs: 2000,
    want: "-t1",
  },
  {
    name: "a paused update leaves one of two older tasks that both run in a slot",
    tasks: "1=running@n1:v1 1=running@n2:v3+1500 2=running@n2",
    spec: { replicas: 2, update: { ...policy, order: "start-first" } },
    service: { specVersion: 5, updateStatus: { ...updating, state: "paused" } },
    nowMs: 2000,
    want: "-t1",
  },
  {
    name: "a rollback with nothing to do is complete",
    tasks: "1=running@n1",
    spec: { replicas: 1 },
    service: { updateStatus: { ...updating, state: "rollback_started" } },
    nowMs: 1000,
    want: "rollback_completed",
  },
];

for (const { name, want, ...text } of updates) {
  t.test(`update: ${name}`, (t) => {
    t.equal(printPlan(decideReplicated(scene(text))), want);
    t.end();
  });
}

t.test("dirty: scaling and labels change nothing, placement only where the node no longer fits", (t) => {
  const { service, revision, node, tasks } = scene({ tasks: "1=running@n1:v0" });
  const [task] = tasks;
  const place = node(nodeObject("n1").id);
  const now = revision(0);
  if (task === undefined || now === undefined) throw new Error("no task");
  const next = { ...service, specVersion: 9 };
  const asked = (change: object): boolean =>
    isTaskDirty({ ...next, spec: { ...service.spec, ...change } }, task, now, place);
  const constrained = (expression: string): object => ({
    task: { ...service.spec.task, placement: { ...service.spec.task.placement, constraints: [expression] } },
  });
  t.equal(asked({ mode: { kind: "replicated", replicas: 9 }, labels: { a: "b" } }), false);
  t.equal(asked({ endpoint: { mode: "dnsrr", ports: [] } }), true);
  t.equal(asked({ task: { ...service.spec.task, forceUpdate: 1 } }), true);
  t.equal(asked(constrained("node.hostname==n1")), false);
  t.equal(asked(constrained("node.hostname==n2")), true);
  t.equal(isTaskDirty(next, task, undefined, place), true);
  t.ok(isEqual({ a: [1, { b: undefined }] }, { a: [1, {}] }));
  t.notOk(isEqual({ a: [] }, {}));
  t.notOk(isEqual([1, 2], [1]));
  t.end();
});

t.test("reaper: history keeps the newest, counts the living, and follows attempts", (t) => {
  const { service } = scene({ tasks: "" });
  const slot = parseTasks("1=failed/shutdown+1 1=failed/shutdown+2 1=failed/shutdown+3 1=running+4");
  const trimmed = (limit: number, of = service): string =>
    decideTrim(of, slot, limit)
      .map((task) => task.id.replace(/x0*$/, ""))
      .join(" ");
  t.equal(trimmed(2), "t1 t2");
  t.equal(trimmed(0), "t1 t2 t3");
  t.equal(trimmed(5), "");
  t.equal(trimmed(-1), "");
  const limited = {
    ...service,
    spec: { ...service.spec, task: { ...taskSpec(), restart: { maxAttempts: 2 } } },
  };
  t.equal(trimmed(5, limited), "t1");
  const update = (startedVersion: number) =>
    trimmed(0, { ...service, updateStatus: { ...updating, startedVersion } });
  t.equal(update(4), "t1 t2", "the predecessor stays while an update runs");
  t.equal(update(3), "t1", "and so does the first that the update made");
  t.equal(update(2), "t3", "whatever came after it");
  const gone = parseTasks("1=running/remove 1=shutdown/remove 1=pending/remove 1=orphaned/running");
  t.strictSame(
    gone.map((task) => isForgotten(task, false)),
    [false, true, true, true],
  );
  t.strictSame(
    gone.map((task) => isForgotten(task, true)),
    [false, true, true, false],
  );
  t.end();
});

t.test("a task that moved counts as many restarts as before, one that failed one more", (t) => {
  for (const [tasks, want] of [
    ["1=running@n1>", 0],
    ["1=running@n1#2>", 2],
    ["1=failed@n1#2>", 3],
    ["1=failed@n1", 1],
  ] as const) {
    const created = decideReplicated(scene({ tasks, spec: { replicas: 1 } }))
      .steps.flat()
      .flatMap((change) => (change.kind === "create" ? [change.restarts] : []));
    t.strictSame(created, [want], tasks);
  }
  t.end();
});
