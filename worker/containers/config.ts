/**
 * What a client asked for when it made a container, with its defaults. Fields have the names of the
 * Engine API, because this is also what `docker inspect` shows again. Pure.
 */
import type { HealthCheck } from "../../model/service.ts";
import type { Labels } from "../../model/meta.ts";
import { ClusterError } from "../../model/errors.ts";
import { type Endpoints, parseEndpoints } from "./endpoints.ts";
import { Fields } from "./fields.ts";
import { refuseUnsupported } from "./unsupported.ts";

export interface ContainerConfig {
  readonly Hostname: string;
  readonly Domainname: string;
  readonly User: string;
  readonly AttachStdin: boolean;
  readonly AttachStdout: boolean;
  readonly AttachStderr: boolean;
  readonly ExposedPorts: readonly string[];
  readonly Tty: boolean;
  readonly OpenStdin: boolean;
  readonly StdinOnce: boolean;
  readonly Env: readonly string[];
  readonly Cmd: readonly string[] | undefined;
  readonly Entrypoint: readonly string[] | undefined;
  readonly Image: string;
  readonly Volumes: readonly string[];
  readonly WorkingDir: string;
  readonly Labels: Labels;
  readonly StopSignal: string;
  /** Seconds; negative: for ever. */
  readonly StopTimeout: number | undefined;
  readonly Healthcheck: HealthCheck | undefined;
  readonly NetworkDisabled: boolean;
}

export interface PortBinding {
  readonly HostIp: string;
  readonly HostPort: string;
}

export interface MountRequest {
  readonly Type: string;
  readonly Source: string;
  readonly Target: string;
  readonly ReadOnly: boolean;
  readonly Propagation: string;
  readonly NonRecursive: boolean;
  /** Absent in records of older versions. */
  readonly ReadOnlyForceRecursive?: boolean;
  readonly CreateMountpoint: boolean;
  readonly NoCopy: boolean;
  readonly Labels: Labels;
  readonly Subpath: string;
  readonly DriverName: string;
  readonly DriverOptions: Labels;
  readonly SizeBytes: number;
  readonly Mode: number | undefined;
  /** Of a tmpfs: "noexec" or "uid=1000"; absent in records of older versions. */
  readonly Options?: readonly string[];
  /** Of an image; absent in records of older versions. */
  readonly ImageSubpath?: string;
}

export interface DeviceMapping {
  readonly PathOnHost: string;
  readonly PathInContainer: string;
  readonly CgroupPermissions: string;
}

/** A limit for one block device of the host. */
export interface DeviceLimit {
  readonly Path: string;
  readonly Value: number;
}

/** What a runtime takes when the container starts; absent in records of older versions. */
export interface DeviceLimits {
  readonly BlkioWeightDevice?: readonly DeviceLimit[];
  readonly BlkioDeviceReadBps?: readonly DeviceLimit[];
  readonly BlkioDeviceWriteBps?: readonly DeviceLimit[];
  readonly BlkioDeviceReadIOps?: readonly DeviceLimit[];
  readonly BlkioDeviceWriteIOps?: readonly DeviceLimit[];
}

export interface Limits {
  readonly CpuShares: number;
  readonly CpuPeriod: number;
  readonly CpuQuota: number;
  readonly CpuRealtimePeriod: number;
  readonly CpuRealtimeRuntime: number;
  readonly CpusetCpus: string;
  readonly CpusetMems: string;
  readonly NanoCpus: number;
  readonly Memory: number;
  readonly MemoryReservation: number;
  readonly MemorySwap: number;
  readonly MemorySwappiness: number | undefined;
  readonly OomKillDisable: boolean;
  readonly PidsLimit: number | undefined;
  readonly BlkioWeight: number;
}

export interface RestartPolicy {
  readonly Name: "no" | "always" | "unless-stopped" | "on-failure";
  readonly MaximumRetryCount: number;
}

