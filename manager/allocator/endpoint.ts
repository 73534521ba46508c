/** What a service needs so that it can be reached, and whether it has it. */
import type { NetworkId } from "../../model/ids.ts";
import type { Network } from "../../model/network.ts";
import type {
  NetworkReference,
  PortSpec,
  Service,
  ServiceEndpoint,
  ServiceSpec,
} from "../../model/service.ts";

/** Finds networks; a store view does. */
export interface NetworkFinder {
  get(id: NetworkId): Network | undefined;
  ingress(): Network | undefined;
}

export const noIngressText = "service needs ingress network, but no ingress network is present";

export function publishesOnIngress({ endpoint }: Pick<ServiceSpec, "endpoint">): boolean {
  return endpoint.mode === "vip" && endpoint.ports.some(({ publishMode }) => publishMode === "ingress");
}

/**
 * The networks on which the service has a virtual IP.
 *
 * @returns undefined when it publishes ports and there is no ingress network.
 */
export function virtualNetworks(
  { endpoint, task }: Pick<ServiceSpec, "endpoint" | "task">,
  networks: NetworkFinder,
): readonly NetworkId[] | undefined {
  if (endpoint.mode !== "vip") return [];
  const own = task.networks
    .map(({ networkId }) => networkId)
    .filter((id) => networks.get(id)?.spec.driver === "overlay");
  if (!publishesOnIngress({ endpoint })) return [...new Set(own)];
  const ingress = networks.ingress();
  return ingress === undefined ? undefined : [...new Set([...own, ingress.id])];
}

/**
 * What a task of a revision attaches to. The ingress network comes first, as it carries the default route then: a program
 * that answers datagrams lets the route choose its address, and the client waits for an answer from the ingress network.
 */
export function attachmentsOf(
  { endpoint, task }: Pick<ServiceSpec, "endpoint" | "task">,
  networks: NetworkFinder,
): readonly NetworkReference[] {
  const ingress = publishesOnIngress({ endpoint }) ? networks.ingress() : undefined;
  return ingress === undefined ? task.networks : [{ networkId: ingress.id, aliases: [] }, ...task.networks];
}

/** Whether the stored endpoint is all that the spec asks for, and nothing else. */
export function isReachable({ spec, endpoint }: Service, wanted: readonly NetworkId[]): boolean {
  const { ports, virtualIps } = endpoint ?? nothingGiven(spec);
  return (
    wanted.length === virtualIps.length &&
    wanted.every((id) => virtualIps.some(({ networkId }) => networkId === id)) &&
    ports.length === spec.endpoint.ports.length &&
    spec.endpoint.ports.every((port, index) => fulfils(ports[index], port))
  );
}

/**
 * An earlier choice for a port that the user left to the system.
 *
 * @param isFree - Whether no other port of the spec has the number.
 */
export function earlierPort(
  endpoint: ServiceEndpoint | undefined,
  port: PortSpec,
  isFree: (publishedPort: number) => boolean,
): number | undefined {
  return endpoint?.ports.find(
    (each) =>
      each.publishMode === "ingress" &&
      each.name === port.name &&
      each.protocol === port.protocol &&
      each.targetPort === port.targetPort &&
      isFree(each.publishedPort),
  )?.publishedPort;
}

function nothingGiven({ endpoint }: ServiceSpec): ServiceEndpoint {
  return {
    ports: endpoint.ports.every(({ publishMode }) => publishMode === "host") ? endpoint.ports : [],
    virtualIps: [],
  };
}

function fulfils(given: PortSpec | undefined, asked: PortSpec): boolean {
  if (given === undefined) return false;
  const chosen = asked.publishMode === "ingress" && asked.publishedPort === 0;
  return (
    given.protocol === asked.protocol &&
    given.targetPort === asked.targetPort &&
    given.publishMode === asked.publishMode &&
    given.name === asked.name &&
    (chosen ? given.publishedPort > 0 : given.publishedPort === asked.publishedPort)
  );
}
