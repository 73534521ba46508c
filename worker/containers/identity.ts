/** Who a container is: how it is found, what it is called. Pure. */
import type { ContainerNetwork, ContainerRecord } from "../engine/engine.ts";

/** By full id, then name, then unique prefix. */
export function findRecord<Found extends Pick<ContainerRecord, "id" | "name">>(
  records: readonly Found[],
  name: string,
): Found | undefined {
  const plain = name.startsWith("/") ? name.slice(1) : name;
  const exact = records.find(({ id }) => id === plain) ?? records.find((record) => record.name === plain);
  if (exact !== undefined || plain === "") return exact;
  const found = records.filter(({ id }) => id.startsWith(plain));
  return found.length === 1 ? found[0] : undefined;
}

export function hostnameOf(
  given: string,
  id: string,
  mode: string,
  partner: ContainerRecord | undefined,
): string {
  if (partner !== undefined) return partner.hostname;
  return given !== "" || mode === "host" ? given : id.slice(0, 12);
}

/** The real one is put in at each start. */
export function createdNetwork(mode: string): ContainerNetwork {
  if (mode === "host" || mode === "none") return { kind: mode };
  return { kind: "namespace", path: "" };
}

export function withTag(reference: string): string {
  return /[:@][^/]*$/.test(reference) ? reference : `${reference}:latest`;
}
