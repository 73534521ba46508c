/** A service's spec: Engine API JSON to model. Nothing is filled in that inspect must not show later. */
import { defaultUpdatePolicy } from "../../model/defaults.ts";
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import type {
  EndpointSpec,
  NetworkReference,
  Placement,
  PortSpec,
  ResourceRequirements,
  RestartPolicy,
  ServiceMode,
  ServiceSpec,
  TaskSpec,
  UpdatePolicy,
} from "../../model/service.ts";
import { parseContainer } from "./container-json.ts";
import type { JsonObject } from "./json-reader.ts";
import { unlessEmpty } from "./json-writer.ts";
import { oneOf, parseNamedOptions, present } from "./parse.ts";

/**
 * Network targets stay as they were given, name or id: the caller resolves them against the store.
 *
 * @throws {ClusterError} `invalid-argument` for what JSON cannot say here, `unimplemented` for what is to come.
 */
export function parseServiceSpec(json: JsonObject): ServiceSpec {
  const template = json.object("TaskTemplate");
  const networks = template.objects("Networks");
  const endpoint = json.object("EndpointSpec");
  return {
    name: json.text("Name"),
    labels: json.labels("Labels"),
    task: parseTask(template, networks.length > 0 ? networks : json.objects("Networks")),
    mode: parseMode(json.object("Mode")),
    endpoint: parseEndpoint(endpoint),
    ...present({
      update: parseUpdate(json.optionalObject("UpdateConfig")),
      rollback: parseUpdate(json.optionalObject("RollbackConfig")),
      endpointGiven: endpoint.has("Mode") || endpoint.list("Ports").length > 0 || undefined,
    }),
  };
}

function parseTask(json: JsonObject, networks: readonly JsonObject[]): TaskSpec {
  const runtime = json.text("Runtime");
  const container = json.optionalObject("ContainerSpec");
  if (!["", "container", "plugin"].includes(runtime)) {
    throw new ClusterError("invalid-argument", "unsupported runtime");
  }
  if (runtime === "plugin" && json.has("PluginSpec")) {
    throw new ClusterError("unimplemented", "runtime plugin is not available; container is");
  }
  if (container === undefined || runtime === "plugin") {
    throw new ClusterError("invalid-argument", "mismatched Runtime and *Spec fields");
  }
  return {
    container: parseContainer(container),
    resources: parseResources(json.object("Resources")),
    restart: parseRestart(json.object("RestartPolicy")),
    placement: parsePlacement(json.object("Placement")),
    networks: networks.map(parseNetworkReference),
    forceUpdate: json.optionalCount("ForceUpdate") ?? 0,
    ...present({
      logDriver: parseNamedOptions(json.object("LogDriver")),
    }),
  };
}

function parseNetworkReference(json: JsonObject): NetworkReference {
  return {
    networkId: json.text("Target") as NetworkId,
    aliases: json.texts("Aliases"),
    ...present({ driverOptions: unlessEmpty(json.labels("DriverOpts")) }),
  };
}

function parseResources(json: JsonObject): ResourceRequirements {
  const limits = json.object("Limits");
  const reservations = json.object("Reservations");
  return present({
    limits: unlessEmpty(
      present({
        nanoCpus: limits.optionalInteger("NanoCPUs") || undefined,
        memoryBytes: limits.optionalInteger("MemoryBytes") || undefined,
        pids: limits.optionalInteger("Pids") || undefined,
      }),
    ),
    reservations: unlessEmpty(
      present({
        nanoCpus: reservations.optionalInteger("NanoCPUs") || undefined,
        memoryBytes: reservations.optionalInteger("MemoryBytes") || undefined,
        generic: unlessEmpty(Object.fromEntries(reservations.objects("GenericResources").map(parseGeneric))),
      }),
    ),
  });
}

