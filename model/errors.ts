/** One table for what can go wrong with a request: the code's HTTP status and gRPC number. */
export const errorCodes = {
  "invalid-argument": { http: 400, grpc: 3 },
  "failed-precondition": { http: 400, grpc: 9 },
  "too-large": { http: 413, grpc: 8 },
  unauthenticated: { http: 401, grpc: 16 },
  "permission-denied": { http: 403, grpc: 7 },
  "not-found": { http: 404, grpc: 5 },
  "name-conflict": { http: 409, grpc: 6 },
  conflict: { http: 409, grpc: 6 },
  "version-conflict": { http: 500, grpc: 2 }, // As the Engine API answers; its clients match the text.
  "resource-exhausted": { http: 500, grpc: 8 },
  "deadline-exceeded": { http: 500, grpc: 4 },
  "no-leader": { http: 500, grpc: 14 }, // 500 with a fixed text is what Docker's clients know.
  unavailable: { http: 503, grpc: 14 },
  unimplemented: { http: 501, grpc: 12 },
  "data-loss": { http: 500, grpc: 15 },
  internal: { http: 500, grpc: 13 },
} as const satisfies Record<string, { http: number; grpc: number }>;

export type ErrorCode = keyof typeof errorCodes;

/** A failure of one request, fit to be shown to whoever made it. */
export class ClusterError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "ClusterError";
    this.code = code;
  }
}

/** `no-leader` in the words that Docker's clients know: nothing was done. */
export const noLeaderText =
  "The swarm does not have a leader. It's possible that too few managers are online. " +
  "Make sure more than half of the managers are online.";

/** `no-leader` for a write that was under way; whoever shows it must not put {@link noLeaderText} in its place. */
export const outcomeUnknownText =
  "the leader was lost while it carried out this request: whether it took effect is not known; " +
  "look before you repeat it";

/** Edge only: anything unforeseen becomes `internal`; its text stays in our log. */
export function toClusterError(reason: unknown): ClusterError {
  if (reason instanceof ClusterError) return reason;
  return new ClusterError("internal", "internal error", { cause: reason });
}

/** The text of whatever was thrown, for a message that says what was being done. */
export function errorText(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}

/** Guards an invariant; a failed assertion is a bug of ours and stays on in production. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}

/** For the end of an exhaustive `switch`: does not compile while a member is unhandled. */
export function unreachable(value: never): never {
  throw new Error(`assertion failed: unexpected value ${JSON.stringify(value)}`);
}
