/** What a task asks for × what the host has → everything decided about its network. */
import { canonicalIp, printIp } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import { type Subnet, subnetsOf } from "../../model/network.ts";
import {
  addressNumber,
  addressText,
  addressValue,
  contains,
  parseBlock,
  parseCidr,
  pickAddress,
  pickIpv6,
  taskMac,
} from "./addresses.ts";
import { namesHost } from "./files.ts";
import type {
  AttachedAddress,
  AttachedIpv6,
  AttachNetwork,
  AttachRequest,
  BridgeBlock,
  BridgeNetwork,
  HostPort,
  HostPortSpec,
  WantedNetworks,
} from "./network.ts";
import { hasIpv6, resolveNetwork } from "./objects.ts";

export interface PreparedLink {
  readonly address: AttachedAddress;
  readonly mtu: number;
}

interface Host {
  readonly wanted: WantedNetworks | undefined;
  readonly underlayMtu: number;
  /** Why it can be on no encrypted network; absent: it can. */
  readonly tunnelProblem?: string;
  /** Why nobody can be on an overlay; undefined: it is whole. */
  readonly refusal?: (networkId: string) => ClusterError | undefined;
  /** The host's own first. */
  readonly bridges: readonly BridgeNetwork[];
  /** Addresses of both families that tasks have on a bridge, by its device. */
  readonly taken: (device: string) => ReadonlySet<number | bigint>;
  /** The address of a family picked last on a bridge; 0 before the first. */
  readonly lastPicked: (device: string, family: "ipv4" | "ipv6") => number | bigint;
}

const maxLinks = 32;

/** Whether it joins the host's own bridge, or finds the host by its address there. */
export function usesBridge(request: AttachRequest, bridges: readonly BridgeNetwork[]): boolean {
  const { host, none, networks } = request;
  if (namesHost(request)) return true;
  if (host || none) return false;
  return networks.length === 0 || networks.some((network) => bridgeOf(network, bridges)?.id === "");
}

/**
 * The task's links in the order of its networks, however many of them mean the host's own bridge: it is
 * joined once.
 *
 * @param present - Links that it has already: they stay as they are where their network is still asked for.
 * @throws {ClusterError} as `HostNetwork.attach`.
 */
export function prepareLinks(
  request: AttachRequest,
  host: Host,
  present: readonly PreparedLink[] = [],
): PreparedLink[] {
  if (request.host || request.none) return [];
  const asked: readonly AttachNetwork[] =
    request.networks.length === 0
      ? // Whatever stands for no network: no other has an empty id.
        [{ networkId: "" as AttachNetwork["networkId"], address: "", aliases: [] }]
      : request.networks;
  if (asked.length > maxLinks) {
    throw new ClusterError(
      "invalid-argument",
      `a task on ${asked.length} networks: at most ${maxLinks} are accepted`,
    );
  }
  // A container names its networks itself: one that was removed meanwhile must not become the host's own bridge.
  const unknown =
    (request.taskId as string) === request.containerId
      ? asked.find(({ networkId, address }) => {
          return address === "" && !host.bridges.some(({ id }) => id === networkId);
        })
      : undefined;
  if (unknown !== undefined) {
    throw new ClusterError(
      "failed-precondition",
      `network ${unknown.networkId} is not on this host any more`,
    );
  }
  const kept = present.filter(({ address }) =>
    asked.some((network) => idOf(network, host.bridges) === address.networkId),
  );
  const devices = new Set(present.map(({ address }) => address.device)); // Those that go are there for a while.
  const links: ChosenLink[] = [];
  for (const network of asked) {
    const known = kept.find(({ address }) => address.networkId === idOf(network, host.bridges));
    const link = known ?? newLink(host, freeDevice(devices), network);
    if (links.some((other) => other.link.address.bridge === link.address.bridge)) {
      if (network.address === "") continue;
      throw new ClusterError(
        "invalid-argument",
        `network ${network.networkId} is given twice: a task joins a network once`,
      );
    }
    devices.add(link.address.device);
    links.push({ link, network });
  }
  const outward = outwardOf(links, host);
  const ipv6Outward = ipv6OutwardOf(links, host);
  return links.map(({ link }) => {
    const { outward: _before, ipv6, ...address } = link.address;
    const marked = { ...address, ...(link === outward && { outward: true as const }) };
    if (ipv6 === undefined) return { ...link, address: marked };
    const { outward: _ipv6Before, ...other } = ipv6;
    const markedIpv6 = { ...other, ...(link === ipv6Outward && { outward: true as const }) };
    return { ...link, address: { ...marked, ipv6: markedIpv6 } };
  });
}

interface ChosenLink {
  readonly link: PreparedLink;
  readonly network: AttachNetwork;
}