function parseGeneric(json: JsonObject): [string, number] {
  if (json.has("NamedResourceSpec")) {
    throw new ClusterError(
      "invalid-argument",
      "named generic resources cannot be reserved; ask for a count with DiscreteResourceSpec",
    );
  }
  const discrete = json.object("DiscreteResourceSpec");
  return [discrete.text("Kind"), discrete.integer("Value")];
}

function parseRestart(json: JsonObject): RestartPolicy {
  const condition = json.text("Condition");
  return present({
    condition: oneOf(
      condition,
      ["none", "on-failure", "any"],
      `invalid RestartCondition: ${JSON.stringify(condition)}`,
    ),
    delayMs: json.optionalMs("Delay"),
    maxAttempts: json.optionalInteger("MaxAttempts"),
    windowMs: json.optionalMs("Window") || undefined,
  });
}

function parsePlacement(json: JsonObject): Placement {
  return {
    constraints: json.texts("Constraints"),
    spread: json.objects("Preferences").map((each) => {
      const descriptor = each.object("Spread").text("SpreadDescriptor");
      if (descriptor === "") {
        throw new ClusterError(
          "invalid-argument",
          "placement preference expects Spread with a SpreadDescriptor",
        );
      }
      return descriptor;
    }),
    maxReplicas: json.integer("MaxReplicas"),
    platforms: json
      .objects("Platforms")
      .map((each) => ({ architecture: each.text("Architecture"), os: each.text("OS") })),
  };
}

const modeNames = ["Replicated", "Global", "ReplicatedJob", "GlobalJob"] as const;

function parseMode(json: JsonObject): ServiceMode {
  if (modeNames.filter((name) => json.has(name)).length > 1) {
    throw new ClusterError("invalid-argument", "must specify only one service mode");
  }
  if (json.has("ReplicatedJob")) {
    const job = json.object("ReplicatedJob");
    const maxConcurrent = job.optionalInteger("MaxConcurrent") ?? 1;
    const totalCompletions = job.optionalInteger("TotalCompletions") ?? maxConcurrent;
    return { kind: "replicated-job", maxConcurrent, totalCompletions };
  }
  if (json.has("GlobalJob")) return { kind: "global-job" };
  if (json.has("Global")) return { kind: "global" };
  return { kind: "replicated", replicas: json.object("Replicated").optionalInteger("Replicas") ?? 1 };
}

function parseUpdate(json: JsonObject | undefined): UpdatePolicy | undefined {
  if (json === undefined) return undefined;
  const action = json.text("FailureAction");
  const order = json.text("Order");
  return {
    parallelism: json.integer("Parallelism"),
    delayMs: json.optionalMs("Delay") ?? 0,
    failureAction:
      oneOf(action, ["pause", "continue", "rollback"], `unrecognized update failure action ${action}`) ??
      defaultUpdatePolicy.failureAction,
    maxFailureRatio: json.number("MaxFailureRatio"),
    order:
      oneOf(order, ["stop-first", "start-first"], `unrecognized update order ${order}`) ??
      defaultUpdatePolicy.order,
    ...present({ monitorMs: json.optionalMs("Monitor") }),
  };
}

function parseEndpoint(json: JsonObject): EndpointSpec {
  const mode = json.text("Mode");
  if (mode !== "" && mode !== "vip" && mode !== "dnsrr") {
    throw new ClusterError("invalid-argument", `invalid resolution mode: ${JSON.stringify(mode)}`);
  }
  return { mode: mode || "vip", ports: json.objects("Ports").map(parsePort) };
}

function parsePort(json: JsonObject): PortSpec {
  const protocol = json.text("Protocol");
  const mode = json.text("PublishMode");
  return {
    protocol:
      oneOf(protocol, ["tcp", "udp", "sctp"], `invalid port protocol: ${JSON.stringify(protocol)}`) ?? "tcp",
    targetPort: json.integer("TargetPort"),
    publishedPort: json.integer("PublishedPort"),
    publishMode:
      oneOf(mode, ["ingress", "host"], `invalid port publish mode: ${JSON.stringify(mode)}`) ?? "ingress",
    ...present({ name: json.optionalText("Name") }),
  };
}
