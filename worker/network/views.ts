/** What resolver, firewall and kernel are to know, out of the networks wanted and the tasks attached. */
import type { TaskId } from "../../model/ids.ts";
import { isIpv6, withoutPrefix } from "../../model/address.ts";
import { subnetsOf } from "../../model/network.ts";
import { portKey, type PublishedPort } from "../../model/task.ts";
import { addressValue, parseCidr } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import type { MeshPort } from "./mesh.ts";
import { addressesOf, familiesOf, outwardAddress, outwardIpv6 } from "./network.ts";
import type {
  Attached,
  AttachedAddress,
  AttachRequest,
  BridgeNetwork,
  OverlayEndpoint,
  OverlayService,
  WantedNetworks,
} from "./network.ts";
import { bridgeName, hasIpv6, otherHosts, ownAddress, resolveNetwork } from "./objects.ts";
import type { HostState, LocalPort } from "./objects.ts";
import type { Asker, LocalName, NamedNetwork } from "./records.ts";
import type { RulesMeshPort, RulesNetwork, RulesPort, RulesService, RulesState } from "./rules.ts";

const everywhereOfIpv6 = "::";

type Records = ReadonlyMap<TaskId, TaskRecord>;

export function localPorts(records: Records): LocalPort[] {
  return [...records.values()].flatMap(({ request: { taskId }, attached }) =>
    attached.kind === "host" ? [] : attached.addresses.map((address) => ({ ...address, taskId })),
  );
}

/** What both families know of networks; their subnets tell which of them a network has. */
function rulesNetworks({ wanted, bridges, underlayMtu }: HostState): RulesNetwork[] {
  const overlays = (wanted?.networks ?? []).map((network) => ({
    ...resolveNetwork(network, underlayMtu),
    internal: network.internal,
    ingress: network.ingress,
    masquerade: true,
    mutual: true,
  }));
  const own = bridges.map(({ device, subnet, internal, masquerade, mutual, ipv6 }) => {
    const further = ipv6 === undefined ? {} : { further: [ipv6] };
    return { bridge: device, subnet, ...further, internal, ingress: false, masquerade, mutual };
  });
  return [...own, ...overlays];
}

/**
 * The state of the table for IPv6. Where the ingress network has IPv4 alone, it has none of the mesh's ports: relays carry what
 * arrives at those.
 *
 * @param mesh - As `rulesOf`.
 */
export function ipv6RulesOf(state: HostState, records: Records, mesh: readonly PublishedPort[]): RulesState {
  const { wanted } = state;
  const isMeshed = wanted?.networks.some((network) => network.ingress && hasIpv6(network)) === true;
  const ports = [...records.values()].flatMap(({ attached }) => {
    const outward = attached.kind === "namespace" ? outwardIpv6(attached.addresses)?.ipv6 : undefined;
    if (outward === undefined) return [];
    return attached.publishedPorts
      .filter(({ hostAddress = "", ipv6 }) => ipv6 === true || isIpv6(hostAddress))
      .map(({ hostAddress, ...port }): RulesPort => {
        const at = hostAddress === undefined || hostAddress === everywhereOfIpv6 ? {} : { hostAddress };
        return { ...port, ...at, address: withoutPrefix(outward.address) };
      });
  });
  return {
    networks: rulesNetworks(state),
    ports,
    services: balancedServices(wanted, ({ ipv6 }) => ipv6),
    mesh: isMeshed ? balancedPorts(wanted, mesh, ({ ipv6 }) => ipv6) : [],
    hosts: isMeshed ? otherHosts(wanted) : [],
    tasks: localPorts(records).flatMap(({ networkId, ipv6 }) =>
      networkId === "" || ipv6 === undefined ? [] : [withoutPrefix(ipv6.address)],
    ),
    ownAddress: "",
  };
}

/**
 * The state of the table for IPv4.
 *
 * @param mesh - Those of the mesh's ports that this host could hold.
 */
