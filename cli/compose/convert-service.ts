import type { ApiMount, ApiPort, ApiServiceSpec, ApiUpdateConfig } from "../api-types.ts";
import { words } from "../service-flags.ts";
import { parsePorts } from "../service-parse.ts";
import { asList, parseShortMount } from "./short-forms.ts";
import { parseBytes, parseCpus, parseDuration } from "../units.ts";
import { namedRecord, namespaceLabel, networkKeys, scopedName, toRecord } from "./names.ts";
import type {
  ComposeDeploy,
  ComposeMount,
  ComposeReference,
  ComposeService,
  ComposeUpdate,
  ComposeVolume,
  NamedReference,
  StackService,
} from "./types.ts";

const imageLabel = "com.docker.stack.image";
const defaultFileMode = 0o444;

export interface ServiceInput {
  readonly stack: string;
  readonly key: string;
  readonly service: ComposeService;
  networkName(key: string): string;
  objectName(kind: "secret" | "config", key: string): string;
  volume(key: string): ComposeVolume & { readonly declared: boolean };
}

/** One service of a compose file as the Engine API has it. */
export function convertService(input: ServiceInput): StackService {
  const { stack, key, service } = input;
  if (service.image === undefined)
    throw new Error(`invalid image reference for service ${key}: no image specified`);
  const deploy = service.deploy ?? {};
  const own = { [namespaceLabel]: stack };
  const spec: ApiServiceSpec = {
    Name: `${stack}_${key}`,
    Labels: { ...toRecord(deploy.labels), [imageLabel]: service.image, ...own },
    TaskTemplate: {
      ContainerSpec: defined({
        Image: service.image,
        Command: commandLine(service.entrypoint),
        Args: commandLine(service.command ?? undefined),
        Hostname: service.hostname,
        Hosts: hosts(service.extra_hosts),
        DNSConfig: dns(service),
        Healthcheck: healthcheck(service.healthcheck),
        Env: environment(service.environment),
        Labels: { ...toRecord(service.labels), ...own },
        Dir: service.working_dir,
        User: service.user,
        Mounts: mounts(input),
        StopGracePeriod:
          service.stop_grace_period === undefined ? undefined : parseDuration(service.stop_grace_period),
        StopSignal: service.stop_signal,
        TTY: service.tty,
        OpenStdin: service.stdin_open,
        ReadOnly: service.read_only,
        Init: service.init,
        Isolation: service.isolation,
        Sysctls: service.sysctls === undefined ? undefined : toRecord(service.sysctls),
        CapabilityAdd: service.cap_add,
        CapabilityDrop: service.cap_drop,
        Ulimits: ulimits(service.ulimits),
        OomScoreAdj: service.oom_score_adj,
      }),
      Resources: resources(deploy),
      Placement: placement(deploy),
      ForceUpdate: 0,
      Networks: networkKeys(service.networks).map((network) => ({
        Target: input.networkName(network),
        Aliases: [...aliases(service.networks, network), key],
      })),
      ...defined({ RestartPolicy: restartPolicy(service), LogDriver: logDriver(service.logging) }),
    },
    Mode: mode(deploy),
    EndpointSpec: defined({ Mode: deploy.endpoint_mode, Ports: ports(service.ports) }),
    ...defined({
      UpdateConfig: updateConfig(deploy.update_config),
      RollbackConfig: updateConfig(deploy.rollback_config),
    }),
  };
  return {
    name: spec.Name,
    image: service.image,
    spec,
    secrets: references(service.secrets, (name) => input.objectName("secret", name)),
    configs: references(service.configs, (name) => input.objectName("config", name), "/"),
    envFiles: typeof service.env_file === "string" ? [service.env_file] : (service.env_file ?? []),
  };
}

/** Only what has a value: the API tells an absent field from an empty one. */
function defined<T extends object>(value: T): { [K in keyof T]-?: Exclude<T[K], undefined> } {
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]-?: Exclude<T[K], undefined> };
}

function commandLine(command: string | string[] | undefined): string[] | undefined {
  return typeof command === "string" ? words(command) : command;
}

function environment(list: ComposeService["environment"]): string[] | undefined {
  if (list === undefined) return undefined;
  return Object.entries(namedRecord(list))
    .map(([name, value]) => (value === null ? name : `${name}=${String(value)}`))
    .toSorted();
}

