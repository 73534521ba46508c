/** A failure → status and body, in the words that clients match. */
import { ClusterError, noLeaderText, outcomeUnknownText } from "../../model/errors.ts";
import { errorResponse } from "../../runtime/http.ts";

const grpcPrefix = "rpc error: code = Unknown desc = ";

/** As clients have always been shown it. */
export const noLeaderReply = `${grpcPrefix}${noLeaderText}`;

const outOfSequence = "update out of sequence";

export interface ErrorReply {
  readonly status: number;
  readonly body: { readonly message: string };
}

export function errorReply(reason: unknown): ErrorReply {
  return errorResponse(inClientsWords(reason));
}

/** The same failure with the text that clients match. */
export function inClientsWords(reason: unknown): unknown {
  if (!(reason instanceof ClusterError)) return reason;
  if (reason.code === "version-conflict" && reason.message === outOfSequence) {
    return new ClusterError(reason.code, `${grpcPrefix}${outOfSequence}`, {
      cause: reason,
    });
  }
  // A write whose outcome is unknown says so; hiding that would invite a blind retry.
  if (reason.code === "no-leader" && reason.message !== outcomeUnknownText) {
    return new ClusterError(reason.code, noLeaderReply, { cause: reason });
  }
  return reason;
}
