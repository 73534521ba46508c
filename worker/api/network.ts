/** `/networks` of this host, and beside a manager those of the cluster. */
import { isIpv6, parseCidr } from "../../model/address.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { subnetsOf } from "../../model/network.ts";
import { hasLabel, type Labels } from "../../model/meta.ts";
import type { AssignedNetwork } from "../../proto/gen/shoal/dispatcher.ts";
import { apiTime, parseFilters } from "../../runtime/http.ts";
import type { Filters } from "../../runtime/http.ts";
import { type NamedNetwork, nameTaken, type NetworkUser } from "../bridges/networks.ts";
import { bridgeOptions, type LocalNetwork, type LocalSubnet } from "../bridges/record.ts";
import type { TakenBlock } from "../bridges/subnet.ts";
import type { ConnectionEvent } from "../containers/connections.ts";
import { ownBridge } from "../network/bridges.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { endpointId } from "./endpoint-print.ts";
import type { LocalEvent } from "./events.ts";
import { askManager, isManager, managerAnswer, type ManagerDeps } from "./forward.ts";
import { nameMatches } from "./name-filter.ts";
import { parseTime } from "./time.ts";

const filterKeys = ["driver", "id", "label", "name", "scope", "type", "dangling"];
const pruneKeys = ["label", "label!", "until"];

interface NetworkItem {
  readonly Name: string;
  readonly Id: string;
  readonly Driver: string;
  readonly Scope: string;
  readonly IPAM?: { readonly Config?: readonly { readonly Subnet?: string }[] | null };
}

interface Pruned {
  readonly NetworksDeleted: readonly string[] | null;
}

type Named = NamedNetwork & { readonly record?: LocalNetwork };

/** `GET /networks`: this host's own, and on a manager those of the cluster. */
export async function listNetworks(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  url: string,
): Promise<object[]> {
  const filters = parseFilters(query.get("filters"), filterKeys);
  for (const type of filters.get("type") ?? []) {
    if (type !== "custom" && type !== "builtin") {
      throw new ClusterError("invalid-argument", `invalid filter: 'type'='${type}'`);
    }
  }
  const used = filters.has("dangling") ? await usedNetworks(deps) : new Set<string>();
  const own = namedNetworks(deps)
    .filter((network) => matches(network, filters, used))
    .map((network) => printNetwork(deps, network, []));
  if (!isManager(deps))
    return [
      ...own,
      ...joinedNetworks(deps)
        .filter((each) => matches(each, filters, used))
        .map((each) => printJoined(each, [])),
    ];
  const shared = await clusterPart<readonly NetworkItem[]>(deps, "GET", url, []);
  const known = new Set(namedNetworks(deps).map(({ id }) => id));
  return [...own, ...shared.filter(({ Id }) => !known.has(Id))];
}

/** One of this host's own networks by id, name or unique prefix; undefined when it is none of them. */
export async function inspectNetwork(deps: FrontDoorDeps, name: string): Promise<object | undefined> {
  const network = findNetwork(deps, name);
  if (network === undefined) return undefined;
  return printNetwork(
    deps,
    network,
    await deps.networks.users(kernelId(network)),
    await containerNames(deps),
  );
}

/**
 * One of the cluster's: what the manager beside us says of it, or else what this host knows, as it is on it; with the
 * containers that are on it here.
 *
 * @returns undefined when this host is no manager and not on it.
 */
export async function inspectShared(
  deps: FrontDoorDeps,
  name: string,
  url: string,
): Promise<{ readonly status: number; readonly body: unknown } | undefined> {
  if (!isManager(deps)) {
    const joined = joinedNetworks(deps).find((each) => each.id === name || each.name === name);
    if (joined === undefined) return undefined;
    return { status: 200, body: printJoined(joined, await containersOn(deps, joined.id)) };
  }
  const answer = await managerAnswer(deps, url);
  const { Id } = answer.body as { readonly Id?: string };
  if (answer.status !== 200 || Id === undefined) return answer;
  const Containers = Object.fromEntries(await containersOn(deps, Id));
  return { ...answer, body: { ...(answer.body as object), Containers } };
}

async function containersOn(deps: FrontDoorDeps, id: string): Promise<PrintedContainer[]> {
  const [users, names] = [await deps.networks.users(id), await containerNames(deps)];
  return users.map((user) => printUser(id, user, names));
}

type Joined = Named &
  Pick<AssignedNetwork, "internal" | "attachable" | "ingress" | "subnet" | "gateway" | "further" | "vni">;

/** Networks of the cluster that this host is on. */
function joinedNetworks({ node }: Pick<FrontDoorDeps, "node">): Joined[] {
  return (node().networks ?? []).filter(({ driver }) => driver === "overlay");
}

export function findNetwork({ networks }: FrontDoorDeps, name: string): Named | undefined {
  const found = networks.resolve(name);
  const record = found === undefined ? undefined : networks.find(found.id);
  return found === undefined || record === undefined ? found : { ...found, record };
}

