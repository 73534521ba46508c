import type { Meta } from "../../model/meta.ts";

/**
 * What is written by one entry shares its `meta` where that is equal: tasks are created by the hundred and go up their
 * ladder together, and a million of them need not have as many.
 */
export class Metas {
  #latest: Meta | undefined;
  readonly #after = new Map<Meta, Meta>();

  /** @param before - What the object had until now; absent for a new one. */
  share(meta: Meta, before?: Meta): Meta {
    const known = before === undefined ? this.#latest : this.#after.get(before);
    if (known !== undefined && isSame(known, meta)) return known;
    if (before === undefined) this.#latest = meta;
    else this.#after.set(before, meta);
    return meta;
  }
}

function isSame(a: Meta, b: Meta): boolean {
  return (
    a.version === b.version &&
    a.updatedAtMs === b.updatedAtMs &&
    a.createdVersion === b.createdVersion &&
    a.specChangedVersion === b.specChangedVersion &&
    a.createdAtMs === b.createdAtMs
  );
}
