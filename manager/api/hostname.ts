import type { Node } from "../../model/node.ts";

/** What people call the node. */
export function hostnameOf({ id, description }: Node): string {
  return description?.hostname ?? id;
}

/** Numbers inside names count as numbers: host2 before host10. */
export function byHostname(a: Node, b: Node): number {
  return compareHostnames(hostnameOf(a), hostnameOf(b));
}

export function compareHostnames(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
}
