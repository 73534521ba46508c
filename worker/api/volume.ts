import { ClusterError } from "../../model/errors.ts";
import { hasLabel, type Labels } from "../../model/meta.ts";
import { apiTime, compareVersions, type Filters, parseFilters, queryFlag } from "../../runtime/http.ts";
import { newContainerId, systemRandom } from "../../runtime/random.ts";
import type { VolumeRecord } from "../mounts/volume.ts";
import type { FrontDoorDeps } from "./deps.ts";
import type { LocalEvent } from "./events.ts";
import { nameMatches } from "./name-filter.ts";
import type { RouteContext } from "./request.ts";

const listFilters = ["dangling", "driver", "label", "name"];
const pruneFilters = ["all", "label", "label!"];
/** By which clients tell volumes that nobody named. */
const anonymousLabel = "com.docker.volume.anonymous";

/** `GET /volumes` */
export async function listVolumes(deps: FrontDoorDeps, query: URLSearchParams): Promise<object> {
  const filters = parseFilters(query.get("filters"), listFilters);
  const users = await usersByVolume(deps);
  const dangling = filters.get("dangling")?.[0];
  if (dangling !== undefined && !["1", "true", "0", "false"].includes(dangling))
    throw new ClusterError("invalid-argument", `invalid filter 'dangling=[${dangling}]'`);
  const wantsDangling = dangling === undefined ? undefined : ["1", "true"].includes(dangling);
  const volumes = (await deps.engine.volumes.list()).filter((volume) => {
    if (wantsDangling !== undefined && wantsDangling === users.has(volume.name)) return false;
    if (!anyOf(filters, "driver", (value) => value === "local")) return false;
    if (!anyOf(filters, "name", (value) => nameMatches(volume.name, value))) return false;
    return (filters.get("label") ?? []).every((value) => hasLabel(labelsOf(volume), value));
  });
  return { Volumes: volumes.map(printVolume), Warnings: [] };
}

/** `GET /volumes/{name}` */
export async function inspectVolume(deps: FrontDoorDeps, name: string): Promise<object> {
  const volume = await deps.engine.volumes.get(name);
  if (volume === undefined) throw noSuchVolume(name);
  return printVolume(volume);
}

/** `POST /volumes/create`: the same name again answers with what is there. */
export async function createVolume(
  deps: FrontDoorDeps,
  publish: (event: LocalEvent) => void,
  body: unknown,
): Promise<object> {
  const { name, driver, options, labels, isCluster } = parseCreate(body);
  if (isCluster) {
    throw new ClusterError(
      "unimplemented",
      "cluster volumes are not supported: a volume without ClusterVolumeSpec is accepted",
    );
  }
  if (driver !== "" && driver !== "local") {
    const text = `error looking up volume plugin ${driver}: plugin ${JSON.stringify(driver)} not found`;
    throw new ClusterError("not-found", `create ${name}: ${text}`);
  }
  const isAnonymous = name === "";
  const given = isAnonymous ? newContainerId(systemRandom) : name;
  const settings = {
    labels: isAnonymous ? { ...labels, [anonymousLabel]: "" } : labels,
    options,
    anonymous: false,
  };
  const before = await deps.engine.volumes.get(given);
  const volume = await deps.engine.volumes.create(given, settings).catch((error: unknown) => {
    if (!(error instanceof ClusterError) || error.code !== "invalid-argument") throw error;
    throw new ClusterError(error.code, `create ${given}: ${error.message}`, { cause: error });
  });
  if (before === undefined) publish(eventOf(deps, "create", given));
  return printVolume(volume);
}

/** `DELETE /volumes/{name}` */
export async function removeVolume(
  deps: FrontDoorDeps,
  publish: (event: LocalEvent) => void,
  name: string,
  force: boolean,
): Promise<void> {
  const volume = await deps.engine.volumes.get(name);
  if (volume === undefined) {
    if (force) return;
    throw noSuchVolume(name);
  }
  const users = (await usersByVolume(deps)).get(name);
  if (users !== undefined) {
    throw new ClusterError("conflict", `remove ${name}: volume is in use - [${users.join(", ")}]`);
  }
  await deps.engine.volumes.remove(name);
  publish(eventOf(deps, "destroy", name));
}

