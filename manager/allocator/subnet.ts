import {
  overlaps,
  parseCidr,
  parseIp,
  printCidr,
  printIp,
  contains,
  type CidrBlock,
} from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import {
  tunnelBlock,
  type NetworkSpec,
  type Subnet,
  type SubnetConfig,
  type Subnets,
} from "../../model/network.ts";

export interface SubnetRequest {
  /** CIDR blocks to cut from, in order of preference. */
  readonly pools: readonly string[];
  /** Prefix length wanted, such as 24. */
  readonly bits: number;
  /** In use, any order. */
  readonly taken: readonly CidrBlock[];
  /** Takes the very first slice, which is otherwise kept for the ingress network. */
  readonly ingress: boolean;
}

/** Where hosts have their addresses inside tunnels. */
const reserved = [tunnelBlock].flatMap((text) => parseCidr(text) ?? []);

/**
 * The lowest slice of the first pool that overlaps nothing in use.
 * @throws {ClusterError} `resource-exhausted` when no pool has one left.
 */
export function pickSubnet({ pools, bits, taken, ingress }: SubnetRequest): CidrBlock {
  const size = 1n << BigInt(32 - bits);
  const used = [...reserved, ...taken];
  for (const [i, text] of pools.entries()) {
    const pool = parseCidr(text);
    if (pool === undefined || pool.bits !== 32 || pool.prefixBits > bits) continue;
    const end = pool.base + (1n << BigInt(32 - pool.prefixBits));
    let base = pool.base + (i === 0 && !ingress ? size : 0n);
    while (base + size <= end) {
      const slice: CidrBlock = { bits: 32, base, prefixBits: bits };
      const hit = used.find((block) => overlaps(block, slice));
      if (hit === undefined) return slice;
      base = afterBlock(hit, base, size);
    }
  }
  throw new ClusterError(
    "resource-exhausted",
    `no subnet of size /${bits} is left in the address pools ${pools.join(", ")}`,
  );
}

/** First slice behind a block; slices stay aligned to their size. */
function afterBlock(block: CidrBlock, base: bigint, size: bigint): bigint {
  const end = block.base + (1n << BigInt(32 - block.prefixBits));
  const aligned = ((end + size - 1n) / size) * size;
  return aligned > base ? aligned : base + size;
}

/**
 * The subnets and gateways of an overlay: those its spec asks for, or a free slice and its first address.
 * @throws {ClusterError} `invalid-argument` for what cannot be used, `conflict` for an overlap with another network.
 */
export function chooseSubnets(spec: NetworkSpec, request: SubnetRequest): Subnets {
  const asked = spec.ipam.filter((config) => config.subnet !== "" && !config.subnet.includes(":"));
  const taken = [...request.taken];
  const [first, ...further] = asked.map((config) => {
    const { subnet, block } = chosenSubnet(config, taken);
    taken.push(block);
    return subnet;
  });
  if (first === undefined) {
    const block = pickSubnet(request);
    return { subnet: printCidr(block), gateway: printIp({ bits: 32, value: block.base + 1n }) };
  }
  return { ...first, ...(further.length > 0 && { further }) };
}

function chosenSubnet(
  asked: SubnetConfig,
  taken: readonly CidrBlock[],
): { readonly subnet: Subnet; readonly block: CidrBlock } {
  const block = parseCidr(asked.subnet);
  if (block === undefined || block.prefixBits > 30) {
    throw new ClusterError(
      "invalid-argument",
      `invalid subnet ${asked.subnet}: an IPv4 block of at least /30 is accepted`,
    );
  }
  if (taken.some((other) => overlaps(other, block))) {
    throw new ClusterError("conflict", `subnet ${asked.subnet} overlaps with the subnet of another network`);
  }
  const gateway = asked.gateway ?? printIp({ bits: 32, value: block.base + 1n });
  const address = parseIp(gateway);
  if (address === undefined || !contains(block, address)) {
    throw new ClusterError(
      "invalid-argument",
      `invalid gateway ${gateway}: an address in ${asked.subnet} is accepted`,
    );
  }
  return { subnet: { subnet: printCidr(block), gateway }, block };
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
