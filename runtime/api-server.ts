import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerFactory,
} from "fastify";
import { ClusterError } from "../model/errors.ts";
import {
  apiVersion,
  bodyTooLarge,
  commonHeaders,
  compareVersions,
  errorResponse,
  headerLimitBytes,
  jsonContentType,
  malformedRequest,
  notFoundMessage,
  splitVersion,
  versionProblem,
} from "./http.ts";
import type { Log } from "./log.ts";

/** A name in a path is at most this long; what is longer is found nowhere. */
const pathPartLimit = 1_024;
const serverOptions = { maxHeaderSize: headerLimitBytes };

export interface ApiServerOptions {
  readonly log: Pick<Log, "error">;
  /** Larger bodies are refused before they are read whole. */
  readonly bodyLimitBytes: number;
  /** Bodies as a `Buffer` in `request.body`, or left in the stream for the handler. */
  readonly bodies: "buffer" | "stream";
  readonly trailingSlash: "kept" | "ignored";
  /** Sees every request before anything else does, and says whether it takes it; it answers it then. */
  readonly ahead?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** Puts a failure into the words of this API's clients; without it, it is told as it is. */
  readonly inClientsWords?: (reason: unknown) => unknown;
}

export interface ApiServer {
  readonly app: FastifyInstance;
  /** The version a request's path asked for, such as "1.41". */
  readonly versionOf: (request: FastifyRequest) => string;
  /** Answers with a failure. */
  readonly fail: (reply: FastifyReply, reason: unknown) => FastifyReply;
}

/**
 * A server with what every route of the Engine API has in common: the version in the path, the headers, how failures
 * are told. The routes, and what is said of a path without one, are the caller's to add; all paths are without a version.
 */
export function createApiServer(options: ApiServerOptions): ApiServer {
  const { bodyLimitBytes, log, ahead } = options;
  const inClientsWords = options.inClientsWords ?? ((reason: unknown) => reason);
  const versions = new WeakMap<IncomingMessage, string>();
  const versionOf = (request: FastifyRequest): string => versions.get(request.raw) ?? apiVersion;
  const fail = (reply: FastifyReply, reason: unknown): FastifyReply => {
    const { status, body } = errorResponse(inClientsWords(reason));
    return sendJson(reply.headers(commonHeaders), status, body);
  };
  const fromFramework = (error: unknown, contentType: string): unknown =>
    refusal(error, { contentType, bodyLimitBytes });

  const app = fastify({
    logger: false,
    http: serverOptions,
    ...(ahead === undefined ? {} : { serverFactory: serverBehind(ahead) }),
    bodyLimit: bodyLimitBytes,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    routerOptions: {
      maxParamLength: pathPartLimit,
      ignoreTrailingSlash: options.trailingSlash === "ignored",
    },
    // Routes here have no schemas; without these the compilers for them are loaded all the same: four MiB.
    schemaController: { compilersFactory: { buildValidator: noSchemas, buildSerializer: noSchemas } },
    rewriteUrl(request) {
      const { version, url } = splitVersion(request.url ?? "/");
      versions.set(request, version);
      return url;
    },
    clientErrorHandler: refuseMalformed,
    frameworkErrors: (error, _request, reply) => void fail(reply, fromFramework(error, "")),
  });
  app.removeAllContentTypeParsers();
  // All are alike; the one that nearly all requests have is found at once, where the others are taken apart each time.
  const contentTypes = [jsonContentType, "*"];
  if (options.bodies === "stream")
    app.addContentTypeParser(contentTypes, (_request, _body, done) => done(null));
  else
    app.addContentTypeParser(contentTypes, { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  app.addHook("onRequest", (request, reply, done) => {
    reply.headers(commonHeaders);
    const problem = versionProblem(versionOf(request));
    done(problem === undefined ? undefined : new ClusterError("invalid-argument", problem));
  });
  app.setErrorHandler((error, request, reply) => {
    const reason = fromFramework(error, request.headers["content-type"] ?? "");
    if (!(reason instanceof ClusterError)) {
      log.error({ method: request.method, url: request.url, error: reason }, "a request failed");
    }
    if (compareVersions(versionOf(request), "1.24") >= 0) return fail(reply, reason);
    const { status, body } = errorResponse(inClientsWords(reason)); // Clients that old read errors as plain text.
    return reply.code(status).type("text/plain; charset=utf-8").send(`${body.message}\n`);
  });
  return { app, versionOf, fail };
}

/** As the framework makes it, but that some requests never reach it. */
function serverBehind(ahead: NonNullable<ApiServerOptions["ahead"]>): FastifyServerFactory {
  return (handler, { keepAliveTimeout, requestTimeout }) => {
    const server = createServer(serverOptions, (request, response) => {
      if (!ahead(request, response)) handler(request, response);
    });
    if (keepAliveTimeout !== undefined) server.keepAliveTimeout = Number(keepAliveTimeout);
    if (requestTimeout !== undefined) server.requestTimeout = Number(requestTimeout);
    return server;
  };
}

/** Answers with a failure where no framework is. */
export function refuse(response: ServerResponse, reason: unknown): void {
  const { status, body } = errorResponse(reason);
  const text = Buffer.from(`${JSON.stringify(body)}\n`);
  const headers = { ...commonHeaders, "content-type": jsonContentType, "content-length": text.length };
  response.writeHead(status, headers).end(text);
}

export function sendJson(reply: FastifyReply, status: number, value: unknown): FastifyReply {
  return sendJsonText(reply, status, JSON.stringify(value));
}

/** For JSON that is text already. As bytes, so that no charset is added to the content type: clients compare it whole. */
export function sendJsonText(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply
    .code(status)
    .header("content-type", jsonContentType)
    .send(Buffer.from(`${text}\n`));
}

/** The framework's own refusals, in our words. */
function refusal(
  error: unknown,
  { contentType, bodyLimitBytes }: { readonly contentType: string; readonly bodyLimitBytes: number },
): unknown {
  if (error instanceof ClusterError || !(error instanceof Error)) return error;
  const { code = "", statusCode } = error as { code?: string; statusCode?: number };
  switch (code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return bodyTooLarge(bodyLimitBytes);
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return new ClusterError(
        "invalid-argument",
        `unsupported Content-Type header (${contentType}): must be '${jsonContentType}'`,
      );
    case "FST_ERR_MAX_PARAM_LENGTH":
      return new ClusterError("not-found", notFoundMessage);
    default:
      return statusCode !== undefined && statusCode < 500
        ? new ClusterError("invalid-argument", error.message, { cause: error })
        : error;
  }
}

/** The connection ends with it: what follows cannot be told from the rest of the bad request. */
function refuseMalformed(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const { status, message } = malformedRequest(error.code ?? "");
  const body = JSON.stringify({ message });
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: ${jsonContentType}\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function noSchemas(): never {
  throw new Error("assertion failed: a route with a schema needs fastify's compilers");
}
