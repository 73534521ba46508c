/** Prints values as clients of the Engine API read them. `undefined` fields vanish in the JSON text. */
import type { Meta } from "../../model/meta.ts";
import { apiTime } from "../../runtime/http.ts";
import { nanosecondsPerMs } from "./json-reader.ts";

export type Json = { readonly [name: string]: unknown };

/** Milliseconds to integer nanoseconds. */
export function printNs(ms: number): number {
  return Math.round(ms * nanosecondsPerMs);
}

/** The same, and 0 or unknown vanishes, as an unset duration does. */
export function printOptionalNs(ms: number | undefined): number | undefined {
  return ms === undefined || ms === 0 ? undefined : printNs(ms);
}

/** What stands at the head of every object of the cluster. */
export function printMeta({ id, meta }: { readonly id: string; readonly meta: Meta }): Json {
  return {
    ID: id,
    Version: { Index: meta.version },
    CreatedAt: apiTime(meta.createdAtMs),
    UpdatedAt: apiTime(meta.updatedAtMs),
  };
}

/** An empty string, list or object vanishes, and so do 0 and false. */
export function unlessEmpty<Value>(value: Value): Value | undefined {
  if (value === undefined || value === null || value === "" || value === 0 || value === false)
    return undefined;
  if (Array.isArray(value)) return value.length === 0 ? undefined : value;
  if (typeof value === "object" && Object.values(value).every((each) => each === undefined)) return undefined;
  return value;
}
