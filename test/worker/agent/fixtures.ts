import type { ServiceId, TaskId } from "../../../model/ids.ts";
import type { ContainerSpec, Revision, TaskSpec } from "../../../model/service.ts";
import type { Assignment } from "../../../worker/agent/assignment.ts";

export const container: ContainerSpec = {
  image: "web:1",
  labels: { own: "label" },
  command: [],
  args: [],
  env: ["SLOT={{.Task.Slot}}"],
  groups: [],
  tty: false,
  openStdin: false,
  readOnly: false,
  mounts: [],
  hosts: [],
  secrets: [],
  configs: [],
  sysctls: {},
  capabilityAdd: [],
  capabilityDrop: [],
  ulimits: [],
};

/** A revision of service "web". */
export function revision(spec: Partial<ContainerSpec> = {}, task: Partial<TaskSpec> = {}): Revision {
  return {
    id: "s.1",
    meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
    serviceId: "s" as ServiceId,
    specVersion: 1,
    serviceName: "web",
    serviceLabels: {},
    task: {
      container: { ...container, ...spec },
      resources: {},
      restart: {},
      placement: { constraints: [], spread: [], maxReplicas: 0, platforms: [] },
      networks: [],
      forceUpdate: 0,
      ...task,
    },
    endpoint: { mode: "vip", ports: [] },
  };
}

export function assignment(taskId: string, more: Partial<Assignment> = {}): Assignment {
  return {
    taskId: taskId as TaskId,
    serviceId: "s" as ServiceId,
    slot: 1,
    specVersion: 1,
    desiredState: "running",
    revision: revision(),
    networks: [],
    statusState: "assigned",
    jobIteration: 0,
    ...more,
  };
}