export function rulesOf(state: HostState, records: Records, mesh: readonly PublishedPort[]): RulesState {
  const { wanted } = state;
  const ports = [...records.values()].flatMap(({ attached }) => {
    const outward = attached.kind === "namespace" ? outwardAddress(attached.addresses) : undefined;
    if (outward === undefined) return [];
    return attached.publishedPorts
      .filter(({ hostAddress = "" }) => !isIpv6(hostAddress))
      .map((port) => ({ ...port, address: parseCidr(outward.address).address }));
  });
  return {
    networks: rulesNetworks(state),
    ports,
    services: balancedServices(wanted, ({ address }) => address),
    mesh: balancedPorts(wanted, mesh, ({ address }) => address),
    hosts: wanted === undefined ? [] : otherHosts(wanted),
    tasks: localPorts(records)
      .filter(({ networkId }) => networkId !== "")
      .map(({ address }) => parseCidr(address).address),
    ownAddress: wanted === undefined ? "" : ownAddress(wanted),
    gateways: [...gatewaysOf(state)],
  };
}

/** Of a service or of a task, in the family that is meant. */
type AddressOf = (of: { readonly address: string; readonly ipv6?: string }) => string | undefined;

/** @param held - Those of the mesh's ports that this host could hold. */
function balancedPorts(
  wanted: WantedNetworks | undefined,
  held: readonly PublishedPort[],
  addressOf: AddressOf,
): RulesMeshPort[] {
  const backends = backendsOf(wanted, addressOf);
  const local = localBackendsOf(wanted, addressOf);
  const keys = new Set(held.map(portKey));
  return (wanted?.services ?? []).flatMap((service) =>
    service.ports
      .filter((port) => keys.has(portKey(port)))
      .map((port) => {
        const key = backendsKey(service);
        const near = service.localFirst ? local.get(key) : undefined;
        return { ...port, within: service.within, backends: near ?? backends.get(key) ?? [] };
      }),
  );
}

function balancedServices(wanted: WantedNetworks | undefined, addressOf: AddressOf): RulesService[] {
  // On the ingress network a virtual IP would open all ports of a task to those of other services.
  const shared = (wanted?.networks ?? []).filter((network) => !network.ingress);
  const devices = new Map(shared.map((network) => [network.id, bridgeName(network)]));
  const backends = backendsOf(wanted, addressOf);
  return (wanted?.services ?? []).flatMap((service) => {
    const bridge = devices.get(service.networkId);
    const address = addressOf(service);
    if (bridge === undefined || address === undefined) return [];
    return [{ bridge, address, backends: backends.get(backendsKey(service)) ?? [] }];
  });
}

/** Whose connections a task that is to stop waits for. */
export interface Drain {
  /** Its own, of either family. */
  readonly addresses: readonly string[];
  /** Tasks of its service that do not serve: those that end as well would each wait for the other. Those that start are told from them by nothing. */
  readonly leaving: ReadonlySet<string>;
}

export function drainOf(wanted: WantedNetworks | undefined, taskId: TaskId): Drain {
  const endpoints = wanted?.endpoints ?? [];
  const own = endpoints.filter((each) => each.taskId === taskId);
  const backends = new Set(own.map(backendsKey));
  const leaving = endpoints.filter(
    (each) => !each.serving && each.taskId !== taskId && backends.has(backendsKey(each)),
  );
  return { addresses: own.flatMap(familiesOf), leaving: new Set(leaving.flatMap(familiesOf)) };
}

/** Addresses of tasks that serve no more, where others of their service do. */
export function withdrawnAddresses(before: WantedNetworks | undefined, now: WantedNetworks): string[] {
  const serving = now.endpoints.filter((endpoint) => endpoint.serving && endpoint.serviceId !== "");
  const services = new Set(serving.map(backendsKey));
  const still = new Set(serving.flatMap(familiesOf));
  return (before?.endpoints ?? [])
    .filter((endpoint) => endpoint.serving && services.has(backendsKey(endpoint)))
    .flatMap(familiesOf)
    .filter((address) => !still.has(address));
}

