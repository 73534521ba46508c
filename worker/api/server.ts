/** The front door: the host's Docker-compatible socket. */
import { chmod, chown, rm } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { createApiServer, refuse, sendJson } from "../../runtime/api-server.ts";
import { jsonContentType, notFoundMessage, queryFlag, splitVersion } from "../../runtime/http.ts";
import { socketAnswers } from "../../runtime/unix-socket.ts";
import { buildRoutes, noBuildKit } from "./build.ts";
import { listContainers } from "./container.ts";
import { containerReadRoutes } from "./container-read-routes.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { diskUsage } from "./disk-usage.ts";
import { EventFeed } from "./events.ts";
import { forward, isManager, passOn } from "./forward.ts";
import { containerRoutes } from "./container-routes.ts";
import { imageRoutes } from "./image-routes.ts";
import { connectionEvent } from "./network.ts";
import { networkRoutes } from "./network-routes.ts";
import { bodyOf, jsonLimitBytes, lifeOf, queryOf, type RouteContext, stream, wildcard } from "./request.ts";
import { initSwarm, joinSwarm, leaveSwarm, unlockSwarm } from "./swarm.ts";
import { info, swarmHeader, version } from "./system.ts";
import { volumeRoutes } from "./volume-routes.ts";

const socketMode = 0o660;
const swarmPath = /^\/(swarm|nodes|services|tasks|secrets|configs)(\/|$)|^\/shoal\/v1\//;

/** Of these, what shoald carries out. */
const ownSwarmPath = /^\/swarm\/(init|join|unlock|leave)\/?$/;
const buildKitPath = /^\/(session|grpc)$/;

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
  const { socket, socketGroup } = deps.settings;
  const ending = new AbortController();
  const feed = new EventFeed(deps);
  const feeding = feed.run(ending.signal).catch((error: unknown) => {
    if (!ending.signal.aborted) deps.log.error({ error }, "events of the engine ended");
  });
  deps.containers?.onEvent(({ action, record, attributes }) =>
    feed.publishContainer(action, record, attributes, deps.clock.now()),
  );
  deps.containers?.onNetworkEvent((event) => feed.publish(connectionEvent(deps, event)));
  const app = build(deps, feed, ending.signal);
  await removeStaleSocket(socket);
  await app.listen({ path: socket });
  // Before the mode: until then nobody but its owner may connect.
  if (socketGroup !== undefined) await chown(socket, process.getuid?.() ?? 0, socketGroup);
  await chmod(socket, socketMode);
  return {
    async close() {
      ending.abort(new ClusterError("unavailable", "the worker is ending"));
      await app.close();
      await feeding;
    },
  };
}

/** Most of what the front door of a manager is asked for: it goes there without a look at the routes here. */
function isTheManagers(deps: FrontDoorDeps, { url = "/" }: IncomingMessage): boolean {
  if (!isManager(deps)) return false;
  const [path = ""] = splitVersion(url).url.split("?");
  return swarmPath.test(path) && !ownSwarmPath.test(path);
}

function passAhead(deps: FrontDoorDeps, request: IncomingMessage, response: ServerResponse): true {
  passOn(deps, { request, response, url: request.url ?? "/" }).catch((reason: unknown) => {
    if (!(reason instanceof ClusterError)) {
      deps.log.error({ method: request.method, url: request.url, error: reason }, "a request failed");
    }
    if (response.headersSent) response.destroy();
    else refuse(response, reason);
  });
  return true;
}

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown;

function build(deps: FrontDoorDeps, feed: EventFeed, ending: AbortSignal): FastifyInstance {
  const { app, versionOf, fail } = createApiServer({
    log: deps.log,
    bodyLimitBytes: jsonLimitBytes,
    bodies: "stream", // Until somebody reads them.
    trailingSlash: "ignored",
    ahead: (request, response) => isTheManagers(deps, request) && passAhead(deps, request, response),
  });
  app.setNotFoundHandler((request, reply) => {
    const [path = ""] = request.url.split("?");
    if (swarmPath.test(path)) return forward(deps, request, reply);
    if (buildKitPath.test(path))
      return fail(reply, new ClusterError("unimplemented", `BuildKit is not available: ${noBuildKit}`));
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
  // There are none here, and nothing to install them with.
  get("/plugins", () => []);
  app.all("/plugins/*", (request) => {
    const [name = ""] = wildcard(request).split("/");
    throw new ClusterError("not-found", `plugin ${JSON.stringify(name)} not found`);
  });
  app.get("/events", (request, reply) => {
    const signal = lifeOf(reply, ending);
    const lines = feed.read(queryOf(request), request.url, signal);
    return stream(reply, lines, jsonContentType);
  });
  app.get("/system/df", async (request, reply) =>
    sendJson(reply, 200, await diskUsage(deps, queryOf(request), versionOf(request))),
  );
  const context: RouteContext = {
    ending,
    versionOf,
    publish: (event) => feed.publish(event),
    publishPruned: (type, reclaimedBytes) => feed.publishPruned(type, reclaimedBytes),
  };
  imageRoutes(app, deps, context);
  buildRoutes(app, deps, context);
  volumeRoutes(app, deps, context);
  containerReadRoutes(app, deps, context);
  if (deps.containers !== undefined)
    containerRoutes(app, { ...deps, containers: deps.containers, ending, versionOf }, context);
  networkRoutes(app, deps, context);
  swarmRoutes(app, deps);
  return app;
}

function swarmRoutes(app: FastifyInstance, deps: FrontDoorDeps): void {
  app.post("/swarm/init", async (request, reply) =>
    sendJson(reply, 200, await initSwarm(deps, await bodyOf(request))),
  );
  app.post("/swarm/join", async (request, reply) => {
    await joinSwarm(deps, await bodyOf(request));
    return reply.code(200).send();
  });
  app.post("/swarm/unlock", () => unlockSwarm(deps));
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
