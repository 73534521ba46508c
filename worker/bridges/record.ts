/** A bridge network as it is kept. Pure. */
import type { NetworkId } from "../../model/ids.ts";
import type { Labels } from "../../model/meta.ts";
import { linkMtuOption } from "../../model/network.ts";
import { bridgeMtu } from "../network/bridges.ts";
import type { BridgeBlock, BridgeNetwork } from "../network/network.ts";

/** Names of the options that act on a bridge network. */
export const bridgeOptions = {
  device: "com.docker.network.bridge.name",
  mutual: "com.docker.network.bridge.enable_icc",
  masquerade: "com.docker.network.bridge.enable_ip_masquerade",
  hostAddress: "com.docker.network.bridge.host_binding_ipv4",
  mtu: linkMtuOption,
} as const;

export interface LocalNetwork {
  /** 64 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly createdAtMs: number;
  readonly internal: boolean;
  readonly attachable: boolean;
  /** Canonical CIDR. */
  readonly subnet: string;
  /** No prefix length. */
  readonly gateway: string;
  /** Whether a user chose the subnet: only then can containers ask for addresses. */
  readonly ownSubnet: boolean;
  readonly range?: string;
  /** Addresses left out, by what they are called. */
  readonly auxiliary: Labels;
  readonly ipamOptions: Labels;
  readonly options: Labels;
  readonly labels: Labels;
  /** Its other family; absent: it has IPv4 alone. */
  readonly ipv6?: LocalSubnet;
}

/** What a network has of one family; fields as those of `LocalNetwork`. */
export type LocalSubnet = Pick<LocalNetwork, "subnet" | "gateway" | "ownSubnet" | "range" | "auxiliary">;

export function bridgeOf(network: LocalNetwork): BridgeNetwork {
  const { id, name, internal, options, ipv6 } = network;
  const flag = (option: string): boolean => options[option] === undefined || isTrue(options[option]);
  return {
    id: id as NetworkId, // A network like any other to whoever is on it.
    name,
    device: options[bridgeOptions.device] || `br-${id.slice(0, 12)}`,
    ...blockOf(network),
    internal,
    masquerade: flag(bridgeOptions.masquerade),
    mutual: flag(bridgeOptions.mutual),
    hostAddress: options[bridgeOptions.hostAddress] ?? "",
    mtu: Number(options[bridgeOptions.mtu] ?? bridgeMtu),
    ...(ipv6 !== undefined && { ipv6: blockOf(ipv6) }),
  };
}

function blockOf({ subnet, gateway, range, auxiliary }: LocalSubnet): BridgeBlock {
  return { subnet, gateway, ...(range !== undefined && { range }), reserved: Object.values(auxiliary) };
}

/** As Go reads a boolean out of a text. */
export function isTrue(text: string): boolean {
  return ["1", "t", "T", "true", "TRUE", "True"].includes(text);
}

export function isBoolean(text: string): boolean {
  return isTrue(text) || ["0", "f", "F", "false", "FALSE", "False"].includes(text);
}
