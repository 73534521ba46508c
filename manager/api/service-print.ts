/** A service: model to Engine API JSON. What the client did not give stays absent, unless defaults are asked for. */
import {
  defaultRestartCondition,
  defaultRestartDelayMs,
  defaultStopGracePeriodMs,
  defaultUpdateMonitorMs,
  defaultUpdatePolicy,
} from "../../model/defaults.ts";
import type {
  EndpointSpec,
  NetworkReference,
  PortSpec,
  ResourceRequirements,
  RestartPolicy,
  Service,
  ServiceMode,
  ServiceSpec,
  TaskSpec,
  UpdatePolicy,
  UpdateStatus,
} from "../../model/service.ts";
import { apiTime } from "../../runtime/http.ts";
import { printContainer } from "./container-json.ts";
import { type Json, printMeta, printNs, printOptionalNs, unlessEmpty } from "./json-writer.ts";

export interface ServiceCounts {
  readonly running: number;
  readonly desired: number;
  readonly completed: number;
}

export interface ServicePrintOptions {
  /** Fill in what the client left out, as `docker service inspect` asks. */
  readonly insertDefaults?: boolean;
  readonly counts?: ServiceCounts;
}

export function printService(service: Service, options: ServicePrintOptions = {}): Json {
  const { counts } = options;
  const insertDefaults = options.insertDefaults ?? false;
  return {
    ...printMeta(service),
    Spec: printServiceSpec(service.spec, insertDefaults),
    PreviousSpec:
      service.previous === undefined ? undefined : printServiceSpec(service.previous.spec, insertDefaults),
    Endpoint: {
      Spec: printEndpoint(service.spec.endpoint),
      Ports: unlessEmpty((service.endpoint ?? service.spec.endpoint).ports.map(printPort)),
      VirtualIPs: unlessEmpty(
        (service.endpoint?.virtualIps ?? []).flatMap(({ networkId, address, ipv6 }) =>
          [address, ...(ipv6 === undefined ? [] : [ipv6])].map((Addr) => ({ NetworkID: networkId, Addr })),
        ),
      ),
    },
    UpdateStatus: service.updateStatus === undefined ? undefined : printUpdateStatus(service.updateStatus),
    ServiceStatus:
      counts === undefined
        ? undefined
        : { RunningTasks: counts.running, DesiredTasks: counts.desired, CompletedTasks: counts.completed },
    JobStatus:
      service.job === undefined
        ? undefined
        : {
            JobIteration: { Index: service.job.iteration },
            LastExecution: apiTime(service.job.lastExecutionMs),
          },
  };
}

export function printServiceSpec(spec: ServiceSpec, insertDefaults = false): Json {
  const isJob = spec.mode.kind === "replicated-job" || spec.mode.kind === "global-job";
  const update = (policy: UpdatePolicy | undefined): Json | undefined => {
    if (policy !== undefined) return printUpdate(policy, insertDefaults);
    return insertDefaults && !isJob ? printUpdate(defaultUpdatePolicy, insertDefaults) : undefined;
  };
  return {
    Name: spec.name,
    Labels: spec.labels,
    TaskTemplate: printTaskTemplate(spec.task, insertDefaults),
    Mode: printMode(spec.mode),
    UpdateConfig: update(spec.update),
    RollbackConfig: update(spec.rollback),
    EndpointSpec: spec.endpointGiven === true || insertDefaults ? printEndpoint(spec.endpoint) : undefined,
  };
}

export function printTaskTemplate(task: TaskSpec, insertDefaults = false): Json {
  const container = printContainer(task.container);
  return {
    ContainerSpec: insertDefaults
      ? {
          ...container,
          StopGracePeriod: container["StopGracePeriod"] ?? printNs(defaultStopGracePeriodMs),
          DNSConfig: container["DNSConfig"] ?? {},
        }
      : container,
    Resources: printResources(task.resources, insertDefaults),
    RestartPolicy: printRestart(task.restart, insertDefaults),
    Placement: printPlacement(task),
    Networks: unlessEmpty(task.networks.map(printNetworkReference)),
    LogDriver:
      task.logDriver === undefined
        ? undefined
        : { Name: task.logDriver.name, Options: unlessEmpty(task.logDriver.options) },
    ForceUpdate: task.forceUpdate,
    Runtime: "container",
  };
}

