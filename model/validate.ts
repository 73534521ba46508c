/** A spec in, its problems out. Texts are those that clients of the Engine API know and some match. */
import { parseConstraint } from "./constraint.ts";
import { minimumHealthTimeMs, minimumMemoryBytes, minimumNanoCpus } from "./defaults.ts";
import { errorText } from "./errors.ts";
import { extensionProblems } from "./extensions.ts";
import type {
  ContainerSpec,
  EndpointSpec,
  HealthCheck,
  Placement,
  ResourceRequirements,
  RestartPolicy,
  ServiceSpec,
  UpdatePolicy,
} from "./service.ts";
import type { Labels } from "./meta.ts";
import { templateProblem } from "./template-syntax.ts";

/** Services and networks: a DNS label, with underscores as Docker allows them. */
const dnsNamePattern = /^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$/;
const dnsNameLimit = 63;
/** Secrets and configs. */
const payloadNamePattern = /^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$/;
const payloadNameLimit = 64;

/** Problems of the name of a service or network; at most one. */
export function nameProblems(name: string): string[] {
  if (name === "") return ["meta: name must be provided"];
  // Length first: the pattern is only run on short text.
  if (name.length > dnsNameLimit) return ["name must be 63 characters or fewer"];
  if (!dnsNamePattern.test(name)) return ["name must be valid as a DNS name component"];
  return [];
}

/** Problems of the name of a secret or config; at most one. */
export function payloadNameProblems(name: string): string[] {
  if (name === "") return ["name must be provided"];
  if (name.length <= payloadNameLimit && payloadNamePattern.test(name)) return [];
  return [
    "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]",
  ];
}

/** All that is wrong with a service, most telling first; empty when it may be stored. */
export function serviceProblems(spec: ServiceSpec): string[] {
  return [
    ...nameProblems(spec.name),
    ...resourceProblems(spec.task.resources),
    ...restartProblems(spec.task.restart),
    ...placementProblems(spec.task.placement),
    ...containerProblems(spec.task.container, spec.labels),
    ...modeProblems(spec),
    ...updateProblems(spec.update, "update"),
    ...updateProblems(spec.rollback, "rollback"),
    ...endpointProblems(spec.endpoint),
    ...extensionProblems(spec.labels),
  ];
}

function resourceProblems({ limits, reservations }: ResourceRequirements): string[] {
  const problems: string[] = [];
  for (const part of [limits, reservations]) {
    const nanoCpus = part?.nanoCpus ?? 0;
    const memoryBytes = part?.memoryBytes ?? 0;
    if (nanoCpus !== 0 && nanoCpus < minimumNanoCpus) {
      problems.push(`invalid cpu value ${printCpus(nanoCpus)}: Must be at least 0.001`);
    }
    if (memoryBytes !== 0 && memoryBytes < minimumMemoryBytes) {
      problems.push(`invalid memory value ${memoryBytes}: Must be at least 4MiB`);
    }
  }
  if ((limits?.pids ?? 0) < 0) problems.push(`invalid pids limit ${limits?.pids}: Must be 0 or more`);
  for (const [kind, count] of Object.entries(reservations?.generic ?? {})) {
    if (kind === "" || count < 0) {
      problems.push(
        `invalid generic resource "${kind}=${count}": a kind and a count of 0 or more are expected`,
      );
    }
  }
  return problems;
}

function printCpus(nanoCpus: number): string {
  return (nanoCpus / 1e9).toFixed(9).replace(/\.?0+$/, "");
}

function restartProblems({ delayMs, windowMs, maxAttempts }: RestartPolicy): string[] {
  const problems: string[] = [];
  if ((delayMs ?? 0) < 0) problems.push("TaskSpec: restart-delay cannot be negative");
  if ((windowMs ?? 0) < 0) problems.push("TaskSpec: restart-window cannot be negative");
  if ((maxAttempts ?? 0) < 0) problems.push("TaskSpec: restart-max-attempts cannot be negative");
  return problems;
}

function updateProblems(policy: UpdatePolicy | undefined, kind: "update" | "rollback"): string[] {
  if (policy === undefined) return [];
  const problems: string[] = [];
  if (policy.parallelism < 0) problems.push(`TaskSpec: ${kind}-parallelism cannot be negative`);
  if (policy.delayMs < 0) problems.push(`TaskSpec: ${kind}-delay cannot be negative`);
  if ((policy.monitorMs ?? 0) < 0) problems.push(`TaskSpec: ${kind}-monitor cannot be negative`);
  if (!(policy.maxFailureRatio >= 0 && policy.maxFailureRatio <= 1)) {
    problems.push(`TaskSpec: ${kind}-maxfailureratio cannot be less than 0 or bigger than 1`);
  }
  if (kind === "rollback" && policy.failureAction === "rollback") {
    problems.push("TaskSpec: rollback-failure-action cannot be rollback");
  }
  return problems;
}

function modeProblems({ mode, update }: ServiceSpec): string[] {
  switch (mode.kind) {
    case "replicated":
      return mode.replicas < 0 ? ["Number of replicas must be non-negative"] : [];
    case "global":
      return [];
    case "replicated-job":
      if (update !== undefined) return ["Jobs may not have an update config"];
      if (mode.maxConcurrent < 0) return ["Maximum concurrent jobs must be non-negative"];
      return mode.totalCompletions < 0 ? ["Total completed jobs must be non-negative"] : [];
    case "global-job":
      return update === undefined ? [] : ["Jobs may not have an update config"];
  }
}

