import { type Configuration, type Entry, type MemberId, type SnapshotMeta, invariant } from "./message.ts";
import { membersOf } from "./quorum.ts";

/** One step of membership; only one may be uncommitted at a time (thesis §4.1). */
export type ConfChange =
  | { readonly kind: "add-voter"; readonly id: MemberId; readonly context: string }
  | { readonly kind: "add-learner"; readonly id: MemberId; readonly context: string }
  | { readonly kind: "promote"; readonly id: MemberId }
  | { readonly kind: "remove"; readonly id: MemberId }
  | { readonly kind: "update"; readonly id: MemberId; readonly context: string };

export type ConfChangeResult =
  | { readonly kind: "changed"; readonly configuration: Configuration }
  | { readonly kind: "refused"; readonly text: string };

/** The configuration after `change`, or why that is not possible. */
export function changeConfiguration(configuration: Configuration, change: ConfChange): ConfChangeResult {
  const { voters, learners, contexts } = configuration;
  const known = membersOf(configuration).has(change.id);
  switch (change.kind) {
    case "add-voter":
      if (known) return refused(`member ${change.id} is there already`);
      return changed({ voters: [...voters, change.id], contexts: withContext(contexts, change) });
    case "add-learner":
      if (known) return refused(`member ${change.id} is there already`);
      return changed({ learners: [...learners, change.id], contexts: withContext(contexts, change) });
    case "promote":
      if (!learners.includes(change.id)) return refused(`member ${change.id} is not a learner`);
      return changed({
        voters: [...voters, change.id],
        learners: learners.filter((id) => id !== change.id),
      });
    case "remove": {
      if (!known) return refused(`member ${change.id} is not in the group`);
      if (voters.length === 1 && voters[0] === change.id) {
        return refused(`member ${change.id} is the last voter and cannot be removed`);
      }
      const { [change.id]: _, ...rest } = contexts;
      return changed({
        voters: voters.filter((id) => id !== change.id),
        learners: learners.filter((id) => id !== change.id),
        contexts: rest,
      });
    }
    case "update":
      if (!known) return refused(`member ${change.id} is not in the group`);
      return changed({ contexts: withContext(contexts, change) });
  }

  function changed(parts: Partial<Configuration>): ConfChangeResult {
    return { kind: "changed", configuration: { ...configuration, ...parts } };
  }
}

function refused(text: string): ConfChangeResult {
  return { kind: "refused", text };
}

function withContext(
  contexts: Readonly<Record<MemberId, string>>,
  { id, context }: { id: MemberId; context: string },
): Readonly<Record<MemberId, string>> {
  return { ...contexts, [id]: context };
}

/** Payload of a `config` entry: the whole configuration, so that any one entry is enough to know it. */
export function encodeConfiguration(configuration: Configuration): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(configuration));
}

/** @throws {Error} when the payload is not what {@link encodeConfiguration} makes. */
export function decodeConfiguration(data: Uint8Array): Configuration {
  const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  if (!isConfiguration(value)) throw new Error("configuration entry: unexpected shape");
  return value;
}

function isConfiguration(value: unknown): value is Configuration {
  if (typeof value !== "object" || value === null) return false;
  const { voters, outgoing, learners, contexts } = value as Partial<Record<keyof Configuration, unknown>>;
  return (
    [voters, outgoing, learners].every(
      (ids) => Array.isArray(ids) && ids.every((id) => typeof id === "string"),
    ) &&
    typeof contexts === "object" &&
    contexts !== null &&
    Object.values(contexts).every((context) => typeof context === "string")
  );
}

/** First entry of a new group: its founding members. Persist it with term 1 and commit 1 before the first start. */
export function bootstrapEntry(configuration: Configuration): Entry {
  return { term: 1, index: 1, kind: "config", data: encodeConfiguration(configuration) };
}

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
