/** One local container as this process knows it beyond the engine's record. */
import type { ExitStatus } from "../engine/engine.ts";
import type { LocalRecord } from "./store.ts";

export interface Outcome {
  readonly exitCode: number;
  readonly error: string;
}

export class Entry {
  record: LocalRecord;
  /** Waits for its restart by policy. */
  isRestarting = false;
  isRemoving = false;
  /** Stops for a restart by hand: their end does not remove a container that is removed at its end. */
  restartsByHand = 0;
  /** What its last run had of the host could not be given back yet. */
  hasLeftovers = false;
  /** Ends the wait for a restart. */
  cancelRestart: () => void = () => undefined;
  /** Ends the probes of this run. */
  endProbes: () => void = () => undefined;
  /** All that follows its last end: network given back, restart planned, or removal. */
  settled: Promise<void> = Promise.resolve();
  lastExit: ExitStatus | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #exits: ((outcome: Outcome) => void)[] = [];
  #removals: ((outcome: Outcome) => void)[] = [];

  constructor(record: LocalRecord) {
    this.record = record;
  }

  /** Work on one container happens one after the other. */
  locked<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#turn.then(work, work);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  nextExit(signal: AbortSignal): Promise<Outcome> {
    return waiting(this.#exits, signal);
  }

  removed(signal: AbortSignal): Promise<Outcome> {
    return waiting(this.#removals, signal);
  }

  tellExit(exit: ExitStatus): void {
    this.lastExit = exit;
    tell(this.#exits, outcomeOf(exit));
  }

  tellRemoved(): void {
    tell(this.#exits, outcomeOf(this.lastExit));
    tell(this.#removals, outcomeOf(this.lastExit));
  }
}

/** Of a container that never had a process: its start failed. */
const unknownExitCode = 128;

/** What is known of a container that does not run: of its last run, or why there was none. */
export function lastOutcome(
  exit: ExitStatus | undefined,
  { startError = "" }: Pick<LocalRecord, "startError"> = {},
): Outcome {
  const { exitCode, error } = outcomeOf(exit);
  if (startError === "") return { exitCode, error };
  return { exitCode: exitCode === 0 ? unknownExitCode : exitCode, error: startError };
}

export function outcomeOf(exit: ExitStatus | undefined): Outcome {
  return { exitCode: exit?.exitCode ?? 0, error: exit?.error ?? "" };
}

function waiting(list: ((outcome: Outcome) => void)[], signal: AbortSignal): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const settle = (outcome: Outcome): void => {
      signal.removeEventListener("abort", leave);
      resolve(outcome);
    };
    const leave = (): void => {
      list.splice(list.indexOf(settle), 1);
      reject(signal.reason as Error);
    };
    list.push(settle);
    signal.addEventListener("abort", leave, { once: true });
  });
}

function tell(list: ((outcome: Outcome) => void)[], outcome: Outcome): void {
  for (const settle of list.splice(0)) settle(outcome);
}
