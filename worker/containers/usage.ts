/** What a container uses, read from its cgroup and its network namespace. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

const root = "/sys/fs/cgroup";
/** USER_HZ, the unit of /proc/stat and cpuacct.stat on every Linux that Node runs on. */
const ticksPerSecond = 100n;
const nsPerTick = 1_000_000_000n / ticksPerSecond;

/** Times in nanoseconds, as digits may be more than a number holds. */
export interface Usage {
  readonly cpuTotalNs: bigint;
  readonly cpuUserNs: bigint;
  readonly cpuKernelNs: bigint;
  readonly systemNs: bigint;
  readonly cpuCount: number;
  readonly throttling: {
    readonly periods: bigint;
    readonly throttledPeriods: bigint;
    readonly throttledNs: bigint;
  };
  readonly memoryBytes: bigint;
  /** The host's memory where the container has no limit. */
  readonly memoryLimitBytes: bigint;
  readonly memoryStats: Readonly<Record<string, bigint>>;
  readonly pids: bigint;
  /** Undefined: no limit. */
  readonly pidsLimit: bigint | undefined;
  readonly blocks: readonly {
    readonly major: number;
    readonly minor: number;
    readonly op: "read" | "write";
    readonly bytes: bigint;
  }[];
  readonly networks: Readonly<Record<string, Readonly<Record<string, bigint>>>>;
}

export interface UsageSource {
  readonly cgroupVersion: 1 | 2;
  /** Such as "/shoal/<id>". */
  readonly cgroupPath: string;
  readonly pid: number;
  readonly hostMemoryBytes: number;
  readonly cpuCount: number;
}

export async function readUsage(source: UsageSource): Promise<Usage> {
  const [own, systemNs, networks] = await Promise.all([
    source.cgroupVersion === 2 ? readV2(source) : readV1(source),
    readSystem(),
    readNetworks(source.pid),
  ]);
  return { ...own, systemNs, networks, cpuCount: source.cpuCount };
}

/** Process ids on the host, of all processes of the container: also of the groups that it made below its own. */
export async function readPids({
  cgroupVersion,
  cgroupPath,
}: Pick<UsageSource, "cgroupVersion" | "cgroupPath">): Promise<number[]> {
  return pidsBelow(cgroupVersion === 2 ? join(root, cgroupPath) : join(root, "memory", cgroupPath));
}

/** @param directory - Of a cgroup. */
export async function pidsBelow(directory: string): Promise<number[]> {
  const pids = new Set<number>();
  // A list and no recursion: a container may nest groups as deep as the kernel allows.
  const directories = [directory];
  for (let next = directories.pop(); next !== undefined; next = directories.pop()) {
    const lines = (await textOf(join(next, "cgroup.procs"))).split("\n");
    for (const line of lines) if (line !== "") pids.add(Number(line));
    const parent = next;
    const entries = await readdir(parent, { withFileTypes: true }).catch(() => []); // It is gone already.
    directories.push(...entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(parent, name)));
  }
  return [...pids];
}

type OfCgroup = Omit<Usage, "systemNs" | "networks" | "cpuCount">;

async function readV1({ cgroupPath, hostMemoryBytes }: UsageSource): Promise<OfCgroup> {
  const at = (controller: string, name: string): Promise<string> =>
    textOf(join(root, controller, cgroupPath, name));
  const [total, ticks, throttled, usage, limit, stat, pids, pidsLimit, blocks] = await Promise.all([
    at("cpuacct", "cpuacct.usage"),
    at("cpuacct", "cpuacct.stat"),
    at("cpu", "cpu.stat"),
    at("memory", "memory.usage_in_bytes"),
    at("memory", "memory.limit_in_bytes"),
    at("memory", "memory.stat"),
    at("pids", "pids.current"),
    at("pids", "pids.max"),
    at("blkio", "blkio.throttle.io_service_bytes"),
  ]);
  const cpu = table(ticks);
  const throttling = table(throttled);
  return {
    cpuTotalNs: whole(total),
    cpuUserNs: (cpu["user"] ?? 0n) * nsPerTick,
    cpuKernelNs: (cpu["system"] ?? 0n) * nsPerTick,
    throttling: {
      periods: throttling["nr_periods"] ?? 0n,
      throttledPeriods: throttling["nr_throttled"] ?? 0n,
      throttledNs: throttling["throttled_time"] ?? 0n,
    },
    memoryBytes: whole(usage),
    memoryLimitBytes: limitOf(limit, hostMemoryBytes),
    memoryStats: table(stat),
    pids: whole(pids),
    pidsLimit: optional(pidsLimit),
    blocks: blocks.split("\n").flatMap((line) => {
      const [, major, minor, op, bytes] = /^(\d+):(\d+) (Read|Write) (\d+)$/.exec(line) ?? [];
      if (op === undefined || bytes === undefined) return [];
      return [
        {
          major: Number(major),
          minor: Number(minor),
          op: op === "Read" ? ("read" as const) : ("write" as const),
          bytes: BigInt(bytes),
        },
      ];
    }),
  };
}

