import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { ClusterError } from "../../model/errors.ts";
import type { GenericClaim } from "../../model/generic-resource.ts";
import type { NetworkId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import {
  noNetworks,
  taskStates,
  type DesiredState,
  type NetworkAttachment,
  type PublishedPort,
  type Task,
  type TaskState,
  type TaskStatus,
} from "../../model/task.ts";
import {
  StoreChange,
  type TaskAttachment,
  type TaskGenericClaim,
  type TaskRecord,
} from "../../proto/gen/shoal/store.ts";
import type { Change } from "./change.ts";
import type { Metas } from "./metas.ts";
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

/** @param before - The object as everyone who will read the change has it; absent makes it one that stands alone. */
export function encodeChange(change: Change, before?: StoredObject): Uint8Array {
  try {
    return StoreChange.encode(toMessage(change, before), writer).finish();
  } catch (error) {
    writer = new BinaryWriter(); // What was half written must not begin the next one.
    throw error;
  }
}

/** What the store holds that a change may refer to. */
export interface Known {
  readonly metas: Metas;
  /** Given an id, the equal string that the store holds: a million tasks share the ids of their services and nodes. */
  readonly canonical: (id: string) => string;
  readonly task: (id: string) => Task | undefined;
}

/** @throws {ClusterError} `data-loss` for bytes that are no change. */
export function decodeChange(bytes: Uint8Array, known: Known): Change {
  const { body } = StoreChange.decode(bytes);
  switch (body?.$case) {
    case undefined:
      throw new ClusterError("data-loss", "store entry cannot be read: a change without content");
    case "task":
      return { kind: "put", table: "tasks", object: fromRecord(body.value, known) };
    case "step":
      return { kind: "put", table: "tasks", object: fromStep(body.value, known) };
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

function toMessage(change: Change, before: StoredObject | undefined): StoreChange {
  if (change.kind === "remove") {
    return { body: { $case: "removed", value: { table: change.table, id: change.id } } };
  }
  if (change.table === "tasks") {
    // The table decides the type; a union member cannot say so to the compiler.
    const task = change.object as Task;
    const isKnown = before !== undefined && isStep(task, before as Task);
    if (isKnown) return { body: { $case: "step", value: toRecord(task, "step") } };
    return { body: { $case: "task", value: toRecord(task, "whole") } };
  }
  const json = Buffer.from(JSON.stringify(change.object), "utf8");
  return { body: { $case: "object", value: { table: change.table, json } } };
}

type StepField = "id" | "meta" | "nodeId" | "desiredState" | "status";

/** What a step leaves as it was; a new field of tasks has to be among them, or in the step's record. */
const keptFields = Object.keys({
  serviceId: true,
  specVersion: true,
  slot: true,
  networks: true,
  jobIteration: true,
  restarts: true,
  moving: true,
  generic: true,
  crashes: true,
} satisfies Record<Exclude<keyof Task, StepField>, true>) as readonly Exclude<keyof Task, StepField>[];

/** Most writes of a task are steps up its ladder: a third of the bytes, and little to make of them. */
function isStep(task: Task, before: Task): boolean {
  if (task.meta.createdVersion !== before.meta.createdVersion) return false; // Another one of the same id.
  if (task.nodeId === undefined && before.nodeId !== undefined) return false;
  return keptFields.every((field) => task[field] === before[field]);
}

function fromStep(record: TaskRecord, { canonical, task, metas }: Known): Task {
  const before = task(record.id);
  if (before === undefined)
    throw new ClusterError(
      "data-loss",
      `store entry cannot be read: a step of task ${record.id}, which is not there`,
    );
  const { createdVersion, createdAtMs } = before.meta;
  const updatedAtMs = createdAtMs + record.updatedAfterMs;
  return {
    ...before,
    meta: metas.share({ version: record.version, createdVersion, createdAtMs, updatedAtMs }, before.meta),
    ...(record.nodeId === "" ? {} : { nodeId: canonical(record.nodeId) as NodeId }),
    // The ladder's number was written from a DesiredState.
    desiredState: stateOf(record.desiredState) as DesiredState,
    status: fromStatus(record, createdAtMs),
  };
}

/** @param form - A step has none of what it leaves as it was. */
function toRecord(task: Task, form: "whole" | "step"): TaskRecord {
  const { status, meta } = task;
  const isWhole = form === "whole";
  const origin = Math.trunc(meta.createdAtMs);
  const after = (timeMs: number): number => Math.trunc(timeMs) - origin;
  const code = messageCodes.get(status.message) ?? 0;
  const binaryId = status.containerId !== undefined && containerIdPattern.test(status.containerId);
  return {
    id: task.id,
    version: meta.version,
    createdAtMs: isWhole ? origin : 0,
    updatedAfterMs: after(meta.updatedAtMs),
    serviceId: isWhole ? task.serviceId : "",
    specVersion: isWhole ? task.specVersion : 0,
    slot: isWhole ? task.slot : 0,
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
    networks: isWhole ? task.networks.map(toAttachment) : [],
    jobIteration: isWhole ? task.jobIteration : undefined,
    restarts: isWhole ? (task.restarts ?? 0) : 0,
    versionsSinceCreated: isWhole ? meta.version - meta.createdVersion : 0,
    crashes: isWhole ? (task.crashes ?? 0) : 0,
    moving: isWhole && (task.moving ?? false),
    generic: isWhole ? (task.generic ?? []).map(toClaim) : [],
  };
}

function toAttachment({ networkId, address, ipv6 = "", aliases }: NetworkAttachment): TaskAttachment {
  return { networkId, address, ipv6, aliases: [...aliases] };
}

function toClaim({ kind, count, names = [] }: GenericClaim): TaskGenericClaim {
  return { kind, count, names: [...names] };
}

function fromRecord(record: TaskRecord, known: Known): Task {
  const { canonical, metas } = known;
  const createdAtMs = record.createdAtMs;
  return {
    id: record.id as TaskId,
    meta: metas.share({
      version: record.version,
      createdVersion: record.version - record.versionsSinceCreated,
      createdAtMs,
      updatedAtMs: createdAtMs + record.updatedAfterMs,
    }),
    serviceId: canonical(record.serviceId) as ServiceId,
    specVersion: record.specVersion,
    slot: record.slot,
    ...(record.nodeId === "" ? {} : { nodeId: canonical(record.nodeId) as NodeId }),
    // The ladder's number was written from a DesiredState.
    desiredState: stateOf(record.desiredState) as DesiredState,
    status: fromStatus(record, createdAtMs),
    networks:
      record.networks.length === 0
        ? noNetworks
        : record.networks.map((attachment) => fromAttachment(attachment, known)),
    ...(record.jobIteration === undefined ? {} : { jobIteration: record.jobIteration }),
    ...(record.restarts === 0 ? {} : { restarts: record.restarts }),
    ...(record.crashes === 0 ? {} : { crashes: record.crashes }),
    ...(record.moving ? { moving: true } : {}),
    ...(record.generic.length === 0 ? {} : { generic: record.generic.map(fromClaim) }),
  };
}

function fromStatus(record: TaskRecord, createdAtMs: number): TaskStatus {
  const containerId =
    record.containerId.length > 0 ? record.containerId.toString("hex") : record.containerName;
  return {
    state: stateOf(record.state),
    atMs: createdAtMs + record.stateAfterMs,
    message: wellKnownMessages[record.messageCode] || record.message,
    error: record.error,
    ...(containerId === "" ? {} : { containerId }),
    ...(record.hasPid ? { pid: record.pid } : {}),
    ...(record.exitCode === undefined ? {} : { exitCode: record.exitCode }),
    ...(record.hasPorts ? { ports: record.ports.map(fromPort) } : {}),
    appliedAtMs: record.appliedAfterMs === undefined ? 0 : createdAtMs + record.appliedAfterMs,
  };
}

function fromAttachment(
  { networkId, address, ipv6, aliases }: TaskAttachment,
  { canonical }: Known,
): NetworkAttachment {
  const place = { networkId: canonical(networkId) as NetworkId, address };
  return ipv6 === "" ? { ...place, aliases } : { ...place, ipv6, aliases };
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
