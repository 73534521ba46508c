/** The front door: the host's Docker-compatible socket. */
import { chmod, rm } from "node:fs/promises";
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { createApiServer, sendJson } from "../../runtime/api-server.ts";
import {
  commonHeaders,
  compareVersions,
  jsonContentType,
  notFoundMessage,
  parseJsonBody,
  queryFlag,
} from "../../runtime/http.ts";
import { socketAnswers } from "../../runtime/unix-socket.ts";
import { containerLogs, inspectContainer, listContainers } from "./container.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { EventFeed } from "./events.ts";
import { forward, isManager, readText, requireManager } from "./forward.ts";
import { distribution, inspectImage, listImages } from "./image.ts";
import { findLocalNetwork, isPredefinedName, listNetworks, networkNotFound } from "./network.ts";
import { initSwarm, joinSwarm, leaveSwarm } from "./swarm.ts";
import { info, swarmHeader, version } from "./system.ts";

/** Of bodies that are read here; those passed on are bounded by the manager. */
const bodyLimitBytes = 1024 * 1024;
const socketMode = 0o660;
const swarmPath = /^\/(swarm|nodes|services|tasks|secrets|configs)(\/|$)|^\/shoal\/v1\//;

/** Routes of Docker's engine that this front door does not have yet. */
const enginePath =
  /^\/(containers|exec|images|build|commit|volumes|networks|plugins|session|grpc|auth)(\/|$)/;

function notServedYet(method: string, path: string): ClusterError {
  return new ClusterError(
    "unimplemented",
    `${method} ${path} is not available yet: hosts run the containers of services; use 'docker service create'`,
  );
}

export interface FrontDoor {
  /** Ends streams, then settles. */
  close(): Promise<void>;
}

/**
 * Serves the socket of the host's settings.
 *
 * @throws {ClusterError} `conflict` when somebody else answers on it.
 */
export async function openFrontDoor(deps: FrontDoorDeps): Promise<FrontDoor> {
  const { socket } = deps.settings;
  const ending = new AbortController();
  const feed = new EventFeed(deps);
  const feeding = feed.run(ending.signal).catch((error: unknown) => {
    if (!ending.signal.aborted) deps.log.error({ error }, "events of the engine ended");
  });
  const app = build(deps, feed, ending.signal);
  await removeStaleSocket(socket);
  await app.listen({ path: socket });
  await chmod(socket, socketMode);
  return {
    async close() {
      ending.abort(new ClusterError("unavailable", "the worker is ending"));
      await app.close();
      await feeding;
    },
  };
}

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown;

function build(deps: FrontDoorDeps, feed: EventFeed, ending: AbortSignal): FastifyInstance {
  const { app, versionOf, fail } = createApiServer({
    log: deps.log,
    bodyLimitBytes,
    bodies: "stream", // Until somebody reads them.
    trailingSlash: "ignored",
  });
  app.setNotFoundHandler((request, reply) => {
    const [path = ""] = request.url.split("?");
    if (swarmPath.test(path)) return forward(deps, request, reply);
    if (enginePath.test(path)) return fail(reply, notServedYet(request.method, path));
    return fail(reply, new ClusterError("not-found", notFoundMessage));
  });

  const get = (path: string, handler: Handler): void => {
    app.get(path, async (request, reply) => sendJson(reply, 200, await handler(request, reply)));
  };
  app.route({
    method: ["GET", "HEAD"],
    url: "/_ping",
    handler: (request, reply) => ping(deps, request, reply),
  });
  get("/version", () => version(deps));
  get("/info", () => info(deps));
  get("/containers/json", (request) => listContainers(deps, queryOf(request)));
  get("/images/json", (request) => listImages(deps, queryOf(request)));
  get("/networks", (request) => listNetworks(deps, queryOf(request), request.url));
  app.get("/events", (request, reply) => {
    const signal = lifeOf(reply, ending);
    const lines = feed.read(queryOf(request), request.url, signal);
    return stream(reply, lines, jsonContentType);
  });
  // Names may contain slashes, so these are told apart by how their path ends.
  app.get("/containers/*", async (request, reply) => {
    const path = wildcard(request);
    const inspected = suffix(path, "/json");
    if (inspected !== undefined) return sendJson(reply, 200, await inspectContainer(deps, inspected));
    const logged = suffix(path, "/logs");
    if (logged === undefined) throw new ClusterError("not-found", notFoundMessage);
    const { tty, frames } = await containerLogs(deps, logged, queryOf(request), lifeOf(reply, ending));
    const isMultiplexed = !tty && compareVersions(versionOf(request), "1.42") >= 0;
    return stream(reply, frames, `application/vnd.docker.${isMultiplexed ? "multiplexed" : "raw"}-stream`);
  });
  get("/images/*", (request) => inspectImage(deps, required(suffix(wildcard(request), "/json"))));
  get("/distribution/*", (request) => {
    const name = required(suffix(wildcard(request), "/json"));
    const header = request.headers["x-registry-auth"];
    return distribution(deps, name, typeof header === "string" ? header : undefined, ending);
  });
  networkRoutes(app, deps);
  swarmRoutes(app, deps);
  return app;
}

