/** A container's host configuration put into its OCI specification. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { ContainerSpec } from "../../model/service.ts";
import type { ImageConfig } from "../engine/engine.ts";
import type { OciDevice, OciLinux, OciMount, OciResources, OciSpec } from "../engine/oci.ts";
import type { CreateRequest, HostConfig, Limits } from "./config.ts";
import { parseDeviceRule } from "./device-rule.ts";
import { parseSecurityOption } from "./validate.ts";

export interface SandboxFacts {
  /** Those that can be given to a container. */
  readonly held: readonly string[];
  readonly swapLimit: boolean;
  readonly cgroupVersion: 1 | 2;
  /** Devices asked for, or all of the host's for a privileged container. */
  readonly devices: readonly GivenDevice[];
}

export type GivenDevice = OciDevice & { readonly access: string };

/** What depends on the host: what the client leaves open, and what the kernel does not have. */
export function withDefaults(
  hostConfig: HostConfig,
  { cgroupVersion, blockWeight }: Pick<SandboxFacts, "cgroupVersion"> & { readonly blockWeight: boolean },
): HostConfig {
  const mode = cgroupVersion === 2 ? "private" : "host";
  return {
    ...hostConfig,
    CgroupnsMode: hostConfig.CgroupnsMode === "" ? mode : hostConfig.CgroupnsMode,
    BlkioWeight: blockWeight ? hostConfig.BlkioWeight : 0, // The client was warned.
  };
}

/** What a service could ask for as well. */
export function specOf({ config, hostConfig }: CreateRequest): ContainerSpec {
  const isCleared = config.Entrypoint?.length === 1 && config.Entrypoint[0] === "";
  const cmd = config.Cmd ?? [];
  const options = hostConfig.SecurityOpt.map(parseSecurityOption);
  const seccomp = options.findLast((option) => option.kind === "seccomp");
  const isUnconfined = hostConfig.Privileged || seccomp?.value === "unconfined";
  const noNewPrivileges = options.findLast((option) => option.kind === "no-new-privileges");
  const apparmor = options.findLast((option) => option.kind === "apparmor");
  const isCustom = seccomp !== undefined && !["unconfined", "builtin", "default"].includes(seccomp.value);
  return {
    image: config.Image,
    labels: config.Labels,
    command: isCleared ? cmd : (config.Entrypoint ?? []),
    args: isCleared ? [] : cmd,
    ...(config.Hostname !== "" && { hostname: config.Hostname }),
    env: config.Env,
    ...(config.WorkingDir !== "" && { workingDir: config.WorkingDir }),
    ...(config.User !== "" && { user: config.User }),
    groups: hostConfig.GroupAdd,
    ...(hostConfig.Init !== undefined && { init: hostConfig.Init }),
    ...(config.StopSignal !== "" && { stopSignal: config.StopSignal }),
    tty: config.Tty,
    openStdin: config.OpenStdin,
    readOnly: hostConfig.ReadonlyRootfs,
    mounts: [],
    ...(config.Healthcheck !== undefined && { healthcheck: config.Healthcheck }),
    hosts: extraHosts(hostConfig),
    secrets: [],
    configs: [],
    sysctls: hostConfig.Sysctls,
    capabilityAdd: hostConfig.Privileged ? ["ALL"] : hostConfig.CapAdd,
    capabilityDrop: hostConfig.Privileged ? [] : hostConfig.CapDrop,
    ulimits: hostConfig.Ulimits.map(({ Name, Soft, Hard }) => ({ name: Name, soft: Soft, hard: Hard })),
    oomScoreAdj: hostConfig.OomScoreAdj,
    noNewPrivileges: noNewPrivileges?.value ?? false,
    ...(isUnconfined && { seccomp: { mode: "unconfined" as const } }),
    ...(!isUnconfined && isCustom && { seccomp: { mode: "custom" as const, profile: seccomp.value } }),
    ...((hostConfig.Privileged || apparmor?.value === "unconfined") && { appArmor: "disabled" as const }),
  };
}

/** "IP name" lines out of "name:IP". */
export function extraHosts({ ExtraHosts }: Pick<HostConfig, "ExtraHosts">): string[] {
  return ExtraHosts.map((line) => {
    const [, name = "", address = ""] = /^([^:=]+)[:=](.+)$/.exec(line) ?? [];
    return `${address.replace(/^\[(.*)\]$/, "$1")} ${name}`;
  });
}

