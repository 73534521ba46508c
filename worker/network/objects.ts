/**
 * What the kernel should hold for the networks of this host, one object per line: devices,
 * addresses, next hops, neighbours, forwarding entries, routes. See docs/decisions/0070.
 *
 * Every packet between two tasks passes the host's IP stack, also between tasks of one host: tasks
 * route their whole subnet by the gateway. An address nobody has meets the subnet's `unreachable`
 * route, so a caller of a dead task is told at once.
 *
 * Ports are in hairpin mode and not isolated: where `br_netfilter` is on (as on hosts that run
 * Docker), a packet translated to a task on its own bridge is bridged, not routed, and would be
 * dropped by an isolated port, or by the port it came from.
 */
import { isIpv6 } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import {
  ipv6LeastMtu,
  overlayOverheadBytes,
  type Subnets,
  subnetsOf,
  tunnelBlock,
} from "../../model/network.ts";
import {
  addressNumber,
  addressValue,
  blockText,
  contains,
  hostLinkLocal,
  hostMac,
  parseBlock,
  shortHash,
  taskMac,
} from "./addresses.ts";
import { addressesOf, familiesOf } from "./network.ts";
import type {
  AttachedAddress,
  BridgeNetwork,
  OverlayHost,
  OverlayNetwork,
  WantedNetworks,
} from "./network.ts";

/** The routing protocol number on routes and next hops of ours, so that we never touch others'. */
export const routeProtocol = 77;
/** The group number of every device of ours; set as the device is made, so no device is ever without. */
export const deviceGroup = 21_320;
export const hostBridge = "shoal0";
export const vxlanPort = 4789;
/**
 * The same on every host and never a packet's source. A device without any address turns away
 * sources it has no route to, however loose `rp_filter` is (Linux, `__fib_validate_source`): the
 * errors that other hosts send under their own address would be lost.
 */
const vxlanAddress = "169.254.77.1/32";
const firstNexthopId = 0x5348_0000;
/** Table of the routes by which answers go back to the host where a client came in: this plus the host's index. */
const firstReturnTable = 0x5348_0000;
/** As `firstReturnTable`, of IPv6: what is listed of a default route does not say its family. */
const firstIpv6ReturnTable = firstReturnTable + 2 ** 16;
/** Behind what others commonly use, before the main table. */
const returnRulePreference = 31_000;
/** Where the index of a host stands in a packet's mark; the other half is left to other programs. */
export const markShift = 2 ** 16;
export const markMask = "0xffff0000";

export type ObjectKind =
  | "link"
  /** Of a bridge, and set once that is made: one given in making it lasts until a port comes or the last one goes. */
  | "mtu"
  | "address"
  | "port"
  | "nexthop"
  | "neighbour"
  | "route"
  | "return"
  | "rule"
  | "forward";

export interface KernelObject {
  readonly kind: ObjectKind;
  /** Unique per kind: what makes it the same object, such as the device and address of a neighbour. */
  readonly key: string;
  /** What can differ between what is there and what is wanted. */
  readonly value: string;
  /** The device it vanishes with; its own name for links and ports. */
  readonly device: string;
  /** Whose request fails when the kernel refuses it; absent for networks. */
  readonly taskId?: TaskId;
  /** The bridge network that it is part of; absent for tasks, overlays and the host's own bridge. */
  readonly bridgeId?: string;
  /** The overlays that are not whole without it; absent for tasks and bridges. What is there does not say. */
  readonly networkIds?: readonly string[];
  /** Of a link that is wanted: it carries IPv6. What is there does not say. */
  readonly ipv6?: true;
}

/** What `observe.ts` reads from the kernel. */
export interface Observed {
  readonly objects: ReadonlyMap<string, KernelObject>;
  /** Every next hop's number, those of others included. */
  readonly nexthopIds: ReadonlySet<number>;
  /** Device and MTU by local address, for the underlay. */
  readonly devices: ReadonlyMap<string, { readonly device: string; readonly mtu: number }>;
}

