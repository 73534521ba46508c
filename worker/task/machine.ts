import { unreachable } from "../../model/errors.ts";
import { taskStates } from "../../model/task.ts";
import type { DesiredState, TaskState, TaskStatus } from "../../model/task.ts";

/** What a task's runner does next. */
export type Step =
  | "accept"
  | "begin-prepare"
  | "prepare"
  | "begin-start"
  | "start"
  | "wait"
  | "stop"
  | "rest";

/**
 * The next step of a task; the whole ladder is here. One step is carried out at a time, its result
 * goes through `afterStep`, and this function is asked again.
 *
 *     assigned ─ accepted ─ preparing ─ ready ─ starting ─ running ─ complete | failed
 *                    └───────┴── rejected          shutdown from every state that is not final
 */
export function nextStep(state: TaskState, desired: DesiredState): Step {
  const isFinal = taskStates[state] > taskStates.running;
  if (taskStates[desired] >= taskStates.shutdown) return isFinal ? "rest" : "stop";
  if (taskStates[state] > taskStates[desired]) return "rest";
  switch (state) {
    case "preparing":
      return "prepare";
    case "starting":
      return "start";
    case "running":
      return "wait";
    case "new":
    case "pending":
    case "assigned":
      return "accept";
    case "accepted":
      return "begin-prepare";
    case "ready":
      return desired === "ready" ? "rest" : "begin-start";
    case "complete":
    case "shutdown":
    case "failed":
    case "rejected":
    case "remove":
    case "orphaned":
      return "rest";
  }
}

export interface Exit {
  readonly code: number;
  /** Why, where the code does not say; such as "dockerexec: unhealthy container". */
  readonly cause?: string;
}

export type Outcome =
  | { readonly kind: "done" }
  | { readonly kind: "exited"; readonly exit: Exit }
  /** Worth another try in a moment; the state stays. */
  | { readonly kind: "temporary"; readonly error: string }
  | { readonly kind: "fatal"; readonly error: string };

/** The part of a status that a step decides; the rest is what the engine and the network know. */
export type Progress = Pick<TaskStatus, "state" | "message" | "error" | "exitCode">;

/** Where a step with this outcome leaves the task. */
export function afterStep(state: TaskState, step: Exclude<Step, "rest">, outcome: Outcome): Progress {
  switch (outcome.kind) {
    case "done":
      return { ...reached(step), error: "" };
    case "exited":
      return afterExit(state, outcome.exit);
    case "temporary":
      return { state, message: doing(step), error: outcome.error };
    case "fatal": {
      // Stopping always ends a task; what could not be cleaned up is reported, not retried for ever.
      if (step === "stop") return { state: "shutdown", message: "shutdown", error: outcome.error };
      const refused = taskStates[state] < taskStates.starting;
      return { state: refused ? "rejected" : "failed", message: doing(step), error: outcome.error };
    }
  }
}

/** An exit that was seen while the task was wanted. */
function afterExit(state: TaskState, exit: Exit): Progress {
  if (exit.code === 0 && exit.cause === undefined) {
    return { state: "complete", message: "finished", error: "", exitCode: 0 };
  }
  const message = state === "running" ? "started" : "starting";
  return { state: "failed", message, error: exitText(exit), exitCode: exit.code };
}

/** Text of the Engine API for a task whose process ended. */
export function exitText({ code, cause }: Exit): string {
  return `task: non-zero exit (${code})${cause === undefined ? "" : `: ${cause}`}`;
}

function reached(step: Exclude<Step, "rest">): { readonly state: TaskState; readonly message: string } {
  switch (step) {
    case "accept":
      return { state: "accepted", message: "accepted" };
    case "begin-prepare":
      return { state: "preparing", message: "preparing" };
    case "prepare":
      return { state: "ready", message: "prepared" };
    case "begin-start":
      return { state: "starting", message: "starting" };
    case "start":
      return { state: "running", message: "started" };
    case "wait":
      return { state: "complete", message: "finished" };
    case "stop":
      return { state: "shutdown", message: "shutdown" };
    default:
      return unreachable(step);
  }
}

function doing(step: Exclude<Step, "rest">): string {
  switch (step) {
    case "accept":
      return "assigned";
    case "begin-prepare":
    case "prepare":
      return "preparing";
    case "begin-start":
    case "start":
      return "starting";
    case "wait":
      return "started";
    case "stop":
      return "shutting down";
    default:
      return unreachable(step);
  }
}