/** The rest, over the specification that a service's container would have. */
export function inSandbox(
  spec: OciSpec,
  { config, hostConfig }: CreateRequest,
  facts: SandboxFacts,
): OciSpec {
  const { Privileged: isPrivileged, MaskedPaths, ReadonlyPaths, SecurityOpt } = hostConfig;
  const isOpen =
    isPrivileged || SecurityOpt.some((text) => parseSecurityOption(text).kind === "systempaths-unconfined");
  const isHostUts = hostConfig.UTSMode === "host";
  return {
    ...spec,
    // The host keeps its own: a name needs a namespace for it.
    hostname: isHostUts ? "" : spec.hostname,
    ...(config.Domainname !== "" && !isHostUts && { domainname: config.Domainname }),
    ...(Object.keys(hostConfig.Annotations).length > 0 && { annotations: hostConfig.Annotations }),
    process: {
      ...spec.process,
      capabilities: {
        bounding: givable(spec.process.capabilities.bounding, facts),
        effective: givable(spec.process.capabilities.effective, facts),
        permitted: givable(spec.process.capabilities.permitted, facts),
      },
      ...customProfile(spec, hostConfig),
      ...(config.Tty &&
        hostConfig.ConsoleSize.length === 2 && {
          consoleSize: { height: hostConfig.ConsoleSize[0] ?? 0, width: hostConfig.ConsoleSize[1] ?? 0 },
        }),
    },
    mounts: spec.mounts.flatMap((mount) => standardMount(mount, hostConfig)),
    linux: {
      ...spec.linux,
      namespaces: spec.linux.namespaces
        .flatMap((namespace) => {
          if (namespace.type === "uts" && hostConfig.UTSMode === "host") return [];
          if (namespace.type === "pid" && hostConfig.PidMode === "host") return [];
          if (namespace.type === "ipc" && hostConfig.IpcMode === "host") return [];
          if (namespace.type === "cgroup") return [];
          return [namespace];
        })
        .concat(hostConfig.CgroupnsMode === "private" ? [{ type: "cgroup" }] : []),
      cgroupsPath: cgroupIn(hostConfig.CgroupParent ?? "", spec.linux.cgroupsPath),
      maskedPaths: MaskedPaths ?? (isOpen ? [] : spec.linux.maskedPaths),
      readonlyPaths: ReadonlyPaths ?? (isOpen ? [] : spec.linux.readonlyPaths),
      resources: {
        ...limitsOf(hostConfig, facts),
        devices: [
          ...(isPrivileged
            ? [{ allow: true, access: "rwm" }]
            : [...spec.linux.resources.devices, ...facts.devices.map(allowing)]),
          ...hostConfig.DeviceCgroupRules.flatMap(parseDeviceRule),
        ],
      },
      devices: facts.devices.map(nodeOf),
      // Another's network has what its owner gave it.
      ...(hostConfig.NetworkMode.startsWith("container:") && { sysctl: hostConfig.Sysctls }),
    },
  };
}

function allowing({ type, major, minor, access }: GivenDevice): OciResources["devices"][number] {
  return { allow: true, type, major, minor, access };
}

function nodeOf({ access: _access, ...device }: GivenDevice): OciDevice {
  return device;
}

/** @param path - Where it would be: below the cgroup of all containers, by its id. */
function cgroupIn(parent: string, path: string): string {
  const [, all = "", id = ""] = /^(.*)\/([^/]+)$/.exec(path) ?? [];
  const above = parent.startsWith("/") ? parent : `${all}/${parent}`;
  return `${above}/${id}`.replaceAll(/\/(\.?\/)+/g, "/");
}

/** An AppArmor profile by its name; the host's default one is in place where AppArmor is. */
function customProfile(
  { process }: OciSpec,
  { Privileged: isPrivileged, SecurityOpt }: HostConfig,
): { apparmorProfile?: string } {
  const option = SecurityOpt.map(parseSecurityOption).findLast(({ kind }) => kind === "apparmor");
  if (option?.kind !== "apparmor" || isPrivileged || ["unconfined", ""].includes(option.value)) return {};
  if (process.apparmorProfile !== undefined) return { apparmorProfile: option.value };
  throw new ClusterError(
    "invalid-argument",
    `AppArmor is not supported on this host, but the profile '${option.value}' was specified`,
  );
}

