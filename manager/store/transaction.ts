import type { Attachment } from "../../model/attachment.ts";
import type { Cluster } from "../../model/cluster.ts";
import { ClusterError } from "../../model/errors.ts";
import type {
  AttachmentId,
  ClusterId,
  ConfigId,
  NetworkId,
  NodeId,
  SecretId,
  ServiceId,
  TaskId,
} from "../../model/ids.ts";
import type { Meta } from "../../model/meta.ts";
import type { Network } from "../../model/network.ts";
import type { Node } from "../../model/node.ts";
import type { Config, Secret } from "../../model/payload.ts";
import { revisionKey, type Revision, type Service } from "../../model/service.ts";
import type { Task } from "../../model/task.ts";
import type { Metas } from "./metas.ts";
import type { Overlay, Reads } from "./overlay.ts";
import {
  ingressKey,
  memberKey,
  nameIndex,
  slotIndexKey,
  type Objects,
  type Row,
  type TableName,
} from "./tables.ts";

/** Reads of one table. Lists are in no promised order. */
export interface TableView<Id extends string, T> {
  readonly count: number;
  get(id: Id): T | undefined;
  has(id: Id): boolean;
  list(): readonly T[];
  /** Objects whose id starts with `prefix`; walks all ids, so it is for what a user typed. */
  findByPrefix(prefix: string): readonly T[];
}

export interface NamedTableView<Id extends string, T> extends TableView<Id, T> {
  /** Without regard to case. */
  byName(name: string): T | undefined;
}

export interface TaskTableView extends TableView<TaskId, Task> {
  byService(id: ServiceId): readonly Task[];
  byNode(id: NodeId): readonly Task[];
  /** All tasks of a numbered slot, dead ones included; global tasks have none, see `byNode`. */
  bySlot(serviceId: ServiceId, slot: number): readonly Task[];
  byNetwork(id: NetworkId): readonly Task[];
  byRevision(serviceId: ServiceId, specVersion: number): readonly Task[];
  countByService(id: ServiceId): number;
  countByRevision(serviceId: ServiceId, specVersion: number): number;
}

export interface ServiceTableView extends NamedTableView<ServiceId, Service> {
  /** Those that have a virtual IP on the network. */
  byNetwork(id: NetworkId): readonly Service[];
  countByNetwork(id: NetworkId): number;
}

export interface NetworkTableView extends NamedTableView<NetworkId, Network> {
  /** The one that carries what arrives at published ports, if the cluster has it. */
  ingress(): Network | undefined;
}

export interface NodeTableView extends TableView<NodeId, Node> {
  /** Hostnames need not be unique; without regard to case. */
  byHostname(hostname: string): readonly Node[];
  /** Managers that are members of the consensus group. */
  members(): readonly Node[];
}

export interface RevisionTableView extends TableView<string, Revision> {
  byService(id: ServiceId): readonly Revision[];
}

export interface AttachmentTableView extends TableView<AttachmentId, Attachment> {
  byNode(id: NodeId): readonly Attachment[];
  byNetwork(id: NetworkId): readonly Attachment[];
}

/** A consistent picture of everything. Hold it no longer than the call that gave it. */
export interface StoreView {
  /** The one cluster object; `undefined` until the cluster is made. */
  readonly cluster: Cluster | undefined;
  readonly clusters: TableView<ClusterId, Cluster>;
  readonly services: ServiceTableView;
  readonly tasks: TaskTableView;
  readonly nodes: NodeTableView;
  readonly networks: NetworkTableView;
  readonly secrets: NamedTableView<SecretId, Secret>;
  readonly configs: NamedTableView<ConfigId, Config>;
  readonly revisions: RevisionTableView;
  readonly attachments: AttachmentTableView;
}

export interface TableWrites<Id extends string, T extends Row> {
  /** Stamps `meta` and returns what will be stored. @throws `name-conflict`, or `conflict` for a used id. */
  create(object: Omit<T, "meta">): T;
  /**
   * Replaces the object; its `meta.version` must be the stored one. Returns what will be stored.
   * @throws `version-conflict` ("update out of sequence"), `not-found`, `name-conflict`.
   */
  update(object: T): T;
  /** @throws `not-found`. */
  remove(id: Id): void;
}

/**
 * A client may replace the spec that it has seen: what the swarm wrote beside it since (a node's state, the progress of an
 * update) is not the client's, so it makes nothing stale.
 * @param version - Of the object, as the client knows it.
 * @throws {ClusterError} `version-conflict` when the spec was written since, or the object never had that version.
 */
export function requireSeen({ meta }: Row, version: number): void {
  if (version > meta.version || version < (meta.specChangedVersion ?? meta.version)) throw outOfSequence();
}

