/** `/containers`: what a user does to the containers of this host. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import {
  commonHeaders,
  jsonContentType,
  notFoundMessage,
  parseFilters,
  queryFlag,
} from "../../runtime/http.ts";
import type { LocalContainers, WaitCondition } from "../containers/containers.ts";
import { parseLimits, parseRestartPolicy } from "../containers/config.ts";
import { Fields } from "../containers/fields.ts";
import { type AttachDeps, attach, attachRoutes, sizeOf } from "./attach-routes.ts";
import { AttachedOutput } from "./attached-output.ts";
import { parseTime } from "./time.ts";
import { hasLabel, type Labels } from "../../model/meta.ts";
import { commit } from "./commit.ts";
import { findContainer } from "./container.ts";
import { writeArchive } from "./container-archive.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { bodyOf, lifeOf, nameAndAction, queryOf, type RouteContext, wildcard } from "./request.ts";

export interface ContainerDeps extends FrontDoorDeps {
  readonly containers: LocalContainers;
  readonly ending: AbortSignal;
  readonly versionOf: (request: FastifyRequest) => string;
}

const pruneFilters = ["label", "label!", "until"];
const waitConditions = ["not-running", "next-exit", "removed"] as const;
/** Docker's clients send at most "{}" with a start. */
const startBodyLimitBytes = 7;

export function containerRoutes(
  app: FastifyInstance,
  containerDeps: ContainerDeps,
  context: RouteContext,
): void {
  const deps = { ...containerDeps, attached: new AttachedOutput(containerDeps.clock) };
  attachRoutes(app, deps);
  let isPruning = false;
  app.post("/containers/prune", async (request, reply) => {
    if (isPruning) throw new ClusterError("conflict", "a prune operation is already running");
    isPruning = true;
    try {
      return await prune(deps, context, request, reply);
    } finally {
      isPruning = false;
    }
  });
  app.post("/containers/create", (request, reply) => create(deps, request, reply));
  app.post("/containers/*", async (request, reply) => {
    const { name, action } = nameAndAction(wildcard(request));
    const handler = actions.get(action);
    if (handler === undefined) throw new ClusterError("not-found", notFoundMessage);
    const { id } = await findContainer(deps, name);
    return handler(deps, { id, name, query: queryOf(request), request, reply });
  });
  app.put("/containers/*", async (request, reply) => {
    const { name, action } = nameAndAction(wildcard(request));
    if (action !== "archive") throw new ClusterError("not-found", notFoundMessage);
    return writeArchive(deps, name, request, reply);
  });
  app.post("/commit", (request, reply) => commit(deps, context.publish, request, reply));
  app.delete("/containers/*", async (request, reply) => {
    const query = queryOf(request);
    const { id } = await findContainer(deps, wildcard(request));
    // As with Docker: there are no links by other names.
    if (queryFlag(query.get("link")))
      throw new ClusterError("internal", "Conflict, cannot remove the default link name of the container");
    const volumes = queryFlag(query.get("v")) ? "removed" : "kept";
    await deps.containers.remove(id, { force: queryFlag(query.get("force")), volumes });
    return reply.code(204).send();
  });
}

