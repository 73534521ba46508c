/** What resolver, firewall and kernel are to know, out of the networks wanted and the tasks attached. */
import type { TaskId } from "../../model/ids.ts";
import { addressNumber, parseCidr } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import type { WantedNetworks } from "./network.ts";
import { hostBridge, resolveNetwork } from "./objects.ts";
import type { HostState, LocalPort } from "./objects.ts";
import type { Asker, LocalName } from "./records.ts";
import type { RulesState } from "./rules.ts";

type Records = ReadonlyMap<TaskId, TaskRecord>;

export function localPorts(records: Records): LocalPort[] {
  return [...records.values()].flatMap(({ request: { taskId }, attached }) =>
    attached.kind === "host" ? [] : attached.addresses.map((address) => ({ ...address, taskId })),
  );
}

export function rulesOf({ wanted, bridge, underlayMtu }: HostState, records: Records): RulesState {
  const overlays = (wanted?.networks ?? []).map((network) => ({
    ...resolveNetwork(network, underlayMtu),
    internal: network.internal,
  }));
  const own = bridge === undefined ? [] : [{ bridge: hostBridge, subnet: bridge.subnet, internal: false }];
  const ports = [...records.values()].flatMap(({ attached }) => {
    const first = attached.kind === "namespace" ? attached.addresses[0] : undefined;
    if (first === undefined) return [];
    return attached.publishedPorts.map((port) => ({ ...port, address: parseCidr(first.address).address }));
  });
  return { networks: [...own, ...overlays], ports };
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
