/**
 * A container as an OCI specification: Docker's default sandbox around what the task asks for. Pure.
 * What must be looked up first (user, mounts, host facts) is handed in.
 */
import type { ContainerSpec, ResourceRequirements } from "../../model/service.ts";
import type { ContainerNetwork, ImageConfig } from "./engine.ts";
import type { OciLinux, OciMount, OciProcess, OciResources, OciSpec } from "./oci.ts";
import { capabilitiesOf, commandOf, defaultPath, environmentOf, rlimitsOf } from "./process.ts";
import { customSeccomp } from "./seccomp-profile.ts";
import { defaultSeccomp } from "./seccomp.ts";
import type { ProcessUser } from "./user.ts";

/** Facts of this host that a specification depends on. */
export interface HostFacts {
  readonly cgroupVersion: 1 | 2;
  /** As `uname -m` prints it. */
  readonly machine: string;
  /** As `uname -r` prints it. */
  readonly kernelVersion: string;
  readonly lastCapability: number;
  /** The kernel accounts for swap, so that it can be limited. */
  readonly swapLimit: boolean;
  /** The kernel has our profile. */
  readonly apparmor: boolean;
  /** Path of an init to run as PID 1 when asked for. */
  readonly initPath?: string;
  readonly hostname: string;
}

export interface SpecInput {
  readonly id: string;
  readonly spec: ContainerSpec;
  readonly image: ImageConfig;
  readonly resources: ResourceRequirements;
  readonly network: ContainerNetwork;
  readonly user: ProcessUser;
  /** Volumes, binds, tmpfs, secrets, /etc/hosts and the like. */
  readonly mounts: readonly OciMount[];
  /** Cgroup of the container, such as "/shoal/<id>". */
  readonly cgroupPath: string;
  readonly host: HostFacts;
  readonly apparmorProfile?: string;
}

/** What Docker names its init inside a container. */
export const initTarget = "/sbin/docker-init";
export const defaultShmBytes = 64 * 2 ** 20;

const cpuPeriodUs = 100_000;
/** The kernel's smallest quota. */
const cpuQuotaFloorUs = 1_000;

export const maskedPaths = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
];
export const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** null, zero, full, random, urandom, tty, console, ptmx, pseudo-terminals: what /dev of a container holds. */
const allowedDevices = [
  [1, 3],
  [1, 5],
  [1, 7],
  [1, 8],
  [1, 9],
  [5, 0],
  [5, 1],
  [5, 2],
  [136, undefined],
] as const;

/** @throws {ClusterError} `invalid-argument` for what no container can be. */
export function ociSpec(input: SpecInput): OciSpec {
  const { spec, host } = input;
  const capabilities = capabilitiesOf(spec.capabilityAdd, spec.capabilityDrop, host.lastCapability);
  return {
    ociVersion: "1.0.2",
    process: processOf(input, capabilities),
    root: { path: "rootfs", readonly: spec.readOnly },
    hostname: hostnameOf(input),
    mounts: mountsOf(input),
    linux: linuxOf(input, capabilities),
  };
}

/** The name a container has: its own, the host's on the host's network, or the beginning of its id. */
export function hostnameOf({
  id,
  spec,
  network,
  host,
}: Pick<SpecInput, "id" | "spec" | "network" | "host">): string {
  return spec.hostname ?? (network.kind === "host" ? host.hostname : id.slice(0, 12));
}

function processOf(input: SpecInput, capabilities: readonly string[]): OciProcess {
  const { spec, image, user, host } = input;
  const args = commandOf(spec, image);
  const workingDir = spec.workingDir ?? image.workingDir;
  const terminal = spec.tty ? ["TERM=xterm"] : [];
  const apparmor = input.apparmorProfile;
  return {
    terminal: spec.tty,
    user,
    args: spec.init === true && host.initPath !== undefined ? [initTarget, "--", ...args] : args,
    env: environmentOf([[defaultPath, `HOSTNAME=${hostnameOf(input)}`, ...terminal], image.env, spec.env]),
    cwd: workingDir === "" ? "/" : workingDir,
    capabilities: {
      bounding: capabilities,
      // Another user than root gains them only through set-user-id programs.
      effective: user.uid === 0 ? capabilities : [],
      permitted: user.uid === 0 ? capabilities : [],
    },
    rlimits: rlimitsOf(spec.ulimits),
    noNewPrivileges: spec.noNewPrivileges ?? false,
    // Always said: left out, a container would inherit what protects shoald and containerd.
    oomScoreAdj: spec.oomScoreAdj ?? 0,
    ...(apparmor !== undefined && spec.appArmor !== "disabled" && { apparmorProfile: apparmor }),
  };
}