export interface HostConfig extends Limits, DeviceLimits {
  /** Empty: that of all containers; relative to it, or to the root. Absent in records of older versions. */
  readonly CgroupParent?: string;
  /** Where the client has written the id; only shown again. */
  readonly ContainerIDFile?: string;
  readonly KernelMemoryTCP?: number;
  readonly Binds: readonly string[];
  readonly Mounts: readonly MountRequest[];
  readonly Tmpfs: Labels;
  readonly VolumesFrom: readonly string[];
  readonly LogConfig: { readonly Type: string; readonly Config: Labels };
  readonly NetworkMode: string;
  /** On the host's own bridge; absent in records from before. */
  readonly Links?: readonly string[];
  readonly PortBindings: Readonly<Record<string, readonly PortBinding[]>>;
  readonly PublishAllPorts: boolean;
  readonly RestartPolicy: RestartPolicy;
  readonly AutoRemove: boolean;
  readonly CapAdd: readonly string[];
  readonly CapDrop: readonly string[];
  readonly CgroupnsMode: string;
  readonly Dns: readonly string[];
  readonly DnsOptions: readonly string[];
  readonly DnsSearch: readonly string[];
  readonly ExtraHosts: readonly string[];
  readonly GroupAdd: readonly string[];
  readonly IpcMode: string;
  readonly PidMode: string;
  readonly UTSMode: string;
  readonly UsernsMode: string;
  readonly OomScoreAdj: number;
  readonly Privileged: boolean;
  readonly ReadonlyRootfs: boolean;
  readonly SecurityOpt: readonly string[];
  readonly ShmSize: number;
  readonly Sysctls: Labels;
  readonly Runtime: string;
  readonly Init: boolean | undefined;
  readonly Ulimits: readonly { readonly Name: string; readonly Soft: number; readonly Hard: number }[];
  readonly Devices: readonly DeviceMapping[];
  readonly DeviceCgroupRules: readonly string[];
  readonly ConsoleSize: readonly number[];
  readonly Annotations: Labels;
  readonly MaskedPaths: readonly string[] | undefined;
  readonly ReadonlyPaths: readonly string[] | undefined;
}

export interface CreateRequest {
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  readonly endpoints: Endpoints;
}

const msPerNs = 1e-6;

/**
 * The body of `POST /containers/create`, before anything is checked but its shape.
 *
 * @param nameOf - A network's name, by its name or id.
 * @throws {ClusterError} `invalid-argument`.
 */
export function parseCreate(body: unknown, nameOf = (term: string): string => term): CreateRequest {
  const fields = new Fields(body);
  if (typeof body !== "object" || body === null || Object.keys(body).length === 0) {
    throw new ClusterError("invalid-argument", "config cannot be empty in order to create a container");
  }
  const hostConfig = parseHostConfig(fields.object("HostConfig"));
  const networking = fields.object("NetworkingConfig");
  return {
    config: parseConfig(fields),
    hostConfig,
    endpoints: parseEndpoints(networking, {
      mode: hostConfig.NetworkMode,
      macAddress: fields.text("MacAddress"),
      nameOf,
    }),
  };
}

function parseConfig(from: Fields): ContainerConfig {
  return {
    Hostname: from.text("Hostname"),
    Domainname: from.text("Domainname"),
    User: from.text("User"),
    AttachStdin: from.flag("AttachStdin"),
    AttachStdout: from.flag("AttachStdout"),
    AttachStderr: from.flag("AttachStderr"),
    ExposedPorts: from.entries("ExposedPorts").map(([port]) => port),
    Tty: from.flag("Tty"),
    OpenStdin: from.flag("OpenStdin"),
    StdinOnce: from.flag("StdinOnce"),
    Env: from.texts("Env"),
    Cmd: from.optionalTexts("Cmd"),
    Entrypoint: from.optionalTexts("Entrypoint"),
    Image: from.text("Image"),
    Volumes: from.entries("Volumes").map(([path]) => path),
    WorkingDir: from.text("WorkingDir"),
    Labels: from.labels("Labels"),
    StopSignal: from.text("StopSignal"),
    StopTimeout: from.optionalWhole("StopTimeout"),
    Healthcheck: from.has("Healthcheck") ? parseHealthcheck(from.object("Healthcheck")) : undefined,
    NetworkDisabled: from.flag("NetworkDisabled"),
  };
}

