import type { FastifyInstance } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { queryFlag } from "../../runtime/http.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { bodyOf, queryOf, type RouteContext, required, wildcard } from "./request.ts";
import { createVolume, inspectVolume, listVolumes, pruneVolumes, removeVolume } from "./volume.ts";

export function volumeRoutes(app: FastifyInstance, deps: FrontDoorDeps, context: RouteContext): void {
  const { versionOf, publish } = context;
  app.get("/volumes", async (request, reply) =>
    sendJson(reply, 200, await listVolumes(deps, queryOf(request))),
  );
  app.post("/volumes/create", async (request, reply) =>
    sendJson(reply, 201, await createVolume(deps, publish, await bodyOf(request))),
  );
  app.post("/volumes/prune", async (request, reply) =>
    sendJson(reply, 200, await pruneVolumes(deps, context, queryOf(request), versionOf(request))),
  );
  app.get("/volumes/*", async (request, reply) =>
    sendJson(reply, 200, await inspectVolume(deps, required(wildcard(request)))),
  );
  app.put("/volumes/*", () => {
    throw new ClusterError(
      "unavailable",
      "volume update only valid for cluster volumes, but swarm is unavailable",
    );
  });
  app.delete("/volumes/*", async (request, reply) => {
    await removeVolume(deps, publish, required(wildcard(request)), queryFlag(queryOf(request).get("force")));
    return reply.code(204).send();
  });
}
