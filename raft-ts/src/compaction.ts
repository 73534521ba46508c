/** What decides how much of the log stays behind a snapshot. All indexes are those of entries. */
export interface CompactionInput {
  /** Of the newest snapshot: nothing after it may go. */
  readonly snapshotIndex: number;
  /** The oldest entry still held. */
  readonly firstIndex: number;
  /** `status().peers` of a leader; empty elsewhere. */
  readonly peers: readonly {
    readonly match: number;
    readonly snapshot: { readonly index: number } | undefined;
    /** Not given counts as not. */
    readonly awaited?: boolean;
  }[];
  /** Entries that stay in any case, for whoever falls behind next. */
  readonly keepEntries: number;
  /** Entries that stay at most, however far a peer is behind. */
  readonly maxEntries: number;
  /** Entries at or below it go whoever needs them; `MemoryStorage.indexWithin(maxBytes)` gives it for a size. */
  readonly floorIndex: number;
  /**
   * For peers that are awaited this bound holds as well, where it is lower than those above. A snapshot of s bytes takes as long as s bytes of
   * entries, so whoever may keep as much as that of the log, and again as much for what goes wrong on the way, catches up
   * after one snapshot over any link that is faster than the log grows. With less it may be sent one after another, for ever.
   */
  readonly awaitedFloorIndex?: number;
}

/**
 * Up to which entry the log may be compacted: peers that are behind keep the tail they need, since a snapshot costs
 * more than the entries, and nobody can hold on to more than the bounds. A peer that receives a snapshot needs what
 * follows it.
 *
 * @returns An index for `MemoryStorage.compact`; `firstIndex - 1` when nothing can go.
 */
export function compactionIndex(input: CompactionInput): number {
  const { snapshotIndex, firstIndex, peers, keepEntries, maxEntries, floorIndex } = input;
  const atLeast = Math.min(snapshotIndex, Math.max(snapshotIndex - maxEntries, floorIndex));
  const atLeastAwaited = Math.min(atLeast, input.awaitedFloorIndex ?? atLeast);
  let index = Math.max(snapshotIndex - keepEntries, atLeast);
  for (const { match, snapshot, awaited = false } of peers) {
    const needs = Math.max(match, snapshot?.index ?? 0);
    index = Math.min(index, Math.max(needs, awaited ? atLeastAwaited : atLeast));
  }
  return Math.max(index, firstIndex - 1);
}
