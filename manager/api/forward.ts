/** Writes go to the leader; a short time without one is waited out. */
import { ClusterError } from "../../model/errors.ts";
import type { ForwardRequest, ForwardResponse } from "../../proto/gen/shoal/control.ts";
import type { ApiDeps } from "./deps.ts";

/** An election takes well under a second; longer than this and clients should know. */
export const leaderWaitMs = 5_000;
const leaderPollMs = 25;

/** Set on a request that another manager passed on: a second hop is refused. */
export const forwardedHeader = "x-shoal-forwarded";

/** What of a client's headers the leader needs. */
export const forwardedHeaders = ["content-type", "x-registry-auth"] as const;

/**
 * Passes the request on, unless this manager leads or comes to lead meanwhile.
 *
 * @returns The leader's answer, or undefined when the request is to be carried out here.
 * @throws {ClusterError} `no-leader` when there is none for `leaderWaitMs`.
 */
export async function forwardUnlessLeader(
  deps: Pick<ApiDeps, "cluster" | "clock" | "forward">,
  request: () => ForwardRequest,
  life: { readonly signal: AbortSignal },
): Promise<ForwardResponse | undefined> {
  if (deps.cluster.isLeader()) return undefined; // Before a signal is made for the wait.
  return retryWithoutLeader(deps, life.signal, async () => {
    if (deps.cluster.isLeader()) return undefined;
    if (deps.cluster.leaderAddress() === undefined) throw new ClusterError("no-leader", "no leader is known");
    return deps.forward(request(), life.signal);
  });
}

/** Waits until the store here is as fresh as the cluster. @throws {ClusterError} `no-leader` as above. */
export async function freshRead(
  deps: Pick<ApiDeps, "cluster" | "clock">,
  signal: AbortSignal,
): Promise<void> {
  await retryWithoutLeader(deps, signal, () => deps.cluster.readBarrier(signal));
}

async function retryWithoutLeader<R>(
  { clock }: Pick<ApiDeps, "clock">,
  signal: AbortSignal,
  attempt: () => Promise<R>,
): Promise<R> {
  const endMs = clock.monotonic() + leaderWaitMs;
  for (;;) {
    try {
      return await attempt();
    } catch (reason) {
      const missing = reason instanceof ClusterError && reason.code === "no-leader";
      if (!missing || signal.aborted || clock.monotonic() >= endMs) throw reason;
    }
    await clock.sleep(leaderPollMs, signal);
  }
}
