import { readNamedFile } from "./files.ts";
import type { ApiServiceSpec, ApiUpdateConfig } from "./api-types.ts";
import { parsePayload, type PayloadKind } from "./payloads.ts";
import {
  parseGenericResource,
  parseMount,
  parseNetwork,
  parsePorts,
  parsePreference,
  parseUlimit,
} from "./service-parse.ts";
import { parseBytes, parseCount, parseCpus, parseDuration, parsePair } from "./units.ts";

/** A flag with one value: the same for `service create` and `service update`. */
export interface ScalarFlag {
  readonly flag: string;
  readonly description: string;
  apply(spec: ApiServiceSpec, value: string): void;
}

/** A list: `--NAME` (repeatable) for create, `--NAME-add` and `--NAME-rm` for update. */
export interface ListFlag {
  readonly name: string;
  readonly value: string;
  readonly description: string;
  /** Adds what the text says, in place of an entry with the same key. */
  add(spec: ApiServiceSpec, text: string): void;
  remove(spec: ApiServiceSpec, key: string): void;
  /** What `--NAME-rm` takes, where it is not the value itself. */
  readonly removes?: string;
  /** Update has `--NAME` too, in place of `--NAME-add` and `--NAME-rm`. */
  readonly oneWord?: true;
}

/** A switch: `--NAME` turns it on, `--NAME=false` off. */
export interface SwitchFlag {
  readonly name: string;
  readonly description: string;
  apply(spec: ApiServiceSpec, on: boolean): void;
}

/**
 * @param what - What the user asked for, for the message.
 * @throws {Error} for the modes that have no count.
 */
export function setReplicas(spec: ApiServiceSpec, count: number, what: string): void {
  const { Replicated: replicated, ReplicatedJob: job } = spec.Mode;
  if (replicated !== undefined) {
    replicated.Replicas = count;
  } else if (job !== undefined) {
    job.TotalCompletions = count;
    job.MaxConcurrent ??= count;
  } else {
    throw new Error(`${what} can only be used with replicated or replicated-job mode`);
  }
}

