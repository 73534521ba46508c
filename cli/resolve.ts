import type { ApiInfo, ApiNode, ApiService, ApiTask } from "./api-types.ts";
import { ApiError, type Client, filters } from "./client.ts";

/** `self` as the id of the node that is asked. */
export async function nodeName(client: Client, name: string): Promise<string> {
  if (name !== "self") return name;
  const { Swarm } = await client.get<ApiInfo>("/info");
  if (Swarm.NodeID === "") throw new Error("Error response from daemon: This node is not part of a swarm");
  return Swarm.NodeID;
}

/** An object's value, or undefined when there is none of that name. */
export async function orNothing<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

/** Names for the ids in a list of tasks; a node or service that is gone shows its id. */
export async function namesOf(
  client: Client,
  tasks: readonly ApiTask[],
): Promise<{ service(id: string): string; node(id: string): string }> {
  const serviceIds = [...new Set(tasks.map((task) => task.ServiceID))];
  const [services, nodes] = await Promise.all([
    serviceIds.length === 0
      ? []
      : client.get<ApiService[]>("/services", { filters: filters({ id: serviceIds }) }),
    client.get<ApiNode[]>("/nodes"),
  ]);
  const serviceNames = new Map(services.map((service) => [service.ID, service.Spec.Name]));
  const nodeNames = new Map(nodes.map((node) => [node.ID, node.Spec.Name ?? node.Description.Hostname]));
  return {
    service: (id) => serviceNames.get(id) ?? id,
    node: (id) => nodeNames.get(id) ?? id,
  };
}
