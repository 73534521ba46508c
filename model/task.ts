import type { ClusterId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId } from "./ids.ts";
import type { GenericClaim } from "./generic-resource.ts";
import type { Meta } from "./meta.ts";

export type { ClusterId, ConfigId, SecretId };

/**
 * The ladder of a task, lowest first; an observed state only ever climbs. The numbers are part of
 * the stored and sent form and leave gaps on purpose.
 */
export const taskStates = {
  new: 0,
  pending: 64,
  assigned: 192,
  accepted: 256,
  preparing: 320,
  ready: 384,
  starting: 448,
  running: 512,
  complete: 576,
  shutdown: 640,
  failed: 704,
  rejected: 768,
  remove: 800,
  orphaned: 832,
} as const;

export type TaskState = keyof typeof taskStates;

/** What managers ask of a task; never lowered. `ready` lets the worker prepare and wait. */
export type DesiredState = "ready" | "running" | "complete" | "shutdown" | "remove";

/** A port the worker opened for the task on its host. */
export interface PublishedPort {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly targetPort: number;
  readonly publishedPort: number;
}

/** What no two ports of a host, or of a cluster, share: "80/tcp". */
export function portKey({ protocol, publishedPort }: Omit<PublishedPort, "targetPort">): string {
  return `${publishedPort}/${protocol}`;
}

/** Owner: managers up to `assigned`, the worker's agent from `accepted` on. */
export interface TaskStatus {
  readonly state: TaskState;
  /** Wall clock of whoever observed it, unix milliseconds. */
  readonly atMs: number;
  /** What happened, such as "started". */
  readonly message: string;
  /** Why it is not further, or why it ended; empty when nothing is wrong. */
  readonly error: string;
  readonly containerId?: string;
  readonly pid?: number;
  readonly exitCode?: number;
  /** Host-mode ports actually open. */
  readonly ports?: readonly PublishedPort[];
  /** Leader clock when the status entered the store; 0 while only the worker knows it. */
  readonly appliedAtMs: number;
}

/** A task's place on one network. Owner: the allocator. */
export interface NetworkAttachment {
  readonly networkId: NetworkId;
  /** CIDR form, such as "10.0.1.5/24"; empty for host-local networks, whose address the worker picks. */
  readonly address: string;
  /** As `address`, of IPv6; absent on networks without it. */
  readonly ipv6?: string;
  readonly aliases: readonly string[];
}

/** Most tasks need none; they share this list of them. */
export const noNetworks: readonly NetworkAttachment[] = [];

/**
 * One placement of one replica. It does not copy the service's spec: `(serviceId, specVersion)` names
 * the revision it runs, kept as a `Revision` while any task needs it.
 */
export interface Task {
  readonly id: TaskId;
  readonly meta: Meta;
  readonly serviceId: ServiceId;
  readonly specVersion: number;
  /** 1-based for replicated services and jobs; 0 for global ones, where the node is the slot. */
  readonly slot: number;
  /** Owner: scheduler (or orchestrator for global services). Absent until placed. */
  readonly nodeId?: NodeId;
  /** Owner: orchestrators. */
  readonly desiredState: DesiredState;
  readonly status: TaskStatus;
  /** Owner: allocator. */
  readonly networks: readonly NetworkAttachment[];
  /** Iteration of a job; absent for services. */
  readonly jobIteration?: number;
  /** How often its slot was restarted on this spec version before it; absent means never. Owner: orchestrators. */
  readonly restarts?: number;
  /** It is to be replaced elsewhere, in its service's order; absent means it may stay. Owner: whoever rebalances. */
  readonly moving?: true;
  /** Generic resources it holds on its node; absent means none. Owner: scheduler. */
  readonly generic?: readonly GenericClaim[];
  /** How many tasks of its slot ended in a row, each soon after it began, before it; absent means none. Owner: orchestrators. */
  readonly crashes?: number;
}

/** Message of a task that its node may not have any more; the node is not to blame. */
export const enforcerMessage = "task rejected by constraint enforcer";

export function stateAtLeast(state: TaskState, floor: TaskState): boolean {
  return taskStates[state] >= taskStates[floor];
}

/** Observed past `running`: it will never run again. */
export function isTerminal(task: Pick<Task, "status">): boolean {
  return taskStates[task.status.state] > taskStates.running;
}

/** Wanted and still able to run. */
export function isRunnable(task: Pick<Task, "status" | "desiredState">): boolean {
  return !isTerminal(task) && isWanted(task);
}

/** True while managers want it alive (jobs: until complete). */
export function isWanted(task: Pick<Task, "desiredState">): boolean {
  return taskStates[task.desiredState] <= taskStates.complete;
}

/** The container's name: `<service>.<slot>.<task>`, or `<service>.<node>.<task>` for global services. */
export function taskName(serviceName: string, task: Pick<Task, "id" | "slot" | "nodeId">): string {
  return `${serviceName}.${task.slot > 0 ? task.slot : (task.nodeId ?? "")}.${task.id}`;
}
