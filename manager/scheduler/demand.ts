import { extensionsOf, type Preference } from "../../model/extensions.ts";
import type { ServiceId } from "../../model/ids.ts";
import { type CidrBlock, parseCidr, printCidr } from "../../model/address.ts";
import { isEncrypted, subnetsOf } from "../../model/network.ts";
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
  readonly reach: NetworkReach;
}

/** What the networks of a task ask of a node. */
export interface NetworkReach {
  /** One is encrypted. */
  readonly needsTunnel: boolean;
  /** Their subnets: a host that has some of these addresses otherwise cannot set the network up. */
  readonly blocks: readonly CidrBlock[];
}

const anyNode: NetworkReach = { needsTunnel: false, blocks: [] };

/** @param reach - `networkReach` knows it. */
export function demandOf(revision: Revision, reach = anyNode): Demand {
  const { placement, resources, container, logDriver } = revision.task;
  const wanted: Resources = { ...noResources, ...resources.reservations };
  const extensions = extensionsOf(revision.serviceLabels);
  const volumes = container.mounts.map((mount) => (mount.type === "volume" ? mount.volume?.driverName : ""));
  return {
    key: revisionKey(revision.serviceId, revision.specVersion),
    kind: JSON.stringify([
      placement.constraints,
      placement.platforms,
      volumes,
      logDriver?.name,
      textOf(reach),
    ]),
    serviceId: revision.serviceId,
    serviceName: revision.serviceName.toLowerCase(),
    resources: wanted,
    generic: Object.entries(wanted.generic).filter(([, count]) => count > 0),
    hostPorts: hostPortsOf(revision.endpoint),
    task: revision.task,
    avoid: extensions.avoid.filter((name) => name !== revision.serviceName.toLowerCase()),
    prefer: extensions.prefer,
    reach,
  };
}

/** What the networks of the revision's tasks ask of a node. Once they have their subnets, they never change in this. */
export function networkReach(view: StoreView, { task, endpoint }: Revision): NetworkReach {
  const ingress = view.networks.ingress();
  const isPublished = endpoint.ports.some(({ publishMode }) => publishMode === "ingress");
  const networks = [
    ...task.networks.flatMap(({ networkId }) => view.networks.get(networkId) ?? []),
    ...(isPublished && ingress !== undefined ? [ingress] : []),
  ];
  const subnets = networks.flatMap(({ state }) => (state === undefined ? [] : subnetsOf(state)));
  return {
    needsTunnel: networks.some(isEncrypted),
    blocks: subnets.flatMap(({ subnet }) => parseCidr(subnet) ?? []),
  };
}

function textOf({ needsTunnel, blocks }: NetworkReach): string {
  return [needsTunnel ? "tunnel" : "any", ...blocks.map(printCidr)].join(" ");
}

function hostPortsOf({ ports }: EndpointSpec): string[] {
  return ports
    .filter((port) => port.publishMode === "host" && port.publishedPort !== 0)
    .map((port) => `${port.protocol}/${port.publishedPort}`);
}
