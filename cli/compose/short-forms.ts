import type { ComposeMount } from "./types.ts";

/** "source:target:ro", "/host:/target", "/target". */
export function parseShortMount(text: string): ComposeMount {
  const parts = text.split(":");
  if (parts.length === 1) return { type: "volume", target: text };
  const [source = "", target = "", options = ""] = parts;
  const flags = options === "" ? [] : options.split(",");
  const propagation = flags.find((flag) => /^r?(private|shared|slave)$/.test(flag));
  const isPath = /^[./~]/.test(source);
  return {
    type: isPath ? "bind" : "volume",
    source,
    target,
    ...(flags.includes("ro") && { read_only: true }),
    ...(propagation !== undefined && { bind: { propagation } }),
    ...(flags.includes("nocopy") && { volume: { nocopy: true } }),
  };
}

/** A list that may be written as its only entry. */
export function asList(value: string | string[] | undefined): string[] | undefined {
  return typeof value === "string" ? [value] : value;
}
