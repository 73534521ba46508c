/** A task joined with the revision it runs and its networks: model to Engine API JSON. */
import type { NetworkId } from "../../model/ids.ts";
import type { Network } from "../../model/network.ts";
import type { Revision } from "../../model/service.ts";
import type { Task, TaskStatus } from "../../model/task.ts";
import { apiTime } from "../../runtime/http.ts";
import { type Json, printMeta, unlessEmpty } from "./json-writer.ts";
import { printAttachedNetwork } from "./network-json.ts";
import { printTaskTemplate } from "./service-print.ts";

export interface TaskJoin {
  /** Undefined when the revision is gone, which is only so for a moment. */
  readonly revision: Revision | undefined;
  readonly network: (id: NetworkId) => Network | undefined;
}

/** Revisions never change once stored; hundreds of tasks share one. */
const templates = new WeakMap<Revision, Json>();

export function printTask(task: Task, { revision, network }: TaskJoin): Json {
  const attachments = task.networks.flatMap(({ networkId, address }) => {
    const joined = network(networkId);
    return joined === undefined
      ? []
      : [{ Network: printAttachedNetwork(joined), Addresses: address === "" ? [] : [address] }];
  });
  return {
    ...printMeta(task),
    Labels: {},
    Spec: revision === undefined ? { ContainerSpec: { Image: "" } } : templateOf(revision),
    ServiceID: task.serviceId,
    Slot: unlessEmpty(task.slot),
    NodeID: task.nodeId,
    Status: printStatus(task.status),
    DesiredState: task.desiredState,
    NetworksAttachments: unlessEmpty(attachments),
    JobIteration: task.jobIteration === undefined ? undefined : { Index: task.jobIteration },
  };
}

function templateOf(revision: Revision): Json {
  let template = templates.get(revision);
  if (template === undefined) {
    template = printTaskTemplate(revision.task);
    templates.set(revision, template);
  }
  return template;
}

function printStatus(status: TaskStatus): Json {
  return {
    Timestamp: apiTime(status.atMs),
    State: status.state,
    Message: unlessEmpty(status.message),
    Err: unlessEmpty(status.error),
    ContainerStatus:
      status.containerId === undefined
        ? undefined
        : { ContainerID: status.containerId, PID: status.pid ?? 0, ExitCode: status.exitCode ?? 0 },
    PortStatus: {
      Ports: unlessEmpty(
        (status.ports ?? []).map(({ protocol, targetPort, publishedPort }) => ({
          Protocol: protocol,
          TargetPort: targetPort,
          PublishedPort: publishedPort,
          PublishMode: "host",
        })),
      ),
    },
  };
}
