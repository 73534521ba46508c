import { ClusterError } from "../../model/errors.ts";
import { queryFlag } from "../../runtime/http.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import { endpointsOf } from "../containers/connections.ts";
import { namesOn } from "../containers/endpoints.ts";
import type { LocalRecord } from "../containers/store.ts";
import type { Attached, AttachedRecord } from "../network/network.ts";
import { taskLabel } from "../task/request.ts";
import { parseContainerFilter } from "./container-filter.ts";
import { printInspected, printListed } from "./container-print.ts";
import type { ContainerView } from "./container-print.ts";
import type { FrontDoorDeps } from "./deps.ts";
import type { EndpointView } from "./endpoint-print.ts";
import { askManager, isManager } from "./forward.ts";
import { frameLine, logDetails } from "./log-frame.ts";
import { parseTime } from "./time.ts";

/** `GET /containers/json`, newest first. */
export async function listContainers(deps: FrontDoorDeps, query: URLSearchParams): Promise<object[]> {
  const limit = limitOf(query.get("limit") ?? "");
  const records = (await deps.engine.list()).toReversed();
  const filter = parseContainerFilter(query.get("filters"), records);
  const all = queryFlag(query.get("all")) || limit > 0 || filter.wantsStopped;
  const views = await viewsOf(deps, records);
  const wanted = views
    .filter((view) => all || view.record.status.state === "running" || view.isRestarting)
    .filter(filter.matches);
  const listed = limit > 0 ? wanted.slice(0, limit) : wanted;
  const sizeOf = queryFlag(query.get("size")) ? await sizes(deps) : undefined;
  const nowMs = deps.clock.now();
  const printed: object[] = [];
  for (const view of listed) {
    const { SizeRw = 0, ...size } = (await sizeOf?.(view.record)) ?? {};
    // As with Docker, nothing is not listed.
    printed.push({ ...printListed(view, nowMs), ...(SizeRw > 0 && { SizeRw }), ...size });
  }
  return printed;
}

/** Negative and 0: no limit. */
function limitOf(text: string): number {
  if (text === "") return 0;
  if (/^[+-]?\d+$/.test(text)) return Number(text);
  throw new ClusterError("invalid-argument", `strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`);
}

/** What a container has written, and that with its image. */
async function sizes(
  deps: FrontDoorDeps,
): Promise<(record: ContainerRecord) => Promise<{ SizeRw: number; SizeRootFs: number }>> {
  const images = new Map((await deps.engine.imageStore.list()).map(({ id, diskBytes }) => [id, diskBytes]));
  return async ({ id, imageId }) => {
    const SizeRw = (await deps.containers?.engine.files.diskBytes(id)) ?? 0;
    return { SizeRw, SizeRootFs: SizeRw + (images.get(imageId) ?? 0) };
  };
}

/** `GET /containers/{id}/json` */
export async function inspectContainer(
  deps: FrontDoorDeps,
  name: string,
  query: URLSearchParams,
  version: string,
): Promise<object> {
  const record = await findContainer(deps, name);
  const [view] = await viewsOf(deps, [record]);
  if (view === undefined) throw missing(name);
  if (!queryFlag(query.get("size"))) return printInspected(view, version);
  return { ...printInspected(view, version), ...(await (await sizes(deps))(record)) };
}

