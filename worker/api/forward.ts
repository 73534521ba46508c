import { request as httpRequest } from "node:http";
import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import { ClusterError, errorText, outcomeUnknownText } from "../../model/errors.ts";
import { bodyLimitBytes, bodyTooLarge } from "../../runtime/http.ts";
import type { FrontDoorDeps } from "./deps.ts";

const noManager = "This node is not a swarm manager.";
const answerTimeoutMs = 25_000;
/** Of answers that are read here, such as the list of networks. */
const answerLimitBytes = 64 * 1024 * 1024;
/** Longest that a request waits for a manager that is starting, or starting again; as long as managers wait for a leader. */
const managerWaitMs = 5_000;
const managerPollMs = 25;
/** Of a connection to a socket behind which nobody is. */
const unheardCodes: ReadonlySet<unknown> = new Set(["ECONNREFUSED", "ENOENT"]);
/** A body up to this size is not worth a stream. */
const gatheredBytes = 64 * 1024;
/** These belong to one connection and are not passed on. */
const hopHeaders = new Set([
  "connection",
  "keep-alive",
  "transfer-encoding",
  "upgrade",
  "proxy-connection",
  "te",
]);
/** Nor are these of a question: it has been told to go on already, and its body may go over in another form. */
const questionHeaders = new Set([...hopHeaders, "expect", "content-length"]);

const nothing = Buffer.alloc(0);

/** What it takes to ask the manager beside us. */
export type ManagerDeps = Pick<FrontDoorDeps, "clock" | "settings" | "toManager" | "node">;

/** True when a manager process runs, or should, beside this worker. */
export function isManager({ node }: Pick<FrontDoorDeps, "node">): boolean {
  return node().identity?.role === "manager";
}

/** @throws {ClusterError} `unavailable` with the text clients know, unless this node is a manager. */
export function requireManager(deps: Pick<FrontDoorDeps, "node">): void {
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

/** One request of a client, as Node has it, and where its answer goes. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** As the client asked for it, with the version. */
  readonly url: string;
}

/** As {@link passOn}, from a route. */
export async function forward(
  deps: FrontDoorDeps,
  { raw: request, originalUrl: url }: FastifyRequest,
  reply: FastifyReply,
  body?: Buffer,
): Promise<FastifyReply> {
  await passOn(deps, { request, response: reply.raw, url }, { body, onAnswer: () => reply.hijack() });
  return reply;
}

/**
 * Passes a request to the manager beside us; one that is just starting is waited for. Small bodies go over in one piece,
 * behind their headers; others as streams. A client that goes away ends the request there too.
 *
 * @returns Once the manager has begun to answer.
 * @throws {ClusterError} before anything is answered.
 */
export async function passOn(
  deps: FrontDoorDeps,
  { request, response, url }: Exchange,
  { body, onAnswer }: { readonly body?: Buffer | undefined; readonly onAnswer?: () => void } = {},
): Promise<void> {
  requireManager(deps);
  const length = Number(request.headers["content-length"] ?? 0);
  // Refused here: the manager's own refusal is lost when it closes on a body that is still coming.
  if (length > bodyLimitBytes) throw bodyTooLarge(bodyLimitBytes);
  const whole = body ?? (await gathered(request, length));
  const headers = [...passedHeaders(request, questionHeaders), ...framing(request, whole)];
  const answer = await askWhenThere(deps, { request, response, url }, { headers, body: whole });
  onAnswer?.();
  give(answer, response);
}

interface Question {
  readonly headers: string[];
  /** Undefined where it is the request's own stream. */
  readonly body: Buffer | undefined;
}

async function askWhenThere(
  deps: ManagerDeps & Pick<FrontDoorDeps, "log">,
  exchange: Exchange,
  question: Question,
): Promise<IncomingMessage> {
  const { request, response, url } = exchange;
  const endMs = deps.clock.monotonic() + managerWaitMs;
  for (;;) {
    try {
      return await ask(deps, exchange, question);
    } catch (error) {
      const cause = causeOf(error);
      if (response.destroyed) throw error;
      if (!unheardCodes.has(cause.code) || deps.clock.monotonic() >= endMs) {
        const what = { method: request.method, path: url, error: errorText(cause) };
        deps.log.warn(what, "the manager beside us gave no answer");
        throw error;
      }
    }
    await deps.clock.sleep(managerPollMs);
    requireManager(deps);
  }
}

