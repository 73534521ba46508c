import { splitHostPort } from "../../model/address.ts";
import type { Service, ServiceSpec } from "../../model/service.ts";
import { fabricPort } from "../../runtime/fabric.ts";
import type { StoreView } from "../store/transaction.ts";

/**
 * Which of the published ports the managers or another service have, as asked for or as chosen for it. Two services may share
 * a port on their own hosts.
 *
 * @param own - The service that is to publish them; absent for a new one.
 * @returns What to say of the first that is taken; undefined when all are free.
 */
export function takenPortText(
  view: StoreView,
  { endpoint }: Pick<ServiceSpec, "endpoint">,
  own: Service | undefined,
): string | undefined {
  const asked = endpoint.ports.filter(({ publishedPort }) => publishedPort > 0);
  if (asked.length === 0) return undefined;
  const reserved = clusterPorts(view);
  const ofManagers = asked.find(
    ({ publishedPort, protocol, publishMode }) =>
      publishMode !== "host" && protocol === "tcp" && reserved.has(publishedPort),
  );
  if (ofManagers !== undefined)
    return `port '${ofManagers.publishedPort}' is already in use by the managers of this cluster`;
  for (const other of view.services.list()) {
    if (other.id === own?.id) continue;
    const taken = [...other.spec.endpoint.ports, ...(other.endpoint?.ports ?? [])];
    for (const { publishedPort, protocol, publishMode } of asked) {
      const holder = taken.find(
        (each) =>
          each.publishedPort === publishedPort &&
          each.protocol === protocol &&
          !(each.publishMode === "host" && publishMode === "host"),
      );
      if (holder === undefined) continue;
      const as = holder.publishMode === "ingress" ? "an ingress port" : "a host-published port";
      return `port '${publishedPort}' is already in use by service '${other.spec.name}' (${other.id}) as ${as}`;
    }
  }
  return undefined;
}

/** A host that published one of these itself would take a task for its manager, and could not be promoted. */
function clusterPorts(view: StoreView): ReadonlySet<number> {
  const addresses = view.nodes
    .list()
    .flatMap(({ member }) => (member === undefined ? [] : [member.address, member.raftAddress]));
  return new Set([fabricPort, ...addresses.map((address) => splitHostPort(address).port)]);
}