export const scalarFlags: readonly ScalarFlag[] = [
  scalar("--replicas <n>", "Number of tasks", (spec, value) => {
    setReplicas(spec, parseCount(value), "replicas");
  }),
  scalar(
    "--max-concurrent <n>",
    "Number of job tasks to run at once (default as --replicas)",
    (spec, value) => {
      if (spec.Mode.ReplicatedJob === undefined)
        throw new Error("max-concurrent can only be used with replicated-job mode");
      spec.Mode.ReplicatedJob.MaxConcurrent = parseCount(value);
    },
  ),
  scalar("--hostname <name>", "Container hostname", (spec, value) => (container(spec).Hostname = value)),
  scalar(
    "-u, --user <user>",
    "Username or UID (format: <name|uid>[:<group|gid>])",
    (spec, value) => (container(spec).User = value),
  ),
  scalar(
    "-w, --workdir <dir>",
    "Working directory inside the container",
    (spec, value) => (container(spec).Dir = value),
  ),
  scalar("--entrypoint <command>", "Overwrite the default ENTRYPOINT of the image", (spec, value) => {
    container(spec).Command = words(value);
  }),
  scalar(
    "--stop-signal <signal>",
    "Signal to stop the container",
    (spec, value) => (container(spec).StopSignal = value),
  ),
  scalar("--stop-grace-period <duration>", "Time to wait before force killing a container", (spec, value) => {
    container(spec).StopGracePeriod = parseDuration(value);
  }),
  scalar(
    "--health-cmd <command>",
    "Command to run to check health",
    (spec, value) => (health(spec)["Test"] = ["CMD-SHELL", value]),
  ),
  scalar(
    "--health-interval <duration>",
    "Time between running the check",
    (spec, value) => (health(spec)["Interval"] = parseDuration(value)),
  ),
  scalar(
    "--health-timeout <duration>",
    "Maximum time to allow one check to run",
    (spec, value) => (health(spec)["Timeout"] = parseDuration(value)),
  ),
  scalar(
    "--health-retries <n>",
    "Consecutive failures needed to report unhealthy",
    (spec, value) => (health(spec)["Retries"] = parseCount(value)),
  ),
  scalar(
    "--health-start-period <duration>",
    "Start period before counting retries",
    (spec, value) => (health(spec)["StartPeriod"] = parseDuration(value)),
  ),
  scalar(
    "--health-start-interval <duration>",
    "Time between checks during the start period",
    (spec, value) => (health(spec)["StartInterval"] = parseDuration(value)),
  ),
  scalar("--limit-cpu <decimal>", "Limit CPUs", (spec, value) => (limits(spec).NanoCPUs = parseCpus(value))),
  scalar(
    "--limit-memory <bytes>",
    "Limit memory",
    (spec, value) => (limits(spec).MemoryBytes = parseBytes(value)),
  ),
  scalar(
    "--limit-pids <n>",
    "Limit maximum number of processes (default 0 = unlimited)",
    (spec, value) => (limits(spec).Pids = parseCount(value)),
  ),
  scalar(
    "--reserve-cpu <decimal>",
    "Reserve CPUs",
    (spec, value) => (reservations(spec).NanoCPUs = parseCpus(value)),
  ),
  scalar(
    "--reserve-memory <bytes>",
    "Reserve memory",
    (spec, value) => (reservations(spec).MemoryBytes = parseBytes(value)),
  ),
  scalar(
    "--replicas-max-per-node <n>",
    "Maximum number of tasks per node (default 0 = unlimited)",
    (spec, value) => (placement(spec).MaxReplicas = parseCount(value)),
  ),
  scalar(
    "--restart-condition <condition>",
    'Restart when condition is met ("none", "on-failure", "any")',
    (spec, value) => (restart(spec).Condition = value),
  ),
  scalar(
    "--restart-delay <duration>",
    "Delay between restart attempts",
    (spec, value) => (restart(spec).Delay = parseDuration(value)),
  ),
  scalar(
    "--restart-max-attempts <n>",
    "Maximum number of restarts before giving up",
    (spec, value) => (restart(spec).MaxAttempts = parseCount(value)),
  ),
  scalar(
    "--restart-window <duration>",
    "Window used to evaluate the restart policy",
    (spec, value) => (restart(spec).Window = parseDuration(value)),
  ),
  scalar(
    "--endpoint-mode <mode>",
    "Endpoint mode (vip or dnsrr)",
    (spec, value) => (endpoint(spec).Mode = value),
  ),
  scalar("--log-driver <driver>", "Logging driver for service", (spec, value) => {
    spec.TaskTemplate.LogDriver = { ...spec.TaskTemplate.LogDriver, Name: value };
  }),
  ...policyFlags("update", (spec) => (spec.UpdateConfig ??= { Parallelism: 1 })),
  ...policyFlags("rollback", (spec) => (spec.RollbackConfig ??= { Parallelism: 1 })),
];

export const switchFlags: readonly SwitchFlag[] = [
  {
    name: "init",
    description: "Use an init inside each service container",
    apply: (spec, on) => (container(spec).Init = on),
  },
  {
    name: "read-only",
    description: "Mount the container's root filesystem as read only",
    apply: (spec, on) => (container(spec).ReadOnly = on),
  },
  { name: "tty", description: "Allocate a pseudo-TTY", apply: (spec, on) => (container(spec).TTY = on) },
  {
    name: "no-healthcheck",
    description: "Disable any container-specified HEALTHCHECK",
    apply: (spec, on) => {
      if (on) container(spec).Healthcheck = { Test: ["NONE"] };
    },
  },
];

