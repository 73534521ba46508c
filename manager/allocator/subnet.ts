import {
  overlaps,
  parseCidr,
  parseIp,
  printCidr,
  printIp,
  contains,
  isIpv6,
  uniqueLocalBlock,
  type CidrBlock,
} from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import { hash64 } from "../../model/hash.ts";
import {
  askedSubnets,
  tunnelBlock,
  type NetworkSpec,
  type Subnet,
  type SubnetConfig,
  type Subnets,
} from "../../model/network.ts";
import type { Node } from "../../model/node.ts";

/** A block that the host of a node has of its own. */
export interface HostBlock {
  readonly block: CidrBlock;
  /** Host name of one of the nodes that have it. */
  readonly node: string;
}

export interface SubnetRequest {
  /** CIDR blocks of IPv4 to cut from, in order of preference. */
  readonly pools: readonly string[];
  /** Prefix length wanted, such as 24. */
  readonly bits: number;
  /** In use by networks, any order. */
  readonly taken: readonly CidrBlock[];
  /** What nodes have of their own: nothing is cut out of these, any order. Default none. */
  readonly hosts?: readonly HostBlock[];
  /** CIDR block that networks with IPv6 have subnets from. */
  readonly ipv6Pool: string;
  /** Takes the very first slice, which is otherwise kept for the ingress network. */
  readonly ingress: boolean;
}

/** What networks with IPv6 get subnets of, unless they ask for some: a /64 each, as Docker gives them. */
const ipv6SubnetBits = 64;

/** The block of unique local addresses that a cluster's networks are in: it follows from the cluster's id, which is random. */
export function ipv6PoolOf(clusterId: string): string {
  return printCidr(uniqueLocalBlock(hash64(clusterId) >> 24n));
}

/** Where hosts have their addresses inside tunnels. */
const reserved = [tunnelBlock].flatMap((text) => parseCidr(text) ?? []);

/** Each block that nodes say their hosts have of their own, once. */
export function hostBlocks(nodes: Iterable<Pick<Node, "id" | "description">>): HostBlock[] {
  const found = new Map<string, HostBlock>();
  for (const { id, description } of nodes) {
    for (const text of description?.subnets ?? []) {
      const block = parseCidr(text);
      if (block === undefined || found.has(text)) continue;
      found.set(text, { block, node: description?.hostname || id });
    }
  }
  return [...found.values()];
}

/**
 * The lowest slice of the first pool that overlaps nothing in use, neither by networks nor by hosts.
 *
 * @throws {ClusterError} `resource-exhausted` when no pool has one left, naming hosts where it is for their sake.
 */
export function pickSubnet(request: Omit<SubnetRequest, "ipv6Pool">): CidrBlock {
  const { pools, bits, taken, hosts = [] } = request;
  const used = [...reserved, ...taken];
  const free = freeSlice(request, used.concat(hosts.map(({ block }) => block)));
  if (free !== undefined) return free;
  const reason = `no subnet of size /${bits} is left in the address pools ${pools.join(", ")}`;
  const near = freeSlice(request, used);
  const [first, ...others] = hosts.filter(({ block }) =>
    pools.some((text) => {
      const pool = parseCidr(text);
      return pool !== undefined && overlaps(pool, block);
    }),
  );
  if (near === undefined || first === undefined) throw new ClusterError("resource-exhausted", reason);
  const more = others.length === 0 ? "" : ` and ${others.length} more such blocks`;
  throw new ClusterError(
    "resource-exhausted",
    `${reason}: what networks have left overlaps what hosts have of their own (${printCidr(first.block)} on node ${first.node}${more}); ${wayOut}`,
  );
}

const wayOut =
  "give the network a subnet that no host has (docker network create --subnet), or the cluster other pools (docker swarm init --default-addr-pool)";

