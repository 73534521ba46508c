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
