import { ClusterError, type ErrorCode } from "../../model/errors.ts";

/** Of one question, so that a leader that has died without a word does not use up the time for the next. */
const attemptMs = 2_500;
const pauseMs = 50;

/** The leader of the moment could not be asked, or nobody knows what became of the question. */
const again: ReadonlySet<ErrorCode> = new Set(["no-leader", "unavailable", "deadline-exceeded"]);

export interface LeaveDeps {
  /** Asks whoever leads now to remove this member. Removing one that has gone already succeeds. */
  readonly ask: (timeoutMs: number) => Promise<unknown>;
  readonly pause: (ms: number) => Promise<void>;
}

/**
 * Asks one leader after another until this member is out of the group: an answer that was lost with a leader may be asked
 * for again, since a removal that was done is no error.
 *
 * @throws {ClusterError} what the leader refuses for good, or what `signal` is aborted with.
 */
export async function leaveByLeader({ ask, pause }: LeaveDeps, signal: AbortSignal): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    try {
      await ask(attemptMs);
      return;
    } catch (error) {
      if (!(error instanceof ClusterError && again.has(error.code))) throw error;
    }
    await pause(pauseMs);
  }
}
