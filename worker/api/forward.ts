import { request as httpRequest } from "node:http";
import type { IncomingMessage } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import { ClusterError, errorText, outcomeUnknownText } from "../../model/errors.ts";
import { bodyLimitBytes, bodyTooLarge } from "../../runtime/http.ts";
import type { FrontDoorDeps } from "./deps.ts";

const noManager = "This node is not a swarm manager.";
const answerTimeoutMs = 25_000;
/** Of answers that are read here, such as the list of networks. */
const answerLimitBytes = 64 * 1024 * 1024;
/** These belong to one connection and are not passed on. */
const hopHeaders = new Set([
  "connection",
  "keep-alive",
  "transfer-encoding",
  "upgrade",
  "proxy-connection",
  "te",
]);

/** What it takes to ask the manager beside us. */
export type ManagerDeps = Pick<FrontDoorDeps, "clock" | "settings" | "toManager" | "node">;

/** True when a manager process runs, or should, beside this worker. */
export function isManager({ node }: Pick<FrontDoorDeps, "node">): boolean {
  return node().identity?.role === "manager";
}

/** @throws {ClusterError} `unavailable` with the text clients know, unless this node is a manager. */
export function requireManager(deps: FrontDoorDeps): void {
  const { identity, state } = deps.node();
  if (identity === undefined && state !== "pending") {
    throw new ClusterError(
      "unavailable",
      `${noManager} Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`,
    );
  }
  if (identity?.role === "manager") return;
  if (identity === undefined) throw managerAway();
  throw new ClusterError(
    "unavailable",
    `${noManager} Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.`,
  );
}

function managerAway(cause?: unknown): ClusterError {
  const text = `${noManager} Manager is being prepared or has trouble connecting to the cluster.`;
  return new ClusterError("unavailable", text, { cause });
}

/**
 * Passes a request to the manager beside us, both bodies as streams. A client that goes away
 * ends the request there too.
 */
export async function forward(
  deps: FrontDoorDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  body?: Buffer,
): Promise<FastifyReply> {
  requireManager(deps);
  // Refused here: the manager's own refusal is lost when it closes on a body that is still coming.
  if (Number(request.headers["content-length"] ?? 0) > bodyLimitBytes) throw bodyTooLarge(bodyLimitBytes);
  const upstream = httpRequest({
    socketPath: deps.settings.managerSocket,
    method: request.method,
    path: request.originalUrl,
    headers: passedHeaders(request.raw),
    // Its connections are kept: a manager that closes after its answer loses it to a write that is still on its way.
    agent: deps.toManager,
  });
  reply.raw.once("close", () => upstream.destroy());
  const answered = response(upstream).catch((error: unknown) => {
    const { method, originalUrl: path } = request;
    if (!reply.raw.destroyed) {
      const { cause } = error as { readonly cause?: unknown };
      deps.log.warn(
        { method, path, error: errorText(cause ?? error) },
        "the manager beside us gave no answer",
      );
    }
    throw error;
  });
  if (body === undefined) request.raw.pipe(upstream);
  else upstream.end(body);
  const answer = await answered;
  reply.hijack();
  answer.on("error", () => reply.raw.destroy()); // Cut short there is cut short here.
  reply.raw.writeHead(answer.statusCode ?? 500, passedHeaders(answer));
  // The client of a stream waits for the headers first; an answer of known length comes whole, headers and body in one write.
  if (answer.headers["content-length"] === undefined) reply.raw.flushHeaders();
  answer.pipe(reply.raw);
  return reply;
}

/** A request without a body to the manager beside us, answered with JSON. @throws {ClusterError} `unavailable` when it does not answer. */
export async function askManager(
  deps: ManagerDeps,
  path: string,
  method: "GET" | "POST" = "GET",
): Promise<unknown> {
  const { managerSocket } = deps.settings;
  const upstream = httpRequest({
    socketPath: managerSocket,
    method,
    path,
    headers: { host: "shoal" },
    agent: deps.toManager,
  });
  const cancel = deps.clock.after(answerTimeoutMs, () => upstream.destroy(new Error("it does not answer")));
  try {
    const answered = response(upstream);
    upstream.end();
    const answer = await answered;
    const text = await readText(answer, answerLimitBytes);
    if (answer.statusCode === 200) return JSON.parse(text) as unknown;
    const { message } = JSON.parse(text) as { message?: string };
    throw new ClusterError("unavailable", message ?? `manager answered ${answer.statusCode}`);
  } catch (error) {
    if (error instanceof ClusterError) throw error;
    throw managerAway(error);
  } finally {
    cancel();
  }
}

/** A stream of the manager beside us; ends when `signal` aborts. */
export async function openManagerStream(
  deps: FrontDoorDeps,
  path: string,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const { managerSocket } = deps.settings;
  const upstream = httpRequest({
    socketPath: managerSocket,
    path,
    headers: { host: "shoal" },
    agent: false,
    signal,
  });
  const answered = response(upstream);
  upstream.end();
  return answered;
}

function response(upstream: ReturnType<typeof httpRequest>): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    upstream.once("response", resolve);
    upstream.on("error", (error: NodeJS.ErrnoException) => {
      const isUnheard = error.code === "ECONNREFUSED" || error.code === "ENOENT" || upstream.method === "GET";
      reject(
        isUnheard
          ? managerAway(error)
          : new ClusterError("unavailable", outcomeUnknownText, { cause: error }),
      );
    });
  });
}

/** So much more than is accepted is read and dropped, so that the refusal reaches a client that is still sending. */
const discardFactor = 16;

/** A whole body as text. @throws {ClusterError} `invalid-argument` when it is larger than the limit. */
export async function readText(stream: IncomingMessage, limitBytes: number): Promise<string> {
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  for await (const piece of stream as AsyncIterable<Buffer>) {
    sizeBytes += piece.length;
    if (sizeBytes <= limitBytes) pieces.push(piece);
    if (sizeBytes > limitBytes * discardFactor) break;
  }
  if (sizeBytes > limitBytes) {
    throw new ClusterError(
      "invalid-argument",
      `request body too large: at most ${limitBytes} bytes are accepted`,
    );
  }
  return Buffer.concat(pieces).toString("utf8");
}

function passedHeaders({ headers }: IncomingMessage): Record<string, string | string[]> {
  const passed: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && !hopHeaders.has(name)) passed[name] = value;
  }
  if (headers["transfer-encoding"] !== undefined && headers["content-length"] === undefined) {
    passed["transfer-encoding"] = "chunked";
  }
  return passed;
}
