/** Which limits the kernel of a host can keep for containers: its control groups' files, as Docker looks for them. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface HostLimits {
  readonly memory: boolean;
  readonly swap: boolean;
  /** Never with version 2. */
  readonly oomKillDisable: boolean;
  readonly cpuPeriod: boolean;
  readonly cpuQuota: boolean;
  readonly cpuShares: boolean;
  readonly cpuset: boolean;
  readonly pids: boolean;
}

export interface CgroupPlace {
  readonly version: 1 | 2;
  /** Where they are mounted, such as "/sys/fs/cgroup". */
  readonly root: string;
  /** What `/proc/self/cgroup` says. */
  readonly own: string;
}

export function hostLimits(place: CgroupPlace): HostLimits {
  const { root } = place;
  if (place.version === 2) {
    const names = new Set(readFileSync(join(root, "cgroup.controllers"), "utf8").trim().split(" "));
    const cpu = names.has("cpu");
    return {
      memory: names.has("memory"),
      swap: names.has("memory") && hasSwapFile(place),
      oomKillDisable: false,
      cpuPeriod: cpu,
      cpuQuota: cpu,
      cpuShares: cpu,
      cpuset: names.has("cpuset"),
      pids: names.has("pids"),
    };
  }
  const has = (path: string): boolean => existsSync(join(root, path));
  return {
    memory: has("memory/memory.limit_in_bytes"),
    swap: has("memory/memory.memsw.limit_in_bytes"),
    oomKillDisable: has("memory/memory.oom_control"),
    cpuPeriod: has("cpu/cpu.cfs_period_us"),
    cpuQuota: has("cpu/cpu.cfs_quota_us"),
    cpuShares: has("cpu/cpu.shares"),
    cpuset: has("cpuset/cpuset.cpus"),
    pids: has("pids/cgroup.procs"),
  };
}

/** What Docker warns of in `/info`. */
export function limitWarnings(limits: HostLimits, version: 1 | 2): string[] {
  const missing: readonly (readonly [boolean, string])[] = [
    [limits.memory, "memory limit"],
    [limits.swap, "swap limit"],
    [limits.oomKillDisable || version === 2, "oom kill disable"],
    [limits.cpuQuota, "cpu cfs quota"],
    [limits.cpuPeriod, "cpu cfs period"],
    [limits.cpuShares, "cpu shares"],
    [limits.cpuset, "cpuset"],
  ];
  return missing.filter(([has]) => !has).map(([, name]) => `WARNING: No ${name} support`);
}

/** The root itself has no such file: whether the kernel counts swap is seen at any group below it. */
function hasSwapFile({ root, own }: CgroupPlace): boolean {
  const path = /^0::(\/.*)$/m.exec(own)?.[1] ?? "/";
  const groups =
    path === "/"
      ? readdirSync(root, { withFileTypes: true }).flatMap((entry) =>
          entry.isDirectory() ? [entry.name] : [],
        )
      : [path];
  return groups.some((group) => existsSync(join(root, group, "memory.swap.max")));
}
