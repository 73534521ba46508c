/** `GET /containers/{id}/…`: what a container is, says, uses and holds. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { compareVersions, jsonContentType, notFoundMessage } from "../../runtime/http.ts";
import { containerLogs, findContainer, inspectContainer } from "./container.ts";
import { exportContainer, listChanges, readArchive } from "./container-archive.ts";
import type { ContainerDeps } from "./container-routes.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { lifeOf, nameAndAction, queryOf, type RouteContext, stream, wildcard } from "./request.ts";
import { containerStats, containerTop } from "./stats.ts";

export function containerReadRoutes(
  app: FastifyInstance,
  deps: FrontDoorDeps,
  { ending, versionOf }: RouteContext,
): void {
  const { containers } = deps;
  const local = containers === undefined ? undefined : { ...deps, containers, ending, versionOf };
  app.route({
    method: ["GET", "HEAD"],
    url: "/containers/*",
    async handler(request, reply) {
      const { name, action } = nameAndAction(wildcard(request));
      if (action === "json")
        return sendJson(reply, 200, await inspectContainer(deps, name, queryOf(request), versionOf(request)));
      if (action === "logs") return logs(name, request, reply);
      const handler = actions.get(action);
      if (handler === undefined || local === undefined) throw new ClusterError("not-found", notFoundMessage);
      return handler(local, name, request, reply);
    },
  });

  async function logs(name: string, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { tty, frames } = await containerLogs(deps, name, queryOf(request), lifeOf(reply, ending));
    const isMultiplexed = !tty && compareVersions(versionOf(request), "1.42") >= 0;
    return stream(reply, frames, `application/vnd.docker.${isMultiplexed ? "multiplexed" : "raw"}-stream`);
  }
}

type Action = (
  deps: ContainerDeps,
  name: string,
  request: FastifyRequest,
  reply: FastifyReply,
) => Promise<FastifyReply>;

const handlers: Readonly<Record<string, Action>> = {
  archive: readArchive,
  changes: (deps, name, _request, reply) => listChanges(deps, name, reply),
  export: (deps, name, _request, reply) => exportContainer(deps, name, reply),
  async stats(deps, name, request, reply) {
    const { id } = await findContainer(deps, name);
    const samples = containerStats(deps, id, queryOf(request), lifeOf(reply, deps.ending));
    return stream(reply, samples, jsonContentType);
  },
  async top(deps, name, request, reply) {
    const { id } = await findContainer(deps, name);
    return sendJson(reply, 200, await containerTop(deps, id, queryOf(request).get("ps_args") || "-ef"));
  },
};
/** Looked up by what a client wrote. */
const actions = new Map(Object.entries(handlers));
