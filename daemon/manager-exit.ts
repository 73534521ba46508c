import type { ManagerToDaemon } from "../proto/host.ts";

/**
 * What follows when the manager process of a node has ended unasked.
 *
 * A node that is demoted and promoted again before it has asked for its worker's certificate is out of the group and hears
 * of no change of role. So one that was removed asks to be let in for as long as its certificate is a manager's, and
 * only the cluster says when it may.
 */
export function afterManagerExit(
  stored: { readonly managerJoined: boolean } | undefined,
  failure: Extract<ManagerToDaemon, { kind: "failed" }> | undefined,
): "restart" | "rejoin" | "leave" {
  if (stored === undefined) return "leave";
  if (failure?.removed === true) return "rejoin";
  if (failure === undefined || failure.retry) return "restart";
  return failure.code === "permission-denied" && !stored.managerJoined ? "restart" : "leave";
}
