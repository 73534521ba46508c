/** The placement engine alone, on one core: no store, no log, no wire. */
import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import { revisionKey, type EndpointSpec, type TaskSpec } from "../../model/service.ts";
import { demandOf, type Demand } from "../../manager/scheduler/demand.ts";
import { NodeIndex } from "../../manager/scheduler/nodes.ts";
import { placeGroup } from "../../manager/scheduler/place.ts";
import { seededRandom } from "../../runtime/random.ts";
import { id, nodeObject, taskSpec } from "../sim/objects.ts";

export interface SchedulerBenchOptions {
  readonly nodes: number;
  readonly services: number;
  /** Of each service: the resident tasks. */
  readonly replicas: number;
  /** Single placements that are timed one by one. */
  readonly decisions: number;
}

export interface SchedulerFigures {
  readonly placements: number;
  readonly fillSeconds: number;
  readonly placementsPerSecond: number;
  /** With all residents there, groups of a tenth of a service. */
  readonly groupPlacementsPerSecond: number;
  readonly decisionP50Ms: number;
  readonly decisionP99Ms: number;
  readonly decisionMaxMs: number;
  /** Processor time of the whole process, which a busy machine does not lengthen as it does the time that passes. */
  readonly decisionCpuP99Ms: number;
  /** Most and least tasks of a service on the nodes that it may use, the widest of all services. */
  readonly widestSpread: number;
  readonly residentBytes: number;
}

const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };

export function benchScheduler(
  { nodes, services, replicas, decisions }: SchedulerBenchOptions,
  say: (line: string) => void,
): SchedulerFigures {
  const index = new NodeIndex();
  for (let i = 0; i < nodes; i += 1) index.putNode(benchNode(i));
  const demands = Array.from({ length: services }, (_, i) => benchDemand(i));
  const resident = demands.map((): { taskId: TaskId; nodeId: NodeId }[] => []);
  let made = 0;
  const ids = (count: number): TaskId[] =>
    Array.from({ length: count }, () => id<TaskId>(`t${(made += 1).toString(36)}x`));
  const place = (service: number, tasks: readonly TaskId[]): number => {
    const demand = demands[service] as Demand;
    const { placed, reason } = placeGroup(index, { demand, tasks }, 0);
    if (placed.length < tasks.length) throw new Error(`not all placed: ${reason}`);
    for (const each of placed) resident[service]?.push(each);
    return placed.length;
  };

  let placements = 0;
  let fillSeconds = 0;
  for (let service = 0; service < services; service += 1) {
    const tasks = ids(replicas);
    const startMs = performance.now();
    placements += place(service, tasks);
    fillSeconds += (performance.now() - startMs) / 1000;
  }
  say(`${placements} placed in ${fillSeconds.toFixed(2)} s`);
  const widestSpread = Math.max(
    ...resident.map((placed, i) => spreadOf(index, demands[i] as Demand, placed)),
  );

  const random = seededRandom(1);
  const times: number[] = [];
  const cpuTimes: number[] = [];
  for (let i = 0; i < decisions; i += 1) {
    const service = random.integer(services);
    const list = resident[service] ?? [];
    const at = random.integer(list.length);
    const gone = list[at];
    const last = list.pop();
    if (gone === undefined || last === undefined) continue;
    if (at < list.length) list[at] = last;
    const tasks = ids(1);
    const cpu = process.cpuUsage();
    const startMs = performance.now();
    index.removeTask(gone.taskId);
    place(service, tasks);
    times.push(performance.now() - startMs);
    const { user, system } = process.cpuUsage(cpu);
    cpuTimes.push((user + system) / 1000);
  }
  times.sort((a, b) => a - b);
  cpuTimes.sort((a, b) => a - b);
  const quantile = (q: number, of = times): number =>
    of[Math.min(of.length - 1, Math.floor(of.length * q))] ?? 0;

  let moved = 0;
  let seconds = 0;
  for (let i = 0; i < 200; i += 1) {
    const service = random.integer(services);
    const tenth = Math.max(1, Math.floor(replicas / 10));
    const leaving = (resident[service] ?? []).splice(0, tenth);
    const tasks = ids(leaving.length);
    for (const { taskId } of leaving) index.removeTask(taskId);
    const startMs = performance.now();
    moved += place(service, tasks);
    seconds += (performance.now() - startMs) / 1000;
  }
  return {
    placements,
    fillSeconds,
    placementsPerSecond: placements / fillSeconds,
    groupPlacementsPerSecond: moved / seconds,
    decisionP50Ms: quantile(0.5),
    decisionP99Ms: quantile(0.99),
    decisionMaxMs: quantile(1),
    decisionCpuP99Ms: quantile(0.99, cpuTimes),
    widestSpread,
    residentBytes: process.memoryUsage().rss,
  };
}

