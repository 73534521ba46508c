import { ClusterError, errorText } from "../model/errors.ts";
import type { ManagerToDaemon } from "../proto/host.ts";
import { explainSystemError } from "../runtime/system-error.ts";

export type Failure = Extract<ManagerToDaemon, { kind: "failed" }>;

/** The group of managers has taken this one out. */
export class RemovedError extends ClusterError {
  constructor() {
    super("failed-precondition", "this node was removed from the group of managers");
  }
}

/** Codes that another start will not change. */
const final: ReadonlySet<string> = new Set([
  "data-loss",
  "failed-precondition",
  "permission-denied",
  "invalid-argument",
  "not-found",
  "unimplemented",
]);

/**
 * What shoald is told, and shows, when the manager cannot go on. `retry` is false where a new start would end the same
 * way until somebody does something.
 */
export function describeFailure(reason: unknown): Failure {
  const known = reason instanceof ClusterError ? reason : explainSystemError(reason);
  if (known === undefined) {
    const message = `the manager failed: ${errorText(reason)}`;
    return { kind: "failed", code: "internal", message, retry: true };
  }
  const removed = known instanceof RemovedError;
  const { code, message } = known;
  return { kind: "failed", code, message, retry: !final.has(code), ...(removed && { removed }) };
}
