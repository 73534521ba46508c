import { type Entry, RaftInvariantError } from "raft-ts";
import { ClusterError, errorText, outcomeUnknownText } from "../../model/errors.ts";
import { pack } from "./pack.ts";
import { type ThreadOutput, noProposal } from "./port.ts";

/** Proposals under way, by the index they were given. */
export class Proposals {
  readonly #pending = new Map<number, { readonly id: number; readonly term: number }>();

  /** @returns the proposal of an earlier leadership whose index this one takes; nobody will answer it. */
  add(id: number, { index, term }: { index: number; term: number }): number | undefined {
    const displaced = this.#pending.get(index)?.id;
    this.#pending.set(index, { id, term });
    return displaced;
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

  /** The leaderships before this term are gone: nobody will tell what becomes of their proposals. */
  abandonBefore(firstTerm: number): readonly number[] {
    const ids: number[] = [];
    for (const [index, { id, term }] of this.#pending) {
      if (term >= firstTerm) continue;
      this.#pending.delete(index);
      ids.push(id);
    }
    return ids;
  }
}

export function leadershipLost(): ClusterError {
  return new ClusterError("no-leader", outcomeUnknownText);
}

/** What ends a member, as it is told. */
export function asClusterError(reason: unknown): ClusterError {
  if (reason instanceof ClusterError) return reason;
  if (reason instanceof RaftInvariantError) {
    return new ClusterError("data-loss", `the raft member stopped to protect its data: ${reason.message}`, {
      cause: reason,
    });
  }
  return new ClusterError("internal", `the raft member stopped: ${errorText(reason)}`, { cause: reason });
}

export function diskFull(directory: string): ClusterError {
  return new ClusterError(
    "resource-exhausted",
    `the change was not proposed: the disk of this manager is full (${directory}); free some space, writes then go on by ` +
      "themselves",
  );
}

interface ReadBatch<Asker> {
  readonly askers: readonly Asker[];
  age: number;
}

/**
 * Reads, in batches: while one batch waits for its index, new reads gather in the next. Ages are
 * in ticks; a batch is asked for again when no answer came, and given up at the bound.
 */
export class Reads<Asker> {
  #waiting: { readonly askers: Asker[]; age: number } | undefined;
  readonly #asked = new Map<number, ReadBatch<Asker> & { sinceAsked: number }>();
  #nextCtx: number;
  readonly #limits: { readonly retryTicks: number; readonly boundTicks: number; readonly inFlight: number };

  /**
   * @param firstCtx - Drawn by chance: an answer to a question from before a restart may still come, and must not be
   *   taken for the answer to one asked since.
   */
  constructor(limits: { retryTicks: number; boundTicks: number; inFlight: number }, firstCtx: number) {
    this.#limits = limits;
    this.#nextCtx = firstCtx;
  }

  add(asker: Asker): void {
    this.#waiting ??= { askers: [], age: 0 };
    this.#waiting.askers.push(asker);
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

  answered(ctx: number): readonly Asker[] {
    const batch = this.#asked.get(ctx);
    this.#asked.delete(ctx);
    return batch?.askers ?? [];
  }

  /** The leader changed: ask again, whoever leads now. */
  askAgain(): void {
    for (const [ctx, batch] of this.#asked) this.#requeue(ctx, batch);
  }

  /** @returns reads that have waited too long. */
  tick(): readonly Asker[] {
    const expired: Asker[] = [];
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
      for (const asker of batch.askers) expired.push(asker);
    }
    if (this.#waiting !== undefined) {
      this.#waiting.age += 1;
      if (this.#waiting.age >= this.#limits.boundTicks) {
        for (const asker of this.#waiting.askers) expired.push(asker);
        this.#waiting = undefined;
      }
    }
    return expired;
  }

  #requeue(ctx: number, { askers, age }: ReadBatch<Asker>): void {
    this.#asked.delete(ctx);
    const waiting = this.#waiting;
    this.#waiting = {
      askers: [...askers, ...(waiting?.askers ?? [])],
      age: Math.max(age, waiting?.age ?? 0),
    };
  }
}

/** One output for a run of committed entries: their data in a fresh buffer, so that it can be transferred. */
export function packCommitted(
  entries: readonly Entry[],
  proposalOf: (entry: Entry) => number | undefined,
): Omit<ThreadOutput & { kind: "committed" }, "acknowledge"> {
  const dataEntries = entries.filter(({ kind }) => kind === "data");
  return {
    kind: "committed",
    index: entries.at(-1)?.index ?? 0,
    indexes: dataEntries.map(({ index }) => index),
    terms: dataEntries.map(({ term }) => term),
    proposalIds: dataEntries.map((entry) => proposalOf(entry) ?? noProposal),
    ...pack(dataEntries.map(({ data }) => data)),
  };
}
