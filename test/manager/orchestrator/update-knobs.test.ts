import t from "tap";
import type { UpdatePolicy, UpdateStatus } from "../../../model/service.ts";
import { decideReplicated } from "../../../manager/orchestrator/replicated.ts";
import { nodeObject, serviceSpec, taskSpec } from "../../sim/objects.ts";
import { printPlan, scene, type SceneText } from "./plan-notation.ts";

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
const rollingBack: UpdateStatus = { ...updating, state: "rollback_started" };
const { monitorMs: _, ...withoutMonitor } = policy;

const onlyOnce = { ...taskSpec(), restart: { condition: "none" } } as const;

const ran = "1=running@n1:v5+1500 1=shutdown/shutdown@n1";
const failedOnce =
  "1=failed/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1 2=running@n2";
const twoOld = "1=running@n1:v1 2=running@n2:v1 3=running@n3:v1";

type Case = Omit<SceneText, "service"> & {
  readonly name: string;
  readonly status?: UpdateStatus;
  readonly want: string;
};

/** Each knob of an update, and then of a rollback, at its values and edges. */
const cases: readonly Case[] = [
  {
    name: "parallelism: more than there are slots takes all",
    tasks: "1=running@n1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, parallelism: 9 } },
    want: "-t1 +1r; -t2 +2r",
  },
  {
    name: "parallelism: a slot that failed and restarts is done with its try",
    tasks: failedOnce,
    spec: { replicas: 2, update: { ...policy, failureAction: "continue" } },
    nowMs: 1700,
    want: "-t4 +2r @6600",
  },
  {
    name: "a try whose node went down before it ran is judged by the one that took its place",
    tasks: "1=running@n2:v5+1600 1=preparing/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: policy },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 700_000,
    want: "-t4 +2r",
  },
  {
    name: "and before there is one, by its own deadline",
    tasks: "1=preparing@n1:v5+1500 1=shutdown/shutdown@n1 2=running@n2",
    spec: { replicas: 2, update: policy, labels: { "shoal.on-unreachable": "wait" } },
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2")],
    nowMs: 700_000,
    want: "paused",
  },
  {
    name: "delay: it holds the last slot's end too, a second longer than the monitor would",
    tasks: ran,
    spec: { replicas: 1, update: { ...policy, delayMs: 2000 } },
    nowMs: 2600,
    want: "@4500",
  },
  {
    name: "monitor: 0 stays 0, so an end after the start is not the update's failure",
    tasks: failedOnce,
    spec: { replicas: 2, update: { ...policy, monitorMs: 0 } },
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "-t4 +2r @6600",
  },
  {
    name: "monitor: absent means five seconds",
    tasks: ran,
    spec: { replicas: 1, update: withoutMonitor },
    nowMs: 2600,
    want: "@6500",
  },
  {
    name: "monitor: an end exactly with it counts",
    tasks: failedOnce,
    spec: { replicas: 2, update: policy },
    ranSinceMs: { t1: 500 },
    nowMs: 1600,
    want: "paused @6600",
  },
  {
    name: "monitor: who ends with code 0 within it has failed too",
    tasks: "1=complete/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=ready/ready@n1:v5+1600#1 2=running@n2",
    spec: { replicas: 2, update: policy },
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "paused @6600",
  },
  {
    name: "failure action continue: all failures are passed over, and completion waits for no monitor",
    tasks: "1=failed/shutdown@n1:v5+1500 1=shutdown/shutdown@n1 1=running@n1:v5+1600#1",
    spec: { replicas: 1, update: { ...policy, failureAction: "continue" } },
    nowMs: 1700,
    want: "completed",
  },
  {
    name: "failure ratio 1: no failure is too many",
    tasks: failedOnce,
    spec: { replicas: 2, update: { ...policy, maxFailureRatio: 1 } },
    nowMs: 1600,
    want: "-t4 +2r @6600",
  },
  {
    name: "order start-first: what does not run is not waited for",
    tasks: "1=starting@n1 2=running@n2",
    spec: { replicas: 2, update: { ...policy, order: "start-first", parallelism: 2 } },
    want: "-t1? +1r; +2",
  },
  {
    name: "deadline: the knob shortens it",
    tasks: "1=pending:v5+1000 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy, labels: { "shoal.update.deadline": "30s" } },
    nowMs: 31_000,
    want: "paused",
  },
  {
    name: "deadline: until then it is waited for",
    tasks: "1=pending:v5+1000 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy, labels: { "shoal.update.deadline": "30s" } },
    nowMs: 30_999,
    want: "@31000",
  },
  {
    name: "settle: with start-first the old task stays until the new one has run so long",
    tasks: "1=running@n1:v5+1500 1=running@n1",
    spec: {
      replicas: 1,
      update: { ...policy, order: "start-first" },
      labels: { "shoal.update.settle": "2s" },
    },
    nowMs: 2000,
    want: "@3500",
  },
  {
    name: "settle: and goes then",
    tasks: "1=running@n1:v5+1500 1=running@n1",
    spec: {
      replicas: 1,
      update: { ...policy, order: "start-first" },
      labels: { "shoal.update.settle": "2s" },
    },
    nowMs: 3500,
    want: "-t2",
  },
  {
    name: "rollback: its own parallelism counts, not the update's",
    tasks: twoOld,
    spec: { replicas: 3, update: { ...policy, parallelism: 3 }, rollback: { ...policy, parallelism: 2 } },
    status: rollingBack,
    nowMs: 1100,
    want: "-t1 +1r; -t2 +2r",
  },
  {
    name: "rollback: its own order counts",
    tasks: twoOld,
    spec: { replicas: 3, update: policy, rollback: { ...policy, order: "start-first" } },
    status: rollingBack,
    nowMs: 1100,
    want: "+1",
  },
  {
    name: "rollback: without one of its own the defaults count",
    tasks: twoOld,
    spec: { replicas: 3, update: { ...policy, parallelism: 3, order: "start-first" } },
    status: rollingBack,
    nowMs: 1100,
    want: "-t1 +1r",
  },
  {
    name: "rollback: its failure pauses it",
    tasks: failedOnce,
    spec: { replicas: 2, rollback: policy },
    status: rollingBack,
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "rollback_paused @6600",
  },
  {
    name: "rollback: is never rolled back",
    tasks: failedOnce,
    spec: { replicas: 2, rollback: { ...policy, failureAction: "rollback" } },
    status: rollingBack,
    ranSinceMs: { t1: 1400 },
    nowMs: 1600,
    want: "rollback_paused @6600",
  },
  {
    name: "rollback: tasks that match the old spec stay",
    tasks: "1=running@n1:v5 2=running@n2:v1",
    spec: { replicas: 2, rollback: policy },
    status: rollingBack,
    nowMs: 1100,
    want: "-t2 +2r",
  },
  {
    name: "failure action continue: the end does not wait for a failed try that is restarted beside the old task",
    tasks: "1=ready/ready@n2:v5+1600#1 1=rejected/shutdown@n2:v5+1500 1=running@n1:v1",
    spec: { replicas: 1, update: { ...policy, failureAction: "continue", order: "start-first" } },
    nowMs: 1700,
    want: "completed @6600",
  },
  {
    name: "failure action continue: one that came to run later takes the old task with it first",
    tasks: "1=running@n2:v5+1600#1 1=rejected/shutdown@n2:v5+1500 1=running@n1:v1",
    spec: { replicas: 1, update: { ...policy, failureAction: "continue", order: "start-first" } },
    nowMs: 1700,
    want: "-t3",
  },
  {
    name: "a finished update does not begin again where the restart policy gave its try up",
    tasks: "1=rejected/shutdown@n2:v5+1500#2 1=running@n1:v1",
    spec: { replicas: 1, update: { ...policy, order: "start-first" } },
    status: { ...updating, state: "completed" },
    nowMs: 9000,
    want: "",
  },
  {
    name: "a finished update leaves one of two older tasks where its own try was given up",
    tasks: "1=failed/shutdown@n1:v5+1500 1=running@n1:v3+800 1=running@n1:v1",
    spec: { replicas: 1, task: onlyOnce, update: { ...policy, order: "start-first" } },
    status: { ...updating, state: "completed" },
    nowMs: 9000,
    want: "-t3",
  },
  {
    name: "and so does a paused one",
    tasks: "1=failed/shutdown@n1:v5+1500 1=running@n1:v3+800 1=running@n1:v1",
    spec: { replicas: 1, update: { ...policy, order: "start-first" } },
    status: { ...updating, state: "rollback_paused" },
    nowMs: 9000,
    want: "-t3",
  },
  {
    name: "a finished update begins again where it has not tried",
    tasks: "1=running@n1:v1",
    spec: { replicas: 1, update: { ...policy, order: "start-first" } },
    status: { ...updating, state: "completed" },
    nowMs: 9000,
    want: "updating; +1",
  },
  {
    name: "rollback: what was given up before it gets another try, and its history stays",
    tasks: "1=failed/shutdown@n1:v5+500 3=failed/shutdown@n1:v5+500",
    spec: { replicas: 1, task: onlyOnce, rollback: policy },
    status: rollingBack,
    nowMs: 1600,
    want: "+1; xt2",
  },
  {
    name: "rollback: a slot that it fills again counts, as what it puts there is to stand in for what failed",
    tasks:
      "1=failed/shutdown@n1:v5+1500 1=failed/shutdown@n1:v5+500 2=running@n2:v5+1500 2=shutdown/shutdown@n2",
    spec: { replicas: 2, task: onlyOnce, rollback: policy },
    status: rollingBack,
    nowMs: 1600,
    want: "rollback_paused",
  },
  {
    name: "rollback: a slot that had nothing before does not",
    tasks: "1=failed/shutdown@n1:v5+1500 2=running@n2:v5+1500 2=shutdown/shutdown@n2",
    spec: { replicas: 2, task: onlyOnce, rollback: policy },
    status: rollingBack,
    nowMs: 1600,
    want: "@2500",
  },
  {
    name: "rollback: its own try is the only one where nothing is restarted",
    tasks: "1=failed/shutdown@n1:v5+1500",
    spec: { replicas: 1, task: onlyOnce, rollback: { ...policy, failureAction: "continue" } },
    status: rollingBack,
    nowMs: 1600,
    want: "rollback_completed",
  },
];