export const listFlags: readonly ListFlag[] = [
  list(
    "env",
    "<K=V>",
    "Set environment variables",
    (spec) => (container(spec).Env ??= []),
    parseEnv,
    (entry) => parsePair(entry)[0],
    "<K>",
  ),
  map("label", "Service labels", (spec) => spec.Labels),
  map("container-label", "Container labels", (spec) => (container(spec).Labels ??= {})),
  map("sysctl", "Sysctl options", (spec) => (container(spec).Sysctls ??= {})),
  list(
    "constraint",
    "<expression>",
    "Placement constraints",
    (spec) => (placement(spec).Constraints ??= []),
    same,
    same,
  ),
  list(
    "placement-pref",
    "<spread>",
    "Placement preference",
    (spec) => (placement(spec).Preferences ??= []),
    parsePreference,
    (entry) => `spread=${entry.Spread.SpreadDescriptor}`,
  ),
  list(
    "generic-resource",
    "<kind=count>",
    "User defined resources",
    (spec) => (reservations(spec).GenericResources ??= []),
    parseGenericResource,
    (entry) => entry.DiscreteResourceSpec?.Kind ?? "",
    "<kind>",
  ),
  {
    name: "publish",
    value: "<port>",
    description: "Publish a port as a node port",
    removes: "<target-port>",
    add: (spec, text) => {
      const added = parsePorts(text);
      const ports = (endpoint(spec).Ports ??= []);
      const isNew = (port: (typeof ports)[number]) =>
        !added.some(
          (other) =>
            other.PublishedPort === port.PublishedPort &&
            other.TargetPort === port.TargetPort &&
            other.Protocol === port.Protocol,
        );
      endpoint(spec).Ports = [...ports.filter(isNew), ...added];
    },
    remove: (spec, key) => {
      const [target, protocol = "tcp"] = key.split("/");
      endpoint(spec).Ports = (endpoint(spec).Ports ?? []).filter(
        (port) => port.TargetPort !== Number(target) || port.Protocol !== protocol,
      );
    },
  },
  list(
    "mount",
    "<mount>",
    "Attach a filesystem mount to the service",
    (spec) => (container(spec).Mounts ??= []),
    parseMount,
    (entry) => entry.Target,
    "<target>",
  ),
  list(
    "network",
    "<network>",
    "Network attachments",
    (spec) => (spec.TaskTemplate.Networks ??= []),
    parseNetwork,
    (entry) => entry.Target,
  ),
  payloads("secret", "Secrets", "SecretName"),
  payloads("config", "Configs", "ConfigName"),
  list(
    "host",
    "<host:ip>",
    "Set one or more custom host-to-IP mappings",
    (spec) => (container(spec).Hosts ??= []),
    parseHostLine,
    same,
  ),
  list(
    "group",
    "<group>",
    "Set one or more supplementary user groups",
    (spec) => (container(spec).Groups ??= []),
    same,
    same,
  ),
  list("dns", "<address>", "Set custom DNS servers", (spec) => (dns(spec).Nameservers ??= []), same, same),
  list(
    "dns-search",
    "<domain>",
    "Set custom DNS search domains",
    (spec) => (dns(spec).Search ??= []),
    same,
    same,
  ),
  list("dns-option", "<option>", "Set DNS options", (spec) => (dns(spec).Options ??= []), same, same),
  capabilities("cap-add", "Add Linux capabilities", "CapabilityAdd", "CapabilityDrop"),
  capabilities("cap-drop", "Drop Linux capabilities", "CapabilityDrop", "CapabilityAdd"),
  list(
    "ulimit",
    "<ulimit>",
    "Ulimit options",
    (spec) => (container(spec).Ulimits ??= []),
    parseUlimit,
    (entry) => entry.Name,
  ),
];

/** Options of the log driver are a plain repeatable flag; with update they replace the earlier ones. */
export function setLogOptions(spec: ApiServiceSpec, options: readonly string[]): void {
  if (options.length === 0) return;
  const Options = Object.fromEntries(options.map(parsePair));
  spec.TaskTemplate.LogDriver = { Name: spec.TaskTemplate.LogDriver?.Name ?? "json-file", Options };
}

/** Lines of an env file; blank lines and comments are skipped. */
export function readEnvFile(path: string): string[] {
  const own = (name: string): string[] => {
    const value = process.env[name];
    return value === undefined ? [] : [`${name}=${value}`];
  };
  return readNamedFile(path)
    .toString("utf8")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .flatMap((line) => (line.includes("=") ? [line] : own(line)));
}

/** A command line's words; single and double quotes keep spaces. */
export function words(text: string): string[] {
  return [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? "",
  );
}

function scalar(
  flag: string,
  description: string,
  apply: (spec: ApiServiceSpec, value: string) => unknown,
): ScalarFlag {
  return { flag, description, apply: (spec, value) => void apply(spec, value) };
}

function list<Entry>(
  name: string,
  value: string,
  description: string,
  entries: (spec: ApiServiceSpec) => Entry[],
  parse: (text: string) => Entry,
  keyOf: (entry: Entry) => string,
  removes?: string,
): ListFlag {
  return {
    name,
    value,
    description,
    ...(removes !== undefined && { removes }),
    add(spec, text) {
      const entry = parse(text);
      const current = entries(spec);
      const place = current.findIndex((other) => keyOf(other) === keyOf(entry));
      current.splice(place < 0 ? current.length : place, place < 0 ? 0 : 1, entry);
    },
    remove(spec, key) {
      const current = entries(spec);
      current.splice(0, current.length, ...current.filter((entry) => keyOf(entry) !== key));
    },
  };
}

