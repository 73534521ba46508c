/** Histories that once broke a rule, and what it was. */
export const clusterSeeds: readonly { readonly seed: number; readonly found: string }[] = [];