/** `POST /volumes/prune`: anonymous ones, and with `all` the named ones as well; never those whose options say where they are. */
export async function pruneVolumes(
  deps: FrontDoorDeps,
  { publish, publishPruned }: Pick<RouteContext, "publish" | "publishPruned">,
  query: URLSearchParams,
  version: string,
): Promise<object> {
  const { volumes } = deps.engine;
  const filters = parseFilters(query.get("filters"), pruneFilters);
  const all = compareVersions(version, "1.42") < 0 || queryFlag(filters.get("all")?.[0]);
  const users = await usersByVolume(deps);
  const deleted: string[] = [];
  let reclaimedBytes = 0;
  for (const volume of await volumes.list()) {
    const labels = labelsOf(volume);
    if (
      users.has(volume.name) ||
      Object.keys(volume.options).length > 0 ||
      (!all && labels[anonymousLabel] === undefined)
    )
      continue;
    if ((filters.get("label!") ?? []).some((value) => hasLabel(labels, value))) continue;
    if (!(filters.get("label") ?? []).every((value) => hasLabel(labels, value))) continue;
    const bytes = (await volumes.diskBytes(volume.name)) ?? 0;
    const isRemoved = await removeVolume(deps, publish, volume.name, true).then(
      () => true,
      (error: unknown) => {
        if (error instanceof ClusterError && error.code === "conflict") return false; // A container got it meanwhile.
        throw error;
      },
    );
    if (!isRemoved) continue;
    deleted.push(volume.name);
    reclaimedBytes += bytes;
  }
  publishPruned("volume", reclaimedBytes);
  return { VolumesDeleted: deleted, SpaceReclaimed: reclaimedBytes };
}

/** Ids of the containers that have each volume mounted, running or not. */
export async function usersByVolume({ engine }: FrontDoorDeps): Promise<Map<string, string[]>> {
  const users = new Map<string, string[]>();
  for (const { id, mounts } of await engine.list()) {
    for (const { type, name } of mounts)
      if (type === "volume" && name !== undefined) users.set(name, [...(users.get(name) ?? []), id]);
  }
  return users;
}

export function printVolume(volume: VolumeRecord): object {
  const labels = labelsOf(volume);
  return {
    CreatedAt: apiTime(volume.createdAtMs),
    Driver: "local",
    Labels: labels,
    Mountpoint: volume.mountpoint,
    Name: volume.name,
    Options: volume.options,
    Scope: "local",
  };
}

function labelsOf({ labels, anonymous }: VolumeRecord): Labels {
  return anonymous ? { ...labels, [anonymousLabel]: "" } : labels;
}

function parseCreate(body: unknown): {
  readonly name: string;
  readonly driver: string;
  readonly options: Labels;
  readonly labels: Labels;
  readonly isCluster: boolean;
} {
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new ClusterError("invalid-argument", "invalid JSON: a JSON object is accepted");
  // Field names in any case, as Go reads them.
  const fields = new Map(Object.entries(body).map(([key, value]) => [key.toLowerCase(), value as unknown]));
  return {
    name: textOf(fields.get("name"), "Name"),
    driver: textOf(fields.get("driver"), "Driver"),
    options: textsOf(fields.get("driveropts"), "DriverOpts"),
    labels: textsOf(fields.get("labels"), "Labels"),
    isCluster: (fields.get("clustervolumespec") ?? null) !== null,
  };
}

function textOf(value: unknown, field: string): string {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  throw new ClusterError("invalid-argument", `invalid JSON: ${field} is no text`);
}

function textsOf(value: unknown, field: string): Labels {
  if (value === undefined || value === null) return {};
  if (typeof value === "object" && !Array.isArray(value)) {
    return Object.fromEntries(
      Object.entries(value).map(([key, text]) => [key, textOf(text, `${field}.${key}`)]),
    );
  }
  throw new ClusterError("invalid-argument", `invalid JSON: ${field} is no object of texts`);
}

function noSuchVolume(name: string): ClusterError {
  return new ClusterError("not-found", `get ${name}: no such volume`);
}

function eventOf({ clock }: FrontDoorDeps, action: string, name: string): LocalEvent {
  return { type: "volume", action, id: name, image: "", attributes: { driver: "local" }, atMs: clock.now() };
}

function anyOf(filters: Filters, key: string, test: (value: string) => boolean): boolean {
  const values = filters.get(key);
  return values === undefined || values.some(test);
}
