import { parseCidr, parseIp, withoutPrefix } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";

/** The addresses of a network: a further subnet gives some once those before it are full. */
export class NetworkPool {
  readonly #pools: readonly AddressPool[];

  /** @throws {ClusterError} as `AddressPool`. */
  constructor(subnets: readonly PoolSubnet[]) {
    this.#pools = subnets.map((subnet) => new AddressPool(subnet));
  }

  /** The next free address in CIDR form, or `undefined` when all are taken. */
  allocate(): string | undefined {
    for (const pool of this.#pools) {
      const address = pool.allocate();
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
 * The addresses of one IPv4 subnet. They are given out in turn, so that a freed one rests as long as
 * possible: peers may still hold its neighbour entries and open connections.
 */
export class AddressPool {
  readonly #base: number;
  readonly #prefixBits: number;
  /** Usable offsets, both inclusive; network and broadcast address are outside. */
  readonly #first: number;
  readonly #last: number;
  readonly #taken = new Set<number>();
  #cursor: number;

  /** @throws {ClusterError} `invalid-argument` when the texts are no IPv4 block and address. */
  constructor({ subnet, gateway, range }: PoolSubnet) {
    const block = parseCidr(subnet);
    const part = range === undefined || range === "" ? block : parseCidr(range);
    if (block?.bits !== 32 || part?.bits !== 32) {
      throw new ClusterError("invalid-argument", `invalid subnet ${subnet}: an IPv4 block is accepted`);
    }
    this.#base = Number(block.base);
    this.#prefixBits = block.prefixBits;
    const size = 2 ** (32 - block.prefixBits);
    const start = Number(part.base) - this.#base;
    this.#first = Math.max(1, start);
    this.#last = Math.min(size - 2, start + 2 ** (32 - part.prefixBits) - 1);
    this.#cursor = this.#first - 1;
    const gatewayOffset = this.#offset(gateway);
    if (gatewayOffset !== undefined) this.#taken.add(gatewayOffset);
  }

  /** The next free address in CIDR form, or `undefined` when all are taken. */
  allocate(): string | undefined {
    const count = this.#last - this.#first + 1;
    for (let tries = 0; tries < count; tries += 1) {
      this.#cursor = this.#cursor >= this.#last ? this.#first : this.#cursor + 1;
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
    this.#cursor = Math.max(this.#cursor, Math.min(offset, this.#last));
    return true;
  }

  /**
   * The address that somebody asked for, in CIDR form, or `undefined` when it is taken; the subnet's own two are nobody's.
   *
   * @param address - No prefix length.
   */
  take(address: string): string | undefined {
    const offset = this.#offset(address);
    const last = 2 ** (32 - this.#prefixBits) - 1;
    if (offset === undefined || offset === 0 || offset === last || this.#taken.has(offset)) return undefined;
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

  #offset(address: string): number | undefined {
    const ip = parseIp(address);
    if (ip?.bits !== 32) return undefined;
    const offset = Number(ip.value) - this.#base;
    return offset >= 0 && offset < 2 ** (32 - this.#prefixBits) ? offset : undefined;
  }

  #print(offset: number): string {
    const value = this.#base + offset;
    const bytes = [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256);
    return `${bytes.join(".")}/${this.#prefixBits}`;
  }
}