function parseHealthcheck(from: Fields): HealthCheck {
  const duration = (name: string): number => {
    const ns = from.whole(name);
    if (ns !== 0 && ns < 1e6) {
      throw new ClusterError("invalid-argument", `${name} in Healthcheck cannot be less than 1ms`);
    }
    return ns * msPerNs;
  };
  const retries = from.whole("Retries");
  if (retries < 0) throw new ClusterError("invalid-argument", "Retries in Healthcheck cannot be negative");
  return {
    test: from.texts("Test"),
    intervalMs: duration("Interval"),
    timeoutMs: duration("Timeout"),
    startPeriodMs: duration("StartPeriod"),
    startIntervalMs: duration("StartInterval"),
    retries,
  };
}

export function parseLimits(from: Fields): Limits {
  return {
    CpuShares: from.whole("CpuShares"),
    CpuPeriod: from.whole("CpuPeriod"),
    CpuQuota: from.whole("CpuQuota"),
    CpuRealtimePeriod: from.whole("CpuRealtimePeriod"),
    CpuRealtimeRuntime: from.whole("CpuRealtimeRuntime"),
    CpusetCpus: from.text("CpusetCpus"),
    CpusetMems: from.text("CpusetMems"),
    NanoCpus: from.whole("NanoCpus"),
    Memory: from.whole("Memory"),
    MemoryReservation: from.whole("MemoryReservation"),
    MemorySwap: from.whole("MemorySwap"),
    // Both numbers stand for "not given" with one client or another.
    MemorySwappiness:
      from.whole("MemorySwappiness") === -1 ? undefined : from.optionalWhole("MemorySwappiness"),
    OomKillDisable: from.flag("OomKillDisable"),
    PidsLimit: from.optionalWhole("PidsLimit"),
    BlkioWeight: from.whole("BlkioWeight"),
  };
}

/** @throws {ClusterError} `invalid-argument` with Docker's text. */
export function parseRestartPolicy(from: Fields): RestartPolicy {
  const name = from.text("Name");
  const MaximumRetryCount = from.whole("MaximumRetryCount");
  const fail = (text: string): ClusterError =>
    new ClusterError("invalid-argument", `invalid restart policy: ${text}`);
  switch (name) {
    case "always":
    case "unless-stopped":
    case "no":
    case "":
      if (MaximumRetryCount !== 0) {
        const hint = MaximumRetryCount < 0 ? " and cannot be negative" : "";
        throw fail(`maximum retry count can only be used with 'on-failure'${hint}`);
      }
      return { Name: name === "" ? "no" : name, MaximumRetryCount };
    case "on-failure":
      if (MaximumRetryCount < 0) throw fail("maximum retry count cannot be negative");
      return { Name: name, MaximumRetryCount };
    default:
      throw fail(`unknown policy '${name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'`);
  }
}

function parseHostConfig(from: Fields): HostConfig {
  refuseUnsupported(from);
  const log = from.object("LogConfig");
  const mode = from.text("NetworkMode");
  return {
    ...parseLimits(from),
    ...parseDeviceLimits(from),
    CgroupParent: from.text("CgroupParent"),
    ContainerIDFile: from.text("ContainerIDFile"),
    KernelMemoryTCP: from.whole("KernelMemoryTCP"),
    Binds: from.texts("Binds"),
    Mounts: from.objects("Mounts").map(parseMount),
    Tmpfs: from.labels("Tmpfs"),
    VolumesFrom: from.texts("VolumesFrom"),
    LogConfig: { Type: log.text("Type") || "json-file", Config: log.labels("Config") },
    NetworkMode: mode === "" || mode === "default" ? "bridge" : mode,
    Links: from.texts("Links"),
    PortBindings: parsePortBindings(from),
    PublishAllPorts: from.flag("PublishAllPorts"),
    RestartPolicy: parseRestartPolicy(from.object("RestartPolicy")),
    AutoRemove: from.flag("AutoRemove"),
    CapAdd: from.texts("CapAdd"),
    CapDrop: from.texts("CapDrop"),
    CgroupnsMode: from.text("CgroupnsMode"),
    Dns: from.texts("Dns"),
    DnsOptions: from.texts("DnsOptions"),
    DnsSearch: from.texts("DnsSearch"),
    ExtraHosts: from.texts("ExtraHosts"),
    GroupAdd: from.texts("GroupAdd"),
    IpcMode: from.text("IpcMode") || "private",
    PidMode: from.text("PidMode"),
    UTSMode: from.text("UTSMode"),
    UsernsMode: from.text("UsernsMode"),
    OomScoreAdj: from.whole("OomScoreAdj"),
    Privileged: from.flag("Privileged"),
    ReadonlyRootfs: from.flag("ReadonlyRootfs"),
    SecurityOpt: from.texts("SecurityOpt"),
    ShmSize: from.whole("ShmSize"),
    Sysctls: from.labels("Sysctls"),
    Runtime: from.text("Runtime"),
    Init: from.optionalFlag("Init"),
    Ulimits: from
      .objects("Ulimits")
      .map((each) => ({ Name: each.text("Name"), Soft: each.whole("Soft"), Hard: each.whole("Hard") })),
    Devices: from.objects("Devices").map((each) => ({
      PathOnHost: each.text("PathOnHost"),
      PathInContainer: each.text("PathInContainer"),
      CgroupPermissions: each.text("CgroupPermissions"),
    })),
    DeviceCgroupRules: from.texts("DeviceCgroupRules"),
    ConsoleSize: from.list("ConsoleSize").map(Number),
    Annotations: from.labels("Annotations"),
    MaskedPaths: from.optionalTexts("MaskedPaths"),
    ReadonlyPaths: from.optionalTexts("ReadonlyPaths"),
  };
}

