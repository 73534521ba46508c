/** What `why` reads from the tasks of a service. */
import { isJob, type Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { isOnDownNode, newestFirst, nodesOf, slotsOf, type Slot } from "../orchestrator/plan.ts";
import type { StoreView } from "../store/transaction.ts";
import { shownTasks } from "./why-limits.ts";

export interface Count {
  readonly running: number;
  readonly wanted: number;
  readonly text: string;
}

/** Of a replicated service each slot counts once, however many tasks an update has there for a while. */
export function countOf(view: StoreView, { spec }: Service, all: readonly Task[]): Count {
  const nodes = nodesOf(view);
  const runs = (task: Task): boolean => task.status.state === "running" && !isOnDownNode(nodes, task);
  const live = all.filter(isWanted);
  const counted = (running: number, wanted: number): Count => ({
    running,
    wanted,
    text: `${running} of ${wanted} wanted tasks run`,
  });
  if (isJob(spec.mode)) return counted(live.filter(runs).length, live.length);
  const slots = [...slotsOf(all).values()];
  const running = slots.filter((slot) => slot.live.some(runs)).length;
  if (spec.mode.kind === "replicated")
    return counted(Math.min(running, spec.mode.replicas), spec.mode.replicas);
  return counted(running, slots.filter((slot) => slot.live.length > 0 || overOf(slot) !== undefined).length);
}

/** The newest of a slot that nobody wants to run any more although it ended by itself. */
export function overOf({ tasks: [newest], live }: Slot): Task | undefined {
  if (newest === undefined || live.length > 0 || newest.desiredState !== "shutdown") return undefined;
  return hasFailed(newest) || newest.status.state === "complete" ? newest : undefined;
}

export function hasFailed({ status: { state } }: Task): boolean {
  return state === "failed" || state === "rejected";
}

/** It serves, or did until it was asked to stop. */
export function hasRun(task: Task): boolean {
  const { state, exitCode } = task.status;
  return state === "running" || (isTerminal(task) && !hasFailed(task) && exitCode !== undefined);
}

export function newestFailure(tasks: readonly Task[]): Task | undefined {
  return tasks.filter(hasFailed).toSorted(newestFirst)[0];
}

export function failures(tasks: readonly Task[]): string[] {
  return tasks
    .filter(hasFailed)
    .toSorted((a, b) => b.status.atMs - a.status.atMs)
    .slice(0, shownTasks)
    .map((task) => `task ${task.id} ${task.status.state}: ${task.status.error || task.status.message}`);
}
