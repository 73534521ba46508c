/** Arithmetic with addresses, and the names and MACs that follow from ids and addresses. */
import { isIpv6, parseCidr as parseAny, parseIp, printIp } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import { hash64 } from "../../model/hash.ts";

/** Of either family: numbers for IPv4, of which there are many, and big ones for IPv6. */
export interface Block {
  /** The address before the slash, as given; it may be a host's. */
  readonly address: string;
  readonly prefixBits: number;
  /** First and last address of the block. */
  readonly first: number | bigint;
  readonly last: number | bigint;
}

/** Of IPv4. */
export interface Cidr extends Block {
  readonly first: number;
  readonly last: number;
}

/** @returns an unsigned 32-bit number, or undefined for anything but dotted decimal. */
export function addressNumber(text: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (match === null) return undefined;
  const bytes = match.slice(1).map(Number);
  if (bytes.some((byte) => byte > 255)) return undefined;
  return bytes.reduce((number, byte) => number * 256 + byte, 0);
}

export function addressText(number: number): string {
  return addressBytes(number).join(".");
}

/** @throws {ClusterError} `invalid-argument` */
export function parseCidr(text: string): Cidr {
  const [address = "", bits = ""] = text.split("/");
  const number = addressNumber(address);
  const prefixBits = Number(bits);
  if (number === undefined || !/^\d{1,2}$/.test(bits) || prefixBits > 32) {
    throw new ClusterError(
      "invalid-argument",
      `not an IPv4 block: "${text}"; accepted is the form 10.0.1.0/24`,
    );
  }
  const size = 2 ** (32 - prefixBits);
  const first = Math.floor(number / size) * size;
  return { address, prefixBits, first, last: first + size - 1 };
}

/** Of either family. @returns undefined for what is no address. */
export function addressValue(text: string): number | bigint | undefined {
  return isIpv6(text) ? parseIp(text)?.value : addressNumber(text);
}

/** Of either family. @throws {ClusterError} `invalid-argument` */
export function parseBlock(text: string): Block {
  if (!isIpv6(text)) return parseCidr(text);
  const [address = ""] = text.split("/");
  const block = parseAny(text);
  if (block === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `not an IPv6 block: "${text}"; accepted is the form fd00::/64`,
    );
  }
  const { base, prefixBits } = block;
  return { address, prefixBits, first: base, last: base + (1n << BigInt(128 - prefixBits)) - 1n };
}

/** False for an address of the other family. */
export function contains(block: Block, address: number | bigint): boolean {
  return typeof block.first === typeof address && address >= block.first && address <= block.last;
}

/** "10.0.1.0/24", the form the kernel prints; "10.0.1.5" when it is a single address. */
export function blockText({ first, prefixBits }: Block): string {
  const text = typeof first === "bigint" ? printIp({ bits: 128, value: first }) : addressText(first);
  return prefixBits === (typeof first === "bigint" ? 128 : 32) ? text : `${text}/${prefixBits}`;
}

/** Locally administered and unique where the address is: a task's own device, or a bridge's gateway. */
export function taskMac(address: string): string {
  return mac("02:42", address);
}

/** The MAC of a host's VXLAN devices; every other host works it out from the host's address. */
export function hostMac(address: string): string {
  return mac("02:4e", address);
}

/**
 * How other hosts call a host on the devices of VXLAN where a route of IPv6 leads to it: the kernel takes no next hop of IPv4
 * for one. A link-local address that nobody has, worked out from the host's own.
 */
export function hostLinkLocal(address: string): string {
  return printIp({ bits: 128, value: (0xfe80n << 112n) | BigInt(addressNumber(address) ?? 0) });
}

/** First free address after `last`, in a circle; the block's ends and `taken` are never picked. */
export function pickAddress(
  block: Cidr,
  taken: ReadonlySet<number | bigint>,
  last: number,
): number | undefined {
  const count = block.last - block.first - 1;
  const start = contains(block, last) ? last - block.first : 0;
  for (let step = 0; step < count; step += 1) {
    const candidate = block.first + 1 + ((start + step) % count);
    if (!taken.has(candidate)) return candidate;
  }
  return undefined;
}

/** As `pickAddress`, of IPv6, where no address of a block is set apart but the taken ones. */
export function pickIpv6(
  { first, last }: { readonly first: bigint; readonly last: bigint },
  taken: ReadonlySet<number | bigint>,
  before: bigint,
): bigint | undefined {
  const count = last - first + 1n;
  const start = before >= first && before < last ? before - first + 1n : 0n;
  // One more than are taken: a block has too many to try all.
  for (let step = 0n; step < count && step <= BigInt(taken.size); step += 1n) {
    const candidate = first + ((start + step) % count);
    if (!taken.has(candidate)) return candidate;
  }
  return undefined;
}

/** Stable, and short enough for a device name (15 characters with a prefix of 3): 64-bit FNV-1a in base36. */
export function shortHash(text: string): string {
  return hash64(text).toString(36).padStart(13, "0").slice(-12);
}

function mac(prefix: string, address: string): string {
  const bytes = addressBytes(addressNumber(address) ?? 0);
  return [prefix, ...bytes.map((byte) => byte.toString(16).padStart(2, "0"))].join(":");
}

function addressBytes(number: number): number[] {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256);
}
