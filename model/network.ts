import { isIpv6 } from "./address.ts";
import { ClusterError } from "./errors.ts";
import type { NetworkId } from "./ids.ts";
import type { Labels, Meta } from "./meta.ts";
import type { Annotations } from "./service.ts";

export interface SubnetConfig {
  /** Canonical CIDR. */
  readonly subnet: string;
  readonly gateway?: string;
  readonly range?: string;
}

/** Owner: the user. */
export interface NetworkSpec extends Annotations {
  /** "overlay", or the predefined "host" and "bridge". */
  readonly driver: string;
  readonly driverOptions: Labels;
  readonly ipv6: boolean;
  readonly internal: boolean;
  readonly attachable: boolean;
  readonly ingress: boolean;
  readonly ipam: readonly SubnetConfig[];
}

export interface Subnet {
  /** Canonical CIDR. */
  readonly subnet: string;
  /** No prefix length. */
  readonly gateway: string;
}

/** A network's subnets: the first, which is of IPv4, and those beside it where there are several, of either family. */
export interface Subnets extends Subnet {
  readonly further?: readonly Subnet[];
}

export function subnetsOf({ subnet, gateway, further = [] }: Subnets): readonly Subnet[] {
  return [{ subnet, gateway }, ...further];
}

/** The subnets that a network asks for. Without IPv6, Docker leaves subnets of it out of account, and so do we. */
export function askedSubnets({ ipam, ipv6 }: Pick<NetworkSpec, "ipam" | "ipv6">): readonly SubnetConfig[] {
  return ipam.filter(({ subnet }) => subnet !== "" && (ipv6 || !isIpv6(subnet)));
}

/**
 * Every network has IPv4, and IPv6 beside it or not at all.
 *
 * @param families - What a request says of each; undefined where it says nothing.
 * @throws {ClusterError} for a network without IPv4.
 */
export function requireIpv4(
  driver: string,
  { ipv4 = true, ipv6 }: { readonly ipv4: boolean | undefined; readonly ipv6: boolean },
): void {
  if (ipv4) return;
  if (!ipv6) throw new ClusterError("invalid-argument", "IPv4 or IPv6 must be enabled");
  throw new ClusterError(
    "unimplemented",
    `a network of IPv6 alone is not available for driver ${driver}: leave out --ipv4=false (EnableIPv4), and it has both families`,
  );
}

/** What the allocator decided for an overlay. */
export interface NetworkState extends Subnets {
  /** VXLAN network identifier, 4096..16777215. */
  readonly vni: number;
}

export interface Network {
  readonly id: NetworkId;
  readonly meta: Meta;
  readonly spec: NetworkSpec;
  /** Owner: the allocator; absent until allocated and for host-local drivers. */
  readonly state?: NetworkState;
}

/**
 * Where addresses of hosts inside tunnels are from; no network may have them. Meant for measurements of devices (RFC 2544), it
 * is in use nowhere else.
 */
export const tunnelBlock = "198.18.0.0/15";
/** Bytes that WireGuard over IPv4 adds to each packet. */
export const tunnelOverheadBytes = 60;

/** Bytes that VXLAN over IPv4 adds to each packet. */
export const vxlanOverheadBytes = 50;
/** What every link must carry where there is IPv6 (RFC 8200): below it, the kernel takes IPv6 off a device. */
export const ipv6LeastMtu = 1_280;
/** What every host must be able to take in IPv4 (RFC 1122). */
const ipv4LeastMtu = 576;
const mtuMost = 65_535;

/** By Docker's word for overlays: the MTU of the links between hosts, from which the headers of the overlay are taken. */
export const linkMtuOption = "com.docker.network.driver.mtu";

const encryptedOption = "encrypted";

/**
 * What the network's headers leave of the MTU that its links are said to have; 0 where nothing is said of them: every host then
 * asks its own link.
 */
export function overlayMtu(network: Pick<Network, "spec">): number {
  const text = network.spec.driverOptions[linkMtuOption];
  return text === undefined ? 0 : Number(text) - overlayOverheadBytes(isEncrypted(network));
}

/** Bytes that packets between hosts have beside those of tasks. */
export function overlayOverheadBytes(encrypted: boolean): number {
  return vxlanOverheadBytes + (encrypted ? tunnelOverheadBytes : 0);
}

/** Why a network cannot have the MTU that it asks for; undefined: it can, or asks for none. */
export function linkMtuProblem(spec: Pick<NetworkSpec, "driverOptions" | "ipv6">): string | undefined {
  const text = spec.driverOptions[linkMtuOption];
  if (text === undefined) return undefined;
  const overhead = overlayOverheadBytes(isEncrypted({ spec }));
  const least = spec.ipv6 ? ipv6LeastMtu + overhead : ipv4LeastMtu;
  if (/^\d+$/.test(text) && Number(text) >= least && Number(text) <= mtuMost) return undefined;
  return `invalid MTU ${JSON.stringify(text)}: a number from ${least} to ${mtuMost}, that of the hosts' links, is accepted`;
}

/** Whether what the network carries between hosts is encrypted; the option's mere presence says so, as for Docker. */
export function isEncrypted({ spec }: { readonly spec: Pick<NetworkSpec, "driverOptions"> }): boolean {
  const value = spec.driverOptions[encryptedOption];
  return value !== undefined && !["false", "0", "f"].includes(value.toLowerCase());
}

/** Marks the hidden swarm-scope stand-ins for a host's own networks. */
export const predefinedLabel = "com.docker.swarm.predefined";

export function isPredefined(network: Pick<Network, "spec">): boolean {
  return network.spec.labels[predefinedLabel] === "true";
}
