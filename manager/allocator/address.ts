import {
  type CidrBlock,
  type IpAddress,
  parseCidr,
  parseIp,
  printIp,
  withoutPrefix,
} from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";

/** The addresses of a network, of each of its families: a further subnet gives some once those before it are full. */
export class NetworkPool {
  readonly #pools: readonly AddressPool[];

  /** @throws {ClusterError} as `AddressPool`. */
  constructor(subnets: readonly PoolSubnet[]) {
    this.#pools = subnets.map((subnet) => new AddressPool(subnet));
  }

  /** Whether there are addresses of the family at all. */
  has(bits: IpAddress["bits"]): boolean {
    return this.#pools.some((pool) => pool.bits === bits);
  }

  /** The next free address of the family in CIDR form, or `undefined` when all are taken. */
  allocate(bits: IpAddress["bits"] = 32): string | undefined {
    for (const pool of this.#pools) {
      const address = pool.bits === bits ? pool.allocate() : undefined;
      if (address !== undefined) return address;
    }
    return undefined;
  }

  /** False for an address that is taken, or in none of the subnets. */
  claim(address: string): boolean {
    return this.#of(address)?.claim(address) ?? false;
  }

  /** Whether the address, with or without prefix length, is in one of the subnets. */
  holds(address: string): boolean {
    return this.#of(address) !== undefined;
  }

  /** As `AddressPool.take`. */
  take(address: string): string | undefined {
    return this.#of(address)?.take(address);
  }

  release(address: string): void {
    this.#of(address)?.release(address);
  }

  #of(address: string): AddressPool | undefined {
    return this.#pools.find((pool) => pool.holds(address));
  }
}

interface PoolSubnet {
  readonly subnet: string;
  readonly gateway: string;
  /** Part of the subnet that addresses come from; the whole when absent. */
  readonly range?: string;
}

/**
 * The addresses of one subnet. They are given out in turn, so that a freed one rests as long as
 * possible: peers may still hold its neighbour entries and open connections.
 */
export class AddressPool {
  /** Of its family. */
  readonly bits: IpAddress["bits"];
  readonly #base: bigint;
  readonly #prefixBits: number;
  /** Offset of the last address there is. */
  readonly #end: bigint;
  /** Usable offsets, both inclusive. */
  readonly #first: bigint;
  readonly #last: bigint;
  readonly #taken = new Set<bigint>();
  #cursor: bigint;

  /** @throws {ClusterError} `invalid-argument` when the texts are no block of a network. */
  constructor({ subnet, gateway, range }: PoolSubnet) {
    const block = parseCidr(subnet);
    const part = range === undefined || range === "" ? block : parseCidr(range);
    if (block === undefined || part?.bits !== block.bits) {
      throw new ClusterError(
        "invalid-argument",
        `invalid subnet ${subnet}: a block such as 10.0.1.0/24 is accepted`,
      );
    }
    this.bits = block.bits;
    this.#base = block.base;
    this.#prefixBits = block.prefixBits;
    this.#end = sizeOf(block) - 1n;
    const start = part.base - this.#base;
    this.#first = start > 0n ? start : 1n;
    const last = start + sizeOf(part) - 1n;
    this.#last = last >= this.#end && this.#hasBroadcast ? this.#end - 1n : last;
    this.#cursor = this.#first - 1n;
    const gatewayOffset = this.#offset(gateway);
    if (gatewayOffset !== undefined) this.#taken.add(gatewayOffset);
  }

  /** The next free address in CIDR form, or `undefined` when all are taken. */
  allocate(): string | undefined {
    const count = this.#last - this.#first + 1n;
    for (let tries = 0n; tries < count; tries += 1n) {
      this.#cursor = this.#cursor >= this.#last ? this.#first : this.#cursor + 1n;
      if (this.#taken.has(this.#cursor)) continue;
      this.#taken.add(this.#cursor);
      return this.#print(this.#cursor);
    }
    return undefined;
  }

  /** Marks an address as taken, after a new leader read it from the store. False when it already is. */
  claim(address: string): boolean {
    const offset = this.#offset(withoutPrefix(address));
    if (offset === undefined || this.#taken.has(offset)) return false;
    this.#taken.add(offset);
    const within = offset < this.#last ? offset : this.#last;
    if (within > this.#cursor) this.#cursor = within;
    return true;
  }

  /**
   * The address that somebody asked for, in CIDR form, or `undefined` when it is taken; the subnet's own are nobody's.
   *
   * @param address - No prefix length.
   */
  take(address: string): string | undefined {
    const offset = this.#offset(address);
    if (offset === undefined || offset === 0n || this.#taken.has(offset)) return undefined;
    if (offset === this.#end && this.#hasBroadcast) return undefined;
    this.#taken.add(offset);
    return this.#print(offset);
  }

  /** Whether the address, with or without prefix length, is one of the subnet. */
  holds(address: string): boolean {
    return this.#offset(withoutPrefix(address)) !== undefined;
  }

  release(address: string): void {
    const offset = this.#offset(withoutPrefix(address));
    if (offset !== undefined) this.#taken.delete(offset);
  }

  /** In IPv6 the last address is one like any other. */
  get #hasBroadcast(): boolean {
    return this.bits === 32;
  }

  #offset(address: string): bigint | undefined {
    const ip = parseIp(address);
    if (ip?.bits !== this.bits) return undefined;
    const offset = ip.value - this.#base;
    return offset >= 0n && offset <= this.#end ? offset : undefined;
  }

  #print(offset: bigint): string {
    return `${printIp({ bits: this.bits, value: this.#base + offset })}/${this.#prefixBits}`;
  }
}

function sizeOf({ bits, prefixBits }: CidrBlock): bigint {
  return 1n << BigInt(bits - prefixBits);
}
