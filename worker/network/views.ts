/** What resolver, firewall and kernel are to know, out of the networks wanted and the tasks attached. */
import type { TaskId } from "../../model/ids.ts";
import { portKey, type PublishedPort } from "../../model/task.ts";
import { addressNumber, parseCidr } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import type { WantedNetworks } from "./network.ts";
import { bridgeName, hostBridge, otherHosts, ownAddress, resolveNetwork } from "./objects.ts";
import type { HostState, LocalPort } from "./objects.ts";
import type { Asker, LocalName } from "./records.ts";
import type { RulesState } from "./rules.ts";

type Records = ReadonlyMap<TaskId, TaskRecord>;

export function localPorts(records: Records): LocalPort[] {
  return [...records.values()].flatMap(({ request: { taskId }, attached }) =>
    attached.kind === "host" ? [] : attached.addresses.map((address) => ({ ...address, taskId })),
  );
}

/**
 * @param mesh - Those of the mesh's ports that this host could hold.
 */
export function rulesOf(state: HostState, records: Records, mesh: readonly PublishedPort[]): RulesState {
  const { wanted, bridge, underlayMtu } = state;
  const overlays = (wanted?.networks ?? []).map((network) => ({
    ...resolveNetwork(network, underlayMtu),
    internal: network.internal,
    ingress: network.ingress,
  }));
  const own =
    bridge === undefined
      ? []
      : [{ bridge: hostBridge, subnet: bridge.subnet, internal: false, ingress: false }];
  const ports = [...records.values()].flatMap(({ attached }) => {
    const first = attached.kind === "namespace" ? attached.addresses[0] : undefined;
    if (first === undefined) return [];
    return attached.publishedPorts.map((port) => ({ ...port, address: parseCidr(first.address).address }));
  });
  const backends = backendsOf(wanted);
  const local = localBackendsOf(wanted);
  const held = new Set(mesh.map(portKey));
  // On the ingress network a virtual IP would open all ports of a task to those of other services.
  const shared = (wanted?.networks ?? []).filter((network) => !network.ingress);
  const bridges = new Map(shared.map((network) => [network.id, bridgeName(network)]));
  return {
    networks: [...own, ...overlays],
    ports,
    services: (wanted?.services ?? []).flatMap((service) => {
      const on = bridges.get(service.networkId);
      if (on === undefined) return [];
      return [{ bridge: on, address: service.address, backends: backends.get(backendsKey(service)) ?? [] }];
    }),
    mesh: (wanted?.services ?? []).flatMap((service) =>
      service.ports
        .filter((port) => held.has(portKey(port)))
        .map((port) => {
          const key = backendsKey(service);
          const near = service.localFirst ? local.get(key) : undefined;
          return { ...port, within: service.within, backends: near ?? backends.get(key) ?? [] };
        }),
    ),
    hosts: wanted === undefined ? [] : otherHosts(wanted),
    tasks: localPorts(records)
      .filter(({ networkId }) => networkId !== "")
      .map(({ address }) => parseCidr(address).address),
    ownAddress: wanted === undefined ? "" : ownAddress(wanted),
  };
}

/** The addresses of a task on networks where another task of its service takes new connections. */
export function drainAddresses(wanted: WantedNetworks | undefined, taskId: TaskId): string[] {
  const endpoints = wanted?.endpoints ?? [];
  return endpoints
    .filter((own) => own.taskId === taskId)
    .filter((own) =>
      endpoints.some(
        (each) => each.serving && each.taskId !== taskId && backendsKey(each) === backendsKey(own),
      ),
    )
    .map(({ address }) => address);
}

/** What every host publishes. */
export function meshPorts(wanted: WantedNetworks | undefined): PublishedPort[] {
  return (wanted?.services ?? []).flatMap(({ ports }) => ports);
}

/** Addresses of this host's own serving tasks, for services that prefer them. */
function localBackendsOf(wanted: WantedNetworks | undefined): Map<string, string[]> {
  if (wanted === undefined || !wanted.services.some(({ localFirst }) => localFirst)) return new Map();
  const endpoints = wanted.endpoints.filter(({ nodeId }) => nodeId === wanted.self.nodeId);
  return backendsOf({ endpoints });
}

/** Addresses of serving tasks by `backendsKey`. */
function backendsOf(wanted: Pick<WantedNetworks, "endpoints"> | undefined): Map<string, string[]> {
  const backends = new Map<string, string[]>();
  for (const endpoint of wanted?.endpoints ?? []) {
    if (!endpoint.serving) continue;
    const key = backendsKey(endpoint);
    const known = backends.get(key);
    if (known === undefined) backends.set(key, [endpoint.address]);
    else known.push(endpoint.address);
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

/** Where names are asked for. */
export function gatewaysOf({ wanted, bridge }: HostState): Set<string> {
  const overlays = (wanted?.networks ?? []).map(({ gateway }) => gateway);
  return new Set(bridge === undefined ? overlays : [bridge.gateway, ...overlays]);
}

/** Addresses of the host's own bridge that tasks have. */
export function takenOnBridge(records: Records, gateway: string): Set<number> {
  const taken = localPorts(records)
    .filter(({ bridge }) => bridge === hostBridge)
    .map(({ address }) => numberOf(address));
  return new Set([addressNumber(gateway) ?? 0, ...taken]);
}

export function localNames(records: Records): LocalName[] {
  return [...records.values()].flatMap(({ request, attached }) => {
    if (attached.kind === "host") return [];
    const names = [request.hostname, request.name ?? ""];
    return attached.addresses.flatMap(({ networkId, address }) =>
      networkId === "" ? [] : names.map((name) => ({ networkId, name, address: parseCidr(address).address })),
    );
  });
}

/** By "<gateway> <address>". */
export function askersOf(wanted: WantedNetworks | undefined, records: Records): Map<string, Asker> {
  const internal = new Set(
    (wanted?.networks ?? []).filter((network) => network.internal).map(({ id }) => id),
  );
  const askers = new Map<string, Asker>();
  for (const { request, attached } of records.values()) {
    if (attached.kind === "host") continue;
    const { addresses } = attached;
    const asker: Asker = {
      networks: addresses.flatMap(({ networkId }) => (networkId === "" ? [] : [networkId])),
      nameservers: request.dns?.nameservers ?? [],
      outside: addresses.some(({ networkId }) => networkId === "" || !internal.has(networkId)),
    };
    for (const { gateway, address } of addresses)
      askers.set(`${gateway} ${parseCidr(address).address}`, asker);
  }
  return askers;
}

function numberOf(address: string): number {
  return addressNumber(parseCidr(address).address) ?? 0;
}
