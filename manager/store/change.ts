import type { Objects, StoredObject, TableName } from "./tables.ts";

/** What the log replicates: the outcome for one object. */
export type Change =
  | { readonly kind: "put"; readonly table: TableName; readonly object: StoredObject }
  | { readonly kind: "remove"; readonly table: TableName; readonly id: string };

type EventOf<Name extends TableName, T> =
  | { readonly kind: "created"; readonly table: Name; readonly object: T }
  | { readonly kind: "updated"; readonly table: Name; readonly object: T; readonly previous: T }
  /** `object` is what it was last. */
  | { readonly kind: "removed"; readonly table: Name; readonly object: T };

/** What watchers see. It says where to look again; the store has the facts. */
export type ObjectEvent = { [Name in TableName]: EventOf<Name, Objects[Name]> }[TableName];

/** `resync`: events were dropped or everything was replaced; look at everything again. */
export type StoreEvent = ObjectEvent | { readonly kind: "resync" };
