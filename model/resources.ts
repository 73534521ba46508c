/** What a task reserves or a node offers. Zero means "none asked for". */
export interface Resources {
  /** Billionths of a core. */
  readonly nanoCpus: number;
  readonly memoryBytes: number;
  /** Discrete generic resources, kind → count. */
  readonly generic: Readonly<Record<string, number>>;
}

export const noResources: Resources = { nanoCpus: 0, memoryBytes: 0, generic: {} };

export function addResources(a: Resources, b: Resources): Resources {
  return combine(a, b, 1);
}

export function subtractResources(a: Resources, b: Resources): Resources {
  return combine(a, b, -1);
}

/** True when every part of `wanted` is available; parts that are not asked for never matter. */
export function fits(wanted: Resources, available: Resources): boolean {
  if (wanted.nanoCpus > 0 && wanted.nanoCpus > available.nanoCpus) return false;
  if (wanted.memoryBytes > 0 && wanted.memoryBytes > available.memoryBytes) return false;
  return Object.entries(wanted.generic).every(([kind, count]) => count <= (available.generic[kind] ?? 0));
}

function combine(a: Resources, b: Resources, sign: 1 | -1): Resources {
  const generic: Record<string, number> = { ...a.generic };
  for (const [kind, count] of Object.entries(b.generic)) generic[kind] = (generic[kind] ?? 0) + sign * count;
  return {
    nanoCpus: a.nanoCpus + sign * b.nanoCpus,
    memoryBytes: a.memoryBytes + sign * b.memoryBytes,
    generic,
  };
}