function containerProblems(container: ContainerSpec, labels: Labels): string[] {
  return [
    ...imageProblems(container.image),
    ...mountProblems(container),
    ...healthProblems(container.healthcheck),
    ...fileProblems(container),
    ...templateProblems(container, labels),
    ...((container.stopGracePeriodMs ?? 0) < 0
      ? ["ContainerSpec: stop-grace-period cannot be negative"]
      : []),
  ];
}

const imageLimit = 1024;
const domain = String.raw`(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?`;
const pathPart = String.raw`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`;
const imagePattern = new RegExp(
  `^(?:${domain}/)?${pathPart}(?:/${pathPart})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$`,
);

function imageProblems(image: string): string[] {
  if (image === "") return ["ContainerSpec: image reference must be provided"];
  if (image.length > imageLimit || !imagePattern.test(image)) {
    return [`ContainerSpec: "${image.slice(0, imageLimit)}" is not a valid repository/tag`];
  }
  return [];
}

function mountProblems({ mounts }: ContainerSpec): string[] {
  const problems: string[] = [];
  const seen = new Set<string>();
  for (const mount of mounts) {
    if (mount.target === "") problems.push("ContainerSpec: mount target must be provided");
    if (seen.has(mount.target)) problems.push(`ContainerSpec: duplicate mount point: ${mount.target}`);
    seen.add(mount.target);
    if (mount.type === "bind" && mount.source === "") {
      problems.push(`ContainerSpec: mount source must be provided for the bind at ${mount.target}`);
    }
  }
  return problems;
}

function healthProblems(health: HealthCheck | undefined): string[] {
  if (health === undefined) return [];
  const times = [
    ["Interval", health.intervalMs],
    ["Timeout", health.timeoutMs],
    ["StartPeriod", health.startPeriodMs],
    ["StartInterval", health.startIntervalMs],
  ] as const;
  const problems = times
    .filter(([, ms]) => ms !== 0 && ms < minimumHealthTimeMs)
    .map(([name]) => `ContainerSpec: ${name} in HealthConfig cannot be less than 1ms`);
  if (health.retries < 0) problems.push("ContainerSpec: Retries in HealthConfig cannot be negative");
  return problems;
}

function fileProblems({ secrets, configs }: ContainerSpec): string[] {
  const secretFiles = secrets.map((each) => ({
    id: each.secretId,
    name: each.secretName,
    target: each.file.name,
  }));
  const configFiles = configs.map((each) => ({
    id: each.configId,
    name: each.configName,
    target: each.file === undefined ? undefined : each.file.name,
  }));
  return [...referenceProblems("secret", secretFiles), ...referenceProblems("config", configFiles)];
}

interface PayloadFile {
  readonly id: string;
  readonly name: string;
  /** Undefined: not mounted. */
  readonly target: string | undefined;
}

function referenceProblems(kind: "secret" | "config", files: readonly PayloadFile[]): string[] {
  const problems: string[] = [];
  const targets = new Map<string, string>();
  for (const { id, name, target } of files) {
    if (id === "" || name === "") problems.push(`malformed ${kind} reference`);
    else if (target === "") problems.push(`malformed ${kind} reference, no target provided`);
    if (target === undefined) continue;
    const other = targets.get(target);
    if (other !== undefined) {
      problems.push(`${kind} references '${other}' and '${name}' have a conflicting target: '${target}'`);
    }
    targets.set(target, name);
  }
  return problems;
}

function templateProblems({ env, hostname, mounts }: ContainerSpec, labels: Labels): string[] {
  const problems: string[] = [];
  const check = (what: string, text: string): void => {
    const problem = templateProblem(text, labels);
    if (problem !== undefined)
      problems.push(`expanding ${what} failed: expanding ${what} ${JSON.stringify(text)}: ${problem}`);
  };
  if (hostname !== undefined) check("hostname", hostname);
  for (const line of env) check("env", line);
  for (const mount of mounts) {
    check("mounts", mount.target);
    if (mount.type !== "tmpfs") check("mounts", mount.source);
    if (mount.type !== "volume") continue;
    for (const { labels: own, driverOptions } of mount.volume === undefined ? [] : [mount.volume]) {
      for (const value of Object.values({ ...own, ...driverOptions })) check("mounts", value);
    }
  }
  return problems;
}

function placementProblems({ constraints, maxReplicas }: Placement): string[] {
  const problems = constraints.flatMap(constraintProblems);
  if (maxReplicas < 0) problems.push("max replicas per node cannot be negative");
  return problems;
}

function constraintProblems(text: string): string[] {
  try {
    parseConstraint(text);
    return [];
  } catch (reason) {
    return [errorText(reason)];
  }
}

const highestPort = 65_535;

function endpointProblems({ mode, ports }: EndpointSpec): string[] {
  const problems: string[] = [];
  const published = new Set<string>();
  for (const port of ports) {
    if (mode === "dnsrr" && port.publishMode === "ingress") {
      problems.push("EndpointSpec: port published with ingress mode can't be used with dnsrr mode");
    }
    if (port.targetPort < 1 || port.targetPort > highestPort) {
      problems.push(`EndpointSpec: invalid target port ${port.targetPort}: 1..65535 is expected`);
    }
    if (port.publishedPort < 0 || port.publishedPort > highestPort) {
      problems.push(`EndpointSpec: invalid published port ${port.publishedPort}: 0..65535 is expected`);
    }
    if (port.publishedPort === 0) continue;
    const key = `${port.publishedPort}/${port.protocol}`;
    if (published.has(key)) problems.push("EndpointSpec: duplicate published ports provided");
    published.add(key);
  }
  return problems;
}
