/** What `docker inspect` shows of a container's networks and ports. Pure. */
import { createHash } from "node:crypto";

import { compareVersions } from "../../runtime/http.ts";
import type { EndpointRequest } from "../containers/endpoints.ts";
import type { AttachedAddress, HostPort } from "../network/network.ts";

export interface EndpointView {
  /** Name of the network. */
  readonly name: string;
  readonly networkId: string;
  /** As it was asked for; absent for tasks. */
  readonly request?: EndpointRequest;
  /** Names it has there; empty where there are none. */
  readonly names: readonly string[];
  /** Absent while it does not run. */
  readonly address?: AttachedAddress;
  /** Then no gateway leads outside. */
  readonly internal: boolean;
}

/** The same for as long as the container and its network last. */
export function endpointId(containerId: string, networkId: string): string {
  return createHash("sha256").update(`${containerId}/${networkId}`).digest("hex");
}

export function sandboxId(containerId: string): string {
  return createHash("sha256").update(containerId).digest("hex");
}

export function printEndpoints(
  containerId: string,
  endpoints: readonly EndpointView[],
  version: string,
): Record<string, object> {
  return Object.fromEntries(
    endpoints.map((endpoint) => [endpoint.name, printEndpoint(containerId, endpoint, version)]),
  );
}

const predefined = ["bridge", "host", "none"];

function printEndpoint(
  containerId: string,
  { networkId, request, names, ...view }: EndpointView,
  version: string,
): object {
  const {
    IPv4Address = "",
    IPv6Address = "",
    Links = [],
    Aliases = [],
    DriverOpts = {},
    GwPriority = 0,
  } = request ?? {};
  return {
    IPAMConfig:
      IPv4Address + IPv6Address === ""
        ? null
        : { ...(IPv4Address !== "" && { IPv4Address }), ...(IPv6Address !== "" && { IPv6Address }) },
    Links: orNull(Links),
    Aliases: orNull(
      // Clients of old find the short id here; newer ones among the names.
      compareVersions(version, "1.45") < 0 && view.address !== undefined && !predefined.includes(view.name)
        ? [...new Set([...Aliases, containerId.slice(0, 12)])]
        : Aliases,
    ),
    DriverOpts: Object.keys(DriverOpts).length > 0 ? DriverOpts : null,
    GwPriority,
    NetworkID: networkId,
    EndpointID: view.address === undefined ? "" : endpointId(containerId, networkId),
    ...printAddress(view),
    DNSNames: view.address === undefined ? null : orNull(names),
  };
}

/** The host's own bridge is shown a second time, as clients of old expect. */
export function printOwnBridge(containerId: string, endpoints: readonly EndpointView[]): object {
  const own = endpoints.find(({ name }) => name === "bridge");
  return {
    EndpointID: own?.address === undefined ? "" : endpointId(containerId, own.networkId),
    ...printAddress(own ?? { internal: false }),
  };
}

function printAddress({ address, internal }: Pick<EndpointView, "address" | "internal">): object {
  const [ip = "", bits = "0"] = address?.address.split("/") ?? [];
  const [ipv6 = "", ipv6Bits = "0"] = address?.ipv6?.address.split("/") ?? [];
  return {
    MacAddress: address?.mac ?? "",
    Gateway: internal ? "" : (address?.gateway ?? ""),
    IPAddress: ip,
    IPPrefixLen: Number(bits),
    IPv6Gateway: internal ? "" : (address?.ipv6?.gateway ?? ""),
    GlobalIPv6Address: ipv6,
    GlobalIPv6PrefixLen: Number(ipv6Bits),
  };
}

/** By target; those that are exposed and not published have none. */
export function printPorts(
  ports: readonly HostPort[],
  exposed: readonly string[],
): Record<string, { HostIp: string; HostPort: string }[] | null> {
  const printed: Record<string, { HostIp: string; HostPort: string }[] | null> = {};
  for (const text of exposed) printed[withProtocol(text)] = null;
  for (const port of ports) {
    const list = (printed[`${port.targetPort}/${port.protocol}`] ??= []);
    for (const HostIp of hostAddresses(port)) list.push({ HostIp, HostPort: String(port.publishedPort) });
  }
  return printed;
}

export interface ListedPort {
  readonly IP?: string;
  readonly PrivatePort: number;
  readonly PublicPort?: number;
  readonly Type: string;
}

/** As in the list of containers. */
export function printPortList(ports: readonly HostPort[], exposed: readonly string[]): ListedPort[] {
  const published = new Set(ports.map(({ protocol, targetPort }) => `${targetPort}/${protocol}`));
  const open = exposed.map(withProtocol).filter((text) => !published.has(text));
  return [
    ...ports.flatMap((port) =>
      hostAddresses(port).map((IP) => ({
        IP,
        PrivatePort: port.targetPort,
        PublicPort: port.publishedPort,
        Type: port.protocol,
      })),
    ),
    ...open.map((text) => ({ PrivatePort: Number.parseInt(text, 10), Type: text.split("/")[1] ?? "tcp" })),
  ];
}

function hostAddresses({ hostAddress = "0.0.0.0", ipv6 }: HostPort): string[] {
  return ipv6 === true ? [hostAddress, "::"] : [hostAddress];
}

function withProtocol(text: string): string {
  return text.includes("/") ? text : `${text}/tcp`;
}

function orNull<Item>(list: readonly Item[]): readonly Item[] | null {
  return list.length > 0 ? list : null;
}
