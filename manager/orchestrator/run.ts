import { runLoop, type LoopDeps } from "../../runtime/loop.ts";
import type { Store } from "../store/store.ts";
import { runNodes } from "./run-nodes.ts";
import { runReaper } from "./run-reaper.ts";
import { runServices } from "./run-services.ts";

export interface OrchestrationDeps extends LoopDeps {
  readonly store: Store;
}

/**
 * Everything that makes and ends tasks, while this manager leads: keeps services at their specs, cleans
 * up records, and takes tasks off nodes that may not have them. Ends when `signal` aborts; never rejects.
 */
export async function runOrchestration(deps: OrchestrationDeps, signal: AbortSignal): Promise<void> {
  await Promise.all([
    runLoop(deps, "services", (ended) => runServices(deps, ended), signal),
    runLoop(deps, "reaper", (ended) => runReaper(deps, ended), signal),
    runLoop(deps, "nodes", (ended) => runNodes(deps, ended), signal),
  ]);
}
