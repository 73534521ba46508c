/** What a local container was asked to be, as `docker inspect` prints it. */
import type { ContainerConfig, DeviceLimit, HostConfig, MountRequest } from "../containers/config.ts";
import { maskedPaths, readonlyPaths } from "../engine/spec.ts";
import type { HealthCheck } from "../../model/service.ts";

const nsPerMs = 1e6;
const defaultShmBytes = 64 * 2 ** 20;

export function printConfig(config: ContainerConfig, hostname: string): object {
  const { ExposedPorts, Volumes, Healthcheck, StopTimeout, StopSignal, NetworkDisabled, ...rest } = config;
  return {
    ...rest,
    Hostname: hostname,
    ...(ExposedPorts.length > 0 && { ExposedPorts: keys(ExposedPorts) }),
    Cmd: config.Cmd ?? null,
    Entrypoint: config.Entrypoint ?? null,
    Volumes: Volumes.length > 0 ? keys(Volumes) : null,
    OnBuild: null,
    ...(NetworkDisabled && { NetworkDisabled }),
    ...(Healthcheck !== undefined && { Healthcheck: printHealthcheck(Healthcheck) }),
    ...(StopSignal !== "" && { StopSignal }),
    ...(StopTimeout !== undefined && { StopTimeout }),
  };
}

/** Every field that the API has, those without effect here too: clients read them without looking. */
export function printHostConfig(host: HostConfig): object {
  const list = (values: readonly unknown[]): readonly unknown[] | null =>
    values.length === 0 ? null : values;
  const { Mounts, Tmpfs, Sysctls, Annotations, ConsoleSize, MaskedPaths, ReadonlyPaths, Init, ...rest } =
    host;
  return {
    ...rest,
    Binds: list(host.Binds),
    ContainerIDFile: host.ContainerIDFile ?? "",
    VolumeDriver: "",
    VolumesFrom: list(host.VolumesFrom),
    ...(Mounts.length > 0 && { Mounts: Mounts.map(printMountRequest) }),
    ...(Object.keys(Tmpfs).length > 0 && { Tmpfs }),
    ...(Object.keys(Sysctls).length > 0 && { Sysctls }),
    ...(Object.keys(Annotations).length > 0 && { Annotations }),
    ConsoleSize: ConsoleSize.length === 2 ? ConsoleSize : [0, 0],
    CapAdd: list(host.CapAdd),
    CapDrop: list(host.CapDrop),
    ExtraHosts: list(host.ExtraHosts),
    GroupAdd: list(host.GroupAdd),
    Cgroup: "",
    Links: list(host.Links ?? []),
    SecurityOpt: list(host.SecurityOpt),
    ShmSize: host.ShmSize === 0 ? defaultShmBytes : host.ShmSize,
    Runtime: host.Runtime === "" ? "runc" : host.Runtime,
    Isolation: "",
    ...(Init !== undefined && { Init }),
    CgroupParent: host.CgroupParent ?? "",
    BlkioWeightDevice: (host.BlkioWeightDevice ?? []).map(({ Path, Value }) => ({ Path, Weight: Value })),
    BlkioDeviceReadBps: printRates(host.BlkioDeviceReadBps),
    BlkioDeviceWriteBps: printRates(host.BlkioDeviceWriteBps),
    BlkioDeviceReadIOps: printRates(host.BlkioDeviceReadIOps),
    BlkioDeviceWriteIOps: printRates(host.BlkioDeviceWriteIOps),
    DeviceCgroupRules: list(host.DeviceCgroupRules),
    DeviceRequests: null,
    MemorySwap: host.MemorySwap === 0 ? host.Memory * 2 : host.MemorySwap,
    MemorySwappiness: host.MemorySwappiness ?? null,
    PidsLimit: (host.PidsLimit ?? 0) > 0 ? host.PidsLimit : null,
    CpuCount: 0,
    CpuPercent: 0,
    IOMaximumIOps: 0,
    IOMaximumBandwidth: 0,
    MaskedPaths: MaskedPaths ?? (host.Privileged ? null : maskedPaths),
    ReadonlyPaths: ReadonlyPaths ?? (host.Privileged ? null : readonlyPaths),
  };
}

function printMountRequest(mount: MountRequest): object {
  const hasOptions = Object.keys(mount.DriverOptions).length > 0;
  const driver = { Name: mount.DriverName, ...(hasOptions && { Options: mount.DriverOptions }) };
  const volume = {
    ...(mount.NoCopy && { NoCopy: true }),
    ...(Object.keys(mount.Labels).length > 0 && { Labels: mount.Labels }),
    ...(mount.Subpath !== "" && { Subpath: mount.Subpath }),
    ...((mount.DriverName !== "" || hasOptions) && { DriverConfig: driver }),
  };
  return {
    Type: mount.Type,
    ...(mount.Source !== "" && { Source: mount.Source }),
    Target: mount.Target,
    ...(mount.ReadOnly && { ReadOnly: true }),
    ...(mount.Type === "bind" &&
      (mount.Propagation !== "" ||
        mount.NonRecursive ||
        mount.CreateMountpoint ||
        mount.ReadOnlyForceRecursive === true) && {
        BindOptions: {
          ...(mount.Propagation !== "" && { Propagation: mount.Propagation }),
          ...(mount.NonRecursive && { NonRecursive: true }),
          ...(mount.CreateMountpoint && { CreateMountpoint: true }),
          ...(mount.ReadOnlyForceRecursive === true && { ReadOnlyForceRecursive: true }),
        },
      }),
    ...(mount.Type === "volume" &&
      Object.keys(volume).length > 0 && {
        VolumeOptions: volume,
      }),
    ...(mount.Type === "image" &&
      (mount.ImageSubpath ?? "") !== "" && { ImageOptions: { Subpath: mount.ImageSubpath } }),
    ...(mount.Type === "tmpfs" && {
      TmpfsOptions: {
        ...(mount.SizeBytes > 0 && { SizeBytes: mount.SizeBytes }),
        ...(mount.Mode !== undefined && { Mode: mount.Mode }),
        ...((mount.Options ?? []).length > 0 && {
          Options: mount.Options?.map((option) => option.split("=")),
        }),
      },
    }),
  };
}

function printHealthcheck(check: HealthCheck): object {
  const ns = (ms: number): number => Math.round(ms * nsPerMs);
  return {
    Test: check.test,
    ...(check.intervalMs > 0 && { Interval: ns(check.intervalMs) }),
    ...(check.timeoutMs > 0 && { Timeout: ns(check.timeoutMs) }),
    ...(check.startPeriodMs > 0 && { StartPeriod: ns(check.startPeriodMs) }),
    ...(check.startIntervalMs > 0 && { StartInterval: ns(check.startIntervalMs) }),
    ...(check.retries > 0 && { Retries: check.retries }),
  };
}

function keys(names: readonly string[]): Record<string, object> {
  return Object.fromEntries(names.map((name) => [name, {}]));
}

function printRates(limits: readonly DeviceLimit[] = []): object[] {
  return limits.map(({ Path, Value }) => ({ Path, Rate: Value }));
}
