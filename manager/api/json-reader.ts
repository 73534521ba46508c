/**
 * Reads JSON as lenient as Go clients expect: names match in any case, unknown ones are ignored, null
 * counts as absent. A value of the wrong kind is refused with its path.
 */
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";

export interface JsonObject {
  has(name: string): boolean;
  /** "" when absent. */
  text(name: string): string;
  /** Undefined when absent or empty. */
  optionalText(name: string): string | undefined;
  /** False when absent. */
  flag(name: string): boolean;
  optionalFlag(name: string): boolean | undefined;
  /** 0 when absent; refused when JavaScript cannot hold it exactly. */
  integer(name: string): number;
  optionalInteger(name: string): number | undefined;
  /** An integer that is not negative. */
  optionalCount(name: string): number | undefined;
  number(name: string): number;
  /** Integer nanoseconds on the wire, milliseconds here (with fraction). */
  optionalMs(name: string): number | undefined;
  texts(name: string): string[];
  labels(name: string): Labels;
  /** Empty when absent. */
  object(name: string): JsonObject;
  optionalObject(name: string): JsonObject | undefined;
  objects(name: string): JsonObject[];
  list(name: string): readonly unknown[];
}

/**
 * @param value - Whatever `JSON.parse` gave.
 * @param path - Where it stands in the body, for messages; "" for the body itself.
 */
export function jsonObject(value: unknown, path: string): JsonObject {
  if (!isRecord(value)) throw wrongKind(path, "an object", value);
  const fields = new Map<string, unknown>();
  for (const [name, field] of Object.entries(value)) {
    if (field !== null) fields.set(name.toLowerCase(), field);
  }
  const get = (name: string): unknown => fields.get(name.toLowerCase());
  const at = (name: string): string => (path === "" ? name : `${path}.${name}`);
  const anyInteger = (name: string): number | undefined => {
    const found = get(name);
    if (found === undefined) return undefined;
    if (typeof found !== "number" || !Number.isInteger(found)) throw wrongKind(at(name), "an integer", found);
    return found;
  };

  const reader: JsonObject = {
    has: (name) => get(name) !== undefined,
    text(name) {
      const found = get(name) ?? "";
      if (typeof found !== "string") throw wrongKind(at(name), "a string", found);
      return found;
    },
    optionalText: (name) => reader.text(name) || undefined,
    flag: (name) => reader.optionalFlag(name) ?? false,
    optionalFlag(name) {
      const found = get(name);
      if (found !== undefined && typeof found !== "boolean") throw wrongKind(at(name), "a boolean", found);
      return found;
    },
    integer: (name) => reader.optionalInteger(name) ?? 0,
    optionalInteger(name) {
      const found = anyInteger(name);
      if (found !== undefined && !Number.isSafeInteger(found)) {
        throw invalid(`invalid JSON: ${at(name)} is ${found}: at most 2^53-1 is supported`);
      }
      return found;
    },
    optionalCount(name) {
      const found = reader.optionalInteger(name);
      if (found !== undefined && found < 0) {
        throw invalid(`invalid JSON: ${at(name)} is ${found}: it cannot be negative`);
      }
      return found;
    },
    number(name) {
      const found = get(name) ?? 0;
      if (typeof found !== "number") throw wrongKind(at(name), "a number", found);
      return found;
    },
    optionalMs(name) {
      const nanoseconds = anyInteger(name);
      if (nanoseconds === undefined) return undefined;
      if (Math.abs(nanoseconds) >= 2 ** 63)
        throw invalid(`invalid JSON: ${at(name)} is ${nanoseconds}: at most 2^63-1 nanoseconds are possible`);
      const ms = nanoseconds / nanosecondsPerMs;
      // Of so many nanoseconds the last digits are not kept; that a client meant them is less likely than whole milliseconds.
      return Number.isSafeInteger(nanoseconds) ? ms : Math.round(ms);
    },
    texts(name) {
      return reader.list(name).map((each) => {
        if (typeof each !== "string") throw wrongKind(`${at(name)}[]`, "a string", each);
        return each;
      });
    },
    labels(name) {
      const found = get(name) ?? {};
      if (!isRecord(found)) throw wrongKind(at(name), "an object of strings", found);
      return Object.fromEntries(
        Object.entries(found).map(([key, each]) => {
          if (each !== null && typeof each !== "string")
            throw wrongKind(at(`${name}.${key}`), "a string", each);
          return [key, each ?? ""];
        }),
      );
    },
    object: (name) => jsonObject(get(name) ?? {}, at(name)),
    optionalObject: (name) => (get(name) === undefined ? undefined : reader.object(name)),
    objects: (name) =>
      reader.list(name).map((each, index) => jsonObject(each ?? {}, `${at(name)}[${index}]`)),
    list(name) {
      const found = get(name) ?? [];
      if (!Array.isArray(found)) throw wrongKind(at(name), "an array", found);
      return found;
    },
  };
  return reader;
}

export const nanosecondsPerMs = 1_000_000;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrongKind(path: string, wanted: string, found: unknown): ClusterError {
  const kind = Array.isArray(found) ? "an array" : found === null ? "null" : typeof found;
  return invalid(`invalid JSON: ${path === "" ? "body" : path} must be ${wanted}, got ${kind}`);
}

function invalid(message: string): ClusterError {
  return new ClusterError("invalid-argument", message);
}
