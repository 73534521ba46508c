import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import { apiTime, parseFilters } from "../../runtime/http.ts";
import type { Image } from "../engine/engine.ts";
import type { FrontDoorDeps } from "./deps.ts";

/** `GET /images/json`, newest first. */
export async function listImages(deps: FrontDoorDeps, query: URLSearchParams): Promise<object[]> {
  const filters = parseFilters(query.get("filters"), ["dangling", "label", "reference"]);
  const byId = new Map<string, Image[]>(); // One item an image, whatever number of names it has.
  for (const image of await deps.engine.images()) byId.set(image.id, [...(byId.get(image.id) ?? []), image]);
  const groups = [...byId.values()].filter((group) => {
    const references = group.map(({ reference }) => shortReference(reference));
    const labels = group[0]?.config.labels ?? {};
    return [...filters].every(([key, values]) => {
      if (key === "reference")
        return values.some((value) => references.some((name) => matchesReference(name, value)));
      if (key === "label") return values.every((value) => hasLabel(labels, value));
      return values.some((value) => ["1", "true"].includes(value) === (tags(group).length === 0));
    });
  });
  return groups
    .toSorted(([a], [b]) => (b?.createdAtMs ?? 0) - (a?.createdAtMs ?? 0))
    .flatMap((group) => (group[0] === undefined ? [] : [printListed(group[0], group)]));
}

/** `GET /images/{name}/json` */
export async function inspectImage(deps: FrontDoorDeps, name: string): Promise<object> {
  const image = await deps.engine.image(name);
  if (image === undefined) throw new ClusterError("not-found", `No such image: ${name}`);
  const group = (await deps.engine.images()).filter(({ id }) => id === image.id);
  const { config } = image;
  return {
    Id: image.id,
    RepoTags: tags(group),
    RepoDigests: digests(group),
    Parent: "",
    Comment: "",
    Created: apiTime(image.createdAtMs),
    Author: "",
    Config: {
      Env: config.env,
      Cmd: config.cmd,
      Entrypoint: config.entrypoint,
      Labels: config.labels,
      WorkingDir: config.workingDir,
      User: config.user,
      ExposedPorts: Object.fromEntries(config.exposedPorts.map((port) => [port, {}])),
      Volumes: Object.fromEntries(config.volumes.map((path) => [path, {}])),
      ...(config.stopSignal !== undefined && { StopSignal: config.stopSignal }),
    },
    Architecture: image.architecture,
    Os: image.os,
    Size: image.sizeBytes,
    GraphDriver: { Name: "overlayfs", Data: null },
    RootFS: { Type: "layers", Layers: [] },
    Metadata: { LastTagTime: apiTime(undefined) },
  };
}

/** `GET /distribution/{name}/json`: what the registry says, for pinning a service to a digest. */
export async function distribution(
  deps: FrontDoorDeps,
  name: string,
  authHeader: string | undefined,
  signal: AbortSignal,
): Promise<object> {
  const { descriptor, platforms } = await deps.engine.resolve(name, parseAuth(authHeader), signal);
  return { Descriptor: descriptor, Platforms: platforms };
}

/** Credentials in base64 of either alphabet; what cannot be read counts as none, as with Docker. */
export function parseAuth(header: string | undefined): RegistryAuth | undefined {
  if (header === undefined || header === "") return undefined;
  try {
    const parsed = JSON.parse(Buffer.from(header, "base64").toString("utf8")) as Record<string, unknown>;
    const text = (name: string) =>
      typeof parsed[name] === "string" && parsed[name] !== "" ? parsed[name] : undefined;
    const [username, password, serverAddress] = [text("username"), text("password"), text("serveraddress")];
    const [identityToken, registryToken] = [text("identitytoken"), text("registrytoken")];
    const auth: RegistryAuth = {
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password }),
      ...(serverAddress !== undefined && { serverAddress }),
      ...(identityToken !== undefined && { identityToken }),
      ...(registryToken !== undefined && { registryToken }),
    };
    return Object.keys(auth).length > 0 ? auth : undefined;
  } catch {
    return undefined;
  }
}

function printListed(image: Image, group: readonly Image[]): object {
  return {
    Id: image.id,
    ParentId: "",
    RepoTags: tags(group),
    RepoDigests: digests(group),
    Created: Math.floor(image.createdAtMs / 1_000),
    Size: image.sizeBytes,
    SharedSize: -1,
    Containers: -1,
    Labels: image.config.labels,
  };
}

function tags(group: readonly Image[]): string[] {
  return group.map(({ reference }) => shortReference(reference)).filter((name) => !name.includes("@"));
}

function digests(group: readonly Image[]): string[] {
  const all = group.map(({ reference, digest }) => {
    const name = shortReference(reference)
      .replace(/@.*$/, "")
      .replace(/:[^/:]*$/, "");
    return `${name}@${digest}`;
  });
  return [...new Set(all)];
}

/** Without the parts that clients do not show. */
function shortReference(reference: string): string {
  return reference.replace(/^docker\.io\/(library\/)?/, "");
}

function matchesReference(name: string, pattern: string): boolean {
  if (name === pattern || name.replace(/:[^/:]*$/, "") === pattern) return true;
  const escaped = pattern
    .replaceAll(/[.+^${}()|[\]\\]/g, String.raw`\$&`)
    .replaceAll("*", "[^/]*")
    .replaceAll("?", "[^/]");
  return new RegExp(`^${escaped}$`).test(name);
}

function hasLabel(labels: Readonly<Record<string, string>>, wanted: string): boolean {
  const split = wanted.indexOf("=");
  if (split === -1) return labels[wanted] !== undefined;
  return labels[wanted.slice(0, split)] === wanted.slice(split + 1);
}
