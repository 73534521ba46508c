import { genericEnvironment } from "../../model/generic-resource.ts";
import { taskName } from "../../model/task.ts";
import type { NodeId } from "../../model/ids.ts";
import type { ContainerSpec, Platform } from "../../model/service.ts";
import type { Assignment } from "../agent/assignment.ts";
import type { ContainerCreate, ContainerNetwork } from "../engine/engine.ts";
import type { TemplateContext } from "../../model/template.ts";
import { expandSpec } from "../engine/template.ts";
import { payloadFiles, type TaskPayload } from "./payload.ts";
import type { Attached, AttachRequest } from "../network/network.ts";

/** This host as task templates and labels show it. */
export interface TaskHost {
  readonly nodeId: NodeId;
  readonly hostname: string;
  readonly platform: Platform;
}

export const taskLabel = "com.docker.swarm.task.id";

/** Digits of a container id that serve as its host name where the spec gives none. */
const shortIdLength = 12;

export function containerName({ revision, taskId, slot }: Assignment, nodeId: NodeId): string {
  return taskName(revision.serviceName, { id: taskId, slot, nodeId });
}

/** The spec with its templates filled in for this task and host. */
export function taskSpec(assignment: Assignment, host: TaskHost): ContainerSpec {
  return expandSpec(assignment.revision.task.container, templateContext(assignment, host));
}

function templateContext(assignment: Assignment, host: TaskHost): TemplateContext {
  const { revision, taskId, slot } = assignment;
  return {
    service: { id: assignment.serviceId, name: revision.serviceName, labels: revision.serviceLabels },
    node: { id: host.nodeId, hostname: host.hostname, platform: host.platform },
    task: {
      id: taskId,
      name: containerName(assignment, host.nodeId),
      slot: slot > 0 ? String(slot) : host.nodeId,
    },
  };
}

/**
 * What the task asks of the host's network.
 *
 * @param driverOf - Driver of an assigned network; undefined when it is not known here.
 */
export function attachRequest(
  assignment: Assignment,
  containerId: string,
  spec: ContainerSpec,
  host: TaskHost,
  driverOf: (networkId: string) => string | undefined,
): AttachRequest {
  const { taskId, networks, revision } = assignment;
  const ids = [...networks, ...revision.task.networks].map(({ networkId }) => networkId);
  const drivers = new Set(ids.map((id) => driverOf(id) ?? id));
  return {
    taskId,
    containerId,
    networks,
    host: drivers.has("host"),
    none: drivers.has("none") || drivers.has("null"),
    // As Docker opens them: at the host's IPv6 addresses too.
    ports: revision.endpoint.ports.map((port) => ({ ...port, ipv6: true as const })),
    hostname: spec.hostname ?? containerId.slice(0, shortIdLength),
    name: containerName(assignment, host.nodeId),
    ...(spec.dns !== undefined && { dns: spec.dns }),
    extraHosts: spec.hosts,
  };
}

/**
 * @param payload - Content of a secret or config that was assigned with the task.
 * @throws {ClusterError} `failed-precondition` when one is missing, `invalid-argument` when a template cannot be expanded.
 */
export function createRequest(
  assignment: Assignment,
  containerId: string,
  spec: ContainerSpec,
  host: TaskHost,
  attached: Attached,
  payload: (id: string) => TaskPayload | undefined,
): ContainerCreate {
  const { revision } = assignment;
  const name = containerName(assignment, host.nodeId);
  return {
    id: containerId,
    name,
    image: spec.image,
    spec: {
      ...spec,
      env: [...spec.env, ...genericEnvironment(assignment.generic ?? [])],
      hostname: spec.hostname ?? containerId.slice(0, shortIdLength),
    },
    resources: revision.task.resources,
    labels: {
      ...spec.labels,
      "com.docker.swarm.node.id": host.nodeId,
      "com.docker.swarm.service.id": assignment.serviceId,
      "com.docker.swarm.service.name": revision.serviceName,
      "com.docker.swarm.task": "",
      [taskLabel]: assignment.taskId,
      "com.docker.swarm.task.name": name,
    },
    network: containerNetwork(attached),
    files: attached.files,
    ...payloadFiles(spec, { find: payload, context: templateContext(assignment, host) }),
    ...(revision.task.logDriver !== undefined && { log: revision.task.logDriver }),
  };
}

function containerNetwork(attached: Attached): ContainerNetwork {
  switch (attached.kind) {
    case "host":
      return { kind: "host" };
    case "namespace":
      return { kind: "namespace", path: attached.path };
  }
}