/** A task of this host on one network. */
export interface LocalPort extends AttachedAddress {
  readonly taskId: TaskId;
}

export interface HostState {
  readonly wanted: WantedNetworks | undefined;
  readonly ports: readonly LocalPort[];
  /** The host's own, once a task needs it, and those that users made. */
  readonly bridges: readonly BridgeNetwork[];
  /** MTU of the device that carries VXLAN. */
  readonly underlayMtu: number;
  /** Where encrypted networks leave this host; absent: there are none. */
  readonly tunnel?: {
    readonly device: string;
    /** Of other hosts inside the tunnel, by their node; those without one are not reached. */
    readonly remotes: ReadonlyMap<string, string>;
  };
}

/** A network with everything decided that the wanted one leaves open. */
export interface ResolvedNetwork extends Subnets {
  readonly bridge: string;
  readonly vxlan: string;
  readonly mtu: number;
}

export function bridgeName({ vni }: Pick<OverlayNetwork, "vni">): string {
  return `ov${vni}`;
}

export function vxlanName({ vni }: Pick<OverlayNetwork, "vni">): string {
  return `vx${vni}`;
}

/** Name of the host's end of a task's link. */
export function portName(taskId: TaskId, bridge: string): string {
  return `sv-${shortHash(`${taskId}/${bridge}`)}`;
}

export function resolveNetwork(network: OverlayNetwork, underlayMtu: number): ResolvedNetwork {
  return {
    bridge: bridgeName(network),
    vxlan: vxlanName(network),
    ...canonical(network),
    mtu: network.mtu > 0 ? network.mtu : mtuOver(network, underlayMtu),
  };
}

/** With IPv6 never less than it needs: the host's link then carries what is larger in pieces. */
function mtuOver(network: OverlayNetwork, underlayMtu: number): number {
  const mtu = underlayMtu - overlayOverheadBytes(network.encrypted === true);
  return hasIpv6(network) ? Math.max(ipv6LeastMtu, mtu) : mtu;
}

function canonical(network: Subnets): Subnets {
  const [first = network, ...further] = subnetsOf(network).map(({ subnet, gateway }) => {
    return { subnet: blockText(parseBlock(subnet)), gateway };
  });
  return { subnet: first.subnet, gateway: first.gateway, ...(further.length > 0 && { further }) };
}

/** The address other hosts send VXLAN to: what they were told of this host, else what it believes itself. */
export function ownAddress({ self, endpoints }: WantedNetworks): string {
  if (self.address !== "") return self.address;
  return endpoints.find(({ nodeId }) => nodeId === self.nodeId)?.nodeAddress ?? "";
}

/**
 * The hosts that clients may come in by, in the order of their indexes. A host that left the cluster and joined again is two
 * nodes with one address until the old one is removed: the kernel can tell hosts apart by their address alone.
 */
export function otherHosts(wanted: WantedNetworks): OverlayHost[] {
  const own = ownAddress(wanted);
  const byAddress = new Map<string, OverlayHost>();
  for (const host of wanted.hosts.toSorted((a, b) => a.index - b.index)) {
    const { address } = host;
    if (addressNumber(address) === undefined || address === own || byAddress.has(address)) continue;
    byAddress.set(address, host);
  }
  return [...byAddress.values()];
}

/**
 * All objects wanted, by `objectId`.
 *
 * @param observed - Next hops keep the numbers they have.
 * @throws {ClusterError} `failed-precondition` when there are overlays and no address for VXLAN;
 *   `invalid-argument` for a network that no kernel could hold.
 */