/** "ALL" means all there are to give. */
function givable(names: readonly string[], { held }: SandboxFacts): string[] {
  return names.filter((name) => held.includes(name));
}

/** Limits that are not set are left out. */
export function limitsOf(
  limits: Limits,
  facts: Pick<SandboxFacts, "swapLimit" | "cgroupVersion">,
): Omit<OciResources, "devices"> {
  const { Memory, MemorySwap, MemoryReservation, NanoCpus, PidsLimit = 0 } = limits;
  const swap = MemorySwap === 0 ? Memory * 2 : MemorySwap;
  const isFirst = facts.cgroupVersion === 1;
  const memory = {
    ...(Memory > 0 && { limit: Memory }),
    ...(Memory > 0 && facts.swapLimit && { swap }),
    ...(MemoryReservation > 0 && { reservation: MemoryReservation }),
    // Version 2 has neither; who asks is warned.
    ...(isFirst && limits.MemorySwappiness !== undefined && { swappiness: limits.MemorySwappiness }),
    ...(isFirst && limits.OomKillDisable && { disableOOMKiller: true }),
  };
  const quota = NanoCpus > 0 ? Math.max(1_000, Math.round(NanoCpus / 10_000)) : limits.CpuQuota;
  const period = NanoCpus > 0 ? 100_000 : limits.CpuPeriod;
  const cpu = {
    ...(quota !== 0 && { quota }),
    ...(period !== 0 && { period }),
    ...(limits.CpuShares > 0 && { shares: limits.CpuShares }),
    ...(limits.CpusetCpus !== "" && { cpus: limits.CpusetCpus }),
    ...(limits.CpusetMems !== "" && { mems: limits.CpusetMems }),
    ...(limits.CpuRealtimePeriod !== 0 && { realtimePeriod: limits.CpuRealtimePeriod }),
    ...(limits.CpuRealtimeRuntime !== 0 && { realtimeRuntime: limits.CpuRealtimeRuntime }),
  };
  return {
    ...(Object.keys(memory).length > 0 && { memory }),
    ...(Object.keys(cpu).length > 0 && { cpu }),
    ...(PidsLimit > 0 && { pids: { limit: PidsLimit } }),
    ...(limits.BlkioWeight > 0 && { blockIO: { weight: limits.BlkioWeight } }),
  };
}

/** Limits of a start: with those that name devices of the host, whose numbers may change from one to the next. */
export function startLimits(
  hostConfig: HostConfig,
  facts: Pick<SandboxFacts, "swapLimit" | "cgroupVersion">,
  devices: OciResources["blockIO"],
): Omit<OciResources, "devices"> {
  const limits = limitsOf(hostConfig, facts);
  const { KernelMemoryTCP = 0 } = hostConfig;
  const hasTcp = KernelMemoryTCP > 0 && facts.cgroupVersion === 1;
  return {
    ...limits,
    ...(hasTcp && { memory: { ...limits.memory, kernelTCP: KernelMemoryTCP } }),
    ...(devices !== undefined && { blockIO: { ...limits.blockIO, ...devices } }),
  };
}

/** What other containers and the host's network give at each start. */
export interface StartFacts {
  /** Path of the namespace to join by type, such as "/proc/12/ns/pid". */
  readonly join: Readonly<Partial<Record<"network" | "pid" | "ipc", string>>>;
  /** "host": no namespace of its own; "own": an empty one. */
  readonly network: "host" | "own" | "join";
  readonly files:
    | { readonly hosts: string; readonly resolvConf: string; readonly hostname: string }
    | undefined;
  readonly limits: Omit<OciResources, "devices">;
  /** As the host has them now: it may have numbered them anew since the last start. */
  readonly devices: readonly GivenDevice[];
  /** Where /dev/shm is on the host, of a container that shares it with others. */
  readonly shm?: string;
}