/** The link for what is for nowhere else: one that leads outside, if any does, and of these the first of highest priority. */
function outwardOf(links: readonly ChosenLink[], host: Host): PreparedLink | undefined {
  const open = openLinks(links, host);
  return firstOf(open.length > 0 ? open : links);
}

/** As `outwardOf`, among those with IPv6. None that leads nowhere: what is published must not lead into an internal network. */
function ipv6OutwardOf(links: readonly ChosenLink[], host: Host): PreparedLink | undefined {
  return firstOf(openLinks(links, host).filter(({ link }) => link.address.ipv6 !== undefined));
}

function openLinks(links: readonly ChosenLink[], host: Host): ChosenLink[] {
  return links.filter(({ link }) => !isInternal(link.address.networkId, host));
}

function firstOf(links: readonly ChosenLink[]): PreparedLink | undefined {
  const [first] = links.toSorted((a, b) => (b.network.priority ?? 0) - (a.network.priority ?? 0));
  return first?.link;
}

export function isInternal(
  networkId: string,
  { wanted, bridges }: Pick<Host, "wanted" | "bridges">,
): boolean {
  const network =
    bridges.find(({ id }) => id === networkId) ?? wanted?.networks.find(({ id }) => id === networkId);
  return network?.internal === true;
}

/** Those the host opens itself; numbers still 0 where the user left the choice. None for a task on internal networks alone. */
export function hostPorts(
  request: AttachRequest,
  links: readonly PreparedLink[],
  host: Pick<Host, "wanted" | "bridges">,
): HostPortSpec[] {
  if (request.host || request.none) return [];
  const outward = links.find(({ address }) => address.outward === true);
  if (outward === undefined) return [];
  const bridge = host.bridges.find(({ id }) => id === outward.address.networkId);
  if (bridge?.internal === true) return [];
  return request.ports
    .filter(({ publishMode }) => publishMode === "host")
    .map((port) => {
      const hostAddress = port.hostAddress ?? bridge?.hostAddress ?? "";
      const { ipv6, ...rest } = port;
      return {
        ...rest,
        hostAddress: hostAddress === "0.0.0.0" ? "" : hostAddress,
        ...(ipv6 === true && hostAddress === "" && { ipv6 }),
      };
    });
}

/** Without what only matters until it is open. */
export function openedPort(
  { protocol, targetPort, hostAddress = "" }: HostPortSpec | HostPort,
  publishedPort: number,
  ipv6: boolean,
): HostPort {
  return {
    protocol,
    targetPort,
    publishedPort,
    ...(hostAddress !== "" && { hostAddress }),
    ...(ipv6 && { ipv6 }),
  };
}

/** Undefined for an overlay. */
function bridgeOf(
  { networkId, address }: Pick<AttachNetwork, "networkId" | "address">,
  bridges: readonly BridgeNetwork[],
): BridgeNetwork | undefined {
  const found = bridges.find(({ id }) => id === networkId);
  return found ?? (address === "" ? bridges.find(({ id }) => id === "") : undefined);
}

function idOf(network: AttachNetwork, bridges: readonly BridgeNetwork[]): string {
  return bridgeOf(network, bridges)?.id ?? network.networkId;
}

function newLink(host: Host, device: string, network: AttachNetwork): PreparedLink {
  const bridge = bridgeOf(network, host.bridges);
  return bridge === undefined ? onOverlay(host, device, network) : onBridge(host, device, network, bridge);
}

function freeDevice(taken: ReadonlySet<string>): string {
  let number = 0;
  while (taken.has(`eth${number}`)) number += 1;
  return `eth${number}`;
}

function onBridge(
  host: Host,
  device: string,
  { address: asked, ipv6: askedIpv6 = "", mac }: AttachNetwork,
  bridge: BridgeNetwork,
): PreparedLink {
  const block = parseCidr(bridge.subnet);
  const others = [bridge, ...(bridge.ipv6 === undefined ? [] : [bridge.ipv6])];
  const taken = new Set([
    ...host.taken(bridge.device),
    ...others
      .flatMap(({ gateway, reserved }) => [gateway, ...reserved])
      .map((each) => addressValue(each) ?? 0),
  ]);
  const address = asked === "" ? picked(host, bridge, taken) : given(asked, bridge, taken);
  const ipv6 = bridge.ipv6 && ipv6Place(host, bridge, bridge.ipv6, { asked: askedIpv6, taken });
  return {
    address: {
      networkId: bridge.id,
      bridge: bridge.device,
      device,
      address: `${address}/${block.prefixBits}`,
      gateway: bridge.gateway,
      mac: mac ?? taskMac(address),
      ...(ipv6 !== undefined && { ipv6 }),
    },
    mtu: bridge.mtu,
  };
}

type Taken = ReadonlySet<number | bigint>;