function mountsOf({ spec, mounts, network, host }: SpecInput): OciMount[] {
  const own = (destination: string, type: string, options: string): OciMount => ({
    destination,
    type,
    source: type,
    options: options.split(","),
  });
  const standard = [
    own("/proc", "proc", "nosuid,noexec,nodev"),
    own("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    own("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    own("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
    { ...own("/dev/shm", "tmpfs", `nosuid,noexec,nodev,mode=1777,size=${defaultShmBytes}`), source: "shm" },
    // Without a network namespace of its own the kernel refuses a fresh sysfs.
    network.kind === "host"
      ? {
          destination: "/sys",
          type: "bind",
          source: "/sys",
          // Not recursive: "ro" would leave what is mounted below writable, debugfs and bpf for example.
          options: ["bind", "nosuid", "noexec", "nodev", "ro"],
        }
      : own("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
    own("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
  ];
  const init: OciMount[] =
    spec.init === true && host.initPath !== undefined
      ? [{ destination: initTarget, type: "bind", source: host.initPath, options: ["bind", "ro"] }]
      : [];
  const given = [...init, ...mounts].toSorted((a, b) => depth(a.destination) - depth(b.destination));
  const replaced = new Set(given.map(({ destination }) => destination));
  return [...standard.filter(({ destination }) => !replaced.has(destination)), ...given];
}

function linuxOf(input: SpecInput, capabilities: readonly string[]): OciLinux {
  const { spec, network, host, cgroupPath } = input;
  const seccomp = seccompOf(spec, host, capabilities);
  return {
    namespaces: [
      { type: "pid" },
      { type: "ipc" },
      { type: "uts" },
      { type: "mount" },
      ...networkNamespace(network),
      ...(host.cgroupVersion === 2 ? [{ type: "cgroup" }] : []),
    ],
    resources: resourcesOf(input.resources, host),
    cgroupsPath: cgroupPath,
    maskedPaths,
    readonlyPaths,
    // Ports below 1024 and ping need no privilege where the network is the container's own.
    sysctl: {
      ...(network.kind !== "host" && {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
      }),
      ...spec.sysctls,
    },
    ...(seccomp !== undefined && { seccomp }),
    ...rootPropagation(input.mounts),
  };
}

/** Propagation of a bind works only if the container's root lets it through. */
function rootPropagation(mounts: readonly OciMount[]): { readonly rootfsPropagation?: string } {
  const has = (kind: string): boolean =>
    mounts.some(({ options }) => options.includes(`r${kind}`) || options.includes(kind));
  if (has("shared")) return { rootfsPropagation: "shared" };
  return has("slave") ? { rootfsPropagation: "rslave" } : {};
}

function networkNamespace(network: ContainerNetwork): { type: string; path?: string }[] {
  switch (network.kind) {
    case "host":
      return [];
    case "none":
      return [{ type: "network" }];
    case "namespace":
      return [{ type: "network", path: network.path }];
  }
}

function seccompOf(
  spec: ContainerSpec,
  host: HostFacts,
  capabilities: readonly string[],
): OciLinux["seccomp"] {
  switch (spec.seccomp?.mode) {
    case "unconfined":
      return undefined;
    case "custom":
      return customSeccomp(spec.seccomp.profile ?? "", { ...host, capabilities });
    case "default":
    case undefined:
      return defaultSeccomp(host.machine, capabilities);
  }
}

/** CPU time per period, memory and processes; what is not limited is left out. */
export function resourcesOf(
  { limits }: ResourceRequirements,
  host: Pick<HostFacts, "swapLimit">,
): OciResources {
  const { nanoCpus = 0, memoryBytes = 0, pids = 0 } = limits ?? {};
  return {
    devices: [
      { allow: false, access: "rwm" },
      // Making device files is harmless; using them is what the rest decides.
      { allow: true, type: "c", access: "m" },
      { allow: true, type: "b", access: "m" },
      ...allowedDevices.map(([major, minor]) => ({
        allow: true,
        type: "c",
        major,
        ...(minor !== undefined && { minor }),
        access: "rwm",
      })),
    ],
    ...(memoryBytes > 0 && {
      memory: { limit: memoryBytes, ...(host.swapLimit && { swap: memoryBytes * 2 }) },
    }),
    ...(nanoCpus > 0 && {
      cpu: {
        quota: Math.max(cpuQuotaFloorUs, Math.round((nanoCpus / 1e9) * cpuPeriodUs)),
        period: cpuPeriodUs,
      },
    }),
    ...(pids > 0 && { pids: { limit: pids } }),
  };
}

function depth(path: string): number {
  return path.split("/").filter((part) => part !== "").length;
}
