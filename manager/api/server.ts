/** The manager's REST server: a unix socket that the worker beside it passes swarm routes to. */
import { rm } from "node:fs/promises";
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { ForwardRequest, ForwardResponse } from "../../proto/gen/shoal/control.ts";
import { createApiServer, sendJson, sendJsonText } from "../../runtime/api-server.ts";
import { Life } from "../../runtime/life.ts";
import { bodyLimitBytes, jsonContentType, notFoundMessage, parseJsonBody } from "../../runtime/http.ts";
import type { Call, Reply, Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { inClientsWords } from "./error.ts";
import { EventFeed, eventRoutes } from "./events.ts";
import { forwardedHeader, forwardedHeaders, forwardUnlessLeader, freshRead } from "./forward.ts";
import { jsonObject } from "./json-reader.ts";
import { logRoutes } from "./logs.ts";
import { networkRoutes } from "./network.ts";
import { nodeRoutes } from "./node.ts";
import { payloadRoutes } from "./payload.ts";
import { netDoctorRoutes } from "./net-doctor.ts";
import { rebalanceRoutes } from "./rebalance.ts";
import { serviceRoutes } from "./service.ts";
import { swarmRoutes } from "./swarm.ts";
import { taskRoutes } from "./task.ts";
import { whyRoutes } from "./why.ts";

/** A request that takes longer is given up, but for streams. */
export const requestDeadlineMs = 20_000;

export interface Api {
  /** Serves on a unix socket; a stale one is replaced. */
  listen(socket: string): Promise<void>;
  /** Carries out a request that another manager passed on. @throws `no-leader` when this one does not lead. */
  inject(request: ForwardRequest): Promise<ForwardResponse>;
  /** Ends streams, then settles. */
  close(): Promise<void>;
}

export function createApi(deps: ApiDeps): Api {
  const ending = new AbortController();
  const open = new Set<Life>();
  const feed = new EventFeed(deps);
  const feeding = feed.run(ending.signal).catch((reason: unknown) => {
    if (!ending.signal.aborted) deps.log.error({ error: errorText(reason) }, "the event feed ended");
  });
  const routes = [
    ...swarmRoutes,
    ...nodeRoutes,
    ...serviceRoutes,
    ...taskRoutes,
    ...whyRoutes,
    ...netDoctorRoutes,
    ...rebalanceRoutes,
    ...networkRoutes,
    ...payloadRoutes,
    ...logRoutes,
    ...eventRoutes(feed),
  ];
  const app = build(deps, routes, open);
  return {
    async listen(socket) {
      await rm(socket, { force: true });
      await app.listen({ path: socket });
    },
    async inject(request) {
      if (!deps.cluster.isLeader()) throw new ClusterError("no-leader", "this manager does not lead");
      const response = await app.inject({
        method: request.method as "POST",
        url: request.url,
        headers: { ...request.headers, [forwardedHeader]: "1" },
        payload: Buffer.from(request.body),
      });
      return {
        status: response.statusCode,
        headers: { "content-type": String(response.headers["content-type"] ?? jsonContentType) },
        body: response.rawPayload,
      };
    },
    async close() {
      const reason = new ClusterError("unavailable", "the manager is stopping");
      ending.abort(reason);
      for (const each of open) each.end(reason);
      await app.close();
      await feeding;
    },
  };
}

function build(deps: ApiDeps, routes: readonly Route[], open: Set<Life>): FastifyInstance {
  const { app, versionOf, fail } = createApiServer({
    log: deps.log,
    bodyLimitBytes,
    bodies: "buffer",
    trailingSlash: "kept",
    inClientsWords,
  });
  app.setNotFoundHandler((_request, reply) => fail(reply, new ClusterError("not-found", notFoundMessage)));
  for (const route of routes) {
    app.route({
      method: route.method,
      url: route.path,
      handler: (request, reply) => answer(deps, { route, request, reply, version: versionOf(request), open }),
    });
  }
  return app;
}

interface Exchange {
  readonly route: Route;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly version: string;
  /** Requests and streams not yet at their end. */
  readonly open: Set<Life>;
}

async function answer(
  deps: ApiDeps,
  { route, request, reply, version, open }: Exchange,
): Promise<FastifyReply> {
  const life = new Life();
  open.add(life);
  const cancelDeadline = deps.clock.after(requestDeadlineMs, () =>
    life.end(new ClusterError("deadline-exceeded", "context deadline exceeded")),
  );
  reply.raw.once("close", () => {
    open.delete(life);
    if (!reply.raw.writableFinished) life.end(new ClusterError("unavailable", "the client is gone"));
  });
  let streaming = false;
  // The reply is not awaited: it settles with the end of the stream, which has no deadline.
  try {
    const outcome = await life.race(carryOut(deps, route, request, version, life));
    streaming = outcome.kind === "stream";
    return send(reply, outcome);
  } finally {
    cancelDeadline();
    if (!streaming) open.delete(life);
  }
}

/** A read once this manager is as fresh as the cluster; a write here or at the leader; what is about this manager, here. */
async function carryOut(
  deps: ApiDeps,
  route: Route,
  request: FastifyRequest,
  version: string,
  life: Life,
): Promise<Reply> {
  if (route.local === true) return route.handle(deps, toCall(request, version, life));
  if (route.method === "GET") await freshRead(deps, life.signal);
  else if (request.headers[forwardedHeader] === undefined) {
    const passed = await forwardUnlessLeader(deps, () => toForward(request), life);
    if (passed !== undefined) return { kind: "passed", response: passed };
  }
  return route.handle(deps, toCall(request, version, life));
}

function toCall(request: FastifyRequest, version: string, life: Life): Call {
  const at = request.url.indexOf("?");
  return {
    params: request.params as Record<string, string>,
    query: at < 0 ? new URLSearchParams() : new URLSearchParams(request.url.slice(at + 1)),
    body: () =>
      jsonObject(
        parseJsonBody(request.headers["content-type"], bodyBytes(request).toString("utf8")) ?? {},
        "",
      ),
    header: (name) => {
      const value = request.headers[name];
      return typeof value === "string" ? value : undefined;
    },
    version,
    life,
    get signal() {
      return life.signal;
    },
  };
}

function toForward(request: FastifyRequest): ForwardRequest {
  const headers: Record<string, string> = {};
  for (const name of forwardedHeaders) {
    const value = request.headers[name];
    if (typeof value === "string") headers[name] = value;
  }
  return { method: request.method, url: request.originalUrl, headers, body: bodyBytes(request) };
}

function bodyBytes(request: FastifyRequest): Buffer {
  return Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
}

function send(reply: FastifyReply, outcome: Reply): FastifyReply {
  switch (outcome.kind) {
    case "json":
      return sendJson(reply, outcome.status, outcome.value);
    case "text":
      return sendJsonText(reply, 200, outcome.text);
    case "empty":
      return reply.code(outcome.status).send();
    case "passed": {
      const { status, headers, body } = outcome.response;
      return reply.code(status).headers(headers).send(Buffer.from(body));
    }
    case "stream": {
      reply.code(200).header("content-type", outcome.contentType);
      const body = Readable.from(outcome.chunks, { objectMode: false, highWaterMark: 64 * 1024 });
      // Headers go out at once: clients wait for them before they wait for the first line.
      reply.raw.once("pipe", () => reply.raw.flushHeaders());
      return reply.send(body);
    }
  }
}