for (const { name, status = updating, want, ...text } of cases) {
  t.test(name, (t) => {
    const service = {
      specVersion: 5,
      updateStatus: status,
      previous: { spec: serviceSpec(), specVersion: 9 },
    };
    t.equal(printPlan(decideReplicated(scene({ nowMs: 1000, ...text, service }))), want);
    t.end();
  });
}

t.test("an update that does not get on says why, and one that fails too", (t) => {
  const input = scene({
    tasks: "1=pending:v5+1000 1=shutdown/shutdown@n1",
    spec: { replicas: 1, update: policy },
    service: { specVersion: 5, updateStatus: updating },
    nowMs: 2000,
  });
  const reason = "no suitable node (insufficient resources on 3 nodes)";
  const tasks = input.tasks.map((task) =>
    task.status.state === "pending" ? { ...task, status: { ...task.status, error: reason } } : task,
  );
  const told = (nowMs: number): string => {
    const [change] = decideReplicated({ ...input, tasks, nowMs }).steps.flat();
    return change?.kind === "update-status" ? change.status.message.replace(/t1x0*/, "t1") : "";
  };
  t.equal(told(2000), `update in progress: task t1: pending: ${reason}`);
  t.equal(
    told(700_000),
    `update paused due to failure or early termination of task t1: not running after 600s: pending: ${reason}`,
  );
  t.end();
});