function networkRoutes(app: FastifyInstance, deps: FrontDoorDeps): void {
  app.get("/networks/*", async (request, reply) => {
    const name = wildcard(request);
    const isShared = queryOf(request).get("scope") === "swarm";
    const local = isShared ? undefined : findLocalNetwork(deps, name);
    if (local !== undefined) return sendJson(reply, 200, local);
    if (isManager(deps)) return forward(deps, request, reply);
    if (isShared) requireManager(deps);
    throw networkNotFound(name);
  });
  app.delete("/networks/*", async (request, reply) => {
    const name = wildcard(request);
    if (isPredefinedName(name)) {
      throw new ClusterError("permission-denied", `${name} is a pre-defined network and cannot be removed`);
    }
    return forward(deps, request, reply);
  });
  app.post("/networks/*", (request, reply) => forward(deps, request, reply));
}

function swarmRoutes(app: FastifyInstance, deps: FrontDoorDeps): void {
  app.post("/swarm/init", async (request, reply) =>
    sendJson(reply, 200, await initSwarm(deps, await bodyOf(request))),
  );
  app.post("/swarm/join", async (request, reply) => {
    await joinSwarm(deps, await bodyOf(request));
    return reply.code(200).send();
  });
  app.post("/swarm/leave", async (request, reply) => {
    await leaveSwarm(deps, queryFlag(queryOf(request).get("force")));
    return reply.code(200).send();
  });
}

function ping(deps: FrontDoorDeps, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  reply.headers({
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-cache, no-store, must-revalidate",
    pragma: "no-cache",
    "builder-version": "1",
    swarm: swarmHeader(deps.node()),
  });
  return reply.send(request.method === "HEAD" ? "" : "OK");
}

/** Headers go out at once: clients wait for them before they do anything else. */
function stream(
  reply: FastifyReply,
  chunks: AsyncGenerator<string | Uint8Array>,
  contentType: string,
): FastifyReply {
  const body = Readable.from(chunks, { objectMode: false, highWaterMark: 64 * 1024 });
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { ...commonHeaders, "content-type": contentType });
  raw.flushHeaders();
  body.on("error", () => raw.destroy()); // Headers are out: cutting the stream is the only way to tell.
  raw.once("close", () => body.destroy());
  body.pipe(raw);
  return reply;
}

/** Aborts when the client goes away or the front door closes. */
function lifeOf(reply: FastifyReply, ending: AbortSignal): AbortSignal {
  const life = new AbortController();
  reply.raw.once("close", () => life.abort(new ClusterError("unavailable", "the client is gone")));
  return AbortSignal.any([life.signal, ending]);
}

async function bodyOf(request: FastifyRequest): Promise<unknown> {
  const text = await readText(request.raw, bodyLimitBytes);
  return parseJsonBody(request.headers["content-type"], text);
}

function queryOf(request: FastifyRequest): URLSearchParams {
  const mark = request.url.indexOf("?");
  return new URLSearchParams(mark === -1 ? "" : request.url.slice(mark + 1));
}

function wildcard(request: FastifyRequest): string {
  return (request.params as { readonly "*": string })["*"];
}

function suffix(path: string, ending: string): string | undefined {
  return path.endsWith(ending) ? path.slice(0, -ending.length) : undefined;
}

function required(name: string | undefined): string {
  if (name === undefined || name === "") throw new ClusterError("not-found", notFoundMessage);
  return name;
}

/** A socket that nobody answers on is what a killed process left. */
async function removeStaleSocket(path: string): Promise<void> {
  if (await socketAnswers(path)) {
    throw new ClusterError(
      "conflict",
      `cannot serve ${path}: another process answers on it; stop it or choose another --socket`,
    );
  }
  await rm(path, { force: true });
}
