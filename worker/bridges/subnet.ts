/** Which subnet a network may have. Pure. */
import { ClusterError } from "../../model/errors.ts";
import { isIpv6, printCidr, printIp, uniqueLocalBlock } from "../../model/address.ts";
import {
  addressNumber,
  addressText,
  addressValue,
  parseBlock,
  parseCidr,
  pickIpv6,
} from "../network/addresses.ts";
import { overlap } from "../network/bridges.ts";
import type { Route } from "../network/routes.ts";

export interface TakenBlock {
  /** CIDR */
  readonly block: string;
  /** Such as "network web" or "a route of the host by eth0". */
  readonly by: string;
}

/** As Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in parts of a /20. */
export function* defaultPools(): Generator<string> {
  for (let second = 17; second <= 31; second += 1) yield `172.${second}.0.0/16`;
  for (let third = 0; third < 256; third += 16) yield `192.168.${third}.0/20`;
}

/** Subnets that one host gives out by itself; it has at most 1,000 networks. */
const ownSubnetCount = 4_096n;
const interfaceBits = 64n;

/**
 * As Docker's: parts of a /64 of the unique local block that is this host's.
 *
 * @param globalId - As of `uniqueLocalBlock`.
 */
export function* ipv6Pools(globalId: bigint): Generator<string> {
  const { base } = uniqueLocalBlock(globalId);
  for (let subnet = 0n; subnet < ownSubnetCount; subnet += 1n) {
    yield printCidr({ bits: 128, base: base | (subnet << interfaceBits), prefixBits: 64 });
  }
}

/** @throws {ClusterError} `resource-exhausted` when every pool meets something. */
export function chooseSubnet(taken: readonly TakenBlock[], pools = defaultPools()): string {
  for (const pool of pools) {
    if (!taken.some(({ block }) => overlap(block, pool))) return pool;
  }
  throw new ClusterError("resource-exhausted", "all predefined address pools have been fully subnetted");
}

/** @throws {ClusterError} `permission-denied` with what it overlaps. */
export function checkFree(subnet: string, taken: readonly TakenBlock[]): void {
  const other = taken.find(({ block }) => overlap(block, subnet));
  if (other === undefined) return;
  throw new ClusterError(
    "permission-denied",
    `invalid pool request: Pool overlaps with other one on this address space: ${subnet} with ${other.by} (${other.block})`,
  );
}

/** The first one that is not left out. */
export function freeGateway(subnet: string, range: string | undefined, auxiliary: readonly string[]): string {
  if (isIpv6(subnet)) return freeIpv6Gateway(subnet, range, auxiliary);
  const block = parseCidr(subnet);
  const from = parseCidr(range ?? subnet);
  const out = new Set(auxiliary.map((address) => addressNumber(address)));
  for (let number = from.first; number <= from.last; number += 1) {
    if (number !== block.first && number !== block.last && !out.has(number)) return addressText(number);
  }
  throw new ClusterError("resource-exhausted", `no address is left for the gateway in ${range ?? subnet}`);
}

function freeIpv6Gateway(subnet: string, range: string | undefined, auxiliary: readonly string[]): string {
  const { first, last } = parseBlock(range ?? subnet);
  const taken = [parseBlock(subnet).first, ...auxiliary.flatMap((address) => addressValue(address) ?? [])];
  const value = pickIpv6({ first: BigInt(first), last: BigInt(last) }, new Set(taken), 0n);
  if (value !== undefined) return printIp({ bits: 128, value });
  throw new ClusterError("resource-exhausted", `no address is left for the gateway in ${range ?? subnet}`);
}

/** What a route of the host stands in the way of. */
export function takenByRoute({ block, device }: Route): TakenBlock {
  return {
    block,
    by: device === "*" ? "a route of the host that leads nowhere" : `a route of the host by ${device}`,
  };
}
