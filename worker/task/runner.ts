import { errorText } from "../../model/errors.ts";
import { isWanted, taskStates } from "../../model/task.ts";
import type { TaskId } from "../../model/ids.ts";
import type { DesiredState, TaskStatus } from "../../model/task.ts";
import type { Assignment } from "../agent/assignment.ts";
import { TaskController } from "./controller.ts";
import type { TaskWorld } from "./controller.ts";
import { afterStep, nextStep } from "./machine.ts";
import type { Outcome, Progress, Step } from "./machine.ts";
import { anyOf } from "../../runtime/signal.ts";

/** Pause before a step that failed for a passing reason is tried again. */
export const retryDelayMs = 1_000;

export interface RunnerStart {
  readonly assignment: Assignment;
  readonly containerId: string;
  readonly status: TaskStatus;
  /** False for a task from the journal until the managers have sent it again. */
  readonly confirmed: boolean;
}

export interface RunnerEvents {
  /** Settles once the task and its container's id are on disk; tries again when they could not be written. */
  journaled(runner: TaskRunner): Promise<void>;
  /** Takes a new status; the journal and the leader learn of it from here. */
  onStatus(taskId: TaskId, status: TaskStatus): void;
  /** Nothing of the task is left. */
  onRemoved(taskId: TaskId): void;
}

/**
 * Brings one task up its ladder, step by step, and down when the managers say so. It may be ended at
 * any line and made again from the journal: every step finds what was done of it before.
 */
export class TaskRunner {
  readonly #world: TaskWorld;
  readonly #events: RunnerEvents;
  readonly #controller: TaskController;
  readonly #containerId: string;
  readonly #close = new AbortController();
  /** Of the removal under way. */
  #hurry = new AbortController();
  #assignment: Assignment;
  #status: TaskStatus;
  #confirmed: boolean;
  #removing: "at-once" | "when-idle" | undefined;
  /** Why this node ends the task although managers want it. */
  #givenUp: string | undefined;
  #step: { readonly kind: Step; readonly abort: AbortController } | undefined;
  #wake: () => void = () => undefined;
  readonly done: Promise<void>;

  constructor(world: TaskWorld, events: RunnerEvents, start: RunnerStart) {
    this.#world = world;
    this.#events = events;
    this.#assignment = start.assignment;
    this.#containerId = start.containerId;
    this.#status = start.status;
    this.#confirmed = start.confirmed;
    this.#controller = new TaskController(world, start.containerId);
    this.done = this.#run();
  }

  get assignment(): Assignment {
    return this.#assignment;
  }

  get containerId(): string {
    return this.#containerId;
  }

  get status(): TaskStatus {
    return this.#status;
  }

  get confirmed(): boolean {
    return this.#confirmed;
  }

  get removing(): boolean {
    return this.#removing !== undefined;
  }

  /** Ports of the task are open, or about to be. */
  get isAttached(): boolean {
    return this.#controller.isAttached;
  }

  /** What the managers want now. A step that the new state has no use for is given up at once. */
  update(assignment: Assignment): void {
    this.#assignment = assignment;
    this.#confirmed = true;
    this.#interrupt();
  }

  /**
   * Stops the task if need be and removes all of it.
   *
   * @param when - Its container, once that has ended.
   */
  remove(when: "at-once" | "when-idle"): void {
    this.#removing = when;
    this.#hurry.abort(new Error("its removal is asked for anew"));
    this.#assignment = { ...this.#assignment, desiredState: "remove" };
    this.#interrupt();
  }

  /** Ends the task although managers want it; it then counts as failed, for that reason. */
  giveUp(reason: string): void {
    this.#givenUp ??= reason;
    this.#interrupt();
  }

  /** Ends the runner and leaves the container as it is. */
  async close(): Promise<void> {
    this.#close.abort(new Error("worker is ending"));
    this.#controller.close();
    await this.done;
  }

