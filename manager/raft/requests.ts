import type { Entry } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import type { PackedEntry, ThreadOutput } from "./port.ts";

export const noLeaderText =
  "The swarm does not have a leader. It's possible that too few managers are online. " +
  "Make sure more than half of the managers are online.";

/** Proposals under way, by the index they were given. */
export class Proposals {
  #pending = new Map<number, { readonly id: number; readonly term: number }>();

  add(id: number, { index, term }: { index: number; term: number }): void {
    this.#pending.set(index, { id, term });
  }

  /** Who proposed this entry; `lost` when another entry took the place of the proposal. */
  settle({
    index,
    term,
  }: Entry): { readonly id: number; readonly outcome: "committed" | "lost" } | undefined {
    const pending = this.#pending.get(index);
    if (pending === undefined) return undefined;
    this.#pending.delete(index);
    return { id: pending.id, outcome: pending.term === term ? "committed" : "lost" };
  }

  /** Leadership is gone: nobody will tell what becomes of them. */
  abandon(): readonly number[] {
    const ids = [...this.#pending.values()].map(({ id }) => id);
    this.#pending = new Map();
    return ids;
  }
}

export function leadershipLost(): ClusterError {
  return new ClusterError(
    "no-leader",
    "this manager lost its leadership before the change was committed: its outcome is unknown",
  );
}

interface ReadBatch {
  readonly ids: readonly number[];
  age: number;
}

/**
 * Reads from the main thread, in batches: while one batch waits for its index, new reads gather in the next. Ages are
 * in ticks; a batch is asked for again when no answer came, and given up at the bound.
 */
export class Reads {
  #waiting: ReadBatch | undefined;
  readonly #asked = new Map<number, ReadBatch & { sinceAsked: number }>();
  #nextCtx = 1;
  readonly #limits: { readonly retryTicks: number; readonly boundTicks: number; readonly inFlight: number };

  constructor(limits: { retryTicks: number; boundTicks: number; inFlight: number }) {
    this.#limits = limits;
  }

  add(id: number): void {
    this.#waiting = { ids: [...(this.#waiting?.ids ?? []), id], age: this.#waiting?.age ?? 0 };
  }

  /** Puts what waits to the core through `ask`, which says whether it was taken. */
  ask(ask: (ctx: number) => boolean): void {
    if (this.#waiting === undefined || this.#asked.size >= this.#limits.inFlight) return;
    const ctx = this.#nextCtx;
    this.#nextCtx += 1;
    if (!ask(ctx)) return;
    this.#asked.set(ctx, { ...this.#waiting, sinceAsked: 0 });
    this.#waiting = undefined;
  }

  answered(ctx: number): readonly number[] {
    const batch = this.#asked.get(ctx);
    this.#asked.delete(ctx);
    return batch?.ids ?? [];
  }

  /** The leader changed: ask again, whoever leads now. */
  askAgain(): void {
    for (const [ctx, batch] of this.#asked) this.#requeue(ctx, batch);
  }

  /** @returns reads that have waited too long. */
  tick(): readonly number[] {
    const expired: number[] = [];
    for (const [ctx, batch] of this.#asked) {
      batch.age += 1;
      batch.sinceAsked += 1;
      if (batch.age < this.#limits.boundTicks && batch.sinceAsked >= this.#limits.retryTicks) {
        this.#requeue(ctx, batch);
      }
    }
    for (const [ctx, batch] of this.#asked) {
      if (batch.age < this.#limits.boundTicks) continue;
      this.#asked.delete(ctx);
      expired.push(...batch.ids);
    }
    if (this.#waiting !== undefined) {
      this.#waiting.age += 1;
      if (this.#waiting.age >= this.#limits.boundTicks) {
        expired.push(...this.#waiting.ids);
        this.#waiting = undefined;
      }
    }
    return expired;
  }

  #requeue(ctx: number, { ids, age }: ReadBatch): void {
    this.#asked.delete(ctx);
    const waiting = this.#waiting;
    this.#waiting = { ids: [...ids, ...(waiting?.ids ?? [])], age: Math.max(age, waiting?.age ?? 0) };
  }
}

/** One output for a run of committed entries: their data in a fresh buffer, so that it can be transferred. */
export function packCommitted(
  entries: readonly Entry[],
  proposalOf: (entry: Entry) => number | undefined,
): ThreadOutput & { kind: "committed" } {
  const dataEntries = entries.filter(({ kind }) => kind === "data");
  const data = new Uint8Array(dataEntries.reduce((sum, entry) => sum + entry.data.byteLength, 0));
  let offset = 0;
  const packed = dataEntries.map((entry): PackedEntry => {
    data.set(entry.data, offset);
    const bytes = entry.data.byteLength;
    offset += bytes;
    return {
      index: entry.index,
      term: entry.term,
      offset: offset - bytes,
      bytes,
      proposalId: proposalOf(entry),
    };
  });
  return { kind: "committed", index: entries.at(-1)?.index ?? 0, entries: packed, data };
}
