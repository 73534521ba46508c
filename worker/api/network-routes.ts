/** `/networks`: this host's are answered here, those of the cluster by the manager beside it. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { notFoundMessage, parseJsonBody } from "../../runtime/http.ts";
import { isShared } from "../bridges/request.ts";
import { parseEndpoint } from "../containers/endpoints.ts";
import { Fields } from "../containers/fields.ts";
import { findContainer } from "./container.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { forward, isManager, readText, requireManager } from "./forward.ts";
import {
  createNetwork,
  findNetwork,
  inspectNetwork,
  inspectShared,
  listNetworks,
  networkNotFound,
  pruneNetworks,
  refuseUnknown,
  removeNetwork,
} from "./network.ts";
import { bodyOf, jsonLimitBytes, nameAndAction, queryOf, type RouteContext, wildcard } from "./request.ts";

export function networkRoutes(app: FastifyInstance, deps: FrontDoorDeps, context: RouteContext): void {
  const { publish, ending } = context;
  app.get("/networks", async (request, reply) =>
    sendJson(reply, 200, await listNetworks(deps, queryOf(request), request.url)),
  );
  app.get("/networks/*", async (request, reply) => {
    const name = wildcard(request);
    const scope = queryOf(request).get("scope");
    const local = scope === "swarm" ? undefined : await inspectNetwork(deps, name);
    if (local !== undefined) return sendJson(reply, 200, local);
    const shared = scope === "local" ? undefined : await inspectShared(deps, name, request.originalUrl);
    if (shared !== undefined) return sendJson(reply, shared.status, shared.body);
    if (scope === "swarm") requireManager(deps);
    throw networkNotFound(name);
  });
  app.post("/networks/create", (request, reply) => create(deps, context, request, reply));
  app.post("/networks/prune", async (request, reply) => {
    const query = queryOf(request);
    const NetworksDeleted = await pruneNetworks(deps, publish, query, request.originalUrl, ending);
    return sendJson(reply, 200, { NetworksDeleted: NetworksDeleted.length > 0 ? NetworksDeleted : null });
  });
  app.post("/networks/*", async (request, reply) => {
    const { name, action } = nameAndAction(wildcard(request));
    if (action !== "connect" && action !== "disconnect") throw new ClusterError("not-found", notFoundMessage);
    await reconnect(deps, name, action, request, ending);
    return reply.code(200).send();
  });
  app.delete("/networks/*", async (request, reply) => {
    const name = wildcard(request);
    if (await removeNetwork(deps, publish, name, ending)) return reply.code(204).send();
    if (isManager(deps)) return forward(deps, request, reply);
    throw networkNotFound(name);
  });
}

async function create(
  deps: FrontDoorDeps,
  { publish, ending }: RouteContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const text = await readText(request.raw, jsonLimitBytes);
  const body = parseJsonBody(request.headers["content-type"], text);
  if (isShared(body)) return forward(deps, request, reply, Buffer.from(text));
  return sendJson(reply, 201, await createNetwork(deps, publish, body, ending));
}

async function reconnect(
  deps: FrontDoorDeps,
  name: string,
  action: "connect" | "disconnect",
  request: FastifyRequest,
  signal: AbortSignal,
): Promise<void> {
  const fields = new Fields(await bodyOf(request));
  const { containers } = deps;
  if (containers === undefined) throw networkNotFound(name);
  if (findNetwork(deps, name) === undefined && !containers.isInCluster) throw networkNotFound(name);
  if (action === "connect") await refuseUnknown(deps, name);
  const { id } = await findContainer(deps, fields.text("Container"));
  if (action === "disconnect") return containers.disconnect(id, name, signal);
  return containers.connect(id, name, parseEndpoint(fields.object("EndpointConfig")), signal);
}
