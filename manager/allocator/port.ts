import type { PortProtocol } from "../../model/service.ts";
import { portKey } from "../../model/task.ts";

/** Where published ports come from that a user left to the system; both inclusive. */
export const firstDynamicPort = 30_000;
export const lastDynamicPort = 32_767;

/** Who has which published port of the whole cluster. */
export class PortBook<Owner extends string> {
  /** By "<number>/<protocol>". */
  readonly #owners = new Map<string, Owner>();
  readonly #cursors = new Map<PortProtocol, number>();

  ownerOf(protocol: PortProtocol, port: number): Owner | undefined {
    return this.#owners.get(portKey({ protocol, publishedPort: port }));
  }

  /** @returns Whether it was free, or the owner's already. */
  claim(protocol: PortProtocol, port: number, owner: Owner): boolean {
    const holder = this.ownerOf(protocol, port);
    if (holder !== undefined) return holder === owner;
    this.#owners.set(portKey({ protocol, publishedPort: port }), owner);
    return true;
  }

  /**
   * The next free one of the dynamic range, in turn, so that a freed one rests as long as possible.
   *
   * @param onHosts - Keys of ports that services open on their own hosts, where it could not be open as well.
   */
  pick(protocol: PortProtocol, owner: Owner, onHosts: ReadonlySet<string>): number | undefined {
    const count = lastDynamicPort - firstDynamicPort + 1;
    let cursor = this.#cursors.get(protocol) ?? lastDynamicPort;
    for (let tries = 0; tries < count; tries += 1) {
      cursor = cursor >= lastDynamicPort ? firstDynamicPort : cursor + 1;
      const key = portKey({ protocol, publishedPort: cursor });
      if (this.#owners.has(key) || onHosts.has(key)) continue;
      this.#cursors.set(protocol, cursor);
      this.#owners.set(key, owner);
      return cursor;
    }
    return undefined;
  }

  release(protocol: PortProtocol, port: number, owner: Owner): void {
    if (this.ownerOf(protocol, port) === owner)
      this.#owners.delete(portKey({ protocol, publishedPort: port }));
  }
}
