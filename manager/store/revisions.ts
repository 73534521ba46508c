import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import { revisionKey, type Revision, type Service } from "../../model/service.ts";
import { noNetworks, type DesiredState, type Task, type TaskStatus } from "../../model/task.ts";
import type { StoreView, Transaction } from "./transaction.ts";

export interface NewTask {
  readonly id: TaskId;
  /** 0 for a global service, whose slot is the node. */
  readonly slot: number;
  readonly nodeId?: NodeId;
  readonly desiredState: DesiredState;
  readonly restarts?: number;
  readonly crashes?: number;
}

/**
 * Creates a task on the service's current spec, and the revision it refers to when it is the first. One that needs
 * nothing from the allocator is open to the scheduler at once, which spares a write for each of them.
 */
export function createTask(tx: Transaction, service: Service, task: NewTask): Task {
  const key = revisionKey(service.id, service.specVersion);
  if (!tx.revisions.has(key)) tx.revisions.create(revisionOf(service));
  return tx.tasks.create({
    id: task.id,
    serviceId: service.id,
    specVersion: service.specVersion,
    slot: task.slot,
    ...(task.nodeId === undefined ? {} : { nodeId: task.nodeId }),
    desiredState: task.desiredState,
    status: needsAllocation(service) ? created(tx) : pending(tx),
    networks: noNetworks,
    ...(service.job === undefined ? {} : { jobIteration: service.job.iteration }),
    ...(task.restarts === undefined || task.restarts === 0 ? {} : { restarts: task.restarts }),
    ...(task.crashes === undefined || task.crashes === 0 ? {} : { crashes: task.crashes }),
  });
}

/** Whether its tasks wait for addresses, or for what the service itself is still to get or to lose. */
function needsAllocation({ spec, endpoint }: Service): boolean {
  if (spec.task.networks.length > 0 || spec.endpoint.ports.length > 0) return true;
  return endpoint !== undefined && (endpoint.virtualIps.length > 0 || endpoint.ports.length > 0);
}

function created({ nowMs }: Transaction): TaskStatus {
  return { state: "new", atMs: nowMs, message: "created", error: "", appliedAtMs: 0 };
}

/** Of a task that the scheduler may take. */
export function pending({ nowMs }: Transaction): TaskStatus {
  return { state: "pending", atMs: nowMs, message: "pending task scheduling", error: "", appliedAtMs: nowMs };
}

/** Removes a task's record and, with the last task of a revision that is not current, the revision. */
export function removeTask(tx: Transaction, task: Pick<Task, "id" | "serviceId" | "specVersion">): void {
  tx.tasks.remove(task.id);
  dropUnusedRevision(tx, task.serviceId, task.specVersion);
}

export function dropUnusedRevision(tx: Transaction, serviceId: ServiceId, specVersion: number): void {
  const key = revisionKey(serviceId, specVersion);
  if (!tx.revisions.has(key)) return;
  if (tx.services.get(serviceId)?.specVersion === specVersion) return;
  if (tx.tasks.countByRevision(serviceId, specVersion) === 0) tx.revisions.remove(key);
}

/** The revision a task runs; every stored task has one. */
export function revisionOfTask(
  view: StoreView,
  task: Pick<Task, "serviceId" | "specVersion">,
): Revision | undefined {
  return view.revisions.get(revisionKey(task.serviceId, task.specVersion));
}

function revisionOf(service: Service): Omit<Revision, "meta"> {
  return {
    id: revisionKey(service.id, service.specVersion),
    serviceId: service.id,
    specVersion: service.specVersion,
    serviceName: service.spec.name,
    serviceLabels: service.spec.labels,
    task: service.spec.task,
    endpoint: service.spec.endpoint,
    ...(service.registryAuth === undefined ? {} : { registryAuth: service.registryAuth }),
  };
}
