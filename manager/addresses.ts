import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";
import { ClusterError } from "../model/errors.ts";
import type { SwarmInit } from "../proto/host.ts";

export const defaultClusterPort = 2377;

/** Every address of a cluster's first manager, settled. */
export interface OwnAddresses {
  /** "host:port" to bind. */
  readonly listenAddress: string;
  /** "ip:port" that others are told. */
  readonly advertiseAddress: string;
  /** No port. */
  readonly dataPathAddress: string;
}

type Interfaces = Readonly<
  Record<string, readonly Pick<NetworkInterfaceInfo, "address" | "family" | "internal">[]>
>;

/**
 * Settles what `swarm init` left open: ports, interface names, and the address to advertise where there is only one.
 *
 * @throws {ClusterError} `invalid-argument` in the words that Docker's users know.
 */
export function resolveAddresses(
  request: Pick<SwarmInit, "listenAddress" | "advertiseAddress" | "dataPathAddress">,
  interfaces: Interfaces = networkInterfaces() as Interfaces,
): OwnAddresses {
  const listen = splitAddress(request.listenAddress === "" ? "0.0.0.0" : request.listenAddress);
  const listenHost = hostOf(listen.host, interfaces, "listen");
  const port = listen.port ?? defaultClusterPort;
  const advertised = splitAddress(request.advertiseAddress);
  const wildcard = listenHost === "0.0.0.0" || listenHost === "::";
  const advertiseHost =
    advertised.host !== ""
      ? hostOf(advertised.host, interfaces, "advertise")
      : wildcard
        ? onlyAddress(interfaces)
        : listenHost;
  if (advertiseHost === "0.0.0.0" || advertiseHost === "::") {
    throw new ClusterError(
      "invalid-argument",
      "advertise address must be a non-zero IP address or network interface (with optional port number)",
    );
  }
  const dataPath = request.dataPathAddress;
  return {
    listenAddress: `${listenHost}:${port}`,
    advertiseAddress: `${advertiseHost}:${advertised.port ?? port}`,
    dataPathAddress: dataPath === "" ? advertiseHost : hostOf(dataPath, interfaces, "data path"),
  };
}

export function splitAddress(text: string): { readonly host: string; readonly port: number | undefined } {
  const match = /^(.*):(\d{1,5})$/.exec(text);
  if (match === null || (text.match(/:/g)?.length ?? 0) > 1) return { host: text, port: undefined };
  return { host: match[1] ?? "", port: Number(match[2]) };
}

const ipPattern = /^(\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*)$/;

/** An address stays, an interface becomes its first address. */
function hostOf(text: string, interfaces: Interfaces, what: string): string {
  if (ipPattern.test(text)) return text;
  const addresses = interfaces[text];
  if (addresses === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `${what} address must be a non-zero IP address or network interface (with optional port number), got "${text}"`,
    );
  }
  const found = addresses.find(({ family }) => family === "IPv4") ?? addresses[0];
  if (found === undefined)
    throw new ClusterError("invalid-argument", `could not find an IP address for interface "${text}"`);
  return found.address;
}

function onlyAddress(interfaces: Interfaces): string {
  const found = Object.entries(interfaces).flatMap(([name, addresses]) =>
    addresses.flatMap(({ address, family, internal }) =>
      internal || family !== "IPv4" ? [] : [{ name, address }],
    ),
  );
  const [first, ...others] = found;
  if (first === undefined) {
    throw new ClusterError(
      "invalid-argument",
      "could not find the system's IP address - specify one with --advertise-addr",
    );
  }
  if (others.length > 0) {
    const list = found.map(({ name, address }) => `${address} on ${name}`).join(" and ");
    throw new ClusterError(
      "invalid-argument",
      `could not choose an IP address to advertise since this system has multiple addresses on different interfaces (${list}) - specify one with --advertise-addr`,
    );
  }
  return first.address;
}
