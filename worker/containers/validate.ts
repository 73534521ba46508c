/** What no container can be, refused with Docker's texts before anything is made. Pure. */
import { parseIp } from "../../model/address.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { capabilitiesOf } from "../engine/process.ts";
import type { CreateRequest, HostConfig, Limits } from "./config.ts";
import { signalNumber } from "../engine/signals.ts";
import { parseDeviceRule } from "./device-rule.ts";
import { checkEndpoint, parseLink } from "./endpoints.ts";
import { portBindings } from "./ports.ts";

export interface ValidationFacts {
  readonly cpuCount: number;
  readonly lastCapability: number;
  readonly swapLimit: boolean;
  readonly cgroupVersion: 1 | 2;
  readonly blockWeight: boolean;
  readonly memoryNodes: number;
}

/** Those that say how long output is kept, and those of Docker's drivers that say what is told along with it. */
const logOptions = new Set([
  "cache-compress",
  "cache-disabled",
  "cache-max-file",
  "cache-max-size",
  "compress",
  "env",
  "env-regex",
  "labels",
  "labels-regex",
  "max-buffer-size",
  "max-file",
  "max-size",
  "mode",
  "tag",
]);
const memoryFloorBytes = 6 * 2 ** 20;
const swappinessMost = 100;
const oomScoreMost = 1000;
const cfsPeriodLeast = 1_000;
const cfsPeriodMost = 1_000_000;
const blkioWeightLeast = 10;
const blkioWeightMost = 1000;
const lengthLimit = 1 << 16;

/** @returns Warnings for the client. @throws {ClusterError} `invalid-argument`. */
export function validate({ config, hostConfig, endpoints }: CreateRequest, facts: ValidationFacts): string[] {
  const isCleared = config.Entrypoint?.length === 1 && config.Entrypoint[0] === "";
  if (isCleared && (config.Cmd ?? []).length === 0) throw invalid("No command specified");
  if (config.WorkingDir !== "" && !config.WorkingDir.startsWith("/")) {
    throw invalid(`the working directory '${config.WorkingDir}' is invalid, it needs to be an absolute path`);
  }
  for (const line of config.Env) {
    if (line === "" || line.startsWith("=")) throw invalid(`invalid environment variable: ${line}`);
  }
  if ((config.Hostname + config.Domainname).length > lengthLimit) throw invalid("invalid hostname format");
  if (config.Hostname !== "" && !/^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$/.test(config.Hostname)) {
    throw invalid(`invalid hostname format: ${config.Hostname}`);
  }
  if (hostConfig.AutoRemove && hostConfig.RestartPolicy.Name !== "no") {
    throw invalid("can't create 'AutoRemove' container with restart policy");
  }
  requireModes(config.Hostname, hostConfig);
  requireCapabilities(hostConfig, facts);
  for (const option of hostConfig.SecurityOpt) parseSecurityOption(option);
  for (const line of hostConfig.ExtraHosts) {
    const [, address = ""] = /^[^:=]+[:=](.+)$/.exec(line) ?? [];
    if (address === "") throw invalid(`bad format for add-host: "${line}"`);
    if (address !== "host-gateway" && parseIp(address.replace(/^\[(.*)\]$/, "$1")) === undefined)
      throw invalid(`invalid IP address in add-host: "${address}"`);
  }
  if ((hostConfig.CgroupParent ?? "").split("/").includes(".."))
    throw invalid(`invalid cgroup parent: ${hostConfig.CgroupParent}: a path without ".." is accepted`);
  if (hostConfig.ShmSize < 0) throw invalid("SHM size can not be less than 0");
  if (Math.abs(hostConfig.OomScoreAdj) > oomScoreMost) {
    throw invalid(`Invalid value ${hostConfig.OomScoreAdj}, range for oom score adj is [-1000, 1000]`);
  }
  for (const { Name, Soft, Hard } of hostConfig.Ulimits) {
    if (Hard !== -1 && (Soft > Hard || Soft === -1)) {
      throw invalid(
        `ulimit soft limit must be less than or equal to hard limit: ${Name}: soft: ${Soft}, hard: ${Hard}`,
      );
    }
  }
  portBindings(config, hostConfig);
  for (const [name, endpoint] of Object.entries(endpoints)) {
    try {
      checkEndpoint(name, endpoint, undefined);
    } catch (cause) {
      throw invalid(`invalid config for network ${name}: ${errorText(cause)}`);
    }
  }
  for (const link of hostConfig.Links ?? []) parseLink(link);
  if (hostConfig.NetworkMode === "host" && (hostConfig.Links ?? []).length > 0) {
    throw invalid(
      "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
    );
  }
  const { Type, Config } = hostConfig.LogConfig;
  const unknown = Type === "none" ? undefined : Object.keys(Config).find((name) => !logOptions.has(name));
  if (unknown !== undefined && (Type === "json-file" || Type === "local"))
    throw invalid(`unknown log opt '${unknown}' for ${Type} log driver`);
  if (config.StopSignal !== "") signalNumber(config.StopSignal);
  hostConfig.DeviceCgroupRules.forEach(parseDeviceRule);
  const warnings = validateLimits(hostConfig, facts);
  if ((hostConfig.KernelMemoryTCP ?? 0) > 0 && facts.cgroupVersion === 2)
    warnings.push(
      "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. Kernel memory TCP limit discarded.",
    );
  return warnings;
}

