/** Overlays whose addresses this host has otherwise: they are not set up here, as it would lose what it has. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId, TaskId } from "../../model/ids.ts";
import { subnetsOf } from "../../model/network.ts";
import { type Block, parseBlock } from "./addresses.ts";
import { blocksOf, overlap } from "./bridges.ts";
import type { Finding } from "./examine.ts";
import { disjoint, type OwnBlock } from "./host-subnets.ts";
import type { TaskRecord } from "./journal.ts";
import type { AttachedAddress, BridgeNetwork, OverlayNetwork, WantedNetworks } from "./network.ts";
import { usedOf } from "./views.ts";

/** Why, in words, by the network's id. */
export type Overlaps = ReadonlyMap<NetworkId, string>;

export const noOverlaps: Overlaps = new Map();

interface Held extends Block {
  /** "10.0.0.0/24, which this host has by eth0" */
  readonly what: string;
}

export function overlapsOf(
  networks: readonly OverlayNetwork[],
  own: readonly OwnBlock[],
  bridges: readonly BridgeNetwork[],
): Overlaps {
  const held = disjoint<Held>([
    ...own.map(({ text, device, ...block }) => {
      return { ...block, what: `${text}, which this host has of its own by ${device}` };
    }),
    ...bridges.flatMap((bridge) =>
      blocksOf(bridge).map(({ subnet }) => {
        return { ...parseBlock(subnet), what: `${subnet} of this host's own network ${bridge.name}` };
      }),
    ),
  ]);
  const found = new Map<NetworkId, string>();
  for (const network of networks) {
    for (const { subnet } of subnetsOf(network)) {
      const other = meeting(held, parseBlock(subnet));
      if (other === undefined) continue;
      const ports = network.ingress ? ", and ports that the swarm publishes are not open here" : "";
      found.set(
        network.id,
        `network ${network.name} is not set up on this host${ports}: its subnet ${subnet} overlaps ${other.what}`,
      );
      break;
    }
  }
  return found;
}

/** Everything wanted but those networks, and what is on them. */
export function withoutOverlaps(wanted: WantedNetworks, overlaps: Overlaps): WantedNetworks {
  if (overlaps.size === 0) return wanted;
  const isPossible = ({ networkId }: { readonly networkId: NetworkId }): boolean => !overlaps.has(networkId);
  return {
    ...wanted,
    networks: wanted.networks.filter(({ id }) => !overlaps.has(id)),
    endpoints: wanted.endpoints.filter(isPossible),
    services: wanted.services.filter(isPossible),
  };
}

/** The last that begins before the block's end is the only one that can reach into it from before, as none is in another. */
function meeting(held: readonly Held[], block: Block): Held | undefined {
  let [low, high] = [0, held.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const at = held[middle];
    if (at !== undefined && begins(at.first, block.last)) low = middle + 1;
    else high = middle;
  }
  const last = held[low - 1];
  if (last === undefined || typeof last.first !== typeof block.first) return undefined;
  return last.last >= block.first ? last : undefined;
}

/** Whether one address is not behind another, in the order of `disjoint`. */
function begins(a: number | bigint, b: number | bigint): boolean {
  return typeof a === typeof b ? a <= b : typeof a === "number";
}

/** Tasks of this host without their places on those networks. */
export function recordsWithout(
  records: ReadonlyMap<TaskId, TaskRecord>,
  overlaps: Overlaps,
): ReadonlyMap<TaskId, TaskRecord> {
  if (overlaps.size === 0) return records;
  const isPossible = ({ networkId }: AttachedAddress): boolean =>
    networkId === "" || !overlaps.has(networkId);
  return new Map(
    [...records].map(([taskId, record]) => {
      const { attached } = record;
      if (attached.kind === "host") return [taskId, record];
      const addresses = attached.addresses.filter(isPossible);
      return [taskId, { ...record, attached: { ...attached, addresses } }];
    }),
  );
}

/** For a task that wants to be on such a network. */
export function overlapRefusal(overlaps: Overlaps, networkId: string): ClusterError | undefined {
  const text = overlaps.get(networkId as NetworkId);
  return text === undefined ? undefined : new ClusterError("failed-precondition", text);
}

/** For whoever examines the host. */
export function overlapFindings(wanted: WantedNetworks | undefined, overlaps: Overlaps): Finding[] {
  return (wanted?.networks ?? []).flatMap(({ id, name }): Finding[] => {
    const text = overlaps.get(id);
    return text === undefined
      ? []
      : [{ test: "kernel", peer: "", subject: `network ${name}`, state: "broken", text }];
  });
}

/**
 * Why the host's own networks cannot be others than they are.
 *
 * @param overlays - Those that are set up here.
 */
export function bridgesProblem(
  records: ReadonlyMap<TaskId, TaskRecord>,
  present: readonly BridgeNetwork[],
  next: readonly BridgeNetwork[],
  overlays: readonly OverlayNetwork[],
): ClusterError | undefined {
  const used = usedOf(records, present, next);
  if (used !== undefined) {
    return new ClusterError("permission-denied", `network ${used.name} has active endpoints`);
  }
  const added = next.filter(({ id }) => !present.some((each) => each.id === id));
  const [taken] = added.length === 0 ? [] : overlapsOf(overlays, [], added).keys();
  const overlay = overlays.find(({ id }) => id === taken);
  if (overlay === undefined) return undefined;
  const blocks = subnetsOf(overlay).map(({ subnet }) => subnet);
  const subnet = added.flatMap(blocksOf).find((one) => blocks.some((block) => overlap(one.subnet, block)));
  return new ClusterError(
    "permission-denied",
    `invalid pool request: Pool overlaps with other one on this address space: ${subnet?.subnet} with network ${overlay.name} (${blocks.join(", ")})`,
  );
}