  get #desiredState(): DesiredState {
    const { desiredState } = this.#assignment;
    return this.#givenUp !== undefined && isWanted({ desiredState }) ? "shutdown" : desiredState;
  }

  #interrupt(): void {
    const next = nextStep(this.#status.state, this.#desiredState);
    if (this.#step !== undefined && this.#step.kind !== next) {
      this.#step.abort.abort(new Error("another state is wanted"));
    }
    this.#wake();
  }

  async #run(): Promise<void> {
    try {
      await this.#controller.adopt(this.#assignment);
    } catch (error) {
      this.#log(error, "what is left of the task could not be read");
    }
    while (!this.#close.signal.aborted) {
      const step = nextStep(this.#status.state, this.#desiredState);
      if (step !== "rest") await this.#carryOut(step);
      else if (this.#removing !== undefined && (await this.#disposed(this.#removing))) return;
      else if (this.#controller.isAttached && isOver(this.#status)) await this.#release();
      else if (this.#removing === undefined) await this.#changed(this.#close.signal);
    }
  }

  async #carryOut(step: Exclude<Step, "rest">): Promise<void> {
    const abort = new AbortController();
    this.#step = { kind: step, abort };
    using linked = anyOf(abort.signal, this.#close.signal);
    const { signal } = linked;
    let outcome: Outcome & { readonly exitCode?: number };
    try {
      outcome = await this.#attempt(step, signal);
    } catch (error) {
      if (signal.aborted) return; // Another step is due, or the worker ends.
      this.#log(error, "a step failed unforeseen");
      outcome = { kind: "fatal", error: errorText(error) };
    } finally {
      this.#step = undefined;
    }
    if (signal.aborted && outcome.kind !== "done") return;
    const progress = afterStep(this.#status.state, step, outcome);
    this.#advance(step === "stop" ? this.#explained(progress) : progress, outcome.exitCode);
    if (outcome.kind === "temporary") await this.#pause();
  }

  #attempt(
    step: Exclude<Step, "rest">,
    signal: AbortSignal,
  ): Promise<Outcome & { readonly exitCode?: number }> {
    switch (step) {
      case "accept":
      case "begin-prepare":
      case "begin-start":
        return Promise.resolve({ kind: "done" });
      case "prepare":
        return this.#prepare(signal);
      case "start":
        return this.#controller.start(this.#assignment, signal);
      case "wait":
        return this.#controller.wait(this.#assignment, signal);
      case "stop":
        return this.#controller.stop(this.#assignment, signal);
    }
  }

  /** Credentials, secrets and networks are never on disk: what has no container yet waits for the managers. */
  async #prepare(signal: AbortSignal): Promise<Outcome> {
    if (!(await this.#controller.exists())) await this.#whenConfirmed(signal);
    try {
      await this.#events.journaled(this);
    } catch (error) {
      return { kind: "temporary", error: errorText(error) };
    }
    return this.#controller.prepare(this.#assignment, signal);
  }

  async #whenConfirmed(signal: AbortSignal): Promise<void> {
    while (!this.#confirmed) {
      signal.throwIfAborted();
      await this.#changed(signal);
    }
  }

  /** A task that was given up did not end as managers wanted: they are to replace it as their policy says. */
  #explained(progress: Progress): Progress {
    if (this.#givenUp === undefined || !isWanted(this.#assignment)) return progress;
    const began = taskStates[this.#status.state] >= taskStates.starting;
    return { ...progress, state: began ? "failed" : "rejected", error: this.#givenUp };
  }

  #advance(progress: Progress, exitCode: number | undefined): void {
    const before = this.#status;
    const isStarted = taskStates[progress.state] >= taskStates.starting;
    const { pid, ports } = this.#controller.facts;
    const code = progress.exitCode ?? exitCode ?? before.exitCode;
    const container = this.#controller.isAttached || before.containerId !== undefined;
    this.#status = {
      state: progress.state,
      atMs: this.#world.clock.now(),
      message: progress.message,
      error: progress.error,
      ...(container && { containerId: this.#containerId }),
      ...(pid !== undefined && progress.state === "running" && { pid }),
      ...(code !== undefined && { exitCode: code }),
      ...(isStarted && ports !== undefined && ports.length > 0 && { ports }),
      appliedAtMs: 0,
    };
    const isRepeated = before.state === progress.state && before.error === progress.error;
    if (!isRepeated) this.#events.onStatus(this.#assignment.taskId, this.#status);
  }

  /** The end of a task is reported first; then its addresses and ports are free for others. */
  async #release(): Promise<void> {
    try {
      await this.#controller.detach(this.#assignment, this.#close.signal);
    } catch (error) {
      if (this.#close.signal.aborted) return;
      this.#log(error, "network of an ended task could not be given back");
      await this.#pause();
    }
  }

  async #disposed(when: "at-once" | "when-idle"): Promise<boolean> {
    this.#hurry = new AbortController();
    using linked = anyOf(this.#close.signal, this.#hurry.signal);
    const { signal } = linked;
    try {
      await this.#controller.remove(this.#assignment, when, signal);
    } catch (error) {
      if (signal.aborted) return false;
      this.#log(error, "task could not be removed");
      await this.#pause();
      return false;
    }
    this.#events.onRemoved(this.#assignment.taskId);
    return true;
  }

  /** Ends early when something else is wanted. */
  async #pause(): Promise<void> {
    const over = new AbortController();
    using linked = anyOf(over.signal, this.#close.signal);
    const { signal } = linked;
    try {
      await Promise.race([this.#world.clock.sleep(retryDelayMs, signal), this.#changed(signal)]);
    } catch {
      // Only the end of the worker gets here, which the caller looks at.
    } finally {
      over.abort();
    }
  }

  /** Settles at the next update or removal, or when the signal aborts. */
  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const settle = (): void => {
        signal.removeEventListener("abort", settle);
        resolve();
      };
      this.#wake = settle;
      if (signal.aborted) settle();
      else signal.addEventListener("abort", settle, { once: true });
    });
  }

  #log(error: unknown, text: string): void {
    this.#world.log.error({ taskId: this.#assignment.taskId, error }, text);
  }
}

function isOver(status: TaskStatus): boolean {
  return taskStates[status.state] > taskStates.running;
}