async function readV2({ cgroupPath, hostMemoryBytes }: UsageSource): Promise<OfCgroup> {
  const at = (name: string): Promise<string> => textOf(join(root, cgroupPath, name));
  const [cpuText, usage, limit, stat, pids, pidsLimit, blocks] = await Promise.all([
    at("cpu.stat"),
    at("memory.current"),
    at("memory.max"),
    at("memory.stat"),
    at("pids.current"),
    at("pids.max"),
    at("io.stat"),
  ]);
  const cpu = table(cpuText);
  const ns = (name: string): bigint => (cpu[name] ?? 0n) * 1_000n;
  return {
    cpuTotalNs: ns("usage_usec"),
    cpuUserNs: ns("user_usec"),
    cpuKernelNs: ns("system_usec"),
    throttling: {
      periods: cpu["nr_periods"] ?? 0n,
      throttledPeriods: cpu["nr_throttled"] ?? 0n,
      throttledNs: ns("throttled_usec"),
    },
    memoryBytes: whole(usage),
    memoryLimitBytes: limitOf(limit, hostMemoryBytes),
    memoryStats: table(stat),
    pids: whole(pids),
    pidsLimit: optional(pidsLimit),
    blocks: blocks.split("\n").flatMap((line) => {
      const [, major, minor, rest = ""] = /^(\d+):(\d+) (.*)$/.exec(line) ?? [];
      if (major === undefined) return [];
      const bytes = (key: string): bigint => whole(new RegExp(`${key}=(\\d+)`).exec(rest)?.[1] ?? "");
      const device = { major: Number(major), minor: Number(minor) };
      return [
        { ...device, op: "read" as const, bytes: bytes("rbytes") },
        { ...device, op: "write" as const, bytes: bytes("wbytes") },
      ];
    }),
  };
}

/** Time of all processors since the host's start. */
async function readSystem(): Promise<bigint> {
  const [line = ""] = (await textOf("/proc/stat")).split("\n");
  // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user.
  const ticks = line
    .split(/\s+/)
    .slice(1, 9)
    .reduce((sum, text) => sum + whole(text), 0n);
  return ticks * nsPerTick;
}

async function readNetworks(pid: number): Promise<Usage["networks"]> {
  const networks: Record<string, Readonly<Record<string, bigint>>> = {};
  for (const line of (await textOf(`/proc/${pid}/net/dev`)).split("\n")) {
    const [, device, counters = ""] = /^\s*([^\s:]+):\s*(.*)$/.exec(line) ?? [];
    if (device === undefined || device === "lo") continue;
    const values = counters.split(/\s+/).map(whole);
    const [rxBytes, rxPackets, rxErrors, rxDropped] = values;
    const [txBytes, txPackets, txErrors, txDropped] = values.slice(8);
    networks[device] = {
      rx_bytes: rxBytes ?? 0n,
      rx_packets: rxPackets ?? 0n,
      rx_errors: rxErrors ?? 0n,
      rx_dropped: rxDropped ?? 0n,
      tx_bytes: txBytes ?? 0n,
      tx_packets: txPackets ?? 0n,
      tx_errors: txErrors ?? 0n,
      tx_dropped: txDropped ?? 0n,
    };
  }
  return networks;
}

function table(text: string): Record<string, bigint> {
  return Object.fromEntries(
    text.split("\n").flatMap((line) => {
      const [, key, value] = /^(\S+) (\d+)$/.exec(line) ?? [];
      return key === undefined || value === undefined ? [] : [[key, BigInt(value)]];
    }),
  );
}

function limitOf(text: string, hostMemoryBytes: number): bigint {
  const host = BigInt(hostMemoryBytes);
  const limit = optional(text) ?? host;
  return limit < host ? limit : host;
}

function optional(text: string): bigint | undefined {
  return /^\d+$/.test(text.trim()) ? BigInt(text.trim()) : undefined;
}

function whole(text: string): bigint {
  return optional(text) ?? 0n;
}

/** Empty for what has gone with its container. */
function textOf(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}
