/** Facts of this host, read once when the engine opens. */
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { access, constants, readFile } from "node:fs/promises";
import { cpus, hostname, release, totalmem } from "node:os";
import { join } from "node:path";

import { type HostLimits, hostLimits } from "./host-limits.ts";
import type { HostFacts } from "./spec.ts";

const cgroup2Magic = 0x6367_7270;
/** Capabilities of Linux 5.9 and later. */
const lastCapabilityDefault = 40;
/** Docker's, which its packages load; a profile that is not loaded lets no container start. */
export const apparmorProfile = "docker-default";
const initNames = ["docker-init", "tini-static", "tini"];

export interface HostDescription extends HostFacts {
  readonly operatingSystem: string;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  readonly blockWeight: boolean;
  readonly memoryNodes: number;
  readonly limits: HostLimits;
}

export async function describeHost(hostName: string): Promise<HostDescription> {
  const cgroupVersion = statfsSync("/sys/fs/cgroup").type === cgroup2Magic ? 2 : 1;
  const [own, initPath, osRelease, lastCapability, apparmor] = await Promise.all([
    textOf("/proc/self/cgroup"),
    findInit(),
    textOf("/etc/os-release"),
    textOf("/proc/sys/kernel/cap_last_cap"),
    textOf("/sys/kernel/security/apparmor/profiles"),
  ]);
  const limits = hostLimits({ version: cgroupVersion, root: "/sys/fs/cgroup", own });
  return {
    cgroupVersion,
    limits,
    machine: machineName(),
    lastCapability: Number.parseInt(lastCapability, 10) || lastCapabilityDefault,
    swapLimit: limits.swap,
    apparmor: apparmor.split("\n").some((line) => line.startsWith(`${apparmorProfile} (`)),
    ...(initPath !== undefined && { initPath }),
    hostname: hostName === "" ? hostname() : hostName,
    kernelVersion: release(),
    operatingSystem: /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(osRelease)?.[1] ?? "Linux",
    cpuCount: cpus().length,
    memoryBytes: totalmem(),
    blockWeight: await hasBlockWeight(cgroupVersion),
    memoryNodes: Number(/(\d+)\s*$/.exec(await textOf("/sys/devices/system/node/online"))?.[1] ?? 0) + 1,
  };
}

/** As Docker decides it: with version 1 by a file that only some schedulers of disks bring along. */
async function hasBlockWeight(cgroupVersion: 1 | 2): Promise<boolean> {
  if (cgroupVersion === 2) return /\bio\b/.test(await textOf("/sys/fs/cgroup/cgroup.controllers"));
  const names = ["blkio.weight", "blkio.bfq.weight"];
  return names.some((name) => existsSync(join("/sys/fs/cgroup/blkio", name)));
}

/** As images name architectures. */
export function imageArchitecture(machine: string): string {
  const names: Readonly<Record<string, string>> = { x86_64: "amd64", aarch64: "arm64" };
  return names[machine] ?? machine;
}

/** How often the kernel killed something in a container's cgroup for memory; 0 if it cannot be read. */
export function readOomKills(cgroupVersion: 1 | 2, cgroupPath: string): number {
  const path =
    cgroupVersion === 2
      ? join("/sys/fs/cgroup", cgroupPath, "memory.events")
      : join("/sys/fs/cgroup/memory", cgroupPath, "memory.oom_control");
  try {
    return Number(/^oom_kill (\d+)$/m.exec(readFileSync(path, "utf8"))?.[1] ?? 0);
  } catch {
    return 0; // Gone with the container, or not ours to see.
  }
}

function machineName(): string {
  const names: Readonly<Record<string, string>> = { x64: "x86_64", arm64: "aarch64", ppc64: "ppc64le" };
  return names[process.arch] ?? process.arch;
}

async function findInit(): Promise<string | undefined> {
  for (const directory of (process.env["PATH"] ?? "/usr/bin:/bin").split(":")) {
    for (const name of initNames) {
      const path = join(directory, name);
      const usable = await access(path, constants.X_OK).then(
        () => true,
        () => false,
      );
      if (usable) return path;
    }
  }
  return undefined;
}

async function textOf(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}
