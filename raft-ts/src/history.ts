import { decodeConfiguration } from "./confchange.ts";
import { type Configuration, type Entry, type MemberId, type SnapshotMeta, invariant } from "./message.ts";

/**
 * Every configuration the log holds, newest last. A configuration counts from the moment its entry is
 * appended, committed or not (thesis §4.1), so truncating the log must bring the one before it back.
 */
export class ConfigurationHistory {
  #steps: { readonly index: number; readonly configuration: Configuration }[];

  constructor(snapshot: SnapshotMeta) {
    this.#steps = [{ index: snapshot.index, configuration: snapshot.configuration }];
  }

  get latest(): Configuration {
    return this.#last().configuration;
  }

  /** Index of the entry that set {@link latest}. */
  get latestIndex(): number {
    return this.#last().index;
  }

  /** The one in force at `index`; the oldest known when `index` is older still. */
  at(index: number): Configuration {
    return (this.#steps.findLast((step) => step.index <= index) ?? this.#first()).configuration;
  }

  /** Whether the member is known to have left for good: its removal is committed. */
  hasDeparted(id: MemberId, commit: number): boolean {
    return this.at(commit).departed?.includes(id) ?? false;
  }

  appended(entries: readonly Entry[]): void {
    for (const { kind, index, data } of entries) {
      if (kind !== "config" || index <= this.latestIndex) continue;
      this.#steps.push({ index, configuration: decodeConfiguration(data) });
    }
  }

  /** Entries from `index` on are gone. */
  truncated(index: number): void {
    this.#steps = this.#steps.filter((step, position) => position === 0 || step.index < index);
  }

  /** Nobody asks for configurations older than the one in force at `index` any more. */
  forgetBefore(index: number): void {
    const keep = this.#steps.findLastIndex((step) => step.index <= index);
    if (keep > 0) this.#steps = this.#steps.slice(keep);
  }

  restored(snapshot: SnapshotMeta): void {
    this.#steps = [{ index: snapshot.index, configuration: snapshot.configuration }];
  }

  #last(): { readonly index: number; readonly configuration: Configuration } {
    const last = this.#steps.at(-1);
    invariant(last !== undefined, () => "no configuration is known");
    return last;
  }

  #first(): { readonly index: number; readonly configuration: Configuration } {
    const first = this.#steps[0];
    invariant(first !== undefined, () => "no configuration is known");
    return first;
  }
}
