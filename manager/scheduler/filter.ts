/** The filters in the order in which they are asked; a node counts for the first that refuses it. */
export const filterNames = [
  "ready",
  "resource",
  "plugin",
  "tunnel",
  "subnet",
  "constraint",
  "platform",
  "host-port",
  "max-replicas",
  "avoid",
] as const;

export type FilterName = (typeof filterNames)[number];

/** How many nodes each filter refused. */
export type Refusals = ReadonlyMap<FilterName, number>;

/** "no suitable node (…)", with the filter that refused most nodes first; clients know these texts. */
export function explain(refusals: Refusals): string {
  const parts = [...refusals]
    .filter(([, nodes]) => nodes > 0)
    .toSorted(([a, n], [b, m]) => m - n || filterNames.indexOf(a) - filterNames.indexOf(b))
    .map(([name, nodes]) => sentence(name, nodes));
  return parts.length === 0 ? "no suitable node" : `no suitable node (${parts.join("; ")})`;
}

function sentence(name: FilterName, nodes: number): string {
  const count = nodes === 1 ? "1 node" : `${nodes} nodes`;
  switch (name) {
    case "ready":
      return `${count} not available for new tasks`;
    case "resource":
      return `insufficient resources on ${count}`;
    case "plugin":
      return `missing plugin on ${count}`;
    case "tunnel":
      return `encrypted networks not possible on ${count}`;
    case "subnet":
      return `addresses of a network belong to the host on ${count}`;
    case "constraint":
      return `scheduling constraints not satisfied on ${count}`;
    case "platform":
      return `unsupported platform on ${count}`;
    case "host-port":
      return `host-mode port already in use on ${count}`;
    case "max-replicas":
      return "max replicas per node limit exceed";
    case "avoid":
      return `service to be avoided on ${count}`;
  }
}