export function schedulerTable(options: SchedulerBenchOptions, figures: SchedulerFigures): string {
  const rows: readonly (readonly [string, string])[] = [
    [
      `${options.services} services of ${options.replicas} onto ${options.nodes} nodes, placements/s`,
      whole(figures.placementsPerSecond),
    ],
    [
      "groups of a tenth of a service among all of them, placements/s",
      whole(figures.groupPlacementsPerSecond),
    ],
    ["one decision among all of them, p50", `${figures.decisionP50Ms.toFixed(3)} ms`],
    ["one decision among all of them, p99", `${figures.decisionP99Ms.toFixed(3)} ms`],
    ["one decision among all of them, longest", `${figures.decisionMaxMs.toFixed(3)} ms`],
    ["one decision among all of them, p99 of processor time", `${figures.decisionCpuP99Ms.toFixed(3)} ms`],
    ["widest spread of a service, most minus least per node", String(figures.widestSpread)],
    ["memory of the process", `${whole(figures.residentBytes / 2 ** 20)} MiB`],
  ];
  return ["| | |", "|---|---|", ...rows.map(([what, value]) => `| ${what} | ${value} |`), ""].join("\n");
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}

/** A third of the nodes in each zone, ten racks in each, every fourth node with a fast disk. */
function benchNode(i: number): Parameters<NodeIndex["putNode"]>[0] {
  const labels = { zone: `z${i % 3}`, rack: `r${i % 30}`, disk: i % 4 === 0 ? "ssd" : "hdd" };
  return { ...nodeObject(`n${i}x`, { spec: { labels }, nanoCpus: 256e9, memoryBytes: 2 ** 40 }), meta };
}

/** Every filter is asked: all reserve and name a platform, and in turn they use what else there is. */
function benchDemand(i: number): Demand {
  const serviceId = id<ServiceId>(`s${i}x`);
  const kind = i % 5;
  const task: TaskSpec = {
    ...taskSpec(),
    resources: { reservations: { nanoCpus: 1e8, memoryBytes: 2 ** 26 } },
    placement: {
      constraints: kind === 1 ? ["node.labels.disk==ssd"] : kind === 2 ? ["node.role!=manager"] : [],
      spread: kind === 3 ? ["node.labels.zone", "node.labels.rack"] : [],
      maxReplicas: kind === 4 ? 3 : 0,
      platforms: [{ os: "linux", architecture: "amd64" }],
    },
  };
  const ports: EndpointSpec["ports"] =
    kind === 0 ? [{ protocol: "tcp", targetPort: 80, publishedPort: 10_000 + i, publishMode: "host" }] : [];
  return demandOf({
    id: revisionKey(serviceId, 0),
    meta,
    serviceId,
    specVersion: 0,
    serviceName: `s${i}`,
    serviceLabels: {},
    task,
    endpoint: { mode: "vip", ports },
  });
}

/** Most minus least tasks of the service on the nodes whose labels allow it; its own tasks only. */
function spreadOf(
  index: NodeIndex,
  { task }: Demand,
  placed: readonly { readonly nodeId: NodeId }[],
): number {
  const fast = task.placement.constraints.includes("node.labels.disk==ssd");
  const counts = new Map<NodeId, number>();
  for (const { node } of index.values()) {
    if (!fast || node.spec.labels["disk"] === "ssd") counts.set(node.id, 0);
  }
  for (const { nodeId } of placed) counts.set(nodeId, (counts.get(nodeId) ?? 0) + 1);
  let most = 0;
  let least = Infinity;
  for (const count of counts.values()) {
    most = Math.max(most, count);
    least = Math.min(least, count);
  }
  return most - least;
}
