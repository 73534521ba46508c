import type { TaskId } from "../../model/ids.ts";
import { isWanted, type Task } from "../../model/task.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Session } from "./session.ts";

/** A host that has not answered by now must not keep a task from being stopped. */
export const withdrawalLimitMs = 2_000;

/** Whether clients may be sent to the task until every host knows better. */
export function withdraws(task: Task, before: Task): boolean {
  return (
    !isWanted(task) &&
    isWanted(before) &&
    task.status.state === "running" &&
    task.networks.some(({ address }) => address !== "")
  );
}

interface Withdrawal {
  readonly waiting: Set<Session>;
  readonly cancel: () => void;
}

/**
 * Tasks that are to stop and are not told yet: first every host on their networks stops sending clients to them. It lives
 * as long as the leadership; under the next leader tasks are stopped at once.
 */
export class Withdrawals {
  readonly #clock: Clock;
  readonly #release: (taskId: TaskId) => void;
  readonly #held = new Map<TaskId, Withdrawal | undefined>();
  /** The sequence that each session is to apply, for each task that waits for it. */
  readonly #awaited = new Map<Session, Map<TaskId, number>>();

  /** @param release - Called once the task may be told. */
  constructor(clock: Clock, release: (taskId: TaskId) => void) {
    this.#clock = clock;
    this.#release = release;
  }

  holds(taskId: TaskId): boolean {
    return this.#held.has(taskId);
  }

  /** Somebody waits to be told. */
  get isHolding(): boolean {
    return this.#held.size > 0;
  }

  /** From here on the task is not told. */
  hold(taskId: TaskId): void {
    if (!this.#held.has(taskId)) this.#held.set(taskId, undefined);
  }

  /** That the task is withdrawn is marked for these sessions: whoever has applied what is marked has withdrawn it. */
  sent(taskId: TaskId, sessions: Iterable<Session>): void {
    if (!this.#held.has(taskId) || this.#held.get(taskId) !== undefined) return;
    const waiting = new Set<Session>();
    for (const session of sessions) {
      const needed = session.sequenceOfMarked;
      if (session.applied >= needed) continue;
      waiting.add(session);
      const awaited = this.#awaited.get(session);
      if (awaited === undefined) this.#awaited.set(session, new Map([[taskId, needed]]));
      else awaited.set(taskId, needed);
    }
    const cancel = this.#clock.after(withdrawalLimitMs, () => this.#end(taskId));
    this.#held.set(taskId, { waiting, cancel });
    if (waiting.size === 0) this.#end(taskId);
  }

  /** @param sequence - What the worker of the session has brought its host's network to; infinite: it is gone. */
  applied(session: Session, sequence: number): void {
    for (const [taskId, needed] of this.#awaited.get(session) ?? []) {
      if (needed > sequence) continue;
      this.#forget(session, taskId);
      const waiting = this.#held.get(taskId)?.waiting;
      if (waiting?.delete(session) === true && waiting.size === 0) this.#end(taskId);
    }
  }

  /**
   * What was marked for the session is sent, as far as its stream takes it. Where it turned out that there was nothing to
   * say of networks, as of a task that was withdrawn before anybody heard that it serves, no answer will come.
   */
  flushed(session: Session): void {
    const awaited = this.#awaited.get(session);
    if (awaited === undefined) return;
    const needed = session.sequenceOfMarked;
    for (const [taskId, before] of awaited) if (before > needed) awaited.set(taskId, needed);
    this.applied(session, session.applied);
  }

  /** The leadership is over. */
  clear(): void {
    for (const withdrawal of this.#held.values()) withdrawal?.cancel();
    this.#held.clear();
    this.#awaited.clear();
  }

  #end(taskId: TaskId): void {
    const withdrawal = this.#held.get(taskId);
    if (!this.#held.delete(taskId)) return;
    withdrawal?.cancel();
    for (const session of withdrawal?.waiting ?? []) this.#forget(session, taskId);
    this.#release(taskId);
  }

  #forget(session: Session, taskId: TaskId): void {
    const awaited = this.#awaited.get(session);
    if (awaited?.delete(taskId) === true && awaited.size === 0) this.#awaited.delete(session);
  }
}
