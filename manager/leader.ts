import { LoopGroup, type LoopDeps } from "../runtime/loop.ts";
import { runAllocator } from "./allocator/run.ts";
import { Dispatcher } from "./dispatcher/dispatcher.ts";
import { type MembershipDeps, runMembership } from "./membership/run.ts";
import { runOrchestration } from "./orchestrator/run.ts";
import { runRebalancer } from "./scheduler/run-rebalance.ts";
import { runScheduler } from "./scheduler/run.ts";
import type { Store } from "./store/store.ts";

export interface LeadershipDeps extends LoopDeps {
  readonly store: Store;
  readonly membership: MembershipDeps;
}

/** Everything that only the leader runs, for one term, under one signal. */
export class Leadership {
  readonly dispatcher: Dispatcher;
  readonly #loops: LoopGroup;

  /** @param before - The end of an earlier leadership of this manager; its loops and ours never run together. */
  constructor(deps: LeadershipDeps, before: Promise<void>) {
    this.#loops = new LoopGroup(deps);
    const { signal } = this.#loops;
    const { nodeId } = deps.membership;
    this.dispatcher = new Dispatcher({ ...part(deps, "dispatcher"), nodeId }, signal);
    this.#loops.background(
      "starting to lead",
      before.then(() => {
        if (!signal.aborted) this.#start(deps);
      }),
    );
  }

  #start(deps: LeadershipDeps): void {
    this.#loops.start("dispatcher", (signal) => this.dispatcher.run(signal));
    this.#loops.start("orchestration", (signal) => runOrchestration(part(deps, "orchestrator"), signal));
    this.#loops.start("allocation", (signal) => runAllocator(part(deps, "allocator"), signal));
    this.#loops.start("scheduling", (signal) => runScheduler(part(deps, "scheduler"), signal));
    this.#loops.start("rebalancing", (signal) => runRebalancer(part(deps, "scheduler"), signal));
    this.#loops.start("membership", (signal) => runMembership(deps.membership, signal));
  }

  /** Ends every loop and every session; bounded. */
  stop(): Promise<void> {
    return this.#loops.stop("this manager does not lead any more");
  }
}

function part(deps: LeadershipDeps, name: string): LeadershipDeps {
  return { ...deps, log: deps.log.child({ part: name }) };
}
