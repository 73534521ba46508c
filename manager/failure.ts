import { ClusterError, errorText } from "../model/errors.ts";
import type { ManagerToDaemon } from "../proto/host.ts";

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
  if (reason instanceof ClusterError) {
    const removed = reason instanceof RemovedError;
    const { code, message } = reason;
    return { kind: "failed", code, message, retry: !final.has(code), ...(removed && { removed }) };
  }
  const text = errorText(reason); // Of system calls it names the address or the path.
  switch (systemCode(reason)) {
    case "EADDRINUSE":
      return failed(
        "unavailable",
        `the cluster port is taken by another process (${text}); end it, or choose another with --listen-addr`,
      );
    case "EADDRNOTAVAIL":
      return failed(
        "unavailable",
        `this host has no such address (${text}); choose another with --listen-addr`,
      );
    case "ENOSPC":
    case "EDQUOT":
      return failed("resource-exhausted", `the disk is full: ${text}; free space below the state directory`);
    case "EACCES":
    case "EPERM":
      return failed("unavailable", `permission denied: ${text}; shoald must run as root`);
    default:
      return failed("internal", `the manager failed: ${text}`);
  }
}

function failed(code: Failure["code"], message: string): Failure {
  return { kind: "failed", code, message, retry: true };
}

function systemCode(reason: unknown): string {
  return reason instanceof Error && "code" in reason && typeof reason.code === "string" ? reason.code : "";
}
