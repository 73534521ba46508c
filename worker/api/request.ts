/** What every route reads of a request, and how bodies that take time are sent. */
import { Readable } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { commonHeaders, notFoundMessage, parseJsonBody } from "../../runtime/http.ts";
import type { LocalEvent } from "./events.ts";
import { readText } from "./forward.ts";
import { anyOf } from "../../runtime/signal.ts";

/** Of JSON bodies that are read here; those passed on are bounded by the manager. */
export const jsonLimitBytes = 1024 * 1024;

/** What routes need beside the rest of the worker. */
export interface RouteContext {
  /** Aborts when the front door closes. */
  readonly ending: AbortSignal;
  /** The version a request's path asked for, such as "1.41". */
  readonly versionOf: (request: FastifyRequest) => string;
  /** Tells those who follow `/events` of what the engine itself does not tell. */
  readonly publish: (event: LocalEvent) => void;
  /** The same of a prune, with what it gave back. */
  readonly publishPruned: (type: LocalEvent["type"], reclaimedBytes: number) => void;
}

/** Headers go out at once: clients wait for them before they do anything else. */
export function stream(
  reply: FastifyReply,
  chunks: AsyncIterable<string | Uint8Array>,
  contentType: string,
  headers: Readonly<Record<string, string>> = {},
): FastifyReply {
  const body = Readable.from(chunks, { objectMode: false, highWaterMark: 64 * 1024 });
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { ...commonHeaders, ...headers, "content-type": contentType });
  raw.flushHeaders();
  body.on("error", () => raw.destroy()); // Headers are out: cutting the stream is the only way to tell.
  raw.once("close", () => body.destroy());
  body.pipe(raw);
  return reply;
}

/** Aborts when the client goes away or the front door closes. */
export function lifeOf(reply: FastifyReply, ending: AbortSignal): AbortSignal {
  const life = new AbortController();
  reply.raw.once("close", () => life.abort(new ClusterError("unavailable", "the client is gone")));
  return anyOf(life.signal, ending).signal;
}

export async function bodyOf(request: FastifyRequest): Promise<unknown> {
  const text = await readText(request.raw, jsonLimitBytes);
  return parseJsonBody(request.headers["content-type"], text);
}

export function queryOf(request: Pick<FastifyRequest, "url">): URLSearchParams {
  const mark = request.url.indexOf("?");
  return new URLSearchParams(mark === -1 ? "" : request.url.slice(mark + 1));
}

export function wildcard(request: FastifyRequest): string {
  return (request.params as { readonly "*": string })["*"];
}

export function suffix(path: string, ending: string): string | undefined {
  return path.endsWith(ending) ? path.slice(0, -ending.length) : undefined;
}

export function required(name: string | undefined): string {
  if (name === undefined || name === "") throw new ClusterError("not-found", notFoundMessage);
  return name;
}

export function headerOf(request: FastifyRequest, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
}

/** "name/action" taken apart at its last slash. */
export function nameAndAction(path: string): { readonly name: string; readonly action: string } {
  const slash = path.lastIndexOf("/");
  if (slash < 1) throw new ClusterError("not-found", notFoundMessage);
  return { name: path.slice(0, slash), action: path.slice(slash + 1) };
}