/** The text is Docker's. */
function outOfSequence(): ClusterError {
  return new ClusterError("version-conflict", "update out of sequence");
}

/** A view that sees its own writes. Nothing of it lasts when the function that got it throws. */
export interface Transaction extends StoreView {
  /** Wall clock of the leader, as it will be stamped on what is written. */
  readonly nowMs: number;
  /** As it will be stamped on what is written. */
  readonly version: number;
  readonly clusters: StoreView["clusters"] & TableWrites<ClusterId, Cluster>;
  readonly services: StoreView["services"] & TableWrites<ServiceId, Service>;
  readonly tasks: StoreView["tasks"] & TableWrites<TaskId, Task>;
  readonly nodes: StoreView["nodes"] & TableWrites<NodeId, Node>;
  readonly networks: StoreView["networks"] & TableWrites<NetworkId, Network>;
  readonly secrets: StoreView["secrets"] & TableWrites<SecretId, Secret>;
  readonly configs: StoreView["configs"] & TableWrites<ConfigId, Config>;
  readonly revisions: StoreView["revisions"] & TableWrites<string, Revision>;
  readonly attachments: StoreView["attachments"] & TableWrites<AttachmentId, Attachment>;
}

/** Where a transaction's stamps come from. */
export interface Stamp {
  readonly version: number;
  readonly nowMs: number;
}

/** Guards against a transaction that is used after its function returned. */
export interface Scope {
  readonly stamp: Stamp;
  readonly metas: Metas;
  open: boolean;
}

export type AllReads = { readonly [Name in TableName]: Reads<Objects[Name]> };
export type AllOverlays = { readonly [Name in TableName]: Overlay<Objects[Name]> };

export function makeView(reads: AllReads): StoreView {
  return {
    get cluster() {
      return firstOf(reads.cluster.values());
    },
    clusters: new Reader(reads.cluster),
    services: new ServiceReader(reads.services),
    tasks: new TaskReader(reads.tasks),
    nodes: new NodeReader(reads.nodes),
    networks: new NetworkReader(reads.networks),
    secrets: new NamedReader(reads.secrets),
    configs: new NamedReader(reads.configs),
    revisions: new RevisionReader(reads.revisions),
    attachments: new AttachmentReader(reads.attachments),
  };
}

export function makeTransaction(overlays: AllOverlays, scope: Scope): Transaction {
  return {
    nowMs: scope.stamp.nowMs,
    version: scope.stamp.version,
    get cluster() {
      return firstOf(overlays.cluster.values());
    },
    clusters: writable(new Reader<ClusterId, Cluster>(overlays.cluster), overlays.cluster, scope),
    services: writable(new ServiceReader(overlays.services), overlays.services, scope),
    tasks: writable(new TaskReader(overlays.tasks), overlays.tasks, scope),
    nodes: writable(new NodeReader(overlays.nodes), overlays.nodes, scope),
    networks: writable(new NetworkReader(overlays.networks), overlays.networks, scope),
    secrets: writable(new NamedReader<SecretId, Secret>(overlays.secrets), overlays.secrets, scope),
    configs: writable(new NamedReader<ConfigId, Config>(overlays.configs), overlays.configs, scope),
    revisions: writable(new RevisionReader(overlays.revisions), overlays.revisions, scope),
    attachments: writable(new AttachmentReader(overlays.attachments), overlays.attachments, scope),
  };
}

class Reader<Id extends string, T extends Row> implements TableView<Id, T> {
  protected readonly reads: Reads<T>;

  constructor(reads: Reads<T>) {
    this.reads = reads;
  }

  get count(): number {
    return this.reads.count;
  }

  get(id: Id): T | undefined {
    return this.reads.get(id);
  }

  has(id: Id): boolean {
    return this.reads.get(id) !== undefined;
  }

  list(): readonly T[] {
    return [...this.reads.values()];
  }

  findByPrefix(prefix: string): readonly T[] {
    const found: T[] = [];
    for (const object of this.reads.values()) if (object.id.startsWith(prefix)) found.push(object);
    return found;
  }
}

class NamedReader<Id extends string, T extends Row> extends Reader<Id, T> implements NamedTableView<Id, T> {
  byName(name: string): T | undefined {
    return this.reads.lookup(nameIndex, name.toLowerCase())[0];
  }
}

class TaskReader extends Reader<TaskId, Task> implements TaskTableView {
  byService(id: ServiceId): readonly Task[] {
    return this.reads.lookup("service", id);
  }

  byNode(id: NodeId): readonly Task[] {
    return this.reads.lookup("node", id);
  }

  bySlot(serviceId: ServiceId, slot: number): readonly Task[] {
    return this.reads.lookup("slot", slotIndexKey(serviceId, slot));
  }