export function wantedObjects(state: HostState, observed: Observed): Map<string, KernelObject> {
  const objects = new Map<string, KernelObject>();
  const add = (object: KernelObject): void => void objects.set(objectId(object), object);
  const { wanted } = state;
  for (const { id, device, subnet, gateway, mtu, ipv6 } of state.bridges) {
    const network = { subnet, gateway, mtu, ...(ipv6 !== undefined && { further: [ipv6] }) };
    for (const object of bridgeObjects(device, network)) {
      add({ ...object, ...(id !== "" && { bridgeId: id }) });
    }
  }
  for (const port of state.ports) for (const object of portObjects(port)) add(object);
  if (wanted === undefined || wanted.networks.length === 0) return objects;

  const own = ownAddress(wanted);
  if (addressNumber(own) === undefined) {
    throw new ClusterError(
      "failed-precondition",
      `overlay networks need the host's IPv4 address on the data path: it is "${own}"`,
    );
  }
  const numbers = new NexthopNumbers(observed);
  const networks = new Map(
    wanted.networks.map((network) => [
      network.id,
      {
        networkIds: [network.id],
        blocks: subnetsOf(network).map(({ subnet }) => parseBlock(subnet)),
        device: vxlanName(network),
        encrypted: network.encrypted === true,
      },
    ]),
  );
  const { tunnel } = state;
  if (tunnel !== undefined) {
    const { device } = tunnel;
    const networkIds = wanted.networks.filter(({ encrypted }) => encrypted === true).map(({ id }) => id);
    add({ kind: "route", key: tunnelBlock, value: `dev ${device}`, device, networkIds });
  }
  for (const network of wanted.networks) {
    const resolved = resolveNetwork(network, state.underlayMtu);
    const networkIds = [network.id];
    for (const object of bridgeObjects(resolved.bridge, resolved)) add({ ...object, networkIds });
    add({
      kind: "link",
      key: resolved.vxlan,
      // In a tunnel, the device that a packet leaves by decides its address.
      value: `vxlan ${hostMac(own)} ${resolved.mtu} ${network.vni} ${network.encrypted === true ? "any" : own}`,
      device: resolved.vxlan,
      networkIds,
      ...carriesIpv6(resolved),
    });
    const device = resolved.vxlan;
    add({ kind: "address", key: `${device} ${vxlanAddress}`, value: "", device, networkIds });
  }
  const ways = new Map<string, number>();
  /** Where VXLAN for another host goes. Undefined: nowhere, as the network is encrypted and the host has no tunnel. */
  const targetOf = (encrypted: boolean, nodeId: string, remote: string): string | undefined => {
    if (!encrypted) return `dst ${remote}`;
    const inside = tunnel?.remotes.get(nodeId);
    return inside === undefined ? undefined : `dst ${inside} via ${tunnel?.device}`;
  };
  /** The way to another host on a network, for one family; thousands of tasks share a few. */
  const addHost = (
    { device, networkIds }: { readonly device: string; readonly networkIds: readonly string[] },
    remote: string,
    target: string,
    ipv6 = false,
  ): number => {
    const key = `${device} ${ipv6 ? hostLinkLocal(remote) : remote}`;
    const known = ways.get(key);
    if (known !== undefined) return known;
    const mac = hostMac(remote);
    const number = numbers.of(key);
    add({ kind: "nexthop", key, value: String(number), device, networkIds });
    add({ kind: "neighbour", key, value: mac, device, networkIds });
    add({ kind: "forward", key: `${device} ${mac}`, value: `${target} self`, device, networkIds });
    ways.set(key, number);
    return number;
  };
  const ingress = wanted.networks.find((network) => network.ingress);
  const entrance = ingress && { device: vxlanName(ingress), networkIds: [ingress.id] };
  const addReturn = (index: number, remote: string, target: string, ipv6 = false): void => {
    if (entrance === undefined) return;
    const { device, networkIds } = entrance;
    const value = `nhid ${addHost(entrance, remote, target, ipv6)}`;
    const table = (ipv6 ? firstIpv6ReturnTable : firstReturnTable) + index;
    add({ kind: "return", key: String(table), value, device, networkIds });
    const key = ipv6 ? ipv6Rule(markOf(index)) : markOf(index);
    add({ kind: "rule", key, value: `${returnRulePreference} ${table}`, device: "", networkIds });
  };
  for (const { nodeId, address, index } of otherHosts(wanted)) {
    const target = ingress && targetOf(ingress.encrypted === true, nodeId, address);
    if (ingress === undefined || target === undefined) continue;
    addReturn(index, address, target);
    if (hasIpv6(ingress)) addReturn(index, address, target, true);
  }
  for (const endpoint of wanted.endpoints) {
    const network = networks.get(endpoint.networkId);
    if (network === undefined || endpoint.nodeId === wanted.self.nodeId) continue;
    const remote = endpoint.nodeAddress;
    // An endpoint of a node that has no address yet is unreachable until the node has one.
    if (addressNumber(remote) === undefined || remote === own) continue;
    const { device, networkIds } = network;
    const target = targetOf(network.encrypted, endpoint.nodeId, remote);
    if (target === undefined) continue;
    for (const key of familiesOf(endpoint)) {
      const address = addressValue(key);
      if (address === undefined || !network.blocks.some((block) => contains(block, address))) continue;
      const value = `nhid ${addHost(network, remote, target, isIpv6(key))}`;
      add({ kind: "route", key, value, device, networkIds });
    }
  }
  return objects;
}

