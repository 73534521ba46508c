/** Which subnet a network may have. Pure. */
import { ClusterError } from "../../model/errors.ts";
import {
  contains,
  isIpv6,
  parseCidr as parseAny,
  parseIp,
  printCidr,
  printIp,
  uniqueLocalBlock,
  unusableIpv6,
} from "../../model/address.ts";
import {
  addressNumber,
  addressText,
  addressValue,
  blockText,
  parseBlock,
  parseCidr,
  pickIpv6,
} from "../network/addresses.ts";
import { overlap } from "../network/bridges.ts";

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

/** No routes that a network could cut off: every link has them, or the host itself. */
const ownScopes = unusableIpv6.flatMap((text) => parseAny(text) ?? []);

/** Routes in the form of `/proc/net/ipv6_route`; those of the loopback device are the host's own and the unreachable ones. */
export function parseIpv6Routes(text: string): TakenBlock[] {
  return text.split("\n").flatMap((line) => {
    const [destination = "", bits = "", , , , , , , , device = ""] = line.trim().split(/\s+/);
    const ip = parseIp((destination.match(/.{4}/g) ?? []).join(":"));
    const prefixBits = Number.parseInt(bits, 16);
    if (ip === undefined || !(prefixBits > 0) || device === "lo") return [];
    if (ownScopes.some((scope) => contains(scope, ip))) return [];
    return [{ block: `${printIp(ip)}/${prefixBits}`, by: `a route of the host by ${device}` }];
  });
}

/** Routes in the form of `/proc/net/route`; the default route meets nothing. */
export function parseRoutes(text: string): TakenBlock[] {
  return text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const [device = "", destination = "", , , , , , mask = ""] = line.trim().split(/\s+/);
      if (!/^[0-9A-F]{8}$/i.test(mask)) return [];
      const prefixBits = Number.parseInt(mask, 16).toString(2).replaceAll("0", "").length;
      if (prefixBits === 0) return [];
      const block = blockText(parseCidr(`${littleEndian(destination)}/${prefixBits}`));
      return [{ block: prefixBits === 32 ? `${block}/32` : block, by: `a route of the host by ${device}` }];
    });
}

function littleEndian(hex: string): string {
  return [6, 4, 2, 0].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)).join(".");
}
