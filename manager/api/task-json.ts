/** A task joined with the revision it runs and its networks: model to Engine API JSON. */
import type { NetworkId } from "../../model/ids.ts";
import type { Network } from "../../model/network.ts";
import type { Revision } from "../../model/service.ts";
import type { Task, TaskStatus } from "../../model/task.ts";
import { apiTime } from "../../runtime/http.ts";
import { backoffText } from "../orchestrator/backoff.ts";
import { type Json, printMeta, unlessEmpty } from "./json-writer.ts";
import { printClaim } from "./node-json.ts";
import { printAttachedNetwork } from "./network-json.ts";
import { printTaskTemplate } from "./service-print.ts";

export interface TaskJoin {
  /** Undefined when the revision is gone, which is only so for a moment. */
  readonly revision: Revision | undefined;
  readonly network: (id: NetworkId) => Network | undefined;
}

interface Printed {
  readonly revision: Revision | undefined;
  readonly networks: readonly (Network | undefined)[];
  readonly text: string;
}

/**
 * Waiting clients ask for the same tasks five times a second, and stored objects never change: a change
 * makes new ones. So text is kept for as long as everything it was made from is the same.
 */
let printed = new WeakMap<Task, Printed>();
let printedCount = 0;
/** About 30 MB of text. */
const printedLimit = 20_000;

/** `printTask` as text. */
export function taskText(task: Task, join: TaskJoin): string {
  const before = printed.get(task);
  if (
    before !== undefined &&
    before.revision === join.revision &&
    task.networks.every(({ networkId }, index) => join.network(networkId) === before.networks[index])
  ) {
    return before.text;
  }
  const text = JSON.stringify(printTask(task, join));
  if (printedCount >= printedLimit) {
    printed = new WeakMap();
    printedCount = 0;
  }
  printedCount += 1;
  const networks = task.networks.map(({ networkId }) => join.network(networkId));
  printed.set(task, { revision: join.revision, networks, text });
  return text;
}

export function printTask(task: Task, { revision, network }: TaskJoin): Json {
  const attachments = task.networks.flatMap(({ networkId, address, ipv6 = "" }) => {
    const joined = network(networkId);
    return joined === undefined
      ? []
      : [{ Network: printAttachedNetwork(joined), Addresses: [address, ipv6].filter((each) => each !== "") }];
  });
  return {
    ...printMeta(task),
    Labels: {},
    Spec: revision === undefined ? { ContainerSpec: { Image: "" } } : printTaskTemplate(revision.task),
    ServiceID: task.serviceId,
    Slot: unlessEmpty(printedSlot(task)),
    NodeID: task.nodeId,
    AssignedGenericResources: unlessEmpty((task.generic ?? []).flatMap(printClaim)),
    Status: printStatus(task.status, revision === undefined ? undefined : waitText(task, revision)),
    DesiredState: task.desiredState,
    NetworksAttachments: unlessEmpty(attachments),
    JobIteration: task.jobIteration === undefined ? undefined : { Index: task.jobIteration },
  };
}

/** Clients count the slots of a job from 0, and wait for ever for a job whose first is 1. */
export function printedSlot({ slot, jobIteration }: Task): number {
  return jobIteration !== undefined && slot > 0 ? slot - 1 : slot;
}

function waitText(task: Task, { task: { restart }, serviceLabels }: Revision): string | undefined {
  return backoffText(task, restart, serviceLabels);
}

/** @param wait - Stands in for a message that would only say how far preparing has got. */
function printStatus(status: TaskStatus, wait: string | undefined): Json {
  return {
    Timestamp: apiTime(status.atMs),
    State: status.state,
    Message: unlessEmpty(wait ?? status.message),
    Err: unlessEmpty(status.error) ?? wait,
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
