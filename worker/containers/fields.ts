/** Fields of a JSON document as clients write it: names in any case, null and absent are one. Pure. */
import { ClusterError } from "../../model/errors.ts";

/** Of lists and maps in one document. */
const entriesLimit = 10_000;

export class Fields {
  readonly #path: string;
  readonly #values = new Map<string, unknown>();

  /** @throws {ClusterError} `invalid-argument` for anything but an object. */
  constructor(value: unknown, path = "") {
    this.#path = path;
    if (value === null || value === undefined) return;
    if (typeof value !== "object" || Array.isArray(value)) throw wrong(path, value, "an object");
    for (const [name, each] of Object.entries(value)) {
      if (each !== null) this.#values.set(name.toLowerCase(), each);
    }
  }

  has(name: string): boolean {
    return this.#values.has(name.toLowerCase());
  }

  raw(name: string): unknown {
    return this.#values.get(name.toLowerCase());
  }

  text(name: string): string {
    const value = this.raw(name);
    if (value === undefined) return "";
    if (typeof value !== "string") throw wrong(this.#at(name), value, "a string");
    if (value.includes("\0")) throw wrong(this.#at(name), value, "a string without zero bytes");
    return value;
  }

  flag(name: string): boolean {
    return this.optionalFlag(name) ?? false;
  }

  optionalFlag(name: string): boolean | undefined {
    const value = this.raw(name);
    if (value !== undefined && typeof value !== "boolean") throw wrong(this.#at(name), value, "a boolean");
    return value;
  }

  whole(name: string): number {
    return this.optionalWhole(name) ?? 0;
  }

  optionalWhole(name: string): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !Number.isInteger(value))
      throw wrong(this.#at(name), value, "a whole number");
    return value;
  }

  /** A single string counts as a list of one. */
  texts(name: string): readonly string[] {
    return this.optionalTexts(name) ?? [];
  }

  optionalTexts(name: string): readonly string[] | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value === "string") return [value];
    return this.list(name).map((each) => {
      if (typeof each !== "string" || each.includes("\0")) throw wrong(this.#at(name), each, "a string");
      return each;
    });
  }

  list(name: string): readonly unknown[] {
    const value = this.raw(name);
    if (value === undefined) return [];
    if (!Array.isArray(value) || value.length > entriesLimit) throw wrong(this.#at(name), value, "a list");
    return value as readonly unknown[];
  }

  object(name: string): Fields {
    return new Fields(this.raw(name), this.#at(name));
  }

  objects(name: string): readonly Fields[] {
    return this.list(name).map((each) => new Fields(each, this.#at(name)));
  }

  /** Keys as they are written. */
  entries(name: string): readonly (readonly [string, unknown])[] {
    const value = this.raw(name);
    if (value === undefined) return [];
    if (typeof value !== "object" || Array.isArray(value)) throw wrong(this.#at(name), value, "an object");
    const entries = Object.entries(value as object);
    if (entries.length > entriesLimit) throw wrong(this.#at(name), "", `at most ${entriesLimit} entries`);
    return entries;
  }

  labels(name: string): Readonly<Record<string, string>> {
    return Object.fromEntries(
      this.entries(name).map(([key, value]) => {
        if (typeof value !== "string") throw wrong(this.#at(`${name}.${key}`), value, "a string");
        return [key, value];
      }),
    );
  }

  #at(name: string): string {
    return this.#path === "" ? name : `${this.#path}.${name}`;
  }
}

function wrong(path: string, value: unknown, accepted: string): ClusterError {
  const seen = JSON.stringify(value) ?? "nothing";
  const short = seen.length > 60 ? `${seen.slice(0, 60)}…` : seen;
  return new ClusterError(
    "invalid-argument",
    `invalid JSON: ${path === "" ? "the document" : path} is ${short}: ${accepted} is accepted`,
  );
}
