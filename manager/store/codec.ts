import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { ClusterError } from "../../model/errors.ts";
import type { GenericClaim } from "../../model/generic-resource.ts";
import type { NetworkId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import {
  taskStates,
  type DesiredState,
  type PublishedPort,
  type Task,
  type TaskState,
  type TaskStatus,
} from "../../model/task.ts";
import { StoreChange, type TaskGenericClaim, type TaskRecord } from "../../proto/gen/shoal/store.ts";
import type { Change } from "./change.ts";
import { isTableName, type StoredObject } from "./tables.ts";

/** Texts most statuses carry, by their number in the stored form. Append only. */
const wellKnownMessages = [
  "",
  "created",
  "pending task scheduling",
  "scheduler assigned task to node",
  "scheduler confirmed task can run on preassigned node",
  "accepted",
  "preparing",
  "prepared",
  "starting",
  "started",
  "finished",
  "shutdown",
] as const;

const messageCodes = new Map<string, number>(wellKnownMessages.map((text, code) => [text, code]));
const statesByNumber = new Map<number, TaskState>(
  Object.entries(taskStates).map(([state, number]) => [number, state as TaskState]),
);
const containerIdPattern = /^[0-9a-f]{64}$/;
const noBytes = Buffer.alloc(0);

/** Used again for every change: a new one each time, with the buffer that it grows, would cost more than the writing. */
let writer = new BinaryWriter();

export function encodeChange(change: Change): Uint8Array {
  try {
    return StoreChange.encode(toMessage(change), writer).finish();
  } catch (error) {
    writer = new BinaryWriter(); // What was half written must not begin the next one.
    throw error;
  }
}

/**
 * @param canonical - Given an id, the equal string that the store already holds, so that a million
 *   tasks share the ids of their services and nodes.
 * @throws {ClusterError} `data-loss` for bytes that are no change.
 */
export function decodeChange(bytes: Uint8Array, canonical: (id: string) => string): Change {
  const { body } = StoreChange.decode(bytes);
  switch (body?.$case) {
    case undefined:
      throw new ClusterError("data-loss", "store entry cannot be read: a change without content");
    case "task":
      return { kind: "put", table: "tasks", object: fromRecord(body.value, canonical) };
    case "object": {
      const { table, json } = body.value;
      if (!isTableName(table)) throw unknownTable(table);
      // Written by `toMessage` below from the very type.
      return { kind: "put", table, object: JSON.parse(json.toString("utf8")) as StoredObject };
    }
    case "removed": {
      const { table, id } = body.value;
      if (!isTableName(table)) throw unknownTable(table);
      return { kind: "remove", table, id };
    }
  }
}

function unknownTable(table: string): ClusterError {
  return new ClusterError(
    "data-loss",
    `store entry cannot be read: table "${table}" is unknown to this version`,
  );
}

function toMessage(change: Change): StoreChange {
  if (change.kind === "remove") {
    return { body: { $case: "removed", value: { table: change.table, id: change.id } } };
  }
  if (change.table === "tasks") {
    // The table decides the type; a union member cannot say so to the compiler.
    return { body: { $case: "task", value: toRecord(change.object as Task) } };
  }
  const json = Buffer.from(JSON.stringify(change.object), "utf8");
  return { body: { $case: "object", value: { table: change.table, json } } };
}

function toRecord(task: Task): TaskRecord {
  const { status, meta } = task;
  const origin = Math.trunc(meta.createdAtMs);
  const after = (timeMs: number): number => Math.trunc(timeMs) - origin;
  const code = messageCodes.get(status.message) ?? 0;
  const binaryId = status.containerId !== undefined && containerIdPattern.test(status.containerId);
  return {
    id: task.id,
    version: meta.version,
    createdAtMs: origin,
    updatedAfterMs: after(meta.updatedAtMs),
    serviceId: task.serviceId,
    specVersion: task.specVersion,
    slot: task.slot,
    nodeId: task.nodeId ?? "",
    desiredState: taskStates[task.desiredState],
    state: taskStates[status.state],
    stateAfterMs: after(status.atMs),
    messageCode: code,
    message: code === 0 ? status.message : "",
    error: status.error,
    containerId: binaryId ? Buffer.from(status.containerId ?? "", "hex") : noBytes,
    containerName: binaryId ? "" : (status.containerId ?? ""),
    pid: status.pid ?? 0,
    hasPid: status.pid !== undefined,
    exitCode: status.exitCode,
    ports: (status.ports ?? []).map((port) => ({ ...port })),
    hasPorts: status.ports !== undefined,
    appliedAfterMs: status.appliedAtMs === 0 ? undefined : after(status.appliedAtMs),
    networks: task.networks.map(({ networkId, address, aliases }) => ({
      networkId,
      address,
      aliases: [...aliases],
    })),
    jobIteration: task.jobIteration,
    restarts: task.restarts ?? 0,
    versionsSinceCreated: meta.version - meta.createdVersion,
    crashes: task.crashes ?? 0,
    moving: task.moving ?? false,
    generic: (task.generic ?? []).map(({ kind, count, names = [] }) => ({ kind, count, names: [...names] })),
  };
}

function fromRecord(record: TaskRecord, canonical: (id: string) => string): Task {
  const createdAtMs = record.createdAtMs;
  return {
    id: record.id as TaskId,
    meta: {
      version: record.version,
      createdVersion: record.version - record.versionsSinceCreated,
      createdAtMs,
      updatedAtMs: createdAtMs + record.updatedAfterMs,
    },
    serviceId: canonical(record.serviceId) as ServiceId,
    specVersion: record.specVersion,
    slot: record.slot,
    ...(record.nodeId === "" ? {} : { nodeId: canonical(record.nodeId) as NodeId }),
    // The ladder's number was written from a DesiredState.
    desiredState: stateOf(record.desiredState) as DesiredState,
    status: fromStatus(record),
    networks: record.networks.map(({ networkId, address, aliases }) => ({
      networkId: canonical(networkId) as NetworkId,
      address,
      aliases,
    })),
    ...(record.jobIteration === undefined ? {} : { jobIteration: record.jobIteration }),
    ...(record.restarts === 0 ? {} : { restarts: record.restarts }),
    ...(record.crashes === 0 ? {} : { crashes: record.crashes }),
    ...(record.moving ? { moving: true } : {}),
    ...(record.generic.length === 0 ? {} : { generic: record.generic.map(fromClaim) }),
  };
}

function fromStatus(record: TaskRecord): TaskStatus {
  const containerId =
    record.containerId.length > 0 ? record.containerId.toString("hex") : record.containerName;
  return {
    state: stateOf(record.state),
    atMs: record.createdAtMs + record.stateAfterMs,
    message: wellKnownMessages[record.messageCode] || record.message,
    error: record.error,
    ...(containerId === "" ? {} : { containerId }),
    ...(record.hasPid ? { pid: record.pid } : {}),
    ...(record.exitCode === undefined ? {} : { exitCode: record.exitCode }),
    ...(record.hasPorts ? { ports: record.ports.map(fromPort) } : {}),
    appliedAtMs: record.appliedAfterMs === undefined ? 0 : record.createdAtMs + record.appliedAfterMs,
  };
}

function fromPort(port: { protocol: string; targetPort: number; publishedPort: number }): PublishedPort {
  // Written from a PublishedPort.
  return { ...port, protocol: port.protocol as PublishedPort["protocol"] };
}

function fromClaim({ kind, count, names }: TaskGenericClaim): GenericClaim {
  return { kind, count, ...(names.length === 0 ? {} : { names }) };
}

function stateOf(number: number): TaskState {
  const state = statesByNumber.get(number);
  if (state === undefined)
    throw new ClusterError("data-loss", `store entry cannot be read: task state ${number}`);
  return state;
}
