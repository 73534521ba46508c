/** `POST /commit`: an image out of a container. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { parseReference, printReference } from "../engine/reference.ts";
import { applyChanges } from "./changes.ts";
import { findContainer, inspectContainer } from "./container.ts";
import type { ContainerDeps } from "./container-routes.ts";
import type { RouteContext } from "./request.ts";
import { apiVersion } from "../../runtime/http.ts";
import { bodyOf, lifeOf, queryOf } from "./request.ts";

type Config = Readonly<Record<string, unknown>>;

/** Of a container's configuration, what an image has as well. */
const imageFields = [
  "User",
  "ExposedPorts",
  "Env",
  "Entrypoint",
  "Cmd",
  "Healthcheck",
  "Volumes",
  "WorkingDir",
  "Labels",
  "StopSignal",
  "Shell",
  "OnBuild",
];

export async function commit(
  deps: ContainerDeps,
  publish: RouteContext["publish"],
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { containers, clock } = deps;
  const { engine } = containers;
  const query = queryOf(request);
  const body = await bodyOf(request);
  const record = await findContainer(deps, query.get("container") ?? "");
  const { id } = record;
  const name = nameOf(query);
  const own = configOf(await inspectContainer(deps, id, new URLSearchParams(), apiVersion));
  const asked = isEmpty(body) ? own : (body as Config);
  const config = joined(applyChanges(asked, query.getAll("changes")), own);
  const signal = lifeOf(reply, deps.ending);
  const take = () =>
    engine.commit(
      id,
      {
        config,
        author: query.get("author") ?? "",
        comment: query.get("comment") ?? "",
        createdBy: record.args.join(" "),
        createdAtMs: clock.now(),
        name,
      },
      signal,
    );
  const pauses = !/^(0|false|no|none)$/i.test(query.get("pause") ?? "");
  const made = await (pauses ? containers.whilePaused(id, take) : take());
  await containers.emit(id, "commit", {
    comment: query.get("comment") ?? "",
    imageID: made.id,
    imageRef: name,
  });
  if (name !== "") {
    const attributes = { name };
    publish({ type: "image", action: "tag", id: made.id, image: name, attributes, atMs: clock.now() });
  }
  return sendJson(reply, 201, { Id: made.id });
}

/** Full; empty when none is asked for. */
function nameOf(query: URLSearchParams): string {
  const repository = query.get("repo") ?? "";
  const tag = query.get("tag") ?? "";
  if (repository === "") return "";
  const reference = parseReference(tag === "" ? repository : `${repository}:${tag}`);
  if (reference.digest !== undefined)
    throw new ClusterError("invalid-argument", "refusing to create a tag with a digest reference");
  return printReference(reference);
}

function isEmpty(body: unknown): boolean {
  return typeof body !== "object" || body === null || Object.keys(body).length === 0;
}

function configOf(inspected: object): Config {
  const { Config: all } = inspected as { readonly Config: Config };
  const kept = imageFields.filter((field) => (all[field] ?? null) !== null && all[field] !== "");
  return Object.fromEntries(kept.map((field) => [field, all[field]]));
}

/** What was asked for, and the container's own where that says nothing; maps and the environment are united. */
function joined(asked: Config, own: Config): Config {
  const entries = imageFields.flatMap((field): [string, unknown][] => {
    const [mine, theirs] = [asked[field] ?? undefined, own[field]];
    if (field === "Env") return [[field, joinedEnv(textsOf(mine), textsOf(theirs))]];
    if (["Labels", "ExposedPorts", "Volumes"].includes(field)) {
      const both = { ...objectOf(theirs), ...objectOf(mine) };
      return Object.keys(both).length === 0 ? [] : [[field, both]];
    }
    // A new entry point does not get the arguments of the old one.
    const keeps = field !== "Cmd" || !hasOwnEntrypoint(asked, own);
    const value = mine === undefined || mine === "" ? (keeps ? theirs : undefined) : mine;
    return value === undefined ? [] : [[field, value]];
  });
  return Object.fromEntries(entries);
}

function hasOwnEntrypoint(asked: Config, own: Config): boolean {
  const entrypoint = asked["Entrypoint"] ?? undefined;
  return entrypoint !== undefined && JSON.stringify(entrypoint) !== JSON.stringify(own["Entrypoint"]);
}

function joinedEnv(asked: readonly string[], own: readonly string[]): string[] {
  const names = new Set(asked.map((line) => line.split("=")[0]));
  return [...asked, ...own.filter((line) => !names.has(line.split("=")[0]))];
}

function objectOf(value: unknown): object {
  return typeof value === "object" && value !== null ? value : {};
}

function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((text) => typeof text === "string") : [];
}
