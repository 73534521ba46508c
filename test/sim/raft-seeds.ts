/**
 * Histories that broke a rule once, and what they found. A seed keeps its history as long as the simulation draws the
 * same; the bugs themselves are held by the tests beside the code that was mended.
 */
export const regressionSeeds: readonly { readonly seed: number; readonly found: string }[] = [
  { seed: 94, found: "consent to an earlier pre-vote counted for a later one" },
  { seed: 10, found: "a record whose sync had failed was read back from the cache and trusted" },
  { seed: 46, found: "a term that was only in the cache was forgotten after a power loss" },
  { seed: 307, found: "what a killed process had written and not synced was trusted by the next" },
  { seed: 509, found: "a record cut off by a full disk made the log unreadable" },
  { seed: 82, found: "writes that waited for room on the disk were never tried again" },
  { seed: 11_552, found: "an acknowledgement was sent after a later leader had replaced its entries" },
  {
    seed: 3_013_612,
    found: "a configuration that was taken back made its newcomer believe that it was removed",
  },
  { seed: 3_019_711, found: "the same, with two newcomers" },
  { seed: 950_736, found: "the last whole segment went while the next one was only being begun" },
  { seed: 3_039_101, found: "the same, by a snapshot from before it was asked for again" },
];
