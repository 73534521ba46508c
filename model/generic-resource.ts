/** Generic resources: what a node offers beyond CPU and memory, by count (`ssd=3`) or by name (`gpu=UUID1`). */
import type { NodeResources, Resources } from "./resources.ts";

/** Generic resources of one kind that a task holds. */
export interface GenericClaim {
  readonly kind: string;
  readonly count: number;
  /** Which ones, `count` of them; absent where the node only counts them. */
  readonly names?: readonly string[];
}

export type GenericOffer = Pick<NodeResources, "generic"> & Required<Pick<NodeResources, "named">>;

const kindPattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/**
 * Reads `kind=value` pairs, several in one text parted by commas: a whole number is a count, anything else the
 * name of one piece, such as `["ssd=3", "gpu=UUID1,gpu=UUID2"]`.
 *
 * @throws {Error} naming the pair and what is accepted; so for a kind that is given both ways or twice.
 */
export function parseGenericResources(texts: readonly string[]): GenericOffer {
  const generic: Record<string, number> = {};
  const named: Record<string, string[]> = {};
  for (const pair of texts.flatMap((text) => text.split(","))) {
    const [kind = "", value = "", ...rest] = pair.split("=").map((part) => part.trim());
    const refuse = (why: string): Error =>
      new Error(
        `invalid generic resource ${JSON.stringify(pair)}: ${why}, such as gpu=2 or gpu=UUID1,gpu=UUID2`,
      );
    if (!kindPattern.test(kind) || value === "" || rest.length > 0)
      throw refuse("a kind and a value are expected");
    const names = named[kind];
    if (/^[+-]?\d+$/.test(value)) {
      const count = Number(value);
      if (!Number.isSafeInteger(count) || count < 0) throw refuse("a count of 0 or more is expected");
      if (names !== undefined) throw refuse("a kind has either a count or names");
      if (Object.hasOwn(generic, kind)) throw refuse("a kind has one count");
      generic[kind] = count;
    } else {
      if (names === undefined && Object.hasOwn(generic, kind))
        throw refuse("a kind has either a count or names");
      if (names?.includes(value) === true) throw refuse("each name is given once");
      named[kind] = [...(names ?? []), value];
      generic[kind] = (generic[kind] ?? 0) + 1;
    }
  }
  return { generic, named };
}

/**
 * Chooses what a task gets of a node's generic resources; names are taken in the order the node gives them.
 *
 * @param held - What other tasks on the node hold; of a name that the node no longer has nothing is said.
 * @returns `undefined` when there is not enough left of a kind.
 */
export function claimGeneric(
  wanted: Resources["generic"],
  offer: NodeResources | undefined,
  held: readonly GenericClaim[],
): readonly GenericClaim[] | undefined {
  const claims: GenericClaim[] = [];
  for (const [kind, count] of Object.entries(wanted)) {
    if (count <= 0) continue;
    const ofKind = held.filter((claim) => claim.kind === kind);
    const heldCount = ofKind.reduce((sum, claim) => sum + claim.count, 0);
    if (heldCount + count > (offer?.generic[kind] ?? 0)) return undefined;
    const taken = new Set(ofKind.flatMap(({ names }) => names ?? []));
    const all = offer?.named?.[kind];
    if (all === undefined) claims.push({ kind, count });
    // Every claim hides at most as many names as it counts, so enough are left.
    else claims.push({ kind, count, names: all.filter((name) => !taken.has(name)).slice(0, count) });
  }
  return claims;
}

/** True while the node still has every name that the task was given. */
export function stillOffered(claims: readonly GenericClaim[], offer: NodeResources): boolean {
  return claims.every(({ kind, names }) => {
    const all = offer.named?.[kind];
    return names === undefined || names.every((name) => all?.includes(name) === true);
  });
}

/** What a container is told of its claims: `DOCKER_RESOURCE_GPU=UUID1,UUID2`, or the count. */
export function genericEnvironment(claims: readonly GenericClaim[]): string[] {
  return claims.map(
    ({ kind, count, names }) => `DOCKER_RESOURCE_${kind.toUpperCase()}=${names?.join(",") ?? String(count)}`,
  );
}
