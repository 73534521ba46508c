import type { Cluster } from "../../model/cluster.ts";
import type { Meta } from "../../model/meta.ts";
import type { Network } from "../../model/network.ts";
import type { Node } from "../../model/node.ts";
import type { Config, Secret } from "../../model/payload.ts";
import { revisionKey, type Revision, type Service } from "../../model/service.ts";
import type { Task } from "../../model/task.ts";

/** Every table of the store by name; the names are part of the stored form. */
export interface Objects {
  readonly cluster: Cluster;
  readonly services: Service;
  readonly tasks: Task;
  readonly nodes: Node;
  readonly networks: Network;
  readonly secrets: Secret;
  readonly configs: Config;
  readonly revisions: Revision;
}

export type TableName = keyof Objects;
export type StoredObject = Objects[TableName];

export const tableNames = [
  "cluster",
  "services",
  "tasks",
  "nodes",
  "networks",
  "secrets",
  "configs",
  "revisions",
] as const satisfies readonly TableName[];

export function isTableName(text: string): text is TableName {
  return (tableNames as readonly string[]).includes(text);
}

/** What every row has; tables are generic over it. */
export interface Row {
  readonly id: string;
  readonly meta: Meta;
}

/** The keys under which an object is found in one index; most have exactly one. */
type KeysOf<T> = (object: T) => readonly string[];

export interface TableDefinition<T extends Row> {
  /** What one object is called in messages. */
  readonly noun: string;
  /** Names are unique without regard to case. */
  readonly nameOf?: (object: T) => string;
  readonly indexes: Readonly<Record<string, KeysOf<T>>>;
}

const nothing: readonly string[] = [];
/** The one key of the index of ingress networks, of which there is at most one. */
export const ingressKey = "ingress";
const theIngress: readonly string[] = [ingressKey];

export const definitions: { readonly [Name in TableName]: TableDefinition<Objects[Name]> } = {
  cluster: { noun: "cluster", indexes: {} },
  services: {
    noun: "service",
    nameOf: (service) => service.spec.name,
    indexes: {
      network: (service) => service.endpoint?.virtualIps.map(({ networkId }) => networkId) ?? nothing,
    },
  },
  tasks: {
    noun: "task",
    indexes: {
      service: (task) => [task.serviceId],
      node: (task) => (task.nodeId === undefined ? nothing : [task.nodeId]),
      slot: (task) => (task.slot === 0 ? nothing : [slotIndexKey(task.serviceId, task.slot)]),
      network: (task) => task.networks.map((attachment) => attachment.networkId),
      revision: (task) => [revisionKey(task.serviceId, task.specVersion)],
    },
  },
  nodes: {
    noun: "node",
    indexes: { hostname: (node) => [(node.description?.hostname ?? "").toLowerCase()] },
  },
  networks: {
    noun: "network",
    nameOf: (network) => network.spec.name,
    indexes: { ingress: (network) => (network.spec.ingress ? theIngress : nothing) },
  },
  secrets: { noun: "secret", nameOf: (secret) => secret.spec.name, indexes: {} },
  configs: { noun: "config", nameOf: (config) => config.spec.name, indexes: {} },
  revisions: { noun: "revision", indexes: { service: (revision) => [revision.serviceId] } },
};

export function slotIndexKey(serviceId: string, slot: number): string {
  return `${serviceId}/${slot}`;
}

/** The index that names live in; no definition may use the word. */
export const nameIndex = "name";

/** All indexes of a table, the name index included, as one record. */
export function indexesOf<T extends Row>(
  definition: TableDefinition<T>,
): Readonly<Record<string, KeysOf<T>>> {
  const nameOf = definition.nameOf;
  if (nameOf === undefined) return definition.indexes;
  return { ...definition.indexes, [nameIndex]: (object) => [nameOf(object).toLowerCase()] };
}

/** Key → ids. A key with one id, by far the most common, costs no set. */
export class Index {
  readonly #buckets = new Map<string, string | Set<string>>();

  add(key: string, id: string): void {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) this.#buckets.set(key, id);
    else if (typeof bucket !== "string") bucket.add(id);
    else if (bucket !== id) this.#buckets.set(key, new Set([bucket, id]));
  }

  remove(key: string, id: string): void {
    const bucket = this.#buckets.get(key);
    if (bucket === id) this.#buckets.delete(key);
    else if (typeof bucket === "object" && bucket.delete(id) && bucket.size === 0) this.#buckets.delete(key);
  }

  /** The ids under a key, in the order they came. */
  ids(key: string): Iterable<string> {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return nothing;
    return typeof bucket === "string" ? [bucket] : bucket;
  }

  count(key: string): number {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return 0;
    return typeof bucket === "string" ? 1 : bucket.size;
  }
}

/** Rows by id and a set of indexes over them, kept current with every write. */
export class Table<T extends Row> {
  readonly definition: TableDefinition<T>;
  readonly rows = new Map<string, T>();
  readonly #keysOf: readonly (readonly [string, KeysOf<T>])[];
  readonly #indexes: ReadonlyMap<string, Index>;

  constructor(definition: TableDefinition<T>) {
    this.definition = definition;
    this.#keysOf = Object.entries(indexesOf(definition));
    this.#indexes = new Map(this.#keysOf.map(([name]) => [name, new Index()]));
  }

  put(object: T): void {
    const old = this.rows.get(object.id);
    this.rows.set(object.id, object);
    for (const [name, keysOf] of this.#keysOf) {
      const keys = keysOf(object);
      const index = this.index(name);
      if (old !== undefined) {
        const oldKeys = keysOf(old);
        if (sameKeys(keys, oldKeys)) continue;
        for (const key of oldKeys) index.remove(key, old.id);
      }
      for (const key of keys) index.add(key, object.id);
    }
  }

  remove(id: string): void {
    const old = this.rows.get(id);
    if (old === undefined) return;
    this.rows.delete(id);
    for (const [name, keysOf] of this.#keysOf) {
      for (const key of keysOf(old)) this.index(name).remove(key, id);
    }
  }

  index(name: string): Index {
    const index = this.#indexes.get(name);
    if (index === undefined) throw new Error(`assertion failed: no index ${name} of ${this.definition.noun}`);
    return index;
  }
}

function sameKeys(a: readonly string[], b: readonly string[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export type Tables = { readonly [Name in TableName]: Table<Objects[Name]> };

export function emptyTables(): Tables {
  return {
    cluster: new Table(definitions.cluster),
    services: new Table(definitions.services),
    tasks: new Table(definitions.tasks),
    nodes: new Table(definitions.nodes),
    networks: new Table(definitions.networks),
    secrets: new Table(definitions.secrets),
    configs: new Table(definitions.configs),
    revisions: new Table(definitions.revisions),
  };
}
