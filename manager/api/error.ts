/** A failure → status and body, in the words that clients match. */
import { ClusterError } from "../../model/errors.ts";
import { errorResponse } from "../../runtime/http.ts";

export const noLeaderText =
  "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";

const outOfSequence = "update out of sequence";

export interface ErrorReply {
  readonly status: number;
  readonly body: { readonly message: string };
}

export function errorReply(reason: unknown): ErrorReply {
  return errorResponse(inClientsWords(reason));
}

function inClientsWords(reason: unknown): unknown {
  if (!(reason instanceof ClusterError)) return reason;
  if (reason.code === "version-conflict" && reason.message === outOfSequence) {
    return new ClusterError(reason.code, `rpc error: code = Unknown desc = ${outOfSequence}`, {
      cause: reason,
    });
  }
  // A write whose outcome is unknown says so; hiding that would invite a blind retry.
  if (reason.code === "no-leader" && !reason.message.includes("took effect")) {
    return new ClusterError(reason.code, noLeaderText, { cause: reason });
  }
  return reason;
}
