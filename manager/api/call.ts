/** A request and its answer, free of any framework. */
import type { ForwardResponse } from "../../proto/gen/shoal/control.ts";
import type { ApiDeps } from "./deps.ts";
import type { Cancellation } from "../../runtime/life.ts";
import type { JsonObject } from "./json-reader.ts";

export interface Call {
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Read on first use; a request without a body has no fields. @throws `invalid-argument` */
  readonly body: () => JsonObject;
  /** Names are lower case. */
  readonly header: (name: string) => string | undefined;
  /** Engine API version the client speaks, such as "1.41". */
  readonly version: string;
  /** Ends when the client is gone or, but for streams, when the request has taken too long. */
  readonly life: Cancellation;
  /** Aborts with it; made where it is asked for. */
  readonly signal: AbortSignal;
}

export type Reply =
  | { readonly kind: "json"; readonly status: number; readonly value: unknown }
  /** JSON that is text already. */
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "empty"; readonly status: number }
  /** The leader's answer to what was passed on to it. */
  | { readonly kind: "passed"; readonly response: ForwardResponse }
  | { readonly kind: "stream"; readonly contentType: string; readonly chunks: AsyncIterable<Uint8Array> };

export interface Route {
  readonly method: "GET" | "POST" | "DELETE";
  /** Without version; ":name" stands for one segment, a final "*" for all the rest (parameter "*"). */
  readonly path: string;
  /** True: about this manager alone, and answered by it even while there is no leader. */
  readonly local?: boolean;
  readonly handle: (deps: ApiDeps, call: Call) => Promise<Reply> | Reply;
}

export function json(value: unknown, status = 200): Reply {
  return { kind: "json", status, value };
}

export function empty(status = 200): Reply {
  return { kind: "empty", status };
}

/** A path parameter; every route that reads one declares it. */
export function param(call: Call, name: string): string {
  return call.params[name] ?? "";
}
