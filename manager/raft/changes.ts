import type { ConfChange, ProposeResult } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { MembershipChange } from "./group.ts";
import { leadershipLost } from "./requests.ts";

/** What the queue needs of the member that leads. */
export interface ChangeDeps {
  /** The steps for the configuration of this moment. @throws {ClusterError} when the change cannot be made. */
  plan(change: MembershipChange): readonly ConfChange[];
  propose(step: ConfChange): ProposeResult;
  /** Term of an entry; `undefined` when it is compacted. */
  termAt(index: number): number | undefined;
  done(id: number): void;
  refuse(id: number, error: ClusterError): void;
}

interface PendingChange {
  readonly id: number;
  readonly change: MembershipChange;
  /** Of the leadership that took it on; it ends with that. */
  readonly term: number;
  /** What is left to do; planned when its turn comes, since those before it change what may be done. */
  steps: readonly ConfChange[] | undefined;
  /** Index of the step under way. */
  index: number | undefined;
  ageTicks: number;
}

/** Changes of membership in the order asked for, one step at a time: each is committed before the next is proposed. */
export class ChangeQueue {
  readonly #deps: ChangeDeps;
  #pending: PendingChange[] = [];

  constructor(deps: ChangeDeps) {
    this.#deps = deps;
  }

  get isEmpty(): boolean {
    return this.#pending.length === 0;
  }

  add(id: number, term: number, change: MembershipChange): void {
    this.#pending.push({ id, change, term, steps: undefined, index: undefined, ageTicks: 0 });
  }

  /** Goes on as far as possible; what the core cannot take yet is tried again at the next call. */
  continue(appliedIndex: number): void {
    for (;;) {
      const [first] = this.#pending;
      if (first === undefined) return;
      const outcome = this.#advance(first, appliedIndex);
      if (outcome === "waits") return;
      this.#pending.shift();
      if (outcome === "done") this.#deps.done(first.id);
      else this.#deps.refuse(first.id, outcome);
    }
  }

  /**
   * The leaderships before this term are over. What was applied meanwhile is still answered as done, and what is committed waits for that:
   * a leader may step down, as one whose removal was just committed by the others, before its own disk has what it is to apply.
   */
  abandonBefore(firstTerm: number, appliedIndex: number, commitIndex: number): void {
    if (this.#pending.every(({ term }) => term >= firstTerm)) return;
    this.continue(appliedIndex);
    const isLost = ({ term, index = Infinity }: PendingChange): boolean =>
      term < firstTerm && index > commitIndex;
    const lost = this.#pending.filter(isLost);
    this.#pending = this.#pending.filter((change) => !isLost(change));
    for (const { id } of lost) this.#deps.refuse(id, leadershipLost());
  }

  /** One tick; the first is given up after `boundTicks`. */
  tick(boundTicks: number): void {
    for (const change of this.#pending) change.ageTicks += 1;
    const [first] = this.#pending;
    if (first === undefined || first.ageTicks <= boundTicks) return;
    this.#pending.shift();
    this.#deps.refuse(first.id, leadershipLost());
  }

  #advance(change: PendingChange, appliedIndex: number): "waits" | "done" | ClusterError {
    if (change.index !== undefined) {
      if (appliedIndex < change.index) return "waits";
      const heldTerm = this.#deps.termAt(change.index);
      if (heldTerm !== undefined && heldTerm !== change.term) return leadershipLost(); // Its entry was replaced.
      change.index = undefined;
      change.steps = change.steps?.slice(1);
    }
    let steps: readonly ConfChange[];
    try {
      steps = change.steps ?? this.#deps.plan(change.change);
    } catch (error) {
      return error instanceof ClusterError ? error : new ClusterError("internal", errorText(error));
    }
    const [step] = steps;
    if (step === undefined) return "done";
    const result = this.#deps.propose(step);
    if (result.kind === "accepted") {
      change.steps = steps;
      change.index = result.index;
      return "waits";
    }
    if (result.reason === "not-leader") return leadershipLost();
    // Otherwise it is too early, or another change is under way.
    return result.reason === "invalid-change" || result.reason === "quorum-at-risk"
      ? new ClusterError("failed-precondition", result.text)
      : "waits";
  }
}
