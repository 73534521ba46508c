/** What a container is to be on its networks: the request, its checks, and how it is looked up again. Pure. */
import { parseIp } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import { joined } from "../bridges/request.ts";
import type { LocalNetwork, LocalSubnet } from "../bridges/record.ts";
import { addressNumber, addressValue, contains, parseBlock } from "../network/addresses.ts";
import { Fields } from "./fields.ts";

/** The settings of one endpoint, with the names of the Engine API. */
export interface EndpointRequest {
  readonly IPv4Address: string;
  readonly IPv6Address: string;
  readonly LinkLocalIPs: readonly string[];
  readonly Aliases: readonly string[];
  readonly Links: readonly string[];
  readonly MacAddress: string;
  readonly DriverOpts: Labels;
  readonly GwPriority: number;
}

/** By the network's name, or whatever the client called it. */
export type Endpoints = Readonly<Record<string, EndpointRequest>>;

export const plainEndpoint: EndpointRequest = {
  IPv4Address: "",
  IPv6Address: "",
  LinkLocalIPs: [],
  Aliases: [],
  Links: [],
  MacAddress: "",
  DriverOpts: {},
  GwPriority: 0,
};

/** Networks that every host has; they are not for users to shape. */
export function isPredefinedMode(mode: string): boolean {
  return ["bridge", "host", "none"].includes(mode);
}

/** Modes without a network of the container's own. */
export function isShared(mode: string): boolean {
  return mode === "host" || mode.startsWith("container:");
}

/**
 * `NetworkingConfig` of a create. As with Docker, who names networks there gets these alone, the one of the
 * mode first where it is among them; who names none gets that of the mode.
 *
 * @param nameOf - A network's name by its name or id, so that one that is called both ways is one.
 */
export function parseEndpoints(
  networking: Fields,
  { mode, macAddress, nameOf }: { mode: string; macAddress: string; nameOf: (term: string) => string },
): Endpoints {
  if (isShared(mode) || mode === "none") return {};
  const given = new Map<string, EndpointRequest>();
  const configs = networking.object("EndpointsConfig");
  for (const [name] of networking.entries("EndpointsConfig")) {
    given.set(name === "default" ? "bridge" : nameOf(name), parseEndpoint(configs.object(name)));
  }
  const own = nameOf(mode);
  if (given.size === 0) given.set(own, plainEndpoint);
  const names = [...given.keys()].toSorted((a, b) => Number(b === own) - Number(a === own));
  const endpoints = names.map((name, index): [string, EndpointRequest] => {
    const endpoint = given.get(name) ?? plainEndpoint;
    const isAddressed = index === 0 && endpoint.MacAddress === "";
    return [name, isAddressed ? { ...endpoint, MacAddress: macAddress } : endpoint];
  });
  return Object.fromEntries(endpoints);
}

export function parseEndpoint(from: Fields): EndpointRequest {
  const ipam = from.object("IPAMConfig");
  return {
    IPv4Address: ipam.text("IPv4Address"),
    IPv6Address: ipam.text("IPv6Address"),
    LinkLocalIPs: ipam.texts("LinkLocalIPs"),
    Aliases: from.texts("Aliases"),
    Links: from.texts("Links"),
    MacAddress: from.text("MacAddress"),
    DriverOpts: from.labels("DriverOpts"),
    GwPriority: from.whole("GwPriority"),
  };
}

/**
 * @param network - Undefined while it is not known which network is meant.
 * @throws {ClusterError} `invalid-argument` with every problem, in Docker's words.
 */
export function checkEndpoint(
  name: string,
  endpoint: EndpointRequest,
  network: Pick<LocalNetwork, "subnet" | "ownSubnet" | "ipv6"> | undefined,
): void {
  const problems: string[] = [];
  const { IPv4Address, IPv6Address, LinkLocalIPs, MacAddress } = endpoint;
  if (isPredefinedMode(name)) {
    if (IPv4Address !== "" || IPv6Address !== "")
      problems.push("user specified IP address is supported on user defined networks only");
    if (endpoint.Aliases.length > 0)
      problems.push("network-scoped alias is supported only for containers in user defined networks");
  }
  const isBadV4 = IPv4Address !== "" && (addressNumber(IPv4Address) ?? 0) === 0;
  if (isBadV4) problems.push(`invalid IPv4 address: ${IPv4Address}`);
  if (IPv6Address !== "" && parseIp(IPv6Address)?.bits !== 128)
    problems.push(`invalid IPv6 address: ${IPv6Address}`);
  for (const address of LinkLocalIPs) {
    if (parseIp(address) === undefined) problems.push(`invalid link-local IP address: ${address}`);
  }
  if (network !== undefined && !isPredefinedMode(name)) {
    if (IPv4Address !== "" && !isBadV4) problems.push(...placeProblems(IPv4Address, network));
    const isBadV6 = parseIp(IPv6Address)?.bits !== 128;
    if (IPv6Address !== "" && !isBadV6) problems.push(...placeProblems(IPv6Address, network.ipv6));
  }
  if (MacAddress !== "" && !isMac(MacAddress)) {
    throw new ClusterError("invalid-argument", `invalid MAC address ${MacAddress}`);
  }
  if (problems.length > 0) {
    throw new ClusterError("invalid-argument", `invalid endpoint settings:\n${joined(problems)}`);
  }
}

function placeProblems(
  address: string,
  network: Pick<LocalSubnet, "subnet" | "ownSubnet"> | undefined,
): string[] {
  if (network?.ownSubnet !== true) {
    return [
      "user specified IP address is supported only when connecting to networks with user configured subnets",
    ];
  }
  if (contains(parseBlock(network.subnet), addressValue(address) ?? -1)) return [];
  return [`no configured subnet or ip-range contain the IP address ${address}`];
}

/** Of one interface: neither a group's nor all zeros. */
function isMac(text: string): boolean {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) && (Number.parseInt(text.slice(0, 2), 16) & 1) === 0;
}

/** All names that a container has on a network of users, its own first. */
export function namesOn(
  { id, name, hostname }: { readonly id: string; readonly name: string; readonly hostname: string },
  { Aliases }: Pick<EndpointRequest, "Aliases">,
): string[] {
  return [...new Set([name, ...Aliases, id.slice(0, 12), hostname])].filter((each) => each !== "");
}

/** "name:alias", or a name that is its own alias. */
export function parseLink(text: string): { readonly name: string; readonly alias: string } {
  const [name = "", alias = name, ...rest] = text.split(":");
  if (name === "" || alias === "" || rest.length > 0) {
    throw new ClusterError("invalid-argument", `bad format for links: ${text}`);
  }
  return { name: name.replace(/^\//, ""), alias: alias.replace(/^.*\//, "") };
}
