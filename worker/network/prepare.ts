/** What a task asks for × what the host has → everything decided about its network. */
import { ClusterError } from "../../model/errors.ts";
import type { PublishedPort } from "../../model/task.ts";
import { addressNumber, addressText, contains, parseCidr, pickAddress, taskMac } from "./addresses.ts";
import type { AttachedAddress, AttachRequest, OverlayNetwork, WantedNetworks } from "./network.ts";
import { hostBridge, resolveNetwork } from "./objects.ts";

export interface BridgeSettings {
  readonly subnet: string;
  readonly gateway: string;
  readonly mtu: number;
}

export interface PreparedLink {
  readonly address: AttachedAddress;
  readonly mtu: number;
}

interface Host {
  readonly wanted: WantedNetworks | undefined;
  readonly underlayMtu: number;
  readonly bridge: BridgeSettings;
  /** Addresses of the host's bridge that tasks have. */
  readonly takenOnBridge: ReadonlySet<number>;
  readonly lastOnBridge: number;
}

const maxLinks = 32;

export function usesBridge({ host, none, networks }: AttachRequest): boolean {
  return !host && !none && (networks.length === 0 || networks.some(({ address }) => address === ""));
}

/**
 * The task's links in the order of its networks, however many of them mean the host's bridge: it is
 * joined once.
 *
 * @throws {ClusterError} as `HostNetwork.attach`.
 */
export function prepareLinks(request: AttachRequest, host: Host): PreparedLink[] {
  if (request.host || request.none) return [];
  const asked = request.networks.length === 0 ? [{ networkId: "" as const, address: "" }] : request.networks;
  if (asked.length > maxLinks) {
    throw new ClusterError(
      "invalid-argument",
      `a task on ${asked.length} networks: at most ${maxLinks} are accepted`,
    );
  }
  const links: PreparedLink[] = [];
  for (const { networkId, address } of asked) {
    const device = `eth${links.length}`;
    const link = address === "" ? onBridge(host, device) : onOverlay(host, device, networkId, address);
    if (links.some((other) => other.address.bridge === link.address.bridge)) {
      if (address === "") continue;
      throw new ClusterError(
        "invalid-argument",
        `network ${networkId} is given twice: a task joins a network once`,
      );
    }
    links.push(link);
  }
  return links;
}

/** Those the host opens itself; numbers still 0 where the user left the choice. */
export function hostPorts(request: AttachRequest): PublishedPort[] {
  if (request.host || request.none) return [];
  return request.ports
    .filter(({ publishMode }) => publishMode === "host")
    .map(({ protocol, targetPort, publishedPort }) => ({ protocol, targetPort, publishedPort }));
}

function onBridge({ bridge, takenOnBridge, lastOnBridge }: Host, device: string): PreparedLink {
  const block = parseCidr(bridge.subnet);
  const picked = pickAddress(block, takenOnBridge, lastOnBridge);
  if (picked === undefined) {
    throw new ClusterError(
      "resource-exhausted",
      `no address is left on the host's bridge (${bridge.subnet})`,
    );
  }
  const address = addressText(picked);
  return {
    address: {
      networkId: "",
      bridge: hostBridge,
      device,
      address: `${address}/${block.prefixBits}`,
      gateway: bridge.gateway,
      mac: taskMac(address),
    },
    mtu: bridge.mtu,
  };
}

function onOverlay(host: Host, device: string, networkId: string, given: string): PreparedLink {
  const network = host.wanted?.networks.find(({ id }) => id === networkId);
  if (network === undefined) {
    throw new ClusterError("failed-precondition", `network ${networkId} is not known on this host yet`);
  }
  const { bridge, gateway, mtu } = resolveNetwork(network, host.underlayMtu);
  return {
    address: {
      networkId: network.id,
      bridge,
      device,
      address: checkedAddress(network, given),
      gateway,
      mac: taskMac(parseCidr(given).address),
    },
    mtu,
  };
}

/** With the prefix length of the network, whatever was given. */
function checkedAddress({ name, subnet, gateway }: OverlayNetwork, given: string): string {
  const { address } = parseCidr(given);
  const block = parseCidr(subnet);
  const number = addressNumber(address) ?? -1;
  if (!contains(block, number) || address === gateway) {
    throw new ClusterError(
      "invalid-argument",
      `address ${given} cannot be a task's on network ${name}: accepted is any of ${subnet} but ${gateway}`,
    );
  }
  return `${address}/${block.prefixBits}`;
}