async function ask(
  { settings, toManager }: ManagerDeps,
  { request, response, url }: Exchange,
  { headers, body }: Question,
): Promise<IncomingMessage> {
  const upstream = httpRequest({
    socketPath: settings.managerSocket,
    method: request.method,
    path: url,
    headers,
    // Its connections are kept: a manager that closes after its answer loses it to a write that is still on its way.
    agent: toManager,
  });
  const leave = (): void => {
    if (!response.writableFinished) upstream.destroy();
  };
  response.once("close", leave);
  const answered = answerTo(upstream);
  if (body === undefined) whenConnected(upstream, () => request.pipe(upstream));
  else upstream.end(body);
  try {
    return await answered;
  } catch (error) {
    response.off("close", leave);
    throw error;
  }
}

/** Not before: what went into a connection that does not come about is lost. */
function whenConnected(upstream: ClientRequest, then: () => void): void {
  upstream.once("socket", (socket) => {
    if (socket.connecting) socket.once("connect", then);
    else then();
  });
}

function causeOf(error: unknown): NodeJS.ErrnoException {
  const { cause } = error as { readonly cause?: NodeJS.ErrnoException };
  return cause ?? (error as NodeJS.ErrnoException);
}

/** A small body of known length, whole; undefined for any other. @throws {ClusterError} `unavailable` when it is cut short. */
async function gathered(request: IncomingMessage, length: number): Promise<Buffer | undefined> {
  if (request.headers["transfer-encoding"] !== undefined || length > gatheredBytes) return undefined;
  if (length === 0) return nothing;
  try {
    return await pieces(request);
  } catch (cause) {
    throw new ClusterError("unavailable", "the client is gone", { cause });
  }
}

/** How long the body is, where that is known. */
function framing({ headers }: IncomingMessage, whole: Buffer | undefined): string[] {
  const host = headers.host === undefined ? ["host", "shoal"] : [];
  if (whole !== undefined) return [...host, "content-length", `${whole.length}`];
  const length = headers["content-length"];
  return [...host, ...(length === undefined ? ["transfer-encoding", "chunked"] : ["content-length", length])];
}

function give(answer: IncomingMessage, response: ServerResponse): void {
  const length = Number(answer.headers["content-length"] ?? Number.NaN);
  answer.on("error", () => response.destroy()); // Cut short there is cut short here.
  response.writeHead(answer.statusCode ?? 500, passedHeaders(answer, hopHeaders));
  if (length <= gatheredBytes) {
    pieces(answer).then(
      (body) => response.end(body),
      () => response.destroy(),
    );
    return;
  }
  // The client of a stream waits for the headers first.
  if (Number.isNaN(length)) response.flushHeaders();
  answer.pipe(response);
}

/** Rejects when it is cut short. */
function pieces(message: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const taken: Buffer[] = [];
    message.on("data", (piece: Buffer) => void taken.push(piece));
    message.once("end", () => {
      const [first = nothing, ...more] = taken;
      resolve(more.length === 0 ? first : Buffer.concat(taken));
    });
    message.once("error", reject);
  });
}

/** A request without a body to the manager beside us, answered with JSON. @throws {ClusterError} `unavailable` when it does not answer. */
export async function askManager(
  deps: ManagerDeps,
  path: string,
  method: "GET" | "POST" = "GET",
): Promise<unknown> {
  const { status, body } = await managerAnswer(deps, path, method);
  if (status === 200) return body;
  const { message } = body as { message?: string };
  throw new ClusterError("unavailable", message ?? `manager answered ${status}`);
}

/** As `askManager`, whatever the answer is. */
export async function managerAnswer(
  deps: ManagerDeps,
  path: string,
  method: "GET" | "POST" = "GET",
): Promise<{ readonly status: number; readonly body: unknown }> {
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
    const answered = answerTo(upstream);
    upstream.end();
    const answer = await answered;
    const text = await readText(answer, answerLimitBytes);
    return { status: answer.statusCode ?? 500, body: JSON.parse(text) as unknown };
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
  const answered = answerTo(upstream);
  upstream.end();
  return answered;
}

function answerTo(upstream: ReturnType<typeof httpRequest>): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    upstream.once("response", resolve);
    upstream.on("error", (error: NodeJS.ErrnoException) => {
      const isUnheard = unheardCodes.has(error.code) || upstream.method === "GET";
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

/** Names and values in turn, as they came, but for some. */
function passedHeaders({ rawHeaders }: IncomingMessage, kept: ReadonlySet<string>): string[] {
  const passed: string[] = [];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] ?? "";
    if (!kept.has(name.toLowerCase())) passed.push(name, rawHeaders[at + 1] ?? "");
  }
  return passed;
}