function printResources(
  { limits, reservations }: ResourceRequirements,
  insertDefaults: boolean,
): Json | undefined {
  const printed = {
    Limits: limits && { NanoCPUs: limits.nanoCpus, MemoryBytes: limits.memoryBytes, Pids: limits.pids },
    Reservations: reservations && {
      NanoCPUs: reservations.nanoCpus,
      MemoryBytes: reservations.memoryBytes,
      GenericResources: unlessEmpty(
        Object.entries(reservations.generic ?? {}).map(([kind, count]) => ({
          DiscreteResourceSpec: { Kind: kind, Value: count },
        })),
      ),
    },
  };
  return insertDefaults
    ? { Limits: printed.Limits ?? {}, Reservations: printed.Reservations ?? {} }
    : unlessEmpty(printed);
}

function printRestart(restart: RestartPolicy, insertDefaults: boolean): Json | undefined {
  const delayMs = restart.delayMs ?? (insertDefaults ? defaultRestartDelayMs : undefined);
  return unlessEmpty({
    Condition: restart.condition ?? (insertDefaults ? defaultRestartCondition : undefined),
    Delay: delayMs === undefined ? undefined : printNs(delayMs),
    MaxAttempts: restart.maxAttempts ?? (insertDefaults ? 0 : undefined),
    Window: printOptionalNs(restart.windowMs),
  });
}

/** Never absent: `docker service update --replicas-max-per-node` writes into it without a look. */
function printPlacement({ placement }: TaskSpec): Json {
  return {
    Constraints: unlessEmpty(placement.constraints),
    Preferences: unlessEmpty(placement.spread.map((each) => ({ Spread: { SpreadDescriptor: each } }))),
    MaxReplicas: unlessEmpty(placement.maxReplicas),
    Platforms: unlessEmpty(
      placement.platforms.map(({ architecture, os }) => ({
        Architecture: unlessEmpty(architecture),
        OS: unlessEmpty(os),
      })),
    ),
  };
}

function printNetworkReference({ networkId, aliases, driverOptions }: NetworkReference): Json {
  return { Target: networkId, Aliases: unlessEmpty(aliases), DriverOpts: driverOptions };
}

function printMode(mode: ServiceMode): Json {
  switch (mode.kind) {
    case "replicated":
      return { Replicated: { Replicas: mode.replicas } };
    case "global":
      return { Global: {} };
    case "replicated-job":
      return {
        ReplicatedJob: { MaxConcurrent: mode.maxConcurrent, TotalCompletions: mode.totalCompletions },
      };
    case "global-job":
      return { GlobalJob: {} };
  }
}

function printUpdate(policy: UpdatePolicy, insertDefaults: boolean): Json {
  const monitorMs = policy.monitorMs ?? (insertDefaults ? defaultUpdateMonitorMs : undefined);
  return {
    Parallelism: policy.parallelism,
    Delay: printOptionalNs(policy.delayMs),
    FailureAction: policy.failureAction,
    Monitor: monitorMs === undefined ? undefined : printNs(monitorMs),
    MaxFailureRatio: policy.maxFailureRatio,
    Order: policy.order,
  };
}

function printEndpoint({ mode, ports }: EndpointSpec): Json {
  return { Mode: mode, Ports: unlessEmpty(ports.map(printPort)) };
}

export function printPort(port: PortSpec): Json {
  return {
    Name: port.name,
    Protocol: port.protocol,
    TargetPort: port.targetPort,
    PublishedPort: unlessEmpty(port.publishedPort),
    PublishMode: port.publishMode,
  };
}

function printUpdateStatus({ state, startedAtMs, completedAtMs, message }: UpdateStatus): Json {
  return {
    State: state,
    StartedAt: startedAtMs === undefined ? undefined : apiTime(startedAtMs),
    CompletedAt: completedAtMs === undefined ? undefined : apiTime(completedAtMs),
    Message: message,
  };
}