/** @returns Warnings. */
export function validateLimits(
  limits: Limits,
  { cpuCount, swapLimit, cgroupVersion, blockWeight, memoryNodes }: Omit<ValidationFacts, "lastCapability">,
): string[] {
  const warnings: string[] = [];
  const { Memory, MemorySwap, MemoryReservation, MemorySwappiness, NanoCpus, CpuPeriod, CpuQuota } = limits;
  if (Memory !== 0 && Memory < memoryFloorBytes) throw invalid("Minimum memory limit allowed is 6MB");
  if (Memory > 0 && MemorySwap > 0 && MemorySwap < Memory) {
    throw invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
  }
  if (Memory === 0 && MemorySwap > 0) {
    throw invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
  }
  if (MemorySwappiness !== undefined && (MemorySwappiness < 0 || MemorySwappiness > swappinessMost)) {
    throw invalid(`Invalid value: ${MemorySwappiness}, valid memory swappiness range is 0-100`);
  }
  if (MemoryReservation !== 0 && MemoryReservation < memoryFloorBytes) {
    throw invalid("Minimum memory reservation allowed is 6MB");
  }
  if (Memory > 0 && MemoryReservation > 0 && Memory < MemoryReservation) {
    throw invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
  }
  if (Memory > 0 && MemorySwap !== -1 && !swapLimit) {
    warnings.push(
      "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
    );
  }
  if (cgroupVersion === 2 && MemorySwappiness !== undefined) {
    warnings.push(
      "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
    );
  }
  if (cgroupVersion === 2 && (limits.CpuRealtimePeriod !== 0 || limits.CpuRealtimeRuntime !== 0))
    throw invalid("Your kernel does not support CPU real-time scheduler");
  if (limits.OomKillDisable && cgroupVersion === 2) {
    warnings.push("OomKillDisable is not supported on cgroup v2. OomKillDisable discarded.");
  } else if (limits.OomKillDisable && Memory === 0) {
    warnings.push(
      "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
    );
  }
  if (NanoCpus !== 0 && CpuPeriod !== 0)
    throw invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
  if (NanoCpus !== 0 && CpuQuota !== 0)
    throw invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
  if (NanoCpus < 0 || NanoCpus > cpuCount * 1e9) {
    throw invalid(
      `range of CPUs is from 0.01 to ${cpuCount}.00, as there are only ${cpuCount} CPUs available`,
    );
  }
  if (CpuPeriod !== 0 && (CpuPeriod < cfsPeriodLeast || CpuPeriod > cfsPeriodMost)) {
    throw invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
  }
  if (CpuQuota > 0 && CpuQuota < cfsPeriodLeast)
    throw invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
  for (const [what, text] of [
    ["cpus", limits.CpusetCpus],
    ["mems", limits.CpusetMems],
  ] as const) {
    if (text !== "" && !/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(text))
      throw invalid(`Invalid value ${text} for cpuset ${what}: invalid format: ${text}`);
  }
  for (const [what, text, count] of [
    ["CPUs", limits.CpusetCpus, cpuCount],
    ["memory nodes", limits.CpusetMems, memoryNodes],
  ] as const) {
    const highest = Math.max(-1, ...text.split(/[,-]/).map((part) => (part === "" ? -1 : Number(part))));
    if (highest < count) continue;
    const available = count === 1 ? "0" : `0-${count - 1}`;
    throw invalid(`Requested ${what} are not available - requested ${text}, available: ${available}`);
  }
  const { BlkioWeight } = limits;
  if (BlkioWeight !== 0 && !blockWeight) {
    warnings.push(
      "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
    );
  } else if (BlkioWeight !== 0 && (BlkioWeight < blkioWeightLeast || BlkioWeight > blkioWeightMost)) {
    throw invalid("Range of blkio weight is from 10 to 1000");
  }
  return warnings;
}

