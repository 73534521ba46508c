import { Index, indexesOf, type Row, type Table } from "./tables.ts";

/** What both committed tables and overlays answer. */
export interface Reads<T extends Row> {
  readonly count: number;
  get(id: string): T | undefined;
  values(): Iterable<T>;
  lookup(index: string, key: string): readonly T[];
  lookupCount(index: string, key: string): number;
}

/** Reads of what is committed. */
export function tableReads<T extends Row>(table: Table<T>): Reads<T> {
  return {
    get count() {
      return table.rows.size;
    },
    get: (id) => table.rows.get(id),
    values: () => table.rows.values(),
    lookup(index, key) {
      const found: T[] = [];
      for (const id of table.index(index).ids(key)) {
        const object = table.rows.get(id);
        if (object !== undefined) found.push(object);
      }
      return found;
    },
    lookupCount: (index, key) => table.index(index).count(key),
  };
}

/** One object as an overlay has it; absent `object` means removed. */
export interface OverlayEntry<T extends Row> {
  readonly object: T | undefined;
}

/**
 * Changes on top of a committed table that nobody else sees yet. Reads see them; `undo` takes the
 * latest ones back, so that a failed transaction leaves nothing while earlier ones stay.
 */
export class Overlay<T extends Row> implements Reads<T> {
  readonly base: Table<T>;
  readonly #entries = new Map<string, OverlayEntry<T>>();
  /** Present objects of `#entries`. */
  readonly #present = new Map<string, T>();
  /** Over `#present`; each is made when it is first asked for, as most transactions ask for none. */
  readonly #indexes = new Map<string, Index<T>>();
  readonly #undo: { readonly id: string; readonly before: OverlayEntry<T> | undefined }[] = [];
  #countDelta = 0;

  constructor(base: Table<T>) {
    this.base = base;
  }

  get count(): number {
    return this.base.rows.size + this.#countDelta;
  }

  /** Grows with every write; a mark for `undo`. */
  get mark(): number {
    return this.#undo.length;
  }

  get(id: string): T | undefined {
    const entry = this.#entries.get(id);
    return entry === undefined ? this.base.rows.get(id) : entry.object;
  }

  *values(): Iterable<T> {
    for (const [id, object] of this.base.rows) if (!this.#entries.has(id)) yield object;
    yield* this.#present.values();
  }

  lookup(index: string, key: string): readonly T[] {
    const found: T[] = [];
    for (const id of this.base.index(index).ids(key)) {
      if (this.#entries.has(id)) continue;
      const object = this.base.rows.get(id);
      if (object !== undefined) found.push(object);
    }
    for (const id of this.#index(index).ids(key)) {
      const object = this.#present.get(id);
      if (object !== undefined) found.push(object);
    }
    return found;
  }

  lookupCount(index: string, key: string): number {
    if (this.#entries.size === 0) return this.base.index(index).count(key);
    const inBase = this.base.index(index);
    let count = this.#index(index).count(key);
    if (inBase.count(key) <= this.#entries.size) {
      for (const id of inBase.ids(key)) if (!this.#entries.has(id)) count += 1;
      return count;
    }
    const ids = inBase.ids(key);
    count += inBase.count(key);
    // A set answers membership at once; fewer entries than ids makes this the shorter walk.
    if (ids instanceof Set) for (const id of this.#entries.keys()) if (ids.has(id)) count -= 1;
    return count;
  }

  write(id: string, object: T | undefined): void {
    const before = this.#entries.get(id);
    this.#undo.push({ id, before });
    this.#set(id, { object });
  }

  undo(mark: number): void {
    while (this.#undo.length > mark) {
      const last = this.#undo.pop();
      if (last !== undefined) this.#set(last.id, last.before);
    }
  }

  /** Ids written since the mark, each once. */
  writtenSince(mark: number): ReadonlySet<string> {
    const ids = new Set<string>();
    for (let i = mark; i < this.#undo.length; i++) {
      const step = this.#undo[i];
      if (step !== undefined) ids.add(step.id);
    }
    return ids;
  }

  /** Final outcome per object, in order of first write. */
  entries(): ReadonlyMap<string, OverlayEntry<T>> {
    return this.#entries;
  }

  #set(id: string, entry: OverlayEntry<T> | undefined): void {
    const was = this.get(id) !== undefined;
    if (entry === undefined) this.#entries.delete(id);
    else this.#entries.set(id, entry);
    const before = this.#present.get(id);
    const object = entry?.object;
    if (object === undefined) this.#present.delete(id);
    else this.#present.set(id, object);
    for (const index of this.#indexes.values()) {
      if (object !== undefined) index.put(object, before);
      else if (before !== undefined) index.remove(before);
    }
    const is = this.get(id) !== undefined;
    this.#countDelta += Number(is) - Number(was);
  }

  #index(name: string): Index<T> {
    const known = this.#indexes.get(name);
    if (known !== undefined) return known;
    const definition = indexesOf(this.base.definition)[name];
    if (definition === undefined)
      throw new Error(`assertion failed: no index ${name} of ${this.base.definition.noun}`);
    const index = new Index(definition);
    for (const object of this.#present.values()) index.put(object, undefined);
    this.#indexes.set(name, index);
    return index;
  }
}