function parseDeviceLimits(from: Fields): DeviceLimits {
  const limits = (name: string, value: "Rate" | "Weight"): DeviceLimit[] =>
    from.objects(name).map((each) => ({ Path: each.text("Path"), Value: each.whole(value) }));
  return {
    BlkioWeightDevice: limits("BlkioWeightDevice", "Weight"),
    BlkioDeviceReadBps: limits("BlkioDeviceReadBps", "Rate"),
    BlkioDeviceWriteBps: limits("BlkioDeviceWriteBps", "Rate"),
    BlkioDeviceReadIOps: limits("BlkioDeviceReadIOps", "Rate"),
    BlkioDeviceWriteIOps: limits("BlkioDeviceWriteIOps", "Rate"),
  };
}

/** [["uid", "1000"], ["noexec"]], as the API has them. */
function parseTmpfsOption(option: unknown): string {
  const isList = Array.isArray(option) && option.every((part) => typeof part === "string");
  if (!isList || option.length < 1 || option.length > 2 || option.some((part) => /[,\0]/.test(part))) {
    throw new ClusterError("invalid-argument", "invalid option array, only 1 or 2 elements allowed");
  }
  return option.join("=");
}

function parseMount(from: Fields): MountRequest {
  const bind = from.object("BindOptions");
  const volume = from.object("VolumeOptions");
  const driver = volume.object("DriverConfig");
  const tmpfs = from.object("TmpfsOptions");
  return {
    Type: from.text("Type"),
    Source: from.text("Source"),
    Target: from.text("Target"),
    ReadOnly: from.flag("ReadOnly"),
    Propagation: bind.text("Propagation"),
    NonRecursive: bind.flag("NonRecursive"),
    ReadOnlyForceRecursive: bind.flag("ReadOnlyForceRecursive"),
    CreateMountpoint: bind.flag("CreateMountpoint"),
    NoCopy: volume.flag("NoCopy"),
    Labels: volume.labels("Labels"),
    Subpath: volume.text("Subpath"),
    DriverName: driver.text("Name"),
    DriverOptions: driver.labels("Options"),
    SizeBytes: tmpfs.whole("SizeBytes"),
    Mode: tmpfs.optionalWhole("Mode"),
    Options: tmpfs.list("Options").map(parseTmpfsOption),
    ImageSubpath: from.object("ImageOptions").text("Subpath"),
  };
}

function parsePortBindings(from: Fields): Record<string, readonly PortBinding[]> {
  const bindings = from.object("PortBindings");
  return Object.fromEntries(
    from
      .entries("PortBindings")
      .map(([port]) => [
        port,
        bindings
          .objects(port)
          .map((each) => ({ HostIp: each.text("HostIp"), HostPort: each.text("HostPort") })),
      ]),
  );
}
