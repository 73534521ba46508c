import { call } from "../lab/api.ts";
import type { ClusterFile } from "../lab/lab.ts";
import { run, sleep } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";

export interface DriveOptions {
  readonly replicas: number;
  readonly scale: number;
  /** Tasks share the host's network, or join an overlay of that endpoint mode. */
  readonly network: "host" | "dnsrr" | "vip";
  /** False: no host is killed. */
  readonly kill: boolean;
}

/** Seconds by name of the figure; `NaN` for a step that did not end in time. */
export type Figures = Readonly<Record<string, number>>;

interface Task {
  readonly NodeID?: string;
  readonly DesiredState: string;
  readonly Spec: { readonly ContainerSpec: { readonly Env?: readonly string[] } };
  readonly Status: { readonly State: string };
}

interface Service {
  readonly Version: { readonly Index: number };
  readonly Spec: ServiceSpec;
  readonly UpdateStatus?: { readonly State?: string };
}

interface ServiceSpec {
  readonly Name: string;
  readonly Mode: { readonly Replicated: { readonly Replicas: number } };
  readonly TaskTemplate: { readonly ContainerSpec: Readonly<Record<string, unknown>> };
}

const stepLimitMs = 90_000;
const lookEveryMs = 20;
const writes = 20;

/**
 * Takes a cluster through the steps and measures each from the client's request to the moment it can be seen through the API.
 * Hosts that it kills stay dead.
 *
 * @param onFigure - Told each figure at once.
 */
export async function drive(
  cluster: ClusterFile,
  options: DriveOptions,
  onFigure: (name: string, seconds: number) => void,
): Promise<Figures> {
  const figures: Record<string, number> = {};
  const say = (name: string, seconds: number): void => {
    figures[name] = seconds;
    onFigure(name, seconds);
  };
  const managers = cluster.hosts.filter((host) => host.role === "manager");
  let socket = required(managers[0], "a manager").socket;
  const api = <T>(method: string, path: string, body?: unknown): Promise<T> =>
    call<T>(socket, method, path, { body });
  const { replicas, scale } = options;

  const latencies: number[] = [];
  for (let at = 0; at < writes; at++) {
    const start = performance.now();
    const { ID } = await api<{ ID: string }>("POST", "/configs/create", {
      Name: `latency${at}`,
      Data: "aGk=",
    });
    latencies.push((performance.now() - start) / 1000);
    await api("DELETE", `/configs/${ID}`);
  }
  latencies.sort((a, b) => a - b);
  say("api_write_p50_s", latencies[writes / 2] ?? Number.NaN);
  say("api_write_max_s", latencies.at(-1) ?? Number.NaN);

  const network = options.network === "host" ? "host" : await createOverlay(api);
  let start = performance.now();
  const { ID: service } = await api<{ ID: string }>(
    "POST",
    "/services/create",
    benchService(cluster.image, replicas, network, options.network),
  );
  const tasks = (): Promise<Task[]> =>
    api("GET", `/tasks?filters=${encodeURIComponent(JSON.stringify({ service: { [service]: true } }))}`);
  const running = async (wanted: (task: Task) => boolean = () => true): Promise<number> =>
    (await tasks()).filter(
      (task) => task.Status.State === "running" && task.DesiredState === "running" && wanted(task),
    ).length;
  const update = async (change: (spec: ServiceSpec) => ServiceSpec): Promise<void> => {
    const { Version, Spec } = await api<Service>("GET", `/services/${service}`);
    await api("POST", `/services/${service}/update?version=${Version.Index}`, change(Spec));
  };
  const scaleTo = (count: number): Promise<void> =>
    update((spec) => ({ ...spec, Mode: { Replicated: { Replicas: count } } }));
  say(`deploy_${replicas}_s`, await until(start, async () => (await running()) === replicas));

  start = performance.now();
  await scaleTo(scale);
  say(`scale_${scale}_s`, await until(start, async () => (await running()) === scale));

  start = performance.now();
  await scaleTo(replicas);
  const allRunning = async (): Promise<number> =>
    (await tasks()).filter((task) => task.Status.State === "running").length;
  say(`scale_down_${replicas}_s`, await until(start, async () => (await allRunning()) === replicas));

  start = performance.now();
  await update((spec) => ({
    ...spec,
    TaskTemplate: {
      ...spec.TaskTemplate,
      ContainerSpec: { ...spec.TaskTemplate.ContainerSpec, Env: ["V=2"] },
    },
  }));
  say(
    `rolling_update_${replicas}_s`,
    await until(start, async () => {
      const renewed = await running((task) => task.Spec.ContainerSpec.Env?.join() === "V=2");
      if (renewed !== replicas) return false;
      return (await api<Service>("GET", `/services/${service}`)).UpdateStatus?.State === "completed";
    }),
  );

  const dead = new Set<string>();
  if (options.kill) {
    const worker = required(
      cluster.hosts.findLast((host) => host.role === "worker"),
      "a worker",
    );
    const nodes = await api<NodeSummary[]>("GET", "/nodes");
    const lost = required(
      nodes.find((node) => node.Status.Addr?.split(":")[0] === worker.addr),
      "the worker's node",
    );
    dead.add(lost.ID);
    await run(["sh", "-c", worker.kill]);
    start = performance.now();
    const recovered = async (): Promise<boolean> =>
      (await running((task) => task.NodeID !== lost.ID)) === replicas;
    say("worker_loss_recovery_s", await until(start, recovered));

    const now = await api<NodeSummary[]>("GET", "/nodes");
    const leader = required(
      now.find((node) => node.ManagerStatus?.Leader === true),
      "a leader",
    );
    const leaderAddr = leader.ManagerStatus?.Addr.split(":")[0];
    const leaderHost = required(
      managers.find((host) => host.addr === leaderAddr),
      "the leader's host",
    );
    dead.add(leader.ID);
    socket = required(
      managers.find((host) => host !== leaderHost),
      "a second manager",
    ).socket;
    await run(["sh", "-c", leaderHost.kill]);
    start = performance.now();
    let attempt = 0;
    say(
      "leader_loss_write_s",
      await until(start, async () => {
        attempt += 1;
        const body = { Name: `after-loss${attempt}`, Data: "aGk=" };
        await call(socket, "POST", "/configs/create", { body, timeoutMs: 2_000 });
        return true;
      }),
    );
  }

  start = performance.now();
  await api("DELETE", `/services/${service}`);
  say(
    "remove_s",
    await until(start, async () => {
      const left = (await api<(Task & { ServiceID: string })[]>("GET", "/tasks")).filter(
        (task) =>
          task.ServiceID === service && task.Status.State === "running" && !dead.has(task.NodeID ?? ""),
      );
      return left.length === 0;
    }),
  );
  return figures;
}