/** `POST /networks/create` for a network of this host. */
export async function createNetwork(
  deps: FrontDoorDeps,
  publish: (event: LocalEvent) => void,
  body: unknown,
  signal: AbortSignal,
): Promise<object> {
  const shared = await clusterNetworks(deps);
  const { Name } = body as { readonly Name?: unknown };
  if (shared.some((network) => network.Name === Name)) throw nameTaken(String(Name));
  const others = shared.flatMap(({ IPAM, Name: by }): TakenBlock[] =>
    (IPAM?.Config ?? []).flatMap(({ Subnet = "" }) =>
      parseCidr(Subnet) !== undefined ? [{ block: Subnet, by: `network ${by}` }] : [],
    ),
  );
  const network = await deps.networks.create(body, others, signal);
  publish(networkEvent(deps, "create", { ...network, driver: "bridge" }));
  return { Id: network.id, Warning: "" };
}

/** `DELETE /networks/{id}` of this host's own; @returns false when it is none of them. */
export async function removeNetwork(
  deps: FrontDoorDeps,
  publish: (event: LocalEvent) => void,
  name: string,
  signal: AbortSignal,
): Promise<boolean> {
  const network = findNetwork(deps, name);
  if (network === undefined) return false;
  const { record } = network;
  if (record === undefined) {
    throw new ClusterError(
      "permission-denied",
      `${network.name} is a pre-defined network and cannot be removed`,
    );
  }
  const names = await containerNames(deps);
  await deps.networks.remove(record, (id) => names.get(id) ?? id, signal);
  publish(networkEvent(deps, "destroy", network));
  return true;
}

/** `POST /networks/prune`: networks that no container is on, and on a manager those of the cluster. @returns their names. */
export async function pruneNetworks(
  deps: FrontDoorDeps,
  publish: (event: LocalEvent) => void,
  query: URLSearchParams,
  url: string,
  signal: AbortSignal,
): Promise<string[]> {
  const filters = parseFilters(query.get("filters"), pruneKeys);
  const [until] = filters.get("until") ?? [];
  const untilMs = until === undefined ? undefined : parseTime(until, deps.clock.now());
  const used = await usedNetworks(deps);
  const deleted: string[] = [];
  for (const network of deps.networks.list()) {
    if (used.has(network.id) || (untilMs !== undefined && network.createdAtMs >= untilMs)) continue;
    if (!(filters.get("label") ?? []).every((text) => hasLabel(network.labels, text))) continue;
    if ((filters.get("label!") ?? []).some((text) => hasLabel(network.labels, text))) continue;
    if (await removeNetwork(deps, publish, network.id, signal)) deleted.push(network.name);
  }
  if (!isManager(deps)) return deleted;
  const shared = await clusterPart<Pruned>(deps, "POST", url, { NetworksDeleted: null });
  return [...deleted, ...(shared.NetworksDeleted ?? [])];
}

/**
 * Before a container is to join it: one that does not run would take any name, and fail at its next start. A worker cannot tell,
 * nor can a manager's host whose manager does not answer.
 *
 * @throws {ClusterError} `not-found` for a network that neither this host nor its cluster has.
 */
export async function refuseUnknown(deps: FrontDoorDeps, name: string): Promise<void> {
  if (findNetwork(deps, name) !== undefined || !isManager(deps)) return;
  const path = `/networks/${encodeURIComponent(name)}`;
  const answer = await managerAnswer(deps, path).catch((error: unknown) => {
    deps.log.warn({ name, error: errorText(error) }, "whether the cluster has a network cannot be told");
    return undefined;
  });
  if (answer?.status === 404) throw networkNotFound(name);
}

export function networkNotFound(name: string): ClusterError {
  return new ClusterError("not-found", `network ${name} not found`);
}

/** A container has come to a network, or gone. */
export function connectionEvent(
  deps: Pick<FrontDoorDeps, "clock">,
  { action, containerId, network }: ConnectionEvent,
): LocalEvent {
  return networkEvent(deps, action, network, { container: containerId });
}

function networkEvent(
  { clock }: Pick<FrontDoorDeps, "clock">,
  action: string,
  { id, name, driver }: NamedNetwork,
  more: Labels = {},
): LocalEvent {
  return {
    type: "network",
    action,
    id,
    image: "",
    attributes: { ...more, name, type: driver },
    atMs: clock.now(),
  };
}

/** Networks of the cluster as far as this host knows: without a manager that answers, it makes its own all the same. */
async function clusterNetworks(deps: ManagerDeps): Promise<readonly NetworkItem[]> {
  if (!isManager(deps)) return [];
  return askManager(deps, "/networks").catch(() => []) as Promise<NetworkItem[]>;
}

/** The manager's part of an answer; without one that answers `none`, as with Docker: this host's own part needs no leader. */
async function clusterPart<Part>(
  deps: FrontDoorDeps,
  method: "GET" | "POST",
  url: string,
  none: Part,
): Promise<Part> {
  try {
    return (await askManager(deps, url, method)) as Part;
  } catch (error) {
    deps.log.warn({ url, error: errorText(error) }, "an answer goes without the networks of the cluster");
    return none;
  }
}

function namedNetworks({ networks }: FrontDoorDeps): Named[] {
  const own = networks
    .list()
    .map((record) => ({ id: record.id, name: record.name, driver: "bridge", record }));
  return [...networks.predefined, ...own];
}

