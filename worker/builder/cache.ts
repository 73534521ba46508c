/** What buildah says of its cache. Pure. */

/** For `buildah images --format`; the bar at the end keeps columns from being padded. */
export const stepFormat = "{{.ID}}|{{.CreatedAtRaw.Unix}}|";

/** Ids of what was made before a time, or of all, out of lines of `stepFormat`. */
export function stepsBefore(listing: string, beforeMs: number | undefined): string[] {
  return listing.split("\n").flatMap((line) => {
    const [, id = "", madeAtS = ""] = /^(?:sha256:)?([0-9a-f]{64})\|(\d+)\|/.exec(line) ?? [];
    if (id === "") return [];
    return beforeMs === undefined || Number(madeAtS) * 1_000 < beforeMs ? [id] : [];
  });
}