/** @param mounted - Targets of the user's own mounts, which stay as they are. */
export function atStart(
  spec: OciSpec,
  { join, network, files, limits, devices, shm }: StartFacts,
  mounted: ReadonlySet<string>,
): OciSpec {
  const kept = spec.linux.namespaces.filter(({ type }) => type !== "network");
  const own = network === "host" ? [] : [{ type: "network" }];
  const sources: Readonly<Record<string, string | undefined>> = {
    "/etc/hosts": files?.hosts,
    "/etc/resolv.conf": files?.resolvConf,
    "/etc/hostname": files?.hostname,
  };
  return {
    ...spec,
    mounts: spec.mounts.map((mount) => {
      if (shm !== undefined && mount.destination === "/dev/shm" && /^shm$|\.shm$/.test(mount.source))
        return { ...mount, type: "bind", source: shm, options: ["bind", "rw", "nosuid", "nodev", "noexec"] };
      const isOurs = mount.type === "bind" && !mounted.has(mount.destination);
      const source = isOurs ? sources[mount.destination] : undefined;
      return source === undefined ? mount : { ...mount, source };
    }),
    linux: {
      ...spec.linux,
      namespaces: [...kept, ...own].map(
        ({ type, path }: { readonly type: string; readonly path?: string }) => {
          const joined = join[type as keyof StartFacts["join"]] ?? path;
          return { type, ...(joined !== undefined && { path: joined }) };
        },
      ),
      resources: { devices: deviceRules(spec.linux, devices), ...limits },
      devices: devices.map(nodeOf),
    },
  };
}

/** The rules of a container for the numbers that its devices have now. */
function deviceRules(
  { devices: former = [], resources: { devices: rules } }: Pick<OciLinux, "devices" | "resources">,
  devices: readonly GivenDevice[],
): OciResources["devices"] {
  if (rules.some(({ allow, type }) => allow && type === undefined)) return rules; // Everything is allowed.
  const isFormer = (rule: (typeof rules)[number]): boolean =>
    rule.allow &&
    former.some(
      ({ type, major, minor }) => rule.type === type && rule.major === major && rule.minor === minor,
    );
  return [...rules.filter((rule) => !isFormer(rule)), ...devices.map(allowing)];
}

function standardMount(mount: OciMount, hostConfig: HostConfig): OciMount[] {
  const { Privileged: isPrivileged, ShmSize, IpcMode } = hostConfig;
  switch (mount.destination) {
    case "/dev/shm":
      if (mount.type !== "tmpfs") return [mount];
      if (IpcMode === "none") return [];
      if (IpcMode === "host") return [{ ...mount, type: "bind", source: "/dev/shm", options: ["rbind"] }];
      if (ShmSize === 0) return [mount];
      return [
        {
          ...mount,
          options: mount.options.map((option) => (option.startsWith("size=") ? `size=${ShmSize}` : option)),
        },
      ];
    case "/sys":
    case "/sys/fs/cgroup":
      return isPrivileged
        ? [{ ...mount, options: mount.options.filter((option) => option !== "ro") }]
        : [mount];
    default:
      return [mount];
  }
}

/** The image's settings under those of the request, as `docker inspect` shows them. */
export function joinedConfig({ config }: CreateRequest, image: ImageConfig): CreateRequest["config"] {
  const ownKeys = new Set(config.Env.map((line) => line.split("=")[0]));
  const hasEntrypoint = (config.Entrypoint?.length ?? 0) > 0;
  return {
    ...config,
    User: config.User === "" ? image.user : config.User,
    ExposedPorts: [...new Set([...config.ExposedPorts, ...image.exposedPorts])],
    Env: [...config.Env, ...image.env.filter((line) => !ownKeys.has(line.split("=")[0]))],
    Cmd: (config.Cmd?.length ?? 0) > 0 || hasEntrypoint ? config.Cmd : image.cmd,
    Entrypoint: hasEntrypoint
      ? config.Entrypoint
      : image.entrypoint.length > 0
        ? image.entrypoint
        : undefined,
    Volumes: [...new Set([...config.Volumes, ...image.volumes])],
    WorkingDir: config.WorkingDir === "" ? image.workingDir : config.WorkingDir,
    Labels: { ...image.labels, ...config.Labels },
    StopSignal: config.StopSignal === "" ? (image.stopSignal ?? "") : config.StopSignal,
    Healthcheck: config.Healthcheck ?? image.healthcheck,
  };
}
