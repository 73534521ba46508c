import { extensionsOf, type Preference } from "../../model/extensions.ts";
import type { ServiceId } from "../../model/ids.ts";
import { isEncrypted } from "../../model/network.ts";
import { noResources, type Resources } from "../../model/resources.ts";
import { revisionKey, type EndpointSpec, type Revision, type TaskSpec } from "../../model/service.ts";
import type { StoreView } from "../store/transaction.ts";

/** What every task of one revision asks of a node. */
export interface Demand {
  /** Tasks with the same key are equal to the scheduler. */
  readonly key: string;
  /** Demands with the same text here get the same answer from a node, whatever runs on it. */
  readonly kind: string;
  readonly serviceId: ServiceId;
  /** Lower case. */
  readonly serviceName: string;
  readonly resources: Resources;
  readonly generic: readonly (readonly [kind: string, count: number])[];
  /** Host-mode ports that must be free, as "tcp/8080". */
  readonly hostPorts: readonly string[];
  readonly task: TaskSpec;
  /** Names of services, lower case, that may not be on the same node. */
  readonly avoid: readonly string[];
  readonly prefer: readonly Preference[];
  /** It is on an encrypted network. */
  readonly needsTunnel: boolean;
}

/** @param reach - What its networks ask of a node; `networkReach` knows it. */
export function demandOf(revision: Revision, reach: "tunnel" | "any" = "any"): Demand {
  const { placement, resources, container, logDriver } = revision.task;
  const wanted: Resources = { ...noResources, ...resources.reservations };
  const extensions = extensionsOf(revision.serviceLabels);
  const volumes = container.mounts.map((mount) => (mount.type === "volume" ? mount.volume?.driverName : ""));
  return {
    key: revisionKey(revision.serviceId, revision.specVersion),
    kind: JSON.stringify([placement.constraints, placement.platforms, volumes, logDriver?.name, reach]),
    serviceId: revision.serviceId,
    serviceName: revision.serviceName.toLowerCase(),
    resources: wanted,
    generic: Object.entries(wanted.generic).filter(([, count]) => count > 0),
    hostPorts: hostPortsOf(revision.endpoint),
    task: revision.task,
    avoid: extensions.avoid.filter((name) => name !== revision.serviceName.toLowerCase()),
    prefer: extensions.prefer,
    needsTunnel: reach === "tunnel",
  };
}

/** Whether a task of the revision needs a node that can make tunnels. Networks never change in this. */
export function networkReach(view: StoreView, { task, endpoint }: Revision): "tunnel" | "any" {
  const ingress = view.networks.ingress();
  const isPublished = endpoint.ports.some(({ publishMode }) => publishMode === "ingress");
  const networks = [
    ...task.networks.map(({ networkId }) => view.networks.get(networkId)),
    isPublished ? ingress : undefined,
  ];
  return networks.some((network) => network !== undefined && isEncrypted(network)) ? "tunnel" : "any";
}

function hostPortsOf({ ports }: EndpointSpec): string[] {
  return ports
    .filter((port) => port.publishMode === "host" && port.publishedPort !== 0)
    .map((port) => `${port.protocol}/${port.publishedPort}`);
}
