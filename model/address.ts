/** IP addresses and CIDR blocks as numbers; text outside, arithmetic inside. */
export interface IpAddress {
  /** 32 for IPv4, 128 for IPv6. */
  readonly bits: 32 | 128;
  readonly value: bigint;
}

export interface CidrBlock {
  readonly bits: 32 | 128;
  /** First address of the block; host bits are zero. */
  readonly base: bigint;
  readonly prefixBits: number;
}

/** `undefined` when the text is no address in dotted or colon form. */
export function parseIp(text: string): IpAddress | undefined {
  return text.includes(":") ? parseIpv6(text) : parseIpv4(text);
}

/** Host bits may be set in the text and are dropped; `undefined` when it is no CIDR block. */
export function parseCidr(text: string): CidrBlock | undefined {
  const [address = "", prefix = "", ...rest] = text.split("/");
  const ip = parseIp(address);
  if (ip === undefined || rest.length > 0 || !/^\d{1,3}$/.test(prefix)) return undefined;
  const prefixBits = Number(prefix);
  if (prefixBits > ip.bits) return undefined;
  const hostBits = BigInt(ip.bits - prefixBits);
  return { bits: ip.bits, base: (ip.value >> hostBits) << hostBits, prefixBits };
}

export function contains(block: CidrBlock, ip: IpAddress): boolean {
  const hostBits = BigInt(block.bits - block.prefixBits);
  return block.bits === ip.bits && ip.value >> hostBits === block.base >> hostBits;
}

export function overlaps(a: CidrBlock, b: CidrBlock): boolean {
  const [wide, narrow] = a.prefixBits <= b.prefixBits ? [a, b] : [b, a];
  return contains(wide, { bits: narrow.bits, value: narrow.base });
}

/** Dotted form for IPv4; for IPv6 the one that RFC 5952 names, which kernel and Docker print. */
export function printIp({ bits, value }: IpAddress): string {
  const width = bits === 32 ? 8n : 16n;
  const parts: string[] = [];
  for (let shift = BigInt(bits) - width; shift >= 0n; shift -= width) {
    parts.push(((value >> shift) & ((1n << width) - 1n)).toString(bits === 32 ? 10 : 16));
  }
  return bits === 32 ? parts.join(".") : shortened(parts);
}

/** The first of the longest runs of two zero groups or more is left out. */
function shortened(groups: readonly string[]): string {
  let [start, length] = [0, 1];
  for (let at = 0; at < groups.length; at += 1) {
    let end = at;
    while (groups[end] === "0") end += 1;
    if (end - at > length) [start, length] = [at, end - at];
    at = Math.max(at, end - 1);
  }
  if (length < 2) return groups.join(":");
  return `${groups.slice(0, start).join(":")}::${groups.slice(start + length).join(":")}`;
}

/** Of an address, with or without the length of its prefix, the form that the kernel's tools print; as given when it is none. */
export function canonicalIp(text: string): string {
  const [address = "", ...prefix] = text.split("/");
  const ip = parseIp(address);
  return ip === undefined ? text : [printIp(ip), ...prefix].join("/");
}

/** Of an address or block in text, with or without a prefix length. */
export function isIpv6(text: string): boolean {
  return text.includes(":");
}

/** Of an address with the length of its prefix, as interfaces have them ("10.0.1.5/24"): the address alone. */
export function withoutPrefix(address: string): string {
  return address.split("/")[0] ?? "";
}

export function printCidr(block: CidrBlock): string {
  return `${printIp({ bits: block.bits, value: block.base })}/${block.prefixBits}`;
}

/** CIDR blocks of IPv6 that are no network's: addresses of one link, of groups of hosts, and what stands for other things. */
export const unusableIpv6 = ["fe80::/10", "ff00::/8", "::/8"] as const;

/**
 * A /48 of unique local addresses (RFC 4193), which holds 65,536 subnets.
 *
 * @param globalId - 40 bits, by chance of its owner alone, so that networks of two owners can be joined one day.
 */
export function uniqueLocalBlock(globalId: bigint): CidrBlock {
  return { bits: 128, base: (0xfdn << 120n) | (globalId << 80n), prefixBits: 48 };
}

/** An address with its port; the host is without the brackets that IPv6 wears beside a port. */
export interface HostPort {
  readonly host: string;
  /** NaN when the text has none, which nothing can listen on or connect to. */
  readonly port: number;
}

/** Takes "10.0.0.1:2377", "[fd00::1]:2377" or "name:2377" apart; without a port, bare IPv6 too. Checks nothing. */
export function splitHostPort(text: string): HostPort {
  const match = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(text);
  if (match === null) return { host: text, port: Number.NaN };
  const [, bracketed, plain = "", port] = match;
  return { host: bracketed ?? plain, port: port === undefined ? Number.NaN : Number(port) };
}

/** The host of an address, without port and brackets. */
export function hostOf(address: string): string {
  return splitHostPort(address).host;
}

export function joinHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The address with this port unless it has one. */
export function withPort(address: string, port: number): string {
  const parts = splitHostPort(address);
  return joinHostPort(parts.host, Number.isNaN(parts.port) ? port : parts.port);
}

function parseIpv4(text: string): IpAddress | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = (value << 8n) | BigInt(part);
  }
  return { bits: 32, value };
}

function parseIpv6(text: string): IpAddress | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const [head = [], tail = []] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  let value = 0n;
  for (const group of [...head, ...Array.from({ length: missing }, () => "0"), ...tail]) {
    if (!/^[0-9a-f]{1,4}$/i.test(group)) return undefined;
    value = (value << 16n) | BigInt(`0x${group}`);
  }
  return { bits: 128, value };
}
