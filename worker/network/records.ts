/** Who asks for which name → the addresses to answer with. */
import type { NetworkId } from "../../model/ids.ts";
import {
  type CidrBlock,
  contains,
  type IpAddress,
  isIpv6,
  parseCidr,
  parseIp,
  printIp,
} from "../../model/address.ts";
import { type Subnet, subnetsOf } from "../../model/network.ts";
import { familiesOf } from "./network.ts";
import type { OverlayNetwork, WantedNetworks } from "./network.ts";

/** A task of this host, as the one that asks. */
export interface Asker {
  /** Those it is on that have names, in its own order; empty on the host's own bridge alone. */
  readonly networks: readonly NetworkId[];
  /** Resolvers its service asked for instead of the host's. */
  readonly nameservers: readonly string[];
  /** False when no network of its leads outside. */
  readonly outside: boolean;
  /** Addresses, of either family, by names that this task alone knows, in lower case. */
  readonly links: ReadonlyMap<string, readonly string[]>;
}

/** A network that has names. */
export type NamedNetwork = Pick<
  OverlayNetwork,
  "id" | "name" | "subnet" | "gateway" | "further" | "ingress"
> & {
  /** Its block of IPv6; absent: it has none. */
  readonly ipv6?: Pick<Subnet, "subnet">;
};

/** A name that this host's tasks have beside those the cluster knows. */
export interface LocalName {
  readonly networkId: NetworkId;
  readonly name: string;
  /** Of either family, in the form that the kernel prints. */
  readonly address: string;
}

interface NetworkNames {
  readonly name: string;
  readonly blocks: readonly CidrBlock[];
  /** Lower case; an entry with no address is known and has nothing serving. */
  readonly addresses: ReadonlyMap<string, ReadonlySet<string>>;
  readonly names: ReadonlyMap<string, string>;
}

export type NameTable = ReadonlyMap<NetworkId, NetworkNames>;

export interface Question {
  /** As asked, any case, with or without a final dot. */
  readonly name: string;
  /** "A", "AAAA", "PTR", … */
  readonly type: string;
}

export type Answer =
  /** In a stable order; whoever sends them shuffles. */
  | { readonly kind: "addresses"; readonly addresses: readonly string[] }
  | { readonly kind: "name"; readonly name: string }
  /** The name exists and has no record of that type. */
  | { readonly kind: "empty" }
  | { readonly kind: "unknown" }
  /** Not ours: ask outside; a name without a dot is `unknown` if nobody there answers. */
  | { readonly kind: "elsewhere"; readonly singleLabel: boolean };

/**
 * A service's name and aliases lead to its virtual IP, or to its serving tasks if it has none; `tasks.` and any of
 * these names always to those; a task's own name to that task whatever its health. Each also works with `.<network>` behind it. The ingress
 * network has no names: tasks meet there only because they publish ports.
 */
export function buildNames(
  wanted: Pick<WantedNetworks, "endpoints" | "services"> & { readonly networks: readonly NamedNetwork[] },
  local: readonly LocalName[],
): NameTable {
  const table = new Map<
    NetworkId,
    NetworkNames & { addresses: Map<string, Set<string>>; names: Map<string, string> }
  >();
  for (const network of wanted.networks) {
    if (network.ingress) continue;
    const subnets = [...subnetsOf(network), ...(network.ipv6 === undefined ? [] : [network.ipv6])];
    const blocks = subnets.flatMap(({ subnet }) => parseCidr(subnet) ?? []);
    table.set(network.id, { name: network.name, blocks, addresses: new Map(), names: new Map() });
  }
  const balanced = new Set<string>();
  for (const service of wanted.services) {
    const { networkId, serviceId, serviceName, aliases } = service;
    const network = table.get(networkId);
    if (network === undefined) continue;
    balanced.add(`${networkId}/${serviceId}`);
    for (const name of [serviceName, ...aliases]) put(network, name, familiesOf(service));
  }
  for (const endpoint of wanted.endpoints) {
    const network = table.get(endpoint.networkId);
    if (network === undefined) continue;
    const { networkId, serviceId, serviceName, taskName, aliases, serving } = endpoint;
    const addresses = familiesOf(endpoint);
    const own = serviceName === "" ? aliases : [serviceName, ...aliases];
    const all = serviceName === "" ? [] : own.map((name) => `tasks.${name}`);
    const shared = balanced.has(`${networkId}/${serviceId}`) ? all : [...own, ...all];
    for (const name of shared) put(network, name, serving ? addresses : []);
    if (taskName !== "") {
      put(network, taskName, addresses);
      for (const address of addresses) network.names.set(address, taskName);
    }
  }
  for (const { networkId, name, address } of local) {
    const network = table.get(networkId);
    if (network === undefined || name === "") continue;
    put(network, name, [address]);
    if (!network.names.has(address)) network.names.set(address, name);
  }
  return table;
}

export function answerQuestion(table: NameTable, asker: Asker, { name, type }: Question): Answer {
  const asked = name.toLowerCase().replace(/\.$/, "");
  const networks = asker.networks.flatMap((id) => table.get(id) ?? []);
  const reversed = reversedAddress(asked);
  if (reversed !== undefined) {
    const home = networks.find(({ blocks }) => blocks.some((block) => contains(block, reversed)));
    if (home === undefined) return outside(asker, asked);
    const taskName = home.names.get(printIp(reversed));
    if (taskName === undefined) return { kind: "unknown" };
    return type === "PTR" ? { kind: "name", name: `${taskName}.${home.name}` } : { kind: "empty" };
  }
  const linked = asker.links.get(asked);
  let known = linked !== undefined;
  const found = new Set(linked);
  for (const network of networks) {
    const suffix = `.${network.name.toLowerCase()}`;
    const bare = asked.endsWith(suffix) ? asked.slice(0, -suffix.length) : undefined;
    for (const form of bare === undefined ? [asked] : [asked, bare]) {
      const addresses = network.addresses.get(form);
      if (addresses === undefined) continue;
      known = true;
      for (const address of addresses) found.add(address);
    }
  }
  if (!known) return outside(asker, asked);
  // Of a name that is ours, the family that it lacks is not asked for outside either.
  const addresses = [...found].filter((address) => type === (isIpv6(address) ? "AAAA" : "A"));
  return addresses.length === 0 ? { kind: "empty" } : { kind: "addresses", addresses };
}

function outside(asker: Asker, asked: string): Answer {
  return asker.outside ? { kind: "elsewhere", singleLabel: !asked.includes(".") } : { kind: "unknown" };
}

function put(
  { addresses }: { addresses: Map<string, Set<string>> },
  name: string,
  those: readonly string[],
): void {
  const key = name.toLowerCase();
  let entry = addresses.get(key);
  if (entry === undefined) addresses.set(key, (entry = new Set()));
  for (const address of those) entry.add(address);
}

const addressDigits = 32;

/** "5.1.0.10.in-addr.arpa" → 10.0.1.5; "5.0.0. … .0.d.f.ip6.arpa", digit by digit, → fd00::5 */
function reversedAddress(asked: string): IpAddress | undefined {
  const [, labels = "", family = ""] = /^(.+)\.(in-addr|ip6)\.arpa$/.exec(asked) ?? [];
  const parts = labels.split(".").toReversed();
  if (family === "in-addr") return parseIp(parts.join("."));
  if (family === "" || parts.length !== addressDigits || !parts.every((digit) => digit.length === 1)) {
    return undefined;
  }
  return parseIp((parts.join("").match(/.{4}/g) ?? []).join(":"));
}
