import type { MemberId } from "raft-ts";

/** Joiners, of whom each start of a manager makes one; most are taken in at once. */
const limit = 64;

/** Members that have spoken and are in no configuration yet, no more of them than a group would ever take in. */
export class Introductions {
  /** Oldest first. */
  readonly #ids = new Set<MemberId>();

  /** @returns Who is too many, and has to speak again to be known. */
  add(id: MemberId): MemberId | undefined {
    this.#ids.delete(id);
    this.#ids.add(id);
    const [oldest] = this.#ids;
    if (this.#ids.size <= limit || oldest === undefined) return undefined;
    this.#ids.delete(oldest);
    return oldest;
  }

  has(id: MemberId): boolean {
    return this.#ids.has(id);
  }

  /** It has a place in the configuration now. */
  delete(id: MemberId): void {
    this.#ids.delete(id);
  }
}