/** A capability is in one of the two lists: whoever names it last moves it. */
function capabilities(
  name: string,
  description: string,
  into: "CapabilityAdd" | "CapabilityDrop",
  outOf: "CapabilityAdd" | "CapabilityDrop",
): ListFlag {
  const plain = (capability: string) => capability.toUpperCase().replace(/^CAP_/, "");
  const without = (list: string[] | undefined, capability: string) =>
    (list ?? []).filter((other) => plain(other) !== plain(capability));
  return {
    name,
    value: "<capability>",
    description,
    oneWord: true,
    add: (spec, text) => {
      container(spec)[into] = [...without(container(spec)[into], text), text];
      container(spec)[outOf] = without(container(spec)[outOf], text);
    },
    remove: (spec, key) => void (container(spec)[into] = without(container(spec)[into], key)),
  };
}

/** Secrets or configs by name; `fillPayloadIds` looks up their ids before the specification is sent. */
function payloads(
  kind: PayloadKind,
  list: "Secrets" | "Configs",
  nameKey: "SecretName" | "ConfigName",
): ListFlag {
  return {
    name: kind,
    value: `<${kind}>`,
    description: `Specify ${kind}s to expose to the service`,
    add: (spec, text) => {
      container(spec)[list] = [...(container(spec)[list] ?? []), parsePayload(kind, text)];
    },
    remove: (spec, key) => {
      container(spec)[list] = container(spec)[list]?.filter((entry) => entry[nameKey] !== key) ?? [];
    },
  };
}

function map(
  name: string,
  description: string,
  entries: (spec: ApiServiceSpec) => Record<string, string>,
): ListFlag {
  return {
    name,
    value: "<K=V>",
    description,
    removes: "<K>",
    add: (spec, text) => {
      const [key, value] = parsePair(text);
      entries(spec)[key] = value;
    },
    remove: (spec, key) => void delete entries(spec)[key],
  };
}

function policyFlags(
  prefix: "update" | "rollback",
  policy: (spec: ApiServiceSpec) => ApiUpdateConfig,
): ScalarFlag[] {
  return [
    scalar(
      `--${prefix}-parallelism <n>`,
      `Maximum number of tasks to ${prefix} at once (0 = all)`,
      (spec, value) => (policy(spec).Parallelism = parseCount(value)),
    ),
    scalar(
      `--${prefix}-delay <duration>`,
      `Delay between ${prefix}s`,
      (spec, value) => (policy(spec).Delay = parseDuration(value)),
    ),
    scalar(
      `--${prefix}-monitor <duration>`,
      `Duration after each task ${prefix} to monitor for failure`,
      (spec, value) => (policy(spec).Monitor = parseDuration(value)),
    ),
    scalar(
      `--${prefix}-failure-action <action>`,
      `Action on ${prefix} failure`,
      (spec, value) => (policy(spec).FailureAction = value),
    ),
    scalar(
      `--${prefix}-max-failure-ratio <ratio>`,
      `Failure rate to tolerate during ${prefix === "update" ? "an update" : "a rollback"}`,
      (spec, value) => (policy(spec).MaxFailureRatio = Number(value)),
    ),
    scalar(
      `--${prefix}-order <order>`,
      `Order of ${prefix} ("start-first", "stop-first")`,
      (spec, value) => (policy(spec).Order = value),
    ),
  ];
}

function same(text: string): string {
  return text;
}

function parseEnv(text: string): string {
  if (text.includes("=")) return text;
  const value = process.env[text];
  return value === undefined ? text : `${text}=${value}`;
}

function parseHostLine(text: string): string {
  const split = text.indexOf(":");
  if (split < 1) throw new Error(`invalid host '${text}': expected host:ip`);
  return `${text.slice(split + 1)} ${text.slice(0, split)}`;
}

const container = (spec: ApiServiceSpec) => spec.TaskTemplate.ContainerSpec;
const health = (spec: ApiServiceSpec) => (container(spec).Healthcheck ??= {});
const limits = (spec: ApiServiceSpec) => ((spec.TaskTemplate.Resources ??= {}).Limits ??= {});
const reservations = (spec: ApiServiceSpec) => ((spec.TaskTemplate.Resources ??= {}).Reservations ??= {});
const placement = (spec: ApiServiceSpec) => (spec.TaskTemplate.Placement ??= {});
const restart = (spec: ApiServiceSpec) => (spec.TaskTemplate.RestartPolicy ??= {});
const endpoint = (spec: ApiServiceSpec) => (spec.EndpointSpec ??= {});
const dns = (spec: ApiServiceSpec) => (container(spec).DNSConfig ??= {});
