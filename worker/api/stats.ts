/** `GET /containers/{id}/stats` and `/top`. */
import { ClusterError } from "../../model/errors.ts";
import { apiTime, queryFlag } from "../../runtime/http.ts";
import { readPids, readUsage, type Usage } from "../containers/usage.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import { runTool } from "../mounts/tool.ts";
import type { ContainerDeps } from "./container-routes.ts";

const everyMs = 1_000;
const psArgsLimit = 1_000;

interface Sample {
  readonly atMs: number;
  /** Undefined while it does not run. */
  readonly usage: Usage | undefined;
}

/** Lines of JSON: one a second, or one alone, with the sample before it unless `one-shot` is asked for. */
export function containerStats(
  deps: ContainerDeps,
  id: string,
  query: URLSearchParams,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const streams = query.get("stream") === null || queryFlag(query.get("stream"));
  const isOneShot = queryFlag(query.get("one-shot"));
  if (streams && isOneShot) {
    throw new ClusterError("invalid-argument", "cannot have stream=true and one-shot=true");
  }
  return lines();

  async function* lines(): AsyncGenerator<string> {
    const { clock } = deps;
    let before: Sample = { atMs: 0, usage: undefined };
    if (!streams && !isOneShot) {
      before = await sample(deps, id);
      if (before.usage !== undefined) await clock.sleep(everyMs, signal);
    }
    while (!signal.aborted) {
      const record = await deps.engine.inspect(id);
      if (record === undefined) return;
      const now = await sample(deps, id);
      yield `${print(record, before, now)}\n`;
      if (!streams) return;
      before = now;
      await clock.sleep(everyMs, signal);
    }
  }
}

export async function containerTop(deps: ContainerDeps, id: string, psArgs: string): Promise<object> {
  const record = await deps.engine.inspect(id);
  if (record?.status.state !== "running")
    throw new ClusterError("conflict", `container ${id} is not running`);
  const args = psArgs.split(/\s+/).filter((arg) => arg !== "");
  if (psArgs.length > psArgsLimit) throw new ClusterError("invalid-argument", "ps_args: too long");
  let text: string;
  try {
    text = await runTool("ps", args);
  } catch (cause) {
    throw new ClusterError("invalid-argument", `error running ps: ${(cause as Error).message}`, { cause });
  }
  const [head = "", ...rows] = text.split("\n").filter((line) => line.trim() !== "");
  const titles = head.trim().split(/\s+/);
  const pidAt = titles.indexOf("PID");
  if (pidAt < 0) throw new ClusterError("invalid-argument", "Couldn't find PID field in ps output");
  const { cgroupVersion } = await deps.engine.info();
  const pids = new Set(await readPids({ cgroupVersion, cgroupPath: cgroupOf(deps, record) }));
  const processes = rows
    .map((row) => cells(row, titles.length))
    .filter((row) => pids.has(Number(row[pidAt])));
  await deps.containers.emit(id, "top");
  return { Titles: titles, Processes: processes };
}

/** The last column holds the rest, spaces included. */
function cells(row: string, count: number): string[] {
  const words = row.trim().split(/\s+/);
  return [...words.slice(0, count - 1), words.slice(count - 1).join(" ")];
}

function cgroupOf({ settings }: ContainerDeps, { id, cgroupPath }: ContainerRecord): string {
  return cgroupPath ?? `/${settings.cgroupParent}/${id}`.replaceAll(/\/+/g, "/");
}

async function sample(deps: ContainerDeps, id: string): Promise<Sample> {
  const record = await deps.engine.inspect(id);
  const atMs = deps.clock.now();
  if (record?.status.state !== "running") return { atMs, usage: undefined };
  const { cgroupVersion, memoryBytes, cpuCount } = await deps.engine.info();
  const { pid } = record.status;
  return {
    atMs,
    usage: await readUsage({
      cgroupVersion,
      cgroupPath: cgroupOf(deps, record),
      pid,
      hostMemoryBytes: memoryBytes,
      cpuCount,
    }),
  };
}

function print(
  { id, name }: { readonly id: string; readonly name: string },
  before: Sample,
  { atMs, usage }: Sample,
): string {
  const value = {
    name: `/${name}`,
    id,
    read: apiTime(usage === undefined ? undefined : atMs),
    preread: apiTime(before.usage === undefined ? undefined : before.atMs),
    pids_stats:
      usage === undefined
        ? {}
        : { current: usage.pids, ...(usage.pidsLimit !== undefined && { limit: usage.pidsLimit }) },
    blkio_stats: {
      io_service_bytes_recursive:
        usage?.blocks.map(({ major, minor, op, bytes }) => ({ major, minor, op, value: bytes })) ?? null,
      io_serviced_recursive: null,
      io_queue_recursive: null,
      io_service_time_recursive: null,
      io_wait_time_recursive: null,
      io_merged_recursive: null,
      io_time_recursive: null,
      sectors_recursive: null,
    },
    num_procs: 0,
    storage_stats: {},
    cpu_stats: printCpu(usage),
    precpu_stats: printCpu(before.usage),
    memory_stats:
      usage === undefined
        ? {}
        : { usage: usage.memoryBytes, limit: usage.memoryLimitBytes, stats: usage.memoryStats },
    ...(usage !== undefined && Object.keys(usage.networks).length > 0 && { networks: usage.networks }),
  };
  return withBigints(value);
}

function printCpu(usage: Usage | undefined): object {
  const { periods = 0n, throttledPeriods = 0n, throttledNs = 0n } = usage?.throttling ?? {};
  return {
    cpu_usage: {
      total_usage: usage?.cpuTotalNs ?? 0n,
      usage_in_kernelmode: usage?.cpuKernelNs ?? 0n,
      usage_in_usermode: usage?.cpuUserNs ?? 0n,
    },
    ...(usage !== undefined && { system_cpu_usage: usage.systemNs, online_cpus: usage.cpuCount }),
    throttling_data: { periods, throttled_periods: throttledPeriods, throttled_time: throttledNs },
  };
}

/** More digits than a JavaScript number holds go out as they are. */
function withBigints(value: unknown): string {
  const json = JSON.stringify(value, (_key, each: unknown) =>
    typeof each === "bigint" ? `bigint:${each}` : each,
  );
  return json.replaceAll(/"bigint:(\d+)"/g, "$1");
}
