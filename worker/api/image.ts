import { hasLabel } from "../../model/meta.ts";
import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import { apiTime, compareVersions, type Filters, parseFilters } from "../../runtime/http.ts";
import type { Removal, StoredImage } from "../engine/image-store.ts";
import { familiarName, parseReference, printReference } from "../engine/reference.ts";
import type { FrontDoorDeps } from "./deps.ts";
import type { RouteContext } from "./request.ts";
import { parseTime } from "./time.ts";

const listFilters = ["before", "dangling", "label", "reference", "since", "until"];
const pruneFilters = ["dangling", "label", "label!", "until"];

/** `GET /images/json`, newest first. */
export async function listImages(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  version: string,
): Promise<object[]> {
  const filters = parseFilters(query.get("filters"), listFilters);
  const images = await deps.engine.imageStore.list();
  const isDangling = flagOf(filters, "dangling");
  const beforeMs = await timeOfImage(deps, filters, "before");
  const sinceMs = await timeOfImage(deps, filters, "since");
  const untilMs = timeFilter(deps, filters);
  const patterns = filters.get("reference") ?? [];
  const named = (names: readonly string[]): readonly string[] =>
    patterns.length === 0
      ? names
      : names.filter((name) => patterns.some((pattern) => matchesReference(name, pattern)));
  const listed = images.filter(({ image, tags, digests }) => {
    if (isDangling !== undefined && isDangling !== (tags.length === 0)) return false;
    if (beforeMs !== undefined && image.createdAtMs >= beforeMs) return false;
    if (sinceMs !== undefined && image.createdAtMs <= sinceMs) return false;
    if (untilMs !== undefined && image.createdAtMs >= untilMs) return false;
    if (patterns.length > 0 && named([...tags, ...digests]).length === 0) return false;
    return (filters.get("label") ?? []).every((value) => hasLabel(image.config.labels, value));
  });
  return listed
    .map((stored) => ({ ...stored, tags: named(stored.tags), digests: named(stored.digests) }))
    .map((stored) => printListed(stored, version));
}

/** `GET /images/{name}/json` */
export async function inspectImage(deps: FrontDoorDeps, name: string, version: string): Promise<object> {
  const stored = await requireImage(deps, name);
  const details = await deps.engine.imageStore.details(stored);
  const { image } = stored;
  return {
    Id: stored.id,
    RepoTags: stored.tags,
    RepoDigests: stored.digests,
    Parent: "",
    Comment: details.comment,
    ...(image.createdAtMs > 0 && { Created: apiTime(image.createdAtMs) }),
    DockerVersion: details.dockerVersion,
    Author: details.author,
    Config: printConfig(details.config, version),
    Architecture: image.architecture,
    ...(details.variant !== "" && { Variant: details.variant }),
    Os: image.os,
    ...(details.osVersion !== "" && { OsVersion: details.osVersion }),
    Size: stored.diskBytes,
    ...(compareVersions(version, "1.44") < 0 && { VirtualSize: stored.diskBytes }),
    GraphDriver: { Name: "overlayfs", Data: {} },
    RootFS: { Type: "layers", Layers: details.diffIds },
    Metadata: { LastTagTime: apiTime(stored.taggedAtMs) },
  };
}

/** `GET /images/{name}/history`, newest first. */
export async function imageHistory(deps: FrontDoorDeps, name: string): Promise<object[]> {
  const stored = await requireImage(deps, name);
  const { history } = await deps.engine.imageStore.details(stored);
  let layer = 0;
  const sizes = history.map(({ emptyLayer }) => (emptyLayer ? 0 : (stored.layers[layer++]?.diskBytes ?? 0)));
  return history
    .map(({ createdAtMs, createdBy, comment }, index) => {
      const isNewest = index === history.length - 1;
      return {
        Id: isNewest ? stored.id : "<missing>",
        Created: Math.floor(createdAtMs / 1_000),
        CreatedBy: createdBy,
        Tags: isNewest && stored.tags.length > 0 ? stored.tags : null,
        Size: sizes[index] ?? 0,
        Comment: comment,
      };
    })
    .toReversed();
}

/** `POST /images/{name}/tag` */
export async function tagImage(deps: FrontDoorDeps, name: string, query: URLSearchParams): Promise<void> {
  const repository = query.get("repo") ?? "";
  const tag = query.get("tag") ?? "";
  await requireImage(deps, name);
  requireTag(tag);
  await deps.engine.imageStore.tag(name, tag === "" ? repository : `${repository}:${tag}`);
}

/** @throws {ClusterError} `invalid-argument` in Docker's words. */
export function requireTag(tag: string): void {
  if (tag !== "" && !/^\w[\w.-]{0,127}$/.test(tag))
    throw new ClusterError("invalid-argument", "invalid tag format");
}

/** `DELETE /images/{name}` */
export async function removeImage(deps: FrontDoorDeps, name: string, force: boolean): Promise<object[]> {
  const { records } = await deps.engine.imageStore.remove(name, { force });
  return records.map(printRemoval);
}

