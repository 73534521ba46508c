import type { NodeId, TaskId } from "../../model/ids.ts";
import { type DesiredState, isWanted, type Task } from "../../model/task.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Session } from "./session.ts";

/** A host that has not answered by now must not keep a task from being stopped. A worker restarts in less, on a busy host too. */
export const withdrawalLimitMs = 10_000;

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
  /** What the task is told meanwhile. */
  readonly desiredState: DesiredState;
  /** Hosts that have not applied it; undefined until it is sent. */
  readonly waiting?: Set<NodeId>;
  readonly cancel: () => void;
}

/**
 * Tasks that are to stop and are not told yet: first every host on their networks stops sending clients to them. A host
 * whose worker is away, as while it restarts, goes on sending clients where it did: it is waited for too.
 * It lives as long as the leadership; under the next leader tasks are stopped at once.
 */
export class Withdrawals {
  readonly #clock: Clock;
  readonly #release: (taskId: TaskId) => void;
  readonly #held = new Map<TaskId, Withdrawal>();
  /** The sequence that each host is to apply, for each task that waits for it; infinite while it has no session. */
  readonly #awaited = new Map<NodeId, Map<TaskId, number>>();

  /** @param release - Called once the task may be told. */
  constructor(clock: Clock, release: (taskId: TaskId) => void) {
    this.#clock = clock;
    this.#release = release;
  }

  /** @returns What the task is told until it is withdrawn; undefined: what managers want. */
  holds(taskId: TaskId): DesiredState | undefined {
    return this.#held.get(taskId)?.desiredState;
  }

  /** Somebody waits to be told. */
  get isHolding(): boolean {
    return this.#held.size > 0;
  }

  /** From here on the task is told no more than before. */
  hold({ id, desiredState }: Pick<Task, "id" | "desiredState">): void {
    if (!this.#held.has(id)) this.#held.set(id, { desiredState, cancel: () => {} });
  }

  /**
   * That the task is withdrawn is marked for these sessions: whoever has applied what is marked has withdrawn it.
   *
   * @param away - Nodes that may be on its networks and have no session.
   */
  sent(taskId: TaskId, sessions: Iterable<Session>, away: Iterable<NodeId>): void {
    const held = this.#held.get(taskId);
    if (held === undefined || held.waiting !== undefined) return;
    const waiting = new Set<NodeId>();
    for (const nodeId of away) this.#await(nodeId, taskId, Infinity, waiting);
    for (const session of sessions) {
      const needed = session.sequenceOfMarked;
      if (session.applied < needed) this.#await(session.nodeId, taskId, needed, waiting);
    }
    const cancel = this.#clock.after(withdrawalLimitMs, () => this.#end(taskId));
    this.#held.set(taskId, { ...held, waiting, cancel });
    if (waiting.size === 0) this.#end(taskId);
  }

  /** @param sequence - What the worker of the node has brought its host's network to. */
  applied(nodeId: NodeId, sequence: number): void {
    for (const [taskId, needed] of this.#awaited.get(nodeId) ?? []) {
      if (needed > sequence) continue;
      this.#forget(nodeId, taskId);
      const waiting = this.#held.get(taskId)?.waiting;
      if (waiting?.delete(nodeId) === true && waiting.size === 0) this.#end(taskId);
    }
  }

  /**
   * What was marked for the session is sent, as far as its stream takes it. Where it turned out that there was nothing to
   * say of networks, as of a task that was withdrawn before anybody heard that it serves, no answer will come.
   */
  flushed(session: Session): void {
    const awaited = this.#awaited.get(session.nodeId);
    if (awaited === undefined || !session.started) return;
    const needed = session.sequenceOfMarked;
    for (const [taskId, before] of awaited) if (before > needed) awaited.set(taskId, needed);
    this.applied(session.nodeId, session.applied);
  }

  /** The node's session is over. The next one brings it everything, `flushed` says when. */
  away(nodeId: NodeId): void {
    const awaited = this.#awaited.get(nodeId);
    for (const taskId of awaited?.keys() ?? []) awaited?.set(taskId, Infinity);
  }

  /** The node is removed. One that is down may be a host that forwards as ever, whose worker takes long to come back. */
  gone(nodeId: NodeId): void {
    this.applied(nodeId, Infinity);
  }

  /** The leadership is over. */
  clear(): void {
    for (const { cancel } of this.#held.values()) cancel();
    this.#held.clear();
    this.#awaited.clear();
  }

  #end(taskId: TaskId): void {
    const withdrawal = this.#held.get(taskId);
    if (withdrawal === undefined) return;
    this.#held.delete(taskId);
    withdrawal.cancel();
    for (const nodeId of withdrawal.waiting ?? []) this.#forget(nodeId, taskId);
    this.#release(taskId);
  }

  #await(nodeId: NodeId, taskId: TaskId, needed: number, waiting: Set<NodeId>): void {
    waiting.add(nodeId);
    const awaited = this.#awaited.get(nodeId);
    if (awaited === undefined) this.#awaited.set(nodeId, new Map([[taskId, needed]]));
    else awaited.set(taskId, needed);
  }

  #forget(nodeId: NodeId, taskId: TaskId): void {
    const awaited = this.#awaited.get(nodeId);
    if (awaited?.delete(taskId) === true && awaited.size === 0) this.#awaited.delete(nodeId);
  }
}