/** Where what arrives at a task's published ports is to go; undefined for none that is there. */
export function publishedTarget(records: Records, taskId: TaskId): string | undefined {
  const { attached } = records.get(taskId) ?? {};
  const outward = attached?.kind === "namespace" ? outwardAddress(attached.addresses) : undefined;
  return outward === undefined ? undefined : parseCidr(outward.address).address;
}

/** What makes the kernel forget the flows of datagrams that came by a task's published ports. */
export function flowsTo(attached: Attached): string[][] {
  const isDual = attached.kind === "namespace" && outwardIpv6(attached.addresses) !== undefined;
  return attached.publishedPorts.flatMap(({ protocol, publishedPort, hostAddress = "", ipv6 }) => {
    if (protocol !== "udp") return [];
    const argv = ["conntrack", "-D", "-p", "udp", "--orig-port-dst", String(publishedPort)];
    const byIpv6 = isDual && (ipv6 === true || isIpv6(hostAddress));
    return [...(isIpv6(hostAddress) ? [] : [argv]), ...(byIpv6 ? [[...argv, "-f", "ipv6"]] : [])];
  });
}

/**
 * For a host whose kernel has no IPv6: the ingress network has it although no user asked for it, so tasks that publish ports are
 * on its IPv4 alone there. On networks that a user gave it, they fail.
 */
export function withoutIngressIpv6(wanted: WantedNetworks): WantedNetworks {
  const ingress = new Set(wanted.networks.filter((network) => network.ingress).map(({ id }) => id));
  const single = <Each extends OverlayEndpoint | OverlayService>(each: Each): Each => {
    if (!ingress.has(each.networkId)) return each;
    const { ipv6: _, ...rest } = each;
    return rest as Each;
  };
  return {
    ...wanted,
    networks: wanted.networks.map((network) => {
      if (!network.ingress) return network;
      const { further = [], ...rest } = network;
      const others = further.filter(({ subnet }) => !isIpv6(subnet));
      return { ...rest, ...(others.length > 0 && { further: others }) };
    }),
    endpoints: wanted.endpoints.map(single),
    services: wanted.services.map(single),
  };
}

/** What every host publishes: by its IPv6 addresses too, unless a service is for some others alone. */
export function meshPorts(wanted: WantedNetworks | undefined): MeshPort[] {
  return (wanted?.services ?? []).flatMap(({ ports, within }) => {
    const ipv6 = within.length === 0 || within.some(isIpv6);
    return ports.map((port) => ({ ...port, ...(ipv6 && { ipv6 }) }));
  });
}

/** Addresses of this host's own serving tasks, for services that prefer them. */
function localBackendsOf(wanted: WantedNetworks | undefined, addressOf: AddressOf): Map<string, string[]> {
  if (wanted === undefined || !wanted.services.some(({ localFirst }) => localFirst)) return new Map();
  const endpoints = wanted.endpoints.filter(({ nodeId }) => nodeId === wanted.self.nodeId);
  return backendsOf({ endpoints }, addressOf);
}

/** Addresses of serving tasks by `backendsKey`. */
function backendsOf(
  wanted: Pick<WantedNetworks, "endpoints"> | undefined,
  addressOf: AddressOf,
): Map<string, string[]> {
  const backends = new Map<string, string[]>();
  for (const endpoint of wanted?.endpoints ?? []) {
    const address = addressOf(endpoint);
    if (!endpoint.serving || address === undefined) continue;
    const key = backendsKey(endpoint);
    const known = backends.get(key);
    if (known === undefined) backends.set(key, [address]);
    else known.push(address);
  }
  return backends;
}

function backendsKey({
  networkId,
  serviceId,
}: {
  readonly networkId: string;
  readonly serviceId: string;
}): string {
  return `${networkId}/${serviceId}`;
}

/** Where names are asked for, those of both families: by IPv4, which every network has. */
export function gatewaysOf({ wanted, bridges }: Pick<HostState, "wanted" | "bridges">): Set<string> {
  const all = [...bridges, ...(wanted?.networks ?? []).flatMap(subnetsOf)].map(({ gateway }) => gateway);
  return new Set(all.filter((gateway) => !isIpv6(gateway)));
}

