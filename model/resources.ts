/** What a task reserves. Zero means "none asked for". */
export interface Resources {
  /** Billionths of a core. */
  readonly nanoCpus: number;
  readonly memoryBytes: number;
  /** Generic resources, kind → count. */
  readonly generic: Readonly<Record<string, number>>;
}

/** What a node offers. */
export interface NodeResources extends Resources {
  /** Kinds whose pieces have names, each once, such as `{ gpu: ["UUID1", "UUID2"] }`; `generic` counts them. */
  readonly named?: Readonly<Record<string, readonly string[]>>;
}

export const noResources: Resources = { nanoCpus: 0, memoryBytes: 0, generic: {} };

export function subtractResources(a: Resources, b: Resources): Resources {
  const generic: Record<string, number> = { ...a.generic };
  for (const [kind, count] of Object.entries(b.generic)) generic[kind] = (generic[kind] ?? 0) - count;
  return { nanoCpus: a.nanoCpus - b.nanoCpus, memoryBytes: a.memoryBytes - b.memoryBytes, generic };
}

/** True when every part of `wanted` is available; parts that are not asked for never matter. */
export function fits(wanted: Resources, available: Resources): boolean {
  if (wanted.nanoCpus > 0 && wanted.nanoCpus > available.nanoCpus) return false;
  if (wanted.memoryBytes > 0 && wanted.memoryBytes > available.memoryBytes) return false;
  return Object.entries(wanted.generic).every(([kind, count]) => count <= (available.generic[kind] ?? 0));
}
