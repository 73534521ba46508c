/**
 * Which object a user meant: exact id, then exact name, then a unique prefix of an id. Names differ by more than case
 * from each other, yet a name in another case finds nothing: what a client removes must be what it named.
 */
import { ClusterError } from "../../model/errors.ts";
import type { Node } from "../../model/node.ts";
import type { NamedTableView, StoreView, TableView } from "../store/transaction.ts";

/** @throws {ClusterError} `not-found`, or `invalid-argument` when several fit; texts as clients know them. */
export function resolve<Id extends string, T extends Named>(
  kind: string,
  wanted: string,
  table: NamedTableView<Id, T>,
): T {
  return (
    table.get(wanted as Id) ??
    byExactName(wanted, table) ??
    only(kind, wanted, table.findByPrefix(wanted.toLowerCase()))
  );
}

interface Named {
  readonly spec: { readonly name: string };
}

/** Tables find names in any case; this is for what a user typed. */
export function byExactName<T extends Named>(
  wanted: string,
  table: Pick<NamedTableView<string, T>, "byName">,
): T | undefined {
  const found = table.byName(wanted);
  return found?.spec.name === wanted ? found : undefined;
}

/** For objects without a name. */
export function resolveById<Id extends string, T>(kind: string, wanted: string, table: TableView<Id, T>): T {
  return table.get(wanted as Id) ?? only(kind, wanted, table.findByPrefix(wanted.toLowerCase()));
}

/** Nodes go by hostname, which need not be unique, or by the name a user gave. */
export function resolveNode(view: Pick<StoreView, "nodes">, wanted: string): Node {
  const exact = view.nodes.get(wanted as Node["id"]);
  if (exact !== undefined) return exact;
  const named = new Set([
    ...view.nodes.byHostname(wanted).filter((node) => node.description?.hostname === wanted),
    ...view.nodes.list().filter((node) => node.spec.name === wanted),
  ]);
  if (named.size > 0) return only("node", wanted, [...named]);
  return only("node", wanted, view.nodes.findByPrefix(wanted.toLowerCase()));
}

function only<T>(kind: string, wanted: string, found: readonly T[]): T {
  const [first] = wanted === "" ? [] : found;
  if (first === undefined) throw new ClusterError("not-found", `${kind} ${wanted} not found`);
  if (found.length > 1) {
    throw new ClusterError(
      "invalid-argument",
      `${kind} ${wanted} is ambiguous (${found.length} matches found)`,
    );
  }
  return first;
}
