import { type Configuration, type MemberId, membersOf } from "raft-ts";

/** Beyond this the memory starts over; a member that asks is then looked up anew. */
const departedLimit = 1_000;

/**
 * Who has left the group for good. Being absent from the configuration is no proof: this member may be behind, or lead
 * only in its own eyes, and whoever is told that it was removed throws its state away. Ids are never used again, so
 * what is known here stays true.
 */
export class Departures {
  #committed: ReadonlySet<MemberId> = new Set();
  readonly #departed = new Set<MemberId>();

  /** Takes note of a committed configuration; they come in log order. */
  committed(configuration: Configuration): void {
    const members = membersOf(configuration);
    for (const id of this.#committed) if (!members.has(id)) this.add(id);
    // What was so before this member started, or before it can look back.
    for (const id of configuration.departed ?? []) this.add(id);
    this.#committed = members;
  }

  /** It is certain that the member is not, and will never be, in the group. */
  add(id: MemberId): void {
    if (this.#departed.size >= departedLimit) this.#departed.clear();
    this.#departed.add(id);
  }

  has(id: MemberId): boolean {
    return this.#departed.has(id);
  }
}
