import { createHash } from "node:crypto";
import { ClusterError } from "../../model/errors.ts";
import { parseFilters } from "../../runtime/http.ts";
import type { Filters } from "../../runtime/http.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { askManager, isManager } from "./forward.ts";

const filterKeys = ["driver", "id", "label", "name", "scope", "type", "dangling"];

interface NetworkItem {
  readonly Name: string;
  readonly Id: string;
  readonly Driver: string;
  readonly Scope: string;
}

/** Every host has these; they are no objects of the cluster. */
const predefined = [
  { name: "bridge", driver: "bridge" },
  { name: "host", driver: "host" },
  { name: "none", driver: "null" },
] as const;

export function isPredefinedName(name: string): boolean {
  return predefined.some((each) => each.name === name);
}

/** `GET /networks`: this host's own, and on a manager those of the cluster. */
export async function listNetworks(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  url: string,
): Promise<object[]> {
  const filters = parseFilters(query.get("filters"), filterKeys);
  const own = localNetworks(deps).filter((network) => matches(network, filters));
  if (!isManager(deps)) return own;
  const shared = (await askManager(deps, url)) as NetworkItem[];
  const known = new Set(own.map(({ Id }) => Id));
  return [...own, ...shared.filter(({ Id }) => !known.has(Id))];
}

/** One of this host's own networks by id, name or unique prefix; undefined when it is none of them. */
export function findLocalNetwork(deps: FrontDoorDeps, name: string): object | undefined {
  const networks = localNetworks(deps);
  const exact = networks.find(({ Id }) => Id === name) ?? networks.find(({ Name }) => Name === name);
  if (exact !== undefined) return exact;
  const found = networks.filter(({ Id }) => name.length >= 4 && Id.startsWith(name));
  return found.length === 1 ? found[0] : undefined;
}

export function networkNotFound(name: string): ClusterError {
  return new ClusterError("not-found", `network ${name} not found`);
}

function localNetworks({ settings }: FrontDoorDeps): NetworkItem[] {
  return predefined.map(({ name, driver }) => ({
    Name: name,
    Id: createHash("sha256").update(`${settings.stateDir}\n${settings.hostname}\n${name}`).digest("hex"),
    Created: "0001-01-01T00:00:00Z",
    Scope: "local",
    Driver: driver,
    EnableIPv4: true,
    EnableIPv6: false,
    IPAM: {
      Driver: "default",
      Options: null,
      Config: name === "bridge" ? [{ Subnet: settings.bridgeSubnet }] : [],
    },
    Internal: false,
    Attachable: false,
    Ingress: false,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: {},
    Options: {},
    Labels: {},
  }));
}

function matches(network: NetworkItem, filters: Filters): boolean {
  return [...filters].every(([key, values]) => values.some((value) => matchesOne(network, key, value)));
}

function matchesOne(network: NetworkItem, key: string, value: string): boolean {
  switch (key) {
    case "driver":
      return network.Driver === value;
    case "id":
      return network.Id.startsWith(value);
    case "name":
      return network.Name.includes(value);
    case "scope":
      return network.Scope === value;
    case "type":
      return value === "builtin";
    default:
      return false; // They have no labels, and are never dangling.
  }
}
