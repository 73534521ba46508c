import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { ClusterError, type ErrorCode, errorCodes, errorText, toClusterError } from "../model/errors.ts";

/** Trailer with our own code: several of ours share one number of gRPC's. */
const codeKey = "shoal-code";

/** What grpc-js takes for the end of a call; `code` is gRPC's number. */
export interface WireStatus {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

/** A failure as gRPC sends it. Anything unforeseen becomes "internal error"; its text stays with the caller's log. */
export function toStatus(reason: unknown): WireStatus {
  const error = toClusterError(reason);
  const metadata = new Metadata();
  metadata.set(codeKey, error.code);
  return { code: errorCodes[error.code].grpc, details: error.message, metadata };
}

/** A failed call as our own error, with the code that the other side meant. */
export function fromServiceError(reason: unknown): ClusterError {
  if (reason instanceof ClusterError) return reason;
  if (!isServiceError(reason)) return new ClusterError("internal", errorText(reason), { cause: reason });
  const sent = reason.metadata?.get(codeKey)[0];
  const code = typeof sent === "string" && isErrorCode(sent) ? sent : codeOfNumber(reason.code);
  return new ClusterError(code, reason.details, { cause: reason });
}

const unansweredCodes: ReadonlySet<number> = new Set([status.DEADLINE_EXCEEDED, status.UNAVAILABLE]);

/** True for a call that the other side never answered: its connection broke, or its time ran out. */
export function isUnanswered(error: ServiceError): boolean {
  return error.metadata?.get(codeKey)[0] === undefined && unansweredCodes.has(error.code);
}

function codeOfNumber(grpc: number): ErrorCode {
  if (grpc === 14) return "unavailable"; // Two of ours share it; a broken connection is this one.
  const found = (Object.keys(errorCodes) as ErrorCode[]).find((code) => errorCodes[code].grpc === grpc);
  return found ?? "internal";
}

function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorCodes, text);
}

function isServiceError(reason: unknown): reason is ServiceError {
  return (
    reason instanceof Error && "code" in reason && "details" in reason && typeof reason.code === "number"
  );
}
