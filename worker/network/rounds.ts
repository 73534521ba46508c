/**
 * Calls wait in a queue; whatever is waiting when a round begins is handed over together, so that a
 * hundred containers started at once cost a few batches and not a hundred.
 */
import { setMaxListeners } from "node:events";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Attached, AttachRequest, BridgeNetwork, WantedNetworks } from "./network.ts";

const maxQueue = 10_000;

export type Work =
  | { readonly kind: "apply"; readonly wanted: WantedNetworks }
  | { readonly kind: "bridges"; readonly bridges: readonly BridgeNetwork[] }
  | { readonly kind: "attach" | "change"; readonly request: AttachRequest }
  | { readonly kind: "detach"; readonly taskId: TaskId }
  /** Look whether the kernel still has all that it should. */
  | { readonly kind: "look" };

/** What came of it, each for one kind. */
export interface Result {
  readonly attached?: Attached;
  /** Why a bridge network is not in place, by id. */
  readonly failures?: ReadonlyMap<string, string>;
}

export interface Job {
  readonly work: Work;
  /** Set once the caller has an outcome, be it that the caller gave up; later ones are ignored. */
  settled: boolean;
  readonly done: (value: Result) => void;
  readonly fail: (reason: Error) => void;
}

export class Rounds {
  readonly #carryOut: (round: readonly Job[]) => Promise<void>;
  #queue: Job[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  /**
   * @param carryOut - Called for one round at a time, and for others within one that gives way; jobs it leaves unsettled fail with
   *   what it throws.
   */
  constructor(carryOut: (round: readonly Job[]) => Promise<void>) {
    this.#carryOut = carryOut;
  }

  /** @throws {ClusterError} `resource-exhausted` when too much waits; `unavailable` when closed. */
  enqueue(work: Work, signal: AbortSignal): Promise<Result> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      if (this.#closed) return reject(new ClusterError("unavailable", "the host's network is shutting down"));
      if (this.#queue.length >= maxQueue) {
        return reject(
          new ClusterError("resource-exhausted", `${maxQueue} changes of the host's network are waiting`),
        );
      }
      const onAbort = (): void => job.fail(signal.reason as Error);
      const job: Job = {
        work,
        settled: false,
        done(value) {
          signal.removeEventListener("abort", onAbort);
          job.settled = true;
          resolve(value);
        },
        fail(reason) {
          signal.removeEventListener("abort", onAbort);
          job.settled = true;
          reject(reason);
        },
      };
      setMaxListeners(maxQueue, signal); // One signal may well stand for all tasks of an agent.
      signal.addEventListener("abort", onAbort, { once: true });
      this.#queue.push(job);
      this.#running ??= this.#pump();
    });
  }

  /** Carries out what has come meanwhile, in one round; for a round that takes long and can be divided. */
  async giveWay(): Promise<void> {
    if (this.#queue.length > 0) await this.#carryOutNext();
  }

  /** Settles once everything queued is carried out. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
  }

  async #pump(): Promise<void> {
    await Promise.resolve(); // Calls made in one go share the first round.
    while (this.#queue.length > 0) await this.#carryOutNext();
    this.#running = undefined;
  }

  async #carryOutNext(): Promise<void> {
    const round = this.#take();
    try {
      await this.#carryOut(round);
    } catch (cause) {
      const text = `cannot change the host's network: ${errorText(cause)}`;
      const failure = cause instanceof ClusterError ? cause : new ClusterError("internal", text, { cause });
      for (const job of round) if (!job.settled) job.fail(failure);
    }
  }

  /** All that waits, up to a second job for the same task; those given up meanwhile are left out. */
  #take(): Job[] {
    const seen = new Set<TaskId>();
    let end = 0;
    for (const { work } of this.#queue) {
      if (work.kind === "attach" || work.kind === "change" || work.kind === "detach") {
        const taskId = work.kind === "detach" ? work.taskId : work.request.taskId;
        if (seen.has(taskId)) break;
        seen.add(taskId);
      }
      end += 1;
    }
    const round = this.#queue.slice(0, end);
    this.#queue = this.#queue.slice(end);
    return round.filter(({ settled }) => !settled);
  }
}

/** At most `width` at a time; settles when all have. */
export async function inParallel<Item>(
  items: readonly Item[],
  width: number,
  each: (item: Item) => Promise<void>,
): Promise<void> {
  const rest = items.values();
  await Promise.all(
    Array.from({ length: Math.min(width, items.length) }, async () => {
      for (const item of rest) await each(item);
    }),
  );
}