export type SecurityOption =
  | { readonly kind: "no-new-privileges"; readonly value: boolean }
  | { readonly kind: "seccomp"; readonly value: string }
  | { readonly kind: "apparmor"; readonly value: string }
  | { readonly kind: "systempaths-unconfined" }
  | { readonly kind: "ignored" };

/** @throws {ClusterError} `invalid-argument`. */
export function parseSecurityOption(text: string): SecurityOption {
  if (text === "no-new-privileges") return { kind: "no-new-privileges", value: true };
  if (text === "disable") return { kind: "ignored" };
  const [, key, value] = /^([^=:]+)[=:](.*)$/s.exec(text) ?? [];
  if (key === undefined || value === undefined) throw invalid(`invalid --security-opt 1: "${text}"`);
  switch (key) {
    case "no-new-privileges":
      if (!/^(true|false|1|0)$/i.test(value)) throw invalid(`invalid --security-opt 2: "${text}"`);
      return { kind: "no-new-privileges", value: /^(true|1)$/i.test(value) };
    case "seccomp":
      return { kind: "seccomp", value };
    case "apparmor":
      return { kind: "apparmor", value };
    case "label":
      return { kind: "ignored" }; // For SELinux, which these hosts do not enforce.
    case "systempaths":
      if (value === "unconfined") return { kind: "systempaths-unconfined" };
      break;
  }
  throw invalid(`invalid --security-opt 2: "${text}"`);
}

/** Pid, IPC, UTS, cgroup and network modes, and what they leave room for. */
function requireModes(hostname: string, hostConfig: HostConfig): void {
  const { PidMode, IpcMode, UTSMode, CgroupnsMode, UsernsMode, NetworkMode } = hostConfig;
  const isShared = (mode: string): boolean => /^container:.+/.test(mode);
  if (!["", "private", "host"].includes(PidMode) && !isShared(PidMode))
    throw invalid(`invalid PID mode: ${PidMode}`);
  if (!["none", "private", "shareable", "host"].includes(IpcMode) && !isShared(IpcMode)) {
    throw invalid(`invalid IPC mode: ${IpcMode}`);
  }
  if (!["", "host"].includes(UTSMode)) throw invalid(`invalid UTS mode: ${UTSMode}`);
  if (!["", "host"].includes(UsernsMode)) throw invalid(`invalid userns mode: ${UsernsMode}`);
  if (!["", "private", "host"].includes(CgroupnsMode))
    throw invalid(`invalid cgroup namespace mode: ${CgroupnsMode}`);
  if (UTSMode === "host" && hostname !== "") throw invalid("conflicting options: hostname and the UTS mode");
  if (NetworkMode === "container:") throw invalid("invalid container format container:<name|id>");
  if (!isShared(NetworkMode)) return;
  const conflicts: readonly (readonly [boolean, string])[] = [
    [hostname !== "", "hostname"],
    [hostConfig.Dns.length > 0, "dns"],
    [hostConfig.ExtraHosts.length > 0, "custom host-to-IP mapping"],
  ];
  for (const [isGiven, what] of conflicts) {
    if (isGiven) throw invalid(`conflicting options: ${what} and the network mode`);
  }
  if (Object.keys(hostConfig.PortBindings).length > 0 || hostConfig.PublishAllPorts) {
    throw invalid("conflicting options: port publishing and the container type network mode");
  }
}

function requireCapabilities({ CapAdd, CapDrop }: HostConfig, { lastCapability }: ValidationFacts): void {
  for (const [field, names] of [
    ["CapAdd", CapAdd],
    ["CapDrop", CapDrop],
  ] as const) {
    for (const name of names) {
      try {
        capabilitiesOf([name], [], lastCapability);
      } catch (cause) {
        const upper = name.toUpperCase();
        const full = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
        throw new ClusterError("invalid-argument", `invalid ${field}: unknown capability: "${full}"`, {
          cause,
        });
      }
    }
  }
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