/** The host's own bridge has no id there. */
function kernelId({ id, name }: NamedNetwork): string {
  return name === "bridge" ? "" : id;
}

async function usedNetworks({ network }: FrontDoorDeps): Promise<Set<string>> {
  const records = await network.list();
  return new Set(
    records.flatMap(({ attached }) =>
      attached.kind === "namespace" ? attached.addresses.map(({ networkId }) => networkId) : [],
    ),
  );
}

async function containerNames({ engine }: FrontDoorDeps): Promise<Map<string, string>> {
  return new Map((await engine.list()).map(({ id, name }) => [id, name]));
}

function printNetwork(
  { settings, networks }: FrontDoorDeps,
  network: Named,
  users: readonly NetworkUser[],
  names: ReadonlyMap<string, string> = new Map(),
): object {
  const { record } = network;
  const containers = users.map((user) => printUser(network.id, user, names));
  const own = network.name === "bridge" ? ownBridge(settings.bridgeSubnet) : undefined;
  return {
    Name: network.name,
    Id: network.id,
    Created: apiTime(record?.createdAtMs ?? networks.predefinedAtMs),
    Scope: "local",
    Driver: network.driver,
    EnableIPv4: true,
    EnableIPv6: record?.ipv6 !== undefined,
    IPAM: {
      Driver: "default",
      Options: record?.ipamOptions ?? null,
      Config:
        record !== undefined
          ? [record, ...(record.ipv6 === undefined ? [] : [record.ipv6])].map(printSubnet)
          : own !== undefined
            ? [{ Subnet: own.subnet, Gateway: own.gateway }]
            : [],
    },
    Internal: record?.internal ?? false,
    Attachable: record?.attachable ?? false,
    Ingress: false,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: Object.fromEntries(containers),
    Options: record?.options ?? (own === undefined ? {} : ownOptions(own)),
    Labels: record?.labels ?? {},
  };
}

type PrintedContainer = readonly [id: string, endpoint: object];

function printUser(
  networkId: string,
  { containerId, address }: NetworkUser,
  names: ReadonlyMap<string, string>,
): PrintedContainer {
  const printed = {
    Name: names.get(containerId) ?? "",
    EndpointID: endpointId(containerId, networkId),
    MacAddress: address.mac,
    IPv4Address: address.address,
    IPv6Address: address.ipv6?.address ?? "",
  };
  return [containerId, printed];
}

/** A network of the cluster on a host that is no manager, which knows no more of it. */
function printJoined(network: Joined, containers: readonly PrintedContainer[]): object {
  const { id, name, driver, internal, attachable, ingress, vni } = network;
  const Config = subnetsOf(network).map(({ subnet, gateway }) => ({ Subnet: subnet, Gateway: gateway }));
  return {
    Name: name,
    Id: id,
    Created: apiTime(undefined),
    Scope: "swarm",
    Driver: driver,
    EnableIPv4: true,
    EnableIPv6: subnetsOf(network).some(({ subnet }) => isIpv6(subnet)),
    IPAM: { Driver: "default", Options: null, Config },
    Internal: internal,
    Attachable: attachable,
    Ingress: ingress,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: Object.fromEntries(containers),
    Options: { "com.docker.network.driver.overlay.vxlanid_list": String(vni) },
    Labels: {},
  };
}

function printSubnet({ subnet, range, gateway, auxiliary }: LocalSubnet): object {
  return {
    Subnet: subnet,
    ...(range !== undefined && { IPRange: range }),
    Gateway: gateway,
    ...(Object.keys(auxiliary).length > 0 && { AuxiliaryAddresses: auxiliary }),
  };
}

function ownOptions({ device, mtu }: ReturnType<typeof ownBridge>): Labels {
  return {
    "com.docker.network.bridge.default_bridge": "true",
    [bridgeOptions.mutual]: "true",
    [bridgeOptions.masquerade]: "true",
    [bridgeOptions.hostAddress]: "0.0.0.0",
    [bridgeOptions.device]: device,
    [bridgeOptions.mtu]: String(mtu),
  };
}

function matches(network: Named, filters: Filters, used: ReadonlySet<string>): boolean {
  return [...filters].every(([key, values]) => {
    if (key === "label") return values.every((text) => hasLabel(network.record?.labels ?? {}, text));
    return values.some((value) => matchesOne(network, key, value, used));
  });
}

function matchesOne(network: Named, key: string, value: string, used: ReadonlySet<string>): boolean {
  const isShared = network.driver === "overlay";
  const isBuiltIn = network.record === undefined && !isShared;
  switch (key) {
    case "driver":
      return network.driver === value;
    case "id":
      return network.id.startsWith(value);
    case "name":
      return nameMatches(network.name, value);
    case "scope":
      return value === (isShared ? "swarm" : "local");
    case "type":
      return (value === "builtin") === isBuiltIn;
    case "dangling":
      return !isBuiltIn && ["1", "true"].includes(value) !== used.has(network.id);
    default:
      return false; // Refused by `parseFilters` before.
  }
}