/** `POST /images/prune`: without a name, or with `dangling=false` all that no container uses. */
export async function pruneImages(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  publishPruned: RouteContext["publishPruned"],
): Promise<object> {
  const filters = parseFilters(query.get("filters"), pruneFilters);
  const onlyDangling = flagOf(filters, "dangling") ?? true;
  const untilMs = timeFilter(deps, filters);
  const { records, reclaimedBytes } = await deps.engine.imageStore.prune(({ image, tags }) => {
    const { labels } = image.config;
    if (onlyDangling && tags.length > 0) return false;
    if (untilMs !== undefined && image.createdAtMs > untilMs) return false;
    if ((filters.get("label!") ?? []).some((value) => hasLabel(labels, value))) return false;
    return (filters.get("label") ?? []).every((value) => hasLabel(labels, value));
  });
  publishPruned("image", reclaimedBytes);
  return {
    ImagesDeleted: records.length > 0 ? records.map(printRemoval) : null,
    SpaceReclaimed: reclaimedBytes,
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
    return parseAuthFields(JSON.parse(Buffer.from(header, "base64").toString("utf8")));
  } catch {
    return undefined;
  }
}

/** The domain that references have, for a server as clients name it: with a scheme and a path, or without. */
export function registryOf(server: string): string {
  const host = server.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return ["", "index.docker.io", "registry-1.docker.io"].includes(host) ? "docker.io" : host;
}

/** Undefined for what has none of them. */
export function parseAuthFields(value: unknown): RegistryAuth | undefined {
  const parsed = { ...(value as Record<string, unknown> | null) };
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
}

/** @throws {ClusterError} `not-found` in Docker's words. */
export async function requireImage(deps: FrontDoorDeps, name: string): Promise<StoredImage> {
  const stored = await deps.engine.imageStore.find(name);
  if (stored !== undefined) return stored;
  const isId = /^sha256:[0-9a-f]+$/.test(name);
  const isWholeId = /^[0-9a-f]{64}$/.test(name);
  const shown = isWholeId
    ? `sha256:${name}`
    : isId
      ? name
      : familiarName(printReference(parseReference(name)));
  throw new ClusterError("not-found", `No such image: ${shown}`);
}

export function printListed({ id, image, tags, digests, diskBytes }: StoredImage, version: string): object {
  const isNameless = tags.length === 0 && digests.length === 0 && compareVersions(version, "1.43") < 0;
  return {
    Id: id,
    ParentId: "",
    RepoTags: isNameless ? ["<none>:<none>"] : tags,
    RepoDigests: isNameless ? ["<none>@<none>"] : digests,
    Created: Math.floor(image.createdAtMs / 1_000),
    Size: diskBytes,
    SharedSize: -1,
    ...(compareVersions(version, "1.44") < 0 && { VirtualSize: diskBytes }),
    Labels: image.config.labels,
    Containers: -1,
  };
}

/** As Go prints it: every field of that version is there, the unset ones as null. */
function printConfig(config: Readonly<Record<string, unknown>>, version: string): object {
  const ofContainers = {
    Hostname: "",
    Domainname: "",
    AttachStdin: false,
    AttachStdout: false,
    AttachStderr: false,
    Tty: false,
    OpenStdin: false,
    StdinOnce: false,
    Image: "",
  };
  return {
    ...(compareVersions(version, "1.50") < 0 && ofContainers),
    User: "",
    Env: null,
    Cmd: null,
    Volumes: null,
    WorkingDir: "",
    Entrypoint: null,
    OnBuild: null,
    Labels: null,
    ...Object.fromEntries(Object.entries(config).filter(([, value]) => !isEmpty(value))),
  };
}

/** As Go prints lists and maps that were never filled. */
function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function printRemoval(removal: Removal): object {
  return "untagged" in removal ? { Untagged: removal.untagged } : { Deleted: removal.deleted };
}

function flagOf(filters: Filters, key: string): boolean | undefined {
  const values = filters.get(key);
  if (values === undefined || values.length === 0) return undefined;
  const isYes = values.every((value) => ["1", "true", "t", "T", "TRUE", "True"].includes(value));
  const isNo = values.every((value) => ["0", "false", "f", "F", "FALSE", "False"].includes(value));
  if (isYes || isNo) return isYes;
  throw new ClusterError("invalid-argument", `invalid filter '${key}=[${values.join(" ")}]'`);
}

async function timeOfImage(deps: FrontDoorDeps, filters: Filters, key: string): Promise<number | undefined> {
  const [name] = filters.get(key) ?? [];
  return name === undefined ? undefined : (await requireImage(deps, name)).image.createdAtMs;
}

function timeFilter({ clock }: FrontDoorDeps, filters: Filters): number | undefined {
  const [text] = filters.get("until") ?? [];
  return text === undefined ? undefined : parseTime(text, clock.now());
}

function matchesReference(name: string, pattern: string): boolean {
  if (name === pattern || name.replace(/:[^/:]*$/, "") === pattern) return true;
  const escaped = pattern
    .replaceAll(/[.+^${}()|[\]\\]/g, String.raw`\$&`)
    .replaceAll("*", "[^/]*")
    .replaceAll("?", "[^/]");
  return new RegExp(`^${escaped}$`).test(name);
}