/** "host:ip" or { host: ip } → "ip host". */
function hosts(list: ComposeService["extra_hosts"]): string[] | undefined {
  if (list === undefined) return undefined;
  const pairs = Array.isArray(list)
    ? (list as string[]).map((line) => {
        const split = line.search(/[:=]/);
        return [line.slice(0, split), line.slice(split + 1)];
      })
    : Object.entries(list).map(([host, ip]) => [host, String(ip)]);
  return pairs.map(([host, ip]) => `${ip} ${host}`);
}

function dns({ dns: servers, dns_search: search }: ComposeService) {
  if (servers === undefined && search === undefined) return undefined;
  return defined({ Nameservers: asList(servers), Search: asList(search) });
}

function healthcheck(check: ComposeService["healthcheck"]): Record<string, unknown> | undefined {
  if (check === undefined) return undefined;
  if (check.disable === true) return { Test: ["NONE"] };
  const duration = (text: string | undefined) => (text === undefined ? undefined : parseDuration(text));
  return defined({
    Test: typeof check.test === "string" ? ["CMD-SHELL", check.test] : check.test,
    Interval: duration(check.interval),
    Timeout: duration(check.timeout),
    Retries: check.retries,
    StartPeriod: duration(check.start_period),
    StartInterval: duration(check.start_interval),
  });
}

function ulimits(list: ComposeService["ulimits"]) {
  if (list === undefined) return undefined;
  return Object.entries(list)
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([name, limit]) =>
      typeof limit === "number"
        ? { Name: name, Soft: limit, Hard: limit }
        : { Name: name, Soft: limit.soft, Hard: limit.hard },
    );
}

function resources({
  resources: wanted,
}: ComposeDeploy): NonNullable<ApiServiceSpec["TaskTemplate"]["Resources"]> {
  const { limits, reservations } = wanted ?? {};
  const amounts = (part: { cpus?: string | number; memory?: string } | undefined) => ({
    NanoCPUs: part?.cpus === undefined ? undefined : parseCpus(String(part.cpus)),
    MemoryBytes: part?.memory === undefined ? undefined : parseBytes(part.memory),
  });
  const generic = reservations?.generic_resources?.flatMap(({ discrete_resource_spec: discrete }) =>
    discrete === undefined ? [] : [{ DiscreteResourceSpec: { Kind: discrete.kind, Value: discrete.value } }],
  );
  return defined({
    Limits: limits && defined({ ...amounts(limits), Pids: limits.pids }),
    Reservations: reservations && defined({ ...amounts(reservations), GenericResources: generic }),
  });
}

function placement({
  placement: wanted,
}: ComposeDeploy): NonNullable<ApiServiceSpec["TaskTemplate"]["Placement"]> {
  return defined({
    Constraints: wanted?.constraints,
    Preferences: wanted?.preferences?.map(({ spread }) => ({ Spread: { SpreadDescriptor: spread } })),
    MaxReplicas: wanted?.max_replicas_per_node,
  });
}

function restartPolicy({ restart, deploy }: ComposeService) {
  const policy = deploy?.restart_policy;
  if (policy !== undefined) {
    const duration = (text: string | undefined) => (text === undefined ? undefined : parseDuration(text));
    return defined({
      Condition: policy.condition ?? "any",
      Delay: duration(policy.delay),
      MaxAttempts: policy.max_attempts,
      Window: duration(policy.window),
    });
  }
  if (restart === "always" || restart === "unless-stopped") return { Condition: "any" };
  const onFailure = /^on-failure(?::(\d+))?$/.exec(restart ?? "");
  if (onFailure === null) return undefined;
  return defined({
    Condition: "on-failure",
    MaxAttempts: onFailure[1] === undefined ? undefined : Number(onFailure[1]),
  });
}

function logDriver(logging: ComposeService["logging"]) {
  if (logging === undefined) return undefined;
  const options = Object.entries(logging.options ?? {}).map(([key, value]) => [
    key,
    value === null ? "" : String(value),
  ]);
  return {
    Name: logging.driver ?? "json-file",
    Options: Object.fromEntries(options) as Record<string, string>,
  };
}