  byNetwork(id: NetworkId): readonly Task[] {
    return this.reads.lookup("network", id);
  }

  byRevision(serviceId: ServiceId, specVersion: number): readonly Task[] {
    return this.reads.lookup("revision", revisionKey(serviceId, specVersion));
  }

  countByService(id: ServiceId): number {
    return this.reads.lookupCount("service", id);
  }

  countByRevision(serviceId: ServiceId, specVersion: number): number {
    return this.reads.lookupCount("revision", revisionKey(serviceId, specVersion));
  }
}

class ServiceReader extends NamedReader<ServiceId, Service> implements ServiceTableView {
  byNetwork(id: NetworkId): readonly Service[] {
    return this.reads.lookup("network", id);
  }

  countByNetwork(id: NetworkId): number {
    return this.reads.lookupCount("network", id);
  }
}

class NetworkReader extends NamedReader<NetworkId, Network> implements NetworkTableView {
  ingress(): Network | undefined {
    return this.reads.lookup("ingress", ingressKey)[0];
  }
}

class NodeReader extends Reader<NodeId, Node> implements NodeTableView {
  byHostname(hostname: string): readonly Node[] {
    return this.reads.lookup("hostname", hostname.toLowerCase());
  }

  members(): readonly Node[] {
    return this.reads.lookup("member", memberKey);
  }
}

class RevisionReader extends Reader<string, Revision> implements RevisionTableView {
  byService(id: ServiceId): readonly Revision[] {
    return this.reads.lookup("service", id);
  }
}

class AttachmentReader extends Reader<AttachmentId, Attachment> implements AttachmentTableView {
  byNode(id: NodeId): readonly Attachment[] {
    return this.reads.lookup("node", id);
  }

  byNetwork(id: NetworkId): readonly Attachment[] {
    return this.reads.lookup("network", id);
  }
}

function firstOf<T>(values: Iterable<T>): T | undefined {
  for (const value of values) return value;
  return undefined;
}

function writable<Id extends string, T extends Row, R extends Reader<Id, T>>(
  reader: R,
  overlay: Overlay<T>,
  scope: Scope,
): R & TableWrites<Id, T> {
  const { noun, nameOf } = overlay.base.definition;

  function requireOpen(): void {
    if (!scope.open) throw new Error("assertion failed: a transaction was used after its end");
  }

  function requireFreeName(object: T): void {
    if (nameOf === undefined) return;
    const name = nameOf(object);
    const holder = overlay.lookup(nameIndex, name.toLowerCase()).find((other) => other.id !== object.id);
    if (holder !== undefined) {
      throw new ClusterError(
        "name-conflict",
        `name conflicts with an existing object: ${noun} ${name} already exists`,
      );
    }
  }

  function put(object: T): T {
    requireFreeName(object);
    overlay.write(object.id, object);
    return object;
  }

  return Object.assign(reader, {
    create(object: Omit<T, "meta">): T {
      requireOpen();
      const { version, nowMs } = scope.stamp;
      // The one field that Omit took away is put back, which the compiler cannot see for a generic T.
      const stamped = {
        ...object,
        meta: scope.metas.share({
          version,
          createdVersion: version,
          ...specChanged(object, undefined, version),
          createdAtMs: nowMs,
          updatedAtMs: nowMs,
        }),
      } as unknown as T;
      if (overlay.get(stamped.id) !== undefined) {
        throw new ClusterError("conflict", `${noun} ${stamped.id} already exists`);
      }
      return put(stamped);
    },
    update(object: T): T {
      requireOpen();
      const stored = overlay.get(object.id);
      if (stored === undefined) throw new ClusterError("not-found", `${noun} ${object.id} not found`);
      if (stored.meta.version !== object.meta.version) throw outOfSequence();
      const { version, nowMs } = scope.stamp;
      const { createdVersion, createdAtMs } = stored.meta;
      const spec = specChanged(object, stored, version);
      const meta = { version, createdVersion, ...spec, createdAtMs, updatedAtMs: nowMs };
      return put({ ...object, meta: scope.metas.share(meta, stored.meta) });
    },
    remove(id: Id): void {
      requireOpen();
      if (overlay.get(id) === undefined) throw new ClusterError("not-found", `${noun} ${id} not found`);
      overlay.write(id, undefined);
    },
  });
}

/** Specs are never changed in place, so the same object is the same spec. */
function specChanged(
  object: object,
  stored: Row | undefined,
  version: number,
): Pick<Meta, "specChangedVersion"> {
  if (!("spec" in object)) return {};
  const isKept = stored !== undefined && "spec" in stored && stored.spec === object.spec;
  return { specChangedVersion: isKept ? (stored.meta.specChangedVersion ?? stored.meta.version) : version };
}