interface Call {
  readonly id: string;
  /** As the client wrote it. */
  readonly name: string;
  readonly query: URLSearchParams;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

type Action = (deps: AttachDeps, call: Call) => Promise<FastifyReply>;

const handlers: Readonly<Record<string, Action>> = {
  async start({ containers, ending }, { id, request, reply }) {
    if (Number(request.headers["content-length"] ?? 0) > startBodyLimitBytes) {
      throw new ClusterError(
        "invalid-argument",
        "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
      );
    }
    return done(reply, await containers.start(id, ending));
  },
  async stop({ containers, ending }, { id, query, reply }) {
    return done(reply, await containers.stop(id, stopOptions(query), ending));
  },
  async restart({ containers, ending }, { id, query, reply }) {
    await containers.restart(id, stopOptions(query), ending);
    return done(reply, true);
  },
  async kill({ containers }, { id, name, query, reply }) {
    try {
      await containers.kill(id, query.get("signal") || "SIGKILL");
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      // Docker names it as the client did.
      const text = error.message.replace(`cannot kill container: ${id}:`, `cannot kill container: ${name}:`);
      throw new ClusterError(error.code, text, { cause: error });
    }
    return done(reply, true);
  },
  async pause({ containers }, { id, reply }) {
    await containers.pause(id);
    return done(reply, true);
  },
  async unpause({ containers }, { id, reply }) {
    await containers.unpause(id);
    return done(reply, true);
  },
  async rename({ containers }, { id, query, reply }) {
    await containers.rename(id, query.get("name") ?? "");
    return done(reply, true);
  },
  async attach(deps, { id, request, reply }) {
    return attach(deps, id, request, reply);
  },
  async exec({ containers }, { id, request, reply }) {
    return sendJson(reply, 201, { Id: await containers.execs.create(id, await bodyOf(request)) });
  },
  async resize({ containers }, { id, query, reply }) {
    const size = sizeOf(query);
    await containers.engine.resize(id, size);
    await containers.emit(id, "resize", { height: String(size.height), width: String(size.width) });
    return reply.code(200).send();
  },
  update,
  wait,
};
/** Looked up by what a client wrote. */
const actions = new Map(Object.entries(handlers));

async function create(
  deps: ContainerDeps,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const query = queryOf(request);
  const { id, warnings } = await deps.containers.create(
    query.get("name") ?? undefined,
    await bodyOf(request),
    deps.ending,
  );
  return sendJson(reply, 201, { Id: id, Warnings: warnings });
}

/** Local containers that do not run; those of services are their managers' to remove. */
async function prune(
  deps: ContainerDeps,
  { publishPruned }: RouteContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { containers, engine, clock } = deps;
  const filters = parseFilters(queryOf(request).get("filters"), pruneFilters);
  const [until] = filters.get("until") ?? [];
  const untilMs = until === undefined ? undefined : parseTime(until, clock.now());
  const isAsked = (labels: Labels): boolean =>
    (filters.get("label") ?? []).every((text) => hasLabel(labels, text)) &&
    !(filters.get("label!") ?? []).some((text) => hasLabel(labels, text));
  const ContainersDeleted: string[] = [];
  let SpaceReclaimed = 0;
  for (const { id, status, labels, createdAtMs } of await engine.list()) {
    if (status.state === "running" || containers.record(id) === undefined || containers.isRestarting(id))
      continue;
    if (!isAsked(labels) || (untilMs !== undefined && createdAtMs >= untilMs)) continue;
    const bytes = await containers.engine.files.diskBytes(id);
    try {
      await containers.remove(id, { force: false, volumes: "kept" });
    } catch (error) {
      // Removed or started by somebody else meanwhile.
      if (error instanceof ClusterError && (error.code === "not-found" || error.code === "conflict"))
        continue;
      throw error;
    }
    ContainersDeleted.push(id);
    SpaceReclaimed += bytes;
  }
  publishPruned("container", SpaceReclaimed);
  return sendJson(reply, 200, {
    ContainersDeleted: ContainersDeleted.length > 0 ? ContainersDeleted : null,
    SpaceReclaimed,
  });
}

async function update(deps: ContainerDeps, { id, request, reply }: Call): Promise<FastifyReply> {
  const fields = new Fields(await bodyOf(request));
  const policy = fields.object("RestartPolicy");
  const warnings = await deps.containers.update(id, {
    limits: parseLimits(fields),
    given: fields,
    ...(policy.text("Name") !== "" && { policy: parseRestartPolicy(policy) }),
  });
  return sendJson(reply, 200, { Warnings: warnings.length > 0 ? warnings : null });
}

/** Headers at once: `docker run` waits for them before it starts the container. */
async function wait(deps: AttachDeps, { id, query, reply }: Call): Promise<FastifyReply> {
  const condition = conditionOf(query.get("condition"));
  const outcome = deps.containers.wait(id, condition, lifeOf(reply, deps.ending));
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { ...commonHeaders, "content-type": jsonContentType });
  raw.flushHeaders();
  try {
    const { exitCode, error } = await outcome;
    await deps.attached.told(id);
    raw.end(
      `${JSON.stringify({ StatusCode: exitCode, ...(error !== "" && { Error: { Message: error } }) })}\n`,
    );
  } catch (error) {
    if (error instanceof ClusterError && !raw.destroyed) {
      raw.end(`${JSON.stringify({ StatusCode: 125, Error: { Message: error.message } })}\n`);
    } else raw.destroy();
  }
  return reply;
}

function conditionOf(text: string | null): WaitCondition {
  if (text === null || text === "") return "not-running";
  const found = waitConditions.find((condition) => condition === text);
  if (found === undefined)
    throw new ClusterError("invalid-argument", `invalid condition: ${JSON.stringify(text)}`);
  return found;
}

function stopOptions(query: URLSearchParams): { readonly signal?: string; readonly timeoutMs?: number } {
  const signal = query.get("signal") ?? "";
  const text = query.get("t") ?? "";
  if (text !== "" && !/^-?\d+$/.test(text)) {
    throw new ClusterError(
      "invalid-argument",
      `strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`,
    );
  }
  const seconds = Number(text);
  return {
    ...(signal !== "" && { signal }),
    ...(text !== "" && { timeoutMs: seconds < 0 ? Infinity : seconds * 1_000 }),
  };
}

/** Not modified when there was nothing to do. */
function done(reply: FastifyReply, hasChanged: boolean): FastifyReply {
  return reply.code(hasChanged ? 204 : 304).send();
}