function mode(deploy: ComposeDeploy): ApiServiceSpec["Mode"] {
  const replicas = deploy.replicas === undefined ? {} : { Replicas: deploy.replicas };
  switch (deploy.mode ?? "replicated") {
    case "replicated":
      return { Replicated: replicas };
    case "global":
      if (deploy.replicas !== undefined)
        throw new Error("replicas can only be used with replicated or replicated-job mode");
      return { Global: {} };
    case "replicated-job":
      return {
        ReplicatedJob:
          deploy.replicas === undefined
            ? {}
            : { MaxConcurrent: deploy.replicas, TotalCompletions: deploy.replicas },
      };
    case "global-job":
      return { GlobalJob: {} };
    default:
      throw new Error(`Unknown mode: ${String(deploy.mode)}`);
  }
}

function updateConfig(update: ComposeUpdate | undefined): ApiUpdateConfig | undefined {
  if (update === undefined) return undefined;
  return {
    Parallelism: update.parallelism ?? 1,
    ...defined({
      Delay: update.delay === undefined ? undefined : parseDuration(update.delay),
      FailureAction: update.failure_action,
      Monitor: update.monitor === undefined ? undefined : parseDuration(update.monitor),
      MaxFailureRatio: update.max_failure_ratio,
      Order: update.order,
    }),
  };
}

function ports(list: ComposeService["ports"]): ApiPort[] | undefined {
  if (list === undefined) return undefined;
  return list
    .flatMap((port) => {
      if (typeof port !== "object") return parsePorts(String(port));
      return [
        {
          Protocol: port.protocol ?? "tcp",
          TargetPort: port.target,
          ...(port.published !== undefined && { PublishedPort: Number(port.published) }),
          PublishMode: port.mode ?? "ingress",
        },
      ];
    })
    .toSorted((a, b) => (a.PublishedPort ?? 0) - (b.PublishedPort ?? 0));
}

function aliases(networks: ComposeService["networks"], key: string): string[] {
  return Array.isArray(networks) ? [] : (networks?.[key]?.aliases ?? []);
}

function mounts(input: ServiceInput): ApiMount[] | undefined {
  const { stack, service } = input;
  const list = [
    ...(service.volumes ?? []).map((entry) => (typeof entry === "string" ? parseShortMount(entry) : entry)),
    ...(asList(service.tmpfs) ?? []).map((target): ComposeMount => ({
      type: "tmpfs",
      target: target.split(":")[0] ?? target,
    })),
  ];
  if (list.length === 0) return undefined;
  return list.map((mount) => {
    const base = defined({
      Type: mount.type,
      Target: mount.target ?? "",
      Source: mount.source,
      ReadOnly: mount.read_only,
      Consistency: mount.consistency,
    });
    if (mount.type === "bind") {
      return {
        ...base,
        ...(mount.bind?.propagation !== undefined && {
          BindOptions: { Propagation: mount.bind.propagation },
        }),
      };
    }
    if (mount.type === "tmpfs") {
      const size = mount.tmpfs?.size;
      return {
        ...base,
        ...(size !== undefined && { TmpfsOptions: { SizeBytes: parseBytes(String(size)) } }),
      };
    }
    if (mount.type !== "volume" || mount.source === undefined) return base;
    const declared = input.volume(mount.source);
    if (!declared.declared) throw new Error(`undefined volume "${mount.source}"`);
    const external = declared.external !== undefined && declared.external !== false;
    const driver =
      declared.driver === undefined && declared.driver_opts === undefined
        ? undefined
        : {
            Name: declared.driver ?? "local",
            Options: Object.fromEntries(
              Object.entries(declared.driver_opts ?? {}).map(([key, value]) => [key, String(value)]),
            ),
          };
    return {
      ...base,
      Source: scopedName(stack, mount.source, declared),
      VolumeOptions: defined({
        NoCopy: mount.volume?.nocopy,
        Subpath: mount.volume?.subpath,
        Labels: external ? undefined : { ...toRecord(declared.labels), [namespaceLabel]: stack },
        DriverConfig: external ? undefined : driver,
      }),
    };
  });
}

function references(
  list: readonly (string | ComposeReference)[] | undefined,
  objectName: (key: string) => string,
  targetPrefix = "",
): NamedReference[] {
  return (list ?? [])
    .map((entry): ComposeReference => (typeof entry === "string" ? { source: entry } : entry))
    .map(({ source, target, uid = "0", gid = "0", mode: fileMode = defaultFileMode }) => ({
      object: objectName(source),
      file: { Name: target ?? `${targetPrefix}${source}`, UID: uid, GID: gid, Mode: fileMode },
    }))
    .toSorted((a, b) => a.object.localeCompare(b.object));
}
