/** A node: Engine API JSON to model and back. */
import { ClusterError } from "../../model/errors.ts";
import type { Node, NodeDescription, NodeSpec, NodeState } from "../../model/node.ts";
import type { GenericClaim } from "../../model/generic-resource.ts";
import type { JsonObject } from "./json-reader.ts";
import { type Json, printMeta, unlessEmpty } from "./json-writer.ts";
import { oneOf, present } from "./parse.ts";

export function parseNodeSpec(json: JsonObject): NodeSpec {
  const roleText = json.text("Role");
  const invalidRole = `invalid Role: ${JSON.stringify(roleText)}`;
  const role = oneOf(roleText, ["manager", "worker"], invalidRole);
  const availabilityText = json.text("Availability");
  const invalidAvailability = `invalid Availability: ${JSON.stringify(availabilityText)}`;
  const availability = oneOf(availabilityText, ["active", "pause", "drain"], invalidAvailability);
  if (role === undefined) throw new ClusterError("invalid-argument", invalidRole);
  if (availability === undefined) throw new ClusterError("invalid-argument", invalidAvailability);
  return {
    labels: json.labels("Labels"),
    role,
    availability,
    ...present({ name: json.optionalText("Name") }),
  };
}

export interface NodeFacts {
  readonly leader: boolean;
  readonly reachable: boolean;
  /** `TLSInfo` of the cluster's CA. */
  readonly tlsInfo: Json | undefined;
}

export function printNode(node: Node, { leader, reachable, tlsInfo }: NodeFacts): Json {
  return {
    ...printMeta(node),
    Spec: {
      Name: node.spec.name,
      Labels: node.spec.labels,
      Role: node.spec.role,
      Availability: node.spec.availability,
    },
    Description: printDescription(node.description, tlsInfo),
    Status: {
      State: printState(node.status.state),
      Message: unlessEmpty(node.status.message || (node.description?.problem ?? "")),
      Addr: node.status.address,
    },
    ManagerStatus:
      node.member === undefined
        ? undefined
        : {
            Leader: leader || undefined,
            Reachability: leader || reachable ? "reachable" : "unreachable",
            Addr: node.member.address,
          },
  };
}

function printDescription(description: NodeDescription | undefined, tlsInfo: Json | undefined): Json {
  if (description === undefined) {
    return { Hostname: "", Platform: {}, Resources: {}, Engine: {}, TLSInfo: tlsInfo };
  }
  const { hostname, platform, resources, engineVersion, engineLabels, plugins } = description;
  return {
    Hostname: hostname,
    Platform: { Architecture: platform.architecture, OS: platform.os },
    Resources: {
      NanoCPUs: resources.nanoCpus,
      MemoryBytes: resources.memoryBytes,
      GenericResources: unlessEmpty(
        Object.entries(resources.generic).flatMap(([kind, count]) =>
          printClaim({ kind, count, ...present({ names: resources.named?.[kind] }) }),
        ),
      ),
    },
    Engine: {
      EngineVersion: engineVersion,
      Labels: unlessEmpty(engineLabels),
      Plugins: unlessEmpty(plugins.map(({ type, name }) => ({ Type: type, Name: name }))),
    },
    TLSInfo: tlsInfo,
  };
}

/** One entry a name, or one with the count. */
export function printClaim({ kind, count, names }: GenericClaim): Json[] {
  if (names === undefined) return [{ DiscreteResourceSpec: { Kind: kind, Value: count } }];
  return names.map((name) => ({ NamedResourceSpec: { Kind: kind, Value: name } }));
}

export function printState(state: NodeState): string {
  switch (state) {
    case "unknown":
    case "ready":
    case "down":
      return state;
    case "unreachable":
      return "disconnected";
  }
}