function freeSlice(
  { pools, bits, ingress }: Pick<SubnetRequest, "pools" | "bits" | "ingress">,
  used: readonly CidrBlock[],
): CidrBlock | undefined {
  for (const [i, text] of pools.entries()) {
    const pool = parseCidr(text);
    if (pool === undefined || pool.prefixBits > bits || bits > pool.bits) continue;
    const size = 1n << BigInt(pool.bits - bits);
    const end = pool.base + (1n << BigInt(pool.bits - pool.prefixBits));
    let base = pool.base + (i === 0 && !ingress ? size : 0n);
    while (base + size <= end) {
      const slice: CidrBlock = { bits: pool.bits, base, prefixBits: bits };
      const hit = used.find((block) => overlaps(block, slice));
      if (hit === undefined) return slice;
      base = afterBlock(hit, base, size);
    }
  }
  return undefined;
}

/** First slice behind a block; slices stay aligned to their size. */
function afterBlock(block: CidrBlock, base: bigint, size: bigint): bigint {
  const end = block.base + (1n << BigInt(block.bits - block.prefixBits));
  const aligned = ((end + size - 1n) / size) * size;
  return aligned > base ? aligned : base + size;
}

/**
 * The subnets and gateways of an overlay: those its spec asks for, or a free slice and its first address.
 * @throws {ClusterError} `invalid-argument` for what cannot be used, `conflict` for an overlap with another network.
 */
export function chooseSubnets(spec: NetworkSpec, request: SubnetRequest): Subnets {
  const taken = [...request.taken];
  const askedOf = (wanted: "ipv4" | "ipv6"): Subnet[] =>
    askedSubnets(spec)
      .filter(({ subnet }) => isIpv6(subnet) === (wanted === "ipv6"))
      .map((config) => {
        const { subnet, block } = chosenSubnet(config, taken);
        taken.push(block);
        return subnet;
      });
  const [first = freeSubnet(request), ...others] = askedOf("ipv4");
  const asked = askedOf("ipv6");
  const given =
    spec.ipv6 && asked.length === 0
      ? [freeSubnet({ ...request, pools: [request.ipv6Pool], bits: ipv6SubnetBits, taken, ingress: true })]
      : asked;
  const further = [...others, ...given];
  return { ...first, ...(further.length > 0 && { further }) };
}

function freeSubnet(request: Parameters<typeof pickSubnet>[0]): Subnet {
  const block = pickSubnet(request);
  return { subnet: printCidr(block), gateway: printIp({ bits: block.bits, value: block.base + 1n }) };
}

function chosenSubnet(
  asked: SubnetConfig,
  taken: readonly CidrBlock[],
): { readonly subnet: Subnet; readonly block: CidrBlock } {
  const block = parseCidr(asked.subnet);
  if (block === undefined || block.prefixBits > block.bits - 2) {
    throw new ClusterError(
      "invalid-argument",
      `invalid subnet ${asked.subnet}: a block of four addresses or more is accepted`,
    );
  }
  if (taken.some((other) => overlaps(other, block))) {
    throw new ClusterError("conflict", `subnet ${asked.subnet} overlaps with the subnet of another network`);
  }
  const first = { bits: block.bits, value: block.base + 1n };
  const address = asked.gateway === undefined ? first : parseIp(asked.gateway);
  if (address === undefined || !contains(block, address)) {
    throw new ClusterError(
      "invalid-argument",
      `invalid gateway ${asked.gateway}: an address in ${asked.subnet} is accepted`,
    );
  }
  return { subnet: { subnet: printCidr(block), gateway: printIp(address) }, block };
}

/** The first of `subnets` that overlaps `text`; for a check before a network is created. */
export function findOverlap(text: string, subnets: Iterable<string>): string | undefined {
  const block = parseCidr(text);
  if (block === undefined) return undefined;
  for (const subnet of subnets) {
    const other = parseCidr(subnet);
    if (other !== undefined && overlaps(block, other)) return subnet;
  }
  return undefined;
}