/** Addresses of both families that tasks have on a bridge. */
export function takenOnBridge(records: Records, device: string): Set<number | bigint> {
  const taken = localPorts(records)
    .filter(({ bridge }) => bridge === device)
    .flatMap((port) => addressesOf(port).flatMap((address) => addressValue(address) ?? []));
  return new Set(taken);
}

/** Networks whose tasks know each other's names; the host's own bridge has none. */
export function namedNetworks({ wanted, bridges }: Pick<HostState, "wanted" | "bridges">): NamedNetwork[] {
  const own = bridges.flatMap(({ id, name, subnet, gateway, ipv6 }) =>
    id === "" ? [] : [{ id, name, subnet, gateway, ingress: false, ...(ipv6 !== undefined && { ipv6 }) }],
  );
  return [...own, ...(wanted?.networks ?? [])];
}

/** On overlays beside those that the cluster knows, on bridges all there are. */
export function localNames(records: Records, bridges: readonly BridgeNetwork[]): LocalName[] {
  const own = new Set<string>(bridges.map(({ id }) => id));
  return [...records.values()].flatMap(({ request, attached }) => {
    if (attached.kind === "host") return [];
    return attached.addresses.flatMap((place) => {
      const { networkId } = place;
      if (networkId === "") return [];
      const asked = request.networks.find((network) => network.networkId === networkId);
      const names = own.has(networkId) ? (asked?.aliases ?? []) : [request.hostname, request.name ?? ""];
      return addressesOf(place).flatMap((address) => names.map((name) => ({ networkId, name, address })));
    });
  });
}

/** By "<gateway> <address>". */
export function askersOf(
  { wanted, bridges }: Pick<HostState, "wanted" | "bridges">,
  records: Records,
): Map<string, Asker> {
  const internal = new Set<string>(
    [...bridges, ...(wanted?.networks ?? [])].filter((network) => network.internal).map(({ id }) => id),
  );
  const containers = new Map([...records.values()].map((record) => [record.request.containerId, record]));
  const askers = new Map<string, Asker>();
  for (const { request, attached } of records.values()) {
    if (attached.kind === "host") continue;
    const { addresses } = attached;
    const asker: Asker = {
      networks: addresses.flatMap(({ networkId }) => (networkId === "" ? [] : [networkId])),
      nameservers: request.dns?.nameservers ?? [],
      outside: addresses.some(({ networkId }) => !internal.has(networkId)),
      links: linksOf(request, attached.addresses, containers),
    };
    for (const { gateway, address } of addresses)
      askers.set(`${gateway} ${parseCidr(address).address}`, asker);
  }
  return askers;
}

/** Where each of its links leads now, on the network that it was asked for on. */
function linksOf(
  { networks }: AttachRequest,
  addresses: readonly AttachedAddress[],
  containers: ReadonlyMap<string, TaskRecord>,
): Map<string, string[]> {
  const links = new Map<string, string[]>();
  for (const network of networks) {
    const on = addresses.find(({ networkId }) => networkId === network.networkId);
    const { bridge } = on ?? {};
    for (const { alias, containerId } of network.links ?? []) {
      const { attached } = containers.get(containerId) ?? {};
      const target =
        attached?.kind === "namespace"
          ? attached.addresses.find((address) => address.bridge === bridge)
          : undefined;
      if (target !== undefined) links.set(alias.toLowerCase(), addressesOf(target));
    }
  }
  return links;
}

/** A bridge network that would go although somebody is on it: who came since its owner last looked. */
export function usedOf(
  records: Records,
  before: readonly BridgeNetwork[],
  after: readonly BridgeNetwork[],
): BridgeNetwork | undefined {
  const stay = new Set(after.map(({ id }) => id));
  const used = new Set<string>(
    [...records.values()].flatMap(({ attached }) =>
      attached.kind === "namespace" ? attached.addresses.map(({ networkId }) => networkId) : [],
    ),
  );
  return before.find(({ id }) => !stay.has(id) && used.has(id));
}
