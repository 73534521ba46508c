import type { ListOrMap } from "./types.ts";

/** Marks everything that belongs to a stack. */
export const namespaceLabel = "com.docker.stack.namespace";

/** Name in the cluster: as given by `name:` or `external`, else with the stack's name in front. */
export function scopedName(
  stack: string,
  key: string,
  declared:
    | { readonly name?: string; readonly external?: boolean | { readonly name?: string } | null }
    | null
    | undefined,
): string {
  if (declared?.name !== undefined) return declared.name;
  const external = declared?.external;
  if (typeof external === "object" && external !== null) return external.name ?? key;
  return external === true ? key : `${stack}_${key}`;
}

/**
 * Compose's two ways to write labels and variables as one record. A name without a value has `null`: of a variable, it means the
 * caller's.
 */
export function namedRecord(list: ListOrMap): Record<string, string | number | boolean | null> {
  if (!Array.isArray(list)) return { ...(list as Exclude<ListOrMap, readonly string[]>) };
  return Object.fromEntries(
    (list as readonly string[]).map((entry) => {
      const split = entry.indexOf("=");
      return split < 0 ? [entry, null] : [entry.slice(0, split), entry.slice(split + 1)];
    }),
  );
}

/** As texts; `null` becomes the empty one. */
export function toRecord(list: ListOrMap = {}): Record<string, string> {
  const entries = Object.entries(namedRecord(list));
  return Object.fromEntries(entries.map(([key, value]) => [key, value === null ? "" : String(value)]));
}

/** Networks of a service by key; a service without any is on the stack's own default network. */
export function networkKeys(networks: string[] | Record<string, unknown> | undefined): string[] {
  const keys = Array.isArray(networks) ? networks : Object.keys(networks ?? {});
  return keys.length > 0 ? keys : ["default"];
}
