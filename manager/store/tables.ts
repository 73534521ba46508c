import type { Attachment } from "../../model/attachment.ts";
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
  readonly attachments: Attachment;
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
  "attachments",
] as const satisfies readonly TableName[];

export function isTableName(text: string): text is TableName {
  return (tableNames as readonly string[]).includes(text);
}

/** What every row has; tables are generic over it. */
export interface Row {
  readonly id: string;
  readonly meta: Meta;
}

export interface IndexDefinition<T> {
  /** The keys under which an object is found; most have exactly one. */
  readonly keys: (object: T) => readonly string[];
  /** Whether two states of one object surely have the same keys: most writes move nothing, and making keys costs more. */
  readonly same: (before: T, after: T) => boolean;
}

export interface TableDefinition<T extends Row> {
  /** What one object is called in messages. */
  readonly noun: string;
  /** Names are unique without regard to case. */
  readonly nameOf?: (object: T) => string;
  readonly indexes: Readonly<Record<string, IndexDefinition<T>>>;
}

const nothing: readonly string[] = [];
/** The one key of the index of ingress networks, of which there is at most one. */
export const ingressKey = "ingress";
/** The one key of the index of nodes that are members of the consensus group. */
export const memberKey = "member";

/** By a field that holds one key, or none. */
function byField<T extends Row>(fieldOf: (object: T) => string | undefined): IndexDefinition<T> {
  return {
    keys: (object) => {
      const key = fieldOf(object);
      return key === undefined ? nothing : [key];
    },
    same: (before, after) => fieldOf(before) === fieldOf(after),
  };
}

/** By keys that change only when one of these fields does. */
function byKeys<T extends Row>(
  keys: (object: T) => readonly string[],
  ...fields: readonly (keyof T)[]
): IndexDefinition<T> {
  return { keys, same: (before, after) => fields.every((field) => before[field] === after[field]) };
}

export const definitions: { readonly [Name in TableName]: TableDefinition<Objects[Name]> } = {
  cluster: { noun: "cluster", indexes: {} },
  services: {
    noun: "service",
    nameOf: (service) => service.spec.name,
    indexes: {
      network: byKeys(
        ({ endpoint }) => endpoint?.virtualIps.map(({ networkId }) => networkId) ?? nothing,
        "endpoint",
      ),
    },
  },
  tasks: {
    noun: "task",
    indexes: {
      service: byField((task) => task.serviceId),
      node: byField((task) => task.nodeId),
      slot: byKeys(
        ({ serviceId, slot }) => (slot === 0 ? nothing : [slotIndexKey(serviceId, slot)]),
        "serviceId",
        "slot",
      ),
      network: byKeys(
        ({ networks }) => (networks.length === 0 ? nothing : networks.map(({ networkId }) => networkId)),
        "networks",
      ),
      revision: byKeys(
        ({ serviceId, specVersion }) => [revisionKey(serviceId, specVersion)],
        "serviceId",
        "specVersion",
      ),
    },
  },
  nodes: {
    noun: "node",
    indexes: {
      hostname: byField((node) => (node.description?.hostname ?? "").toLowerCase()),
      member: byField((node) => (node.member === undefined ? undefined : memberKey)),
    },
  },
  networks: {
    noun: "network",
    nameOf: (network) => network.spec.name,
    indexes: { ingress: byField((network) => (network.spec.ingress ? ingressKey : undefined)) },
  },
  secrets: { noun: "secret", nameOf: (secret) => secret.spec.name, indexes: {} },
  configs: { noun: "config", nameOf: (config) => config.spec.name, indexes: {} },
  revisions: { noun: "revision", indexes: { service: byField((revision) => revision.serviceId) } },
  attachments: {
    noun: "attachment",
    indexes: {
      node: byField((attachment) => attachment.nodeId),
      network: byField((attachment) => attachment.networkId),
    },
  },
};

export function slotIndexKey(serviceId: string, slot: number): string {
  return `${serviceId}/${slot}`;
}

/** The index that names live in; no definition may use the word. */
export const nameIndex = "name";

/** All indexes of a table, the name index included, as one record. */
export function indexesOf<T extends Row>(
  definition: TableDefinition<T>,
): Readonly<Record<string, IndexDefinition<T>>> {
  const nameOf = definition.nameOf;
  if (nameOf === undefined) return definition.indexes;
  return { ...definition.indexes, [nameIndex]: byField((object) => nameOf(object).toLowerCase()) };
}

/** Key → ids, over the objects that it is told of. A key with one id, by far the most common, costs no set. */
export class Index<T extends Row> {
  readonly #definition: IndexDefinition<T>;
  readonly #buckets = new Map<string, string | Set<string>>();

  constructor(definition: IndexDefinition<T>) {
    this.#definition = definition;
  }

  /** @param before - The same object as it was known until now. */
  put(object: T, before: T | undefined): void {
    if (before !== undefined) {
      if (this.#definition.same(before, object)) return;
      this.remove(before);
    }
    for (const key of this.#definition.keys(object)) this.#add(key, object.id);
  }

  remove(object: T): void {
    for (const key of this.#definition.keys(object)) this.#drop(key, object.id);
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

  #add(key: string, id: string): void {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) this.#buckets.set(key, id);
    else if (typeof bucket !== "string") bucket.add(id);
    else if (bucket !== id) this.#buckets.set(key, new Set([bucket, id]));
  }

  #drop(key: string, id: string): void {
    const bucket = this.#buckets.get(key);
    if (bucket === id) this.#buckets.delete(key);
    else if (typeof bucket === "object" && bucket.delete(id) && bucket.size === 0) this.#buckets.delete(key);
  }
}

/** Rows by id and a set of indexes over them, kept current with every write. */
export class Table<T extends Row> {
  readonly definition: TableDefinition<T>;
  readonly rows = new Map<string, T>();
  readonly #indexes: ReadonlyMap<string, Index<T>>;
  /** The same once more, for a walk with every write. */
  readonly #indexList: readonly Index<T>[];

  constructor(definition: TableDefinition<T>) {
    this.definition = definition;
    const definitions = Object.entries(indexesOf(definition));
    this.#indexes = new Map(definitions.map(([name, each]) => [name, new Index(each)]));
    this.#indexList = [...this.#indexes.values()];
  }

  /** @returns What the row was before. */
  put(object: T): T | undefined {
    const before = this.rows.get(object.id);
    this.rows.set(object.id, object);
    for (const index of this.#indexList) index.put(object, before);
    return before;
  }

  /** @returns What the row was. */
  remove(id: string): T | undefined {
    const before = this.rows.get(id);
    if (before === undefined) return undefined;
    this.rows.delete(id);
    for (const index of this.#indexList) index.remove(before);
    return before;
  }

  index(name: string): Index<T> {
    const index = this.#indexes.get(name);
    if (index === undefined) throw new Error(`assertion failed: no index ${name} of ${this.definition.noun}`);
    return index;
  }
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
    attachments: new Table(definitions.attachments),
  };
}
