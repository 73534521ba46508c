/** What the store keeps with every object; written by the store alone. */
export interface Meta {
  /** Grows with every write of the object; comparable across the whole cluster. */
  readonly version: number;
  /** The version it was created with: tells which of two objects is older, whatever the clocks of leaders say. */
  readonly createdVersion: number;
  /** The version that the spec was last written with; only of objects that have a spec. */
  readonly specChangedVersion?: number;
  /** Unix milliseconds, wall clock of the leader that wrote. */
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

export type Labels = Readonly<Record<string, string>>;

/** The value of a label whose name somebody chose: "constructor" is a name like any other, and no label unless it was set. */
export function labelValue(labels: Labels, name: string): string | undefined {
  return Object.hasOwn(labels, name) ? labels[name] : undefined;
}

/** Whether a label is there, or has that value: `name` or `name=value`. */
export function hasLabel(labels: Labels, wanted: string): boolean {
  const split = wanted.indexOf("=");
  if (split === -1) return labelValue(labels, wanted) !== undefined;
  return labelValue(labels, wanted.slice(0, split)) === wanted.slice(split + 1);
}
