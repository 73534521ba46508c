/** `GET /images/get`, `POST /images/load`, and `POST /images/create` with `fromSrc`. */
import type { IncomingMessage } from "node:http";
import type { FastifyReply } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import { parsePlatform } from "../engine/manifest.ts";
import { familiarName, parseReference, printReference } from "../engine/reference.ts";
import { applyChanges } from "./changes.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { streamProgress } from "./progress.ts";
import { stream } from "./request.ts";

export async function saveImages(
  deps: FrontDoorDeps,
  names: readonly string[],
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<FastifyReply> {
  const wanted = names.flatMap((name) => name.split(",")).filter((name) => name !== "");
  if (wanted.length === 0) throw new ClusterError("invalid-argument", "no images to save: names is empty");
  return stream(reply, await deps.engine.imageStore.save(wanted, signal), "application/x-tar");
}

export function loadImages(
  deps: FrontDoorDeps,
  isQuiet: boolean,
  body: IncomingMessage,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<FastifyReply> {
  return streamProgress(reply, async (say) => {
    const report = (layer: string): void => {
      if (!isQuiet) say({ status: "Loading layer", progressDetail: {}, id: layer });
    };
    for (const { id, names } of await deps.engine.imageStore.load(body, report, signal)) {
      for (const name of names) say({ stream: `Loaded image: ${familiarName(name)}\n` });
      if (names.length === 0) say({ stream: `Loaded image ID: ${id}\n` });
    }
  });
}

export async function importImage(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  body: IncomingMessage,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<FastifyReply> {
  const source = query.get("fromSrc") ?? "";
  if (source !== "-") {
    throw new ClusterError(
      "invalid-argument",
      `cannot import from ${JSON.stringify(source)}: only the request's body, fromSrc=-, is accepted`,
    );
  }
  const repository = query.get("repo") ?? "";
  const tag = query.get("tag") ?? "";
  const name =
    repository === "" ? "" : printReference(parseReference(tag === "" ? repository : `${repository}:${tag}`));
  const info = await deps.engine.info();
  const platform = parsePlatform(query.get("platform") || "linux", {
    os: "linux",
    architecture: info.architecture,
  });
  const created = new Date(deps.clock.now()).toISOString();
  const comment = query.get("message") || "Imported from -";
  const config = {
    ...platform,
    created,
    comment,
    config: applyChanges({}, query.getAll("changes")),
    history: [{ created, comment }],
  };
  return streamProgress(reply, async (say) => {
    const { id } = await deps.engine.imageStore.import(body, { config, name }, signal);
    say({ status: id });
  });
}
