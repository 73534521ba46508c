import t from "tap";
import { taskStates } from "../../../model/task.ts";
import type { DesiredState, TaskState } from "../../../model/task.ts";
import { afterStep, nextStep } from "../../../worker/task/machine.ts";
import type { Outcome, Step } from "../../../worker/task/machine.ts";

const rows: readonly [
  state: TaskState,
  ready: Step,
  running: Step,
  complete: Step,
  shutdown: Step,
  remove: Step,
][] = [
  ["assigned", "accept", "accept", "accept", "stop", "stop"],
  ["accepted", "begin-prepare", "begin-prepare", "begin-prepare", "stop", "stop"],
  ["preparing", "prepare", "prepare", "prepare", "stop", "stop"],
  ["ready", "rest", "begin-start", "begin-start", "stop", "stop"],
  ["starting", "rest", "start", "start", "stop", "stop"],
  ["running", "rest", "wait", "wait", "stop", "stop"],
  ["complete", "rest", "rest", "rest", "rest", "rest"],
  ["failed", "rest", "rest", "rest", "rest", "rest"],
  ["rejected", "rest", "rest", "rest", "rest", "rest"],
  ["shutdown", "rest", "rest", "rest", "rest", "rest"],
];
const columns: readonly DesiredState[] = ["ready", "running", "complete", "shutdown", "remove"];

for (const [state, ...steps] of rows) {
  t.test(`next step of a task that is ${state}`, (t) => {
    columns.forEach((desired, index) => t.equal(nextStep(state, desired), steps[index], `wanted ${desired}`));
    t.end();
  });
}

const outcomes: readonly {
  name: string;
  state: TaskState;
  step: Exclude<Step, "rest">;
  outcome: Outcome;
  want: object;
}[] = [
  {
    name: "prepared",
    state: "preparing",
    step: "prepare",
    outcome: { kind: "done" },
    want: { state: "ready", message: "prepared", error: "" },
  },
  {
    name: "started",
    state: "starting",
    step: "start",
    outcome: { kind: "done" },
    want: { state: "running", message: "started", error: "" },
  },
  {
    name: "an error before starting rejects",
    state: "preparing",
    step: "prepare",
    outcome: { kind: "fatal", error: "No such image: x" },
    want: { state: "rejected", error: "No such image: x" },
  },
  {
    name: "an error while starting fails",
    state: "starting",
    step: "start",
    outcome: { kind: "fatal", error: "bad" },
    want: { state: "failed", error: "bad" },
  },
  {
    name: "exit 0 completes",
    state: "running",
    step: "wait",
    outcome: { kind: "exited", exit: { code: 0 } },
    want: { state: "complete", message: "finished", exitCode: 0, error: "" },
  },
  {
    name: "another exit code fails with its text",
    state: "running",
    step: "wait",
    outcome: { kind: "exited", exit: { code: 3 } },
    want: { state: "failed", error: "task: non-zero exit (3)", exitCode: 3 },
  },
  {
    name: "unhealthy is named as the cause",
    state: "running",
    step: "wait",
    outcome: { kind: "exited", exit: { code: 137, cause: "dockerexec: unhealthy container" } },
    want: { state: "failed", error: "task: non-zero exit (137): dockerexec: unhealthy container" },
  },
  {
    name: "a passing error keeps the state and shows itself",
    state: "preparing",
    step: "prepare",
    outcome: { kind: "temporary", error: "registry away" },
    want: { state: "preparing", error: "registry away" },
  },
  {
    name: "stopping ends the task even when it went wrong",
    state: "running",
    step: "stop",
    outcome: { kind: "fatal", error: "odd" },
    want: { state: "shutdown", error: "odd" },
  },
];

for (const { name, state, step, outcome, want } of outcomes) {
  t.test(name, (t) => {
    const progress = afterStep(state, step, outcome);
    t.match(progress, want);
    t.ok(taskStates[progress.state] >= taskStates[state], "the ladder only goes up");
    t.end();
  });
}