/** `GET /containers/{id}/logs`: the frames, one a line. */
export async function containerLogs(
  deps: FrontDoorDeps,
  name: string,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<{ readonly tty: boolean; readonly frames: AsyncGenerator<Uint8Array> }> {
  const stdout = queryFlag(query.get("stdout"));
  const stderr = queryFlag(query.get("stderr"));
  if (!stdout && !stderr) {
    throw new ClusterError("invalid-argument", "Bad parameters: you must choose at least one stream");
  }
  const record = await findContainer(deps, name);
  if (record.logDriver === "none") {
    throw new ClusterError("unimplemented", "configured logging driver does not support reading");
  }
  const nowMs = deps.clock.now();
  const tail = Number.parseInt(query.get("tail") ?? "all", 10);
  const sinceMs = parseTime(query.get("since"), nowMs);
  const untilMs = parseTime(query.get("until"), nowMs);
  const timestamps = queryFlag(query.get("timestamps"));
  const options = {
    stdout,
    stderr,
    follow: queryFlag(query.get("follow")),
    ...(tail >= 0 && { tail }),
    ...(sinceMs !== undefined && { sinceMs }),
    ...(untilMs !== undefined && { untilMs }),
  };
  const lines = deps.engine.logs(record.id).read(options, signal);
  const { tty, labels, env } = record;
  const logOptions = deps.containers?.record(record.id)?.hostConfig.LogConfig.Config ?? {};
  const details = queryFlag(query.get("details")) && { details: logDetails(logOptions, labels, env) };
  return { tty, frames: frames() };

  async function* frames(): AsyncGenerator<Uint8Array> {
    for await (const line of lines) yield frameLine(line, { tty, timestamps, ...details });
  }
}

/** By full id, then name, then unique prefix of an id. */
export async function findContainer(
  deps: Pick<FrontDoorDeps, "engine">,
  name: string,
): Promise<ContainerRecord> {
  const records = await deps.engine.list();
  const plain = name.startsWith("/") ? name.slice(1) : name;
  if (plain === "")
    throw new ClusterError("invalid-argument", "invalid container name or ID: value is empty");
  const exact = records.find(({ id }) => id === plain) ?? records.find((each) => each.name === plain);
  if (exact !== undefined) return exact;
  const [found, second] = records.filter(({ id }) => id.startsWith(plain));
  if (second !== undefined)
    throw new ClusterError("invalid-argument", `multiple IDs found with provided prefix: ${name}`);
  if (found === undefined) throw missing(name);
  return found;
}

function missing(name: string): ClusterError {
  return new ClusterError("not-found", `No such container: ${name}`);
}

async function viewsOf(deps: FrontDoorDeps, records: readonly ContainerRecord[]): Promise<ContainerView[]> {
  const attached = new Map<string, AttachedRecord>();
  for (const each of await deps.network.list()) attached.set(each.taskId, each);
  const names = await networkNames(deps, [...attached.values()]);
  return records.map((record) => {
    const local = deps.containers?.record(record.id);
    // One that has just ended may still be on its way out of its networks.
    const isRunning = record.status.state === "running";
    const own = isRunning ? attached.get(local?.id ?? record.labels[taskLabel] ?? "")?.attached : undefined;
    return {
      record,
      ...(local !== undefined && { local }),
      isRestarting: deps.containers?.isRestarting(record.id) === true,
      execIds: deps.containers?.execs.idsOf(record.id) ?? [],
      health: record.status.state === "running" ? (local?.health ?? deps.healthOf(record.id)) : undefined,
      ports: record.status.state === "running" ? (own?.publishedPorts ?? []) : [],
      exposed:
        record.status.state === "running" && own?.kind === "namespace"
          ? (local?.config.ExposedPorts ?? [])
          : [],
      endpoints: endpointViews(deps, record, local, own, names),
      ...(own !== undefined && { files: own.files }),
      sandbox: own?.kind === "namespace" ? own.path : undefined,
    };
  });
}

/** Of a local container the networks asked for, of a task those that it is on. */
function endpointViews(
  { networks, containers }: FrontDoorDeps,
  record: ContainerRecord,
  local: LocalRecord | undefined,
  attached: Attached | undefined,
  shared: ReadonlyMap<string, string>,
): EndpointView[] {
  const { predefined } = networks;
  const idOf = (name: string): string => predefined.find((network) => network.name === name)?.id ?? "";
  const mode =
    local?.hostConfig.NetworkMode ?? (record.network.kind === "namespace" ? "" : record.network.kind);
  if (mode === "host" || mode === "none") {
    return [{ name: mode, networkId: idOf(mode), names: [], internal: false }];
  }
  if (local?.config.NetworkDisabled === true) return [];
  const addresses = attached?.kind === "namespace" ? attached.addresses : [];
  if (local === undefined) {
    return addresses.map((address) => {
      const { networkId } = address;
      const name = networkId === "" ? "bridge" : (shared.get(networkId) ?? networkId);
      return { name, networkId: networkId || idOf("bridge"), names: [], address, internal: false };
    });
  }
  return Object.entries(endpointsOf(local)).map(([term, request]) => {
    const network = networks.resolve(term) ?? containers?.network(local.id, term);
    const address = addresses.find(({ networkId }) => (networkId || idOf("bridge")) === network?.id);
    const identity = { id: local.id, name: local.name, hostname: local.config.Hostname };
    return {
      name: network?.name ?? term,
      networkId: network?.id ?? "",
      request,
      names: network?.name === "bridge" ? [] : namesOn(identity, request),
      ...(address !== undefined && { address }),
      internal: networks.find(network?.id ?? "")?.internal ?? false,
    };
  });
}

/** Names of overlays: those that the managers have told this node of, or the manager beside us; else their ids serve. */
async function networkNames(
  deps: FrontDoorDeps,
  records: readonly AttachedRecord[],
): Promise<Map<string, string>> {
  const known = new Map(deps.node().networks?.map(({ id, name }) => [id, name]));
  const hasOverlay = records.some(
    ({ attached }) =>
      attached.kind === "namespace" &&
      attached.addresses.some(({ networkId }) => networkId !== "" && !known.has(networkId)),
  );
  if (!hasOverlay || !isManager(deps)) return known;
  try {
    const networks = (await askManager(deps, "/networks")) as {
      readonly Id: string;
      readonly Name: string;
    }[];
    return new Map(networks.map(({ Id, Name }) => [Id, Name]));
  } catch {
    return known; // Listing containers must work while the managers have no leader.
  }
}
