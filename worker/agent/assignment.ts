import { ClusterError } from "../../model/errors.ts";
import type { GenericClaim } from "../../model/generic-resource.ts";
import { taskStates } from "../../model/task.ts";
import type { NetworkId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Revision } from "../../model/service.ts";
import type { DesiredState, NetworkAttachment, TaskState } from "../../model/task.ts";
import type {
  AssignedAttachment,
  AssignedEndpoint,
  AssignedHost,
  AssignedNetwork,
  AssignedPayload,
  AssignedService,
  AssignedTask,
  Assignments,
} from "../../proto/gen/shoal/dispatcher.ts";

/** One task of this node as the managers decided it. */
export interface Assignment {
  readonly taskId: TaskId;
  readonly serviceId: ServiceId;
  readonly slot: number;
  readonly specVersion: number;
  readonly desiredState: DesiredState;
  readonly revision: Revision;
  readonly networks: readonly NetworkAttachment[];
  /** What the managers know of it; only read for a task this node has no record of. */
  readonly statusState: TaskState;
  readonly jobIteration: number;
  /** Generic resources of this node that it was given; absent means none. */
  readonly generic?: readonly GenericClaim[];
  /** This node ends it when it has heard no manager for so long; absent means never. */
  readonly stopAfterMs?: number;
}

/** Everything the leader has told this node, up to `sequence`. */
export interface AssignedSet {
  readonly sequence: number;
  readonly tasks: ReadonlyMap<TaskId, Assignment>;
  readonly networks: ReadonlyMap<string, AssignedNetwork>;
  /** Key: "<network id>/<task id>". */
  readonly endpoints: ReadonlyMap<string, AssignedEndpoint>;
  /** Key: "<network id>/<service id>". */
  readonly services: ReadonlyMap<string, AssignedService>;
  /** Other hosts of the cluster by node id. */
  readonly hosts: ReadonlyMap<string, AssignedHost>;
  /** Secrets and configs by id. */
  readonly payloads: ReadonlyMap<string, AssignedPayload>;
  /** Places of containers that are no tasks, by id. */
  readonly attachments: ReadonlyMap<string, AssignedAttachment>;
}

export const emptySet: AssignedSet = {
  sequence: 0,
  tasks: new Map(),
  networks: new Map(),
  endpoints: new Map(),
  services: new Map(),
  hosts: new Map(),
  payloads: new Map(),
  attachments: new Map(),
};

export type Received =
  /** The set is whole and may be acted on. */
  | { readonly kind: "whole"; readonly set: AssignedSet; readonly changed: readonly ("tasks" | "network")[] }
  /** More pieces of the same set follow. */
  | { readonly kind: "partial"; readonly set: AssignedSet }
  /** The difference does not follow from what we have. */
  | { readonly kind: "gap"; readonly expected: number; readonly seen: number };

/**
 * Takes one message in.
 *
 * @param set - What earlier messages led to.
 * @param partial - The unfinished set of an earlier `partial`, if any.
 * @throws {ClusterError} `invalid-argument` when a task in it cannot be read.
 */
export function receive(set: AssignedSet, partial: AssignedSet | undefined, message: Assignments): Received {
  const follows = partial !== undefined || message.complete || message.appliesTo === set.sequence;
  if (!follows) return { kind: "gap", expected: set.sequence, seen: message.appliesTo };
  const base = partial ?? (message.complete ? emptySet : set);
  const next: AssignedSet = {
    sequence: message.resultsIn,
    tasks: changed(
      base.tasks,
      message.tasks.map(readTask),
      (task) => task.taskId,
      message.removedTasks as TaskId[],
    ),
    networks: changed(base.networks, message.networks, (network) => network.id, message.removedNetworks),
    endpoints: changed(
      base.endpoints,
      message.endpoints,
      (endpoint) => endpoint.key,
      message.removedEndpoints,
    ),
    services: changed(base.services, message.services, (service) => service.key, message.removedServices),
    hosts: changed(base.hosts, message.hosts, (host) => host.nodeId, message.removedHosts),
    payloads: changed(base.payloads, message.payloads, (payload) => payload.id, message.removedPayloads),
    attachments: changed(
      base.attachments,
      message.attachments,
      (attachment) => attachment.id,
      message.removedAttachments,
    ),
  };
  if (message.more) return { kind: "partial", set: next };
  const parts: ("tasks" | "network")[] = [];
  if (next.tasks !== set.tasks || next.payloads !== set.payloads) parts.push("tasks");
  const network = (["networks", "endpoints", "services", "hosts"] as const).some(
    (key) => next[key] !== set[key],
  );
  if (network) parts.push("network");
  return { kind: "whole", set: next, changed: parts };
}

/** The same map when nothing changes, so that callers can compare by identity. */
function changed<Key extends string, Value>(
  map: ReadonlyMap<Key, Value>,
  put: readonly Value[],
  keyOf: (value: Value) => Key,
  removed: readonly Key[],
): ReadonlyMap<Key, Value> {
  if (put.length === 0 && removed.length === 0) return map;
  const next = new Map(map);
  for (const key of removed) next.delete(key);
  for (const value of put) next.set(keyOf(value), value);
  return next;
}

const desiredStates: readonly DesiredState[] = ["ready", "running", "complete", "shutdown", "remove"];

function readTask(wire: AssignedTask): Assignment {
  const desiredState = desiredStates.find((state) => state === wire.desiredState);
  if (desiredState === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `cannot read task ${wire.id}: desired state "${wire.desiredState}", one of ${desiredStates.join(", ")} is accepted`,
    );
  }
  return {
    taskId: wire.id as TaskId,
    serviceId: wire.serviceId as ServiceId,
    slot: wire.slot,
    specVersion: wire.specVersion,
    desiredState,
    revision: readRevision(wire),
    networks: wire.networks.map((attachment) => ({
      ...withIpv6(attachment),
      networkId: attachment.networkId as NetworkId,
    })),
    statusState: wire.statusState in taskStates ? (wire.statusState as TaskState) : "assigned",
    jobIteration: wire.jobIteration,
    ...(wire.stopAfterMs !== undefined && { stopAfterMs: wire.stopAfterMs }),
    ...(wire.generic.length > 0 && {
      generic: wire.generic.map(({ kind, count, names }) => ({
        kind,
        count,
        ...(names.length > 0 && { names }),
      })),
    }),
  };
}

/** What has no address of IPv6 has an empty one on the wire, and none here. */
export function withIpv6<T extends { readonly ipv6: string }>({
  ipv6,
  ...rest
}: T): Omit<T, "ipv6"> & { readonly ipv6?: string } {
  return ipv6 === "" ? rest : { ...rest, ipv6 };
}

function readRevision(wire: AssignedTask): Revision {
  try {
    return JSON.parse(wire.revisionJson.toString("utf8")) as Revision;
  } catch (cause) {
    throw new ClusterError("invalid-argument", `cannot read task ${wire.id}: its spec is not JSON`, {
      cause,
    });
  }
}