/** The mark of packets that a host with this index has sent on to a task, such as "0x10000". */
export function markOf(index: number): string {
  return `0x${(index * markShift).toString(16)}`;
}

/** The key of a rule of IPv6, out of the mark that it is for. */
export function ipv6Rule(mark: string): string {
  return `${mark} ipv6`;
}

/** Whether a table of ours has a way back of IPv6. */
export function isIpv6Return(table: string): boolean {
  return Number(table) >= firstIpv6ReturnTable;
}

export function objectId({ kind, key }: Pick<KernelObject, "kind" | "key">): string {
  return `${kind} ${key}`;
}

/** Whether a network has IPv6 beside IPv4. */
export function hasIpv6(network: Subnets): boolean {
  return subnetsOf(network).some(({ subnet }) => isIpv6(subnet));
}

function carriesIpv6(network: Subnets): Pick<KernelObject, "ipv6"> {
  return hasIpv6(network) ? { ipv6: true } : {};
}

function bridgeObjects(
  bridge: string,
  { mtu, ...network }: Subnets & { readonly mtu: number },
): KernelObject[] {
  return [
    {
      kind: "link",
      key: bridge,
      value: `bridge ${taskMac(network.gateway)}`,
      device: bridge,
      ...carriesIpv6(network),
    },
    { kind: "mtu", key: bridge, value: String(mtu), device: bridge },
    ...subnetsOf(network).flatMap(({ subnet, gateway }): KernelObject[] => {
      const block = parseBlock(subnet);
      return [
        { kind: "address", key: `${bridge} ${gateway}/${block.prefixBits}`, value: "", device: bridge },
        { kind: "route", key: blockText(block), value: "unreachable", device: "" },
      ];
    }),
  ];
}

function portObjects(port: LocalPort): KernelObject[] {
  const { taskId, bridge, mac } = port;
  const device = portName(taskId, bridge);
  return [
    { kind: "port", key: device, value: bridge, device, taskId },
    { kind: "forward", key: `${device} ${mac}`, value: "master", device, taskId },
    ...addressesOf(port).flatMap((host): KernelObject[] => [
      { kind: "neighbour", key: `${bridge} ${host}`, value: mac, device: bridge, taskId },
      { kind: "route", key: host, value: `dev ${bridge}`, device: bridge, taskId },
    ]),
  ];
}

/** Keeps the number a next hop has and gives new ones the lowest number that nobody uses. */
class NexthopNumbers {
  readonly #known = new Map<string, number>();
  readonly #taken: Set<number>;
  #next = firstNexthopId;

  constructor({ objects, nexthopIds }: Observed) {
    for (const { kind, key, value } of objects.values()) {
      if (kind === "nexthop") this.#known.set(key, Number(value));
    }
    this.#taken = new Set([...nexthopIds, ...this.#known.values()]);
  }

  of(key: string): number {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    while (this.#taken.has(this.#next)) this.#next += 1;
    this.#taken.add(this.#next);
    this.#known.set(key, this.#next);
    return this.#next;
  }
}