function ipv6Place(
  host: Host,
  { device, name }: BridgeNetwork,
  { subnet, gateway, range }: BridgeBlock,
  { asked, taken }: { readonly asked: string; readonly taken: Taken },
): AttachedIpv6 {
  const block = parseBlock(subnet);
  const own = new Set([...taken, block.first]);
  const place = (address: string): AttachedIpv6 => ({ address: `${address}/${block.prefixBits}`, gateway });
  if (asked !== "") {
    const value = addressValue(asked);
    if (value === undefined || !contains(block, value)) throw notInside(asked);
    if (own.has(value)) throw new ClusterError("conflict", "Address already in use");
    return place(canonicalIp(asked));
  }
  const { first, last } = range === undefined ? block : parseBlock(range);
  const pool = { first: BigInt(first), last: BigInt(last) };
  const value = pickIpv6(pool, own, BigInt(host.lastPicked(device, "ipv6")));
  if (value !== undefined) return place(printIp({ bits: 128, value }));
  throw new ClusterError("resource-exhausted", `no address is left on network ${name} (${range ?? subnet})`);
}

function notInside(asked: string): ClusterError {
  return new ClusterError(
    "invalid-argument",
    `no configured subnet or ip-range contain the IP address ${asked}`,
  );
}

function picked(host: Host, bridge: BridgeNetwork, taken: Taken): string {
  const block = parseCidr(bridge.subnet);
  const from = bridge.range === undefined ? block : parseCidr(bridge.range);
  // The ends of a range inside the subnet are addresses like any other.
  const ends = new Set([block.first, block.last]);
  const pool = { ...from, first: from.first - 1, last: from.last + 1 };
  const inside =
    from.first === block.first || from.last === block.last ? new Set([...taken, ...ends]) : taken;
  const number = pickAddress(pool, inside, Number(host.lastPicked(bridge.device, "ipv4")));
  if (number !== undefined) return addressText(number);
  const where = bridge.id === "" ? "the host's bridge" : `network ${bridge.name}`;
  throw new ClusterError(
    "resource-exhausted",
    `no address is left on ${where} (${bridge.range ?? bridge.subnet})`,
  );
}

function given(asked: string, bridge: BridgeNetwork, taken: Taken): string {
  const block = parseCidr(bridge.subnet);
  const number = addressNumber(asked) ?? -1;
  if (!contains(block, number)) throw notInside(asked);
  if (taken.has(number) || number === block.first || number === block.last) {
    throw new ClusterError("conflict", "Address already in use");
  }
  return asked;
}

function onOverlay(
  host: Host,
  device: string,
  { networkId, address: asked, ipv6: askedIpv6, mac }: AttachNetwork,
): PreparedLink {
  const network = host.wanted?.networks.find(({ id }) => id === networkId);
  if (network === undefined) {
    throw new ClusterError("failed-precondition", `network ${networkId} is not known on this host yet`);
  }
  if (network.encrypted === true && host.tunnelProblem !== undefined) {
    throw new ClusterError(
      "failed-precondition",
      `network ${network.name} is encrypted, which this host cannot do: ${host.tunnelProblem}`,
    );
  }
  const refusal = host.refusal?.(networkId);
  if (refusal !== undefined) throw refusal;
  const { bridge, mtu, ...resolved } = resolveNetwork(network, host.underlayMtu);
  const subnets = subnetsOf(resolved);
  const { address, own } = placeOf(network.name, subnets, asked);
  const isLeftOut = network.ingress && !hasIpv6(resolved); // This host has no IPv6, and nobody asked for it.
  const other = askedIpv6 === undefined || isLeftOut ? undefined : placeOf(network.name, subnets, askedIpv6);
  const further = subnets.filter((each) => each !== own && each !== other?.own).map(({ subnet }) => subnet);
  return {
    address: {
      networkId: network.id,
      bridge,
      device,
      address,
      gateway: own.gateway,
      ...(further.length > 0 && { further, gatewayMac: taskMac(resolved.gateway) }), // The bridge has but one.
      mac: mac ?? taskMac(parseCidr(asked).address),
      ...(other !== undefined && { ipv6: { address: other.address, gateway: other.own.gateway } }),
    },
    mtu,
  };
}

/** The subnet of an address, and the address with the prefix length of that, whatever was given. */
function placeOf(
  name: string,
  subnets: readonly Subnet[],
  given: string,
): { readonly address: string; readonly own: Subnet } {
  const { address } = parseBlock(given);
  const value = addressValue(address) ?? -1;
  const own = subnets.find(({ subnet }) => contains(parseBlock(subnet), value));
  if (own === undefined || address === own.gateway) {
    const accepted = subnets.map(({ subnet, gateway }) => `${subnet} but ${gateway}`).join(", ");
    throw new ClusterError(
      "invalid-argument",
      `address ${given} cannot be a task's on network ${name}: accepted is any of ${accepted}`,
    );
  }
  return { address: `${address}/${parseBlock(own.subnet).prefixBits}`, own };
}
