import type { FastifyInstance } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { queryFlag } from "../../runtime/http.ts";
import type { FrontDoorDeps } from "./deps.ts";
import {
  distribution,
  imageHistory,
  inspectImage,
  listImages,
  parseAuthFields,
  registryOf,
  pruneImages,
  removeImage,
  tagImage,
} from "./image.ts";
import { importImage, loadImages, saveImages } from "./image-archive.ts";
import { pullImage } from "./image-pull.ts";
import { pushImage } from "./image-push.ts";
import {
  bodyOf,
  headerOf,
  lifeOf,
  queryOf,
  required,
  type RouteContext,
  suffix,
  wildcard,
} from "./request.ts";

/** `/images` and `/distribution`. Names may contain slashes, so their routes are told apart by how the path ends. */
export function imageRoutes(
  app: FastifyInstance,
  deps: FrontDoorDeps,
  { ending, versionOf, publishPruned }: RouteContext,
): void {
  app.get("/images/json", async (request, reply) =>
    sendJson(reply, 200, await listImages(deps, queryOf(request), versionOf(request))),
  );
  app.get("/images/search", () => {
    throw new ClusterError(
      "unimplemented",
      "searching for images is not supported: registries have no common search; look on the registry's own pages",
    );
  });
  app.post("/images/create", (request, reply) => {
    const query = queryOf(request);
    const fromImage = query.get("fromImage") ?? "";
    if (fromImage === "") return importImage(deps, query, request.raw, reply, lifeOf(reply, ending));
    const pull = {
      fromImage,
      tag: query.get("tag") ?? "",
      platform: query.get("platform") ?? "",
      auth: headerOf(request, "x-registry-auth"),
    };
    return pullImage(deps, pull, reply, lifeOf(reply, ending));
  });
  app.post("/images/prune", async (request, reply) =>
    sendJson(reply, 200, await pruneImages(deps, queryOf(request), publishPruned)),
  );
  app.post("/images/load", (request, reply) => {
    const isQuiet = queryFlag(queryOf(request).get("quiet"));
    return loadImages(deps, isQuiet, request.raw, reply, lifeOf(reply, ending));
  });
  app.get("/images/get", (request, reply) =>
    saveImages(deps, queryOf(request).getAll("names"), reply, lifeOf(reply, ending)),
  );
  app.get("/images/*", async (request, reply) => {
    const path = wildcard(request);
    const inspected = suffix(path, "/json");
    if (inspected !== undefined)
      return sendJson(reply, 200, await inspectImage(deps, required(inspected), versionOf(request)));
    const name = suffix(path, "/history");
    if (name !== undefined) return sendJson(reply, 200, await imageHistory(deps, required(name)));
    const saved = required(suffix(path, "/get"));
    return saveImages(deps, [saved], reply, lifeOf(reply, ending));
  });
  app.post("/images/*", async (request, reply) => {
    const path = wildcard(request);
    const pushed = suffix(path, "/push");
    if (pushed !== undefined) {
      const push = {
        name: required(pushed),
        tag: queryOf(request).get("tag") ?? "",
        auth: headerOf(request, "x-registry-auth"),
      };
      return pushImage(deps, push, reply, lifeOf(reply, ending));
    }
    await tagImage(deps, required(suffix(path, "/tag")), queryOf(request));
    return reply.code(201).send();
  });
  app.delete("/images/*", async (request, reply) => {
    const force = queryFlag(queryOf(request).get("force"));
    return sendJson(reply, 200, await removeImage(deps, required(wildcard(request)), force));
  });
  app.post("/auth", async (request, reply) => {
    const auth = parseAuthFields(await bodyOf(request)) ?? {};
    const server = auth.serverAddress ?? "";
    await deps.engine.imageStore.login(registryOf(server), auth, lifeOf(reply, ending));
    return sendJson(reply, 200, { Status: "Login Succeeded", IdentityToken: "" });
  });
  app.get("/distribution/*", async (request, reply) => {
    const name = required(suffix(wildcard(request), "/json"));
    const auth = headerOf(request, "x-registry-auth");
    return sendJson(reply, 200, await distribution(deps, name, auth, lifeOf(reply, ending)));
  });
}
