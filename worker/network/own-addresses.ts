/** The addresses of IPv6 that this host has, which others are told: they must know whom they ask for a published port. */
import { canonicalIp, isIpv6 } from "../../model/address.ts";
import { ipv6AddressLimit } from "../../model/node.ts";
import type { Observed } from "./objects.ts";

export class OwnAddresses {
  #ipv6: readonly string[] = [];
  readonly #listeners = new Set<() => void>();

  /** In order; as of the last look. */
  get ipv6(): readonly string[] {
    return this.#ipv6;
  }

  /** @param observed - Its devices are those of the host, without ours. */
  note({ devices }: Pick<Observed, "devices">): void {
    const found = [...devices].filter(
      ([address, { device }]) => isIpv6(address) && canonicalIp(address) === address && device !== "lo",
    );
    const addresses = found.map(([address]) => address).toSorted();
    const ipv6 = addresses.slice(0, ipv6AddressLimit);
    if (ipv6.join() === this.#ipv6.join()) return;
    this.#ipv6 = ipv6;
    for (const listener of this.#listeners) listener();
  }

  /** Calls back after each change. @returns a function that ends the watching. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