/** @returns Seconds since `start`, or `NaN` when it did not come true in time. */
async function until(start: number, look: () => Promise<boolean>): Promise<number> {
  for (;;) {
    if (await look().catch(() => false)) return (performance.now() - start) / 1000;
    if (performance.now() - start > stepLimitMs) return Number.NaN;
    await sleep(lookEveryMs);
  }
}

async function createOverlay(
  api: <T>(method: string, path: string, body?: unknown) => Promise<T>,
): Promise<string> {
  const body = { Name: "bench", Driver: "overlay", IPAM: { Config: [{ Subnet: "10.77.0.0/16" }] } };
  return (await api<{ Id: string }>("POST", "/networks/create", body)).Id;
}

function benchService(
  image: string,
  replicas: number,
  network: string,
  mode: DriveOptions["network"],
): object {
  return {
    Name: "bench",
    ...(mode === "host" ? {} : { EndpointSpec: { Mode: mode } }),
    TaskTemplate: {
      // `sleep` as process 1 hears no TERM, so the grace is 1 ms: otherwise every stop would measure the grace.
      ContainerSpec: { Image: image, Command: ["sleep", "100000"], StopGracePeriod: 1_000_000 },
      RestartPolicy: { Condition: "any", Delay: 0 },
      Networks: [{ Target: network }],
    },
    Mode: { Replicated: { Replicas: replicas } },
    UpdateConfig: { Parallelism: 10, Delay: 0, Monitor: 1, FailureAction: "pause", Order: "stop-first" },
  };
}

function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`cannot drive the cluster: ${what} is missing`);
  return value;
}
