import { ApiError, call } from "../lab/api.ts";
import type { Host, Lab } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";

/** The part of a task object that the tests read. */
export interface TaskSummary {
  readonly ID: string;
  readonly ServiceID: string;
  readonly NodeID?: string;
  readonly Slot?: number;
  readonly DesiredState: string;
  readonly Spec: { readonly ContainerSpec: { readonly Image: string } };
  readonly Status: {
    readonly State: string;
    readonly Err?: string;
    readonly ContainerStatus?: {
      readonly ContainerID?: string;
      readonly PID?: number;
      readonly ExitCode?: number;
    };
  };
}

export interface ServiceSummary {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: {
    readonly Name: string;
    readonly Labels?: Readonly<Record<string, string>>;
    readonly TaskTemplate: { readonly ContainerSpec: { readonly Image: string } };
  };
  readonly UpdateStatus?: { readonly State: string; readonly Message?: string };
}

/** Reads the cluster through the first manager that answers, so that it works with any of them gone. */
export class View {
  readonly lab: Lab;
  #entry: Host | undefined;

  constructor(lab: Lab) {
    this.lab = lab;
  }

  async get<T>(path: string): Promise<T> {
    const known = this.#entry;
    const ask = async (): Promise<T> =>
      call<T>((await this.entry()).socket, "GET", path, { timeoutMs: 5_000 });
    try {
      return await ask();
    } catch (error) {
      this.#entry = undefined;
      const alone = known === undefined || (error instanceof ApiError && error.status < 500);
      if (alone) throw error;
      return await ask(); // The manager that answered last may have been killed since.
    }
  }

  /** A manager whose API answers now. */
  async entry(): Promise<Host> {
    const known = this.#entry;
    if (known !== undefined) return known;
    for (const host of this.lab.managers) {
      const nodes = await call(host.socket, "GET", "/nodes", { timeoutMs: 2_000 }).catch(() => undefined);
      if (nodes !== undefined) return (this.#entry = host);
    }
    throw new Error("no manager answers");
  }

  nodes(): Promise<NodeSummary[]> {
    return this.get("/nodes");
  }

  async node(host: Host): Promise<NodeSummary> {
    const nodes = (await this.nodes()).filter((node) => node.Description.Hostname === host.name);
    const [node] = nodes;
    if (node === undefined || nodes.length > 1)
      throw new Error(`${nodes.length} nodes are named ${host.name}`);
    return node;
  }

  async leader(): Promise<Host> {
    const node = (await this.nodes()).find((candidate) => candidate.ManagerStatus?.Leader === true);
    if (node === undefined) throw new Error("no node is the leader");
    return this.lab.host(node.Description.Hostname);
  }

  service(name: string): Promise<ServiceSummary> {
    return this.get(`/services/${name}`);
  }

  /** All tasks of a service, the dead ones too. */
  tasks(service: string): Promise<TaskSummary[]> {
    return this.get(`/tasks?filters=${encodeURIComponent(JSON.stringify({ service: [service] }))}`);
  }

  async running(service: string): Promise<TaskSummary[]> {
    return (await this.tasks(service)).filter(isRunning);
  }

  /** Waits until exactly `count` tasks run and no other one is meant to; answers them. */
  waitRunning(service: string, count: number, timeoutMs = 30_000): Promise<TaskSummary[]> {
    return waitFor(`${count} running tasks of ${service}`, { timeoutMs }, async () => {
      const tasks = await this.tasks(service);
      const alive = tasks.filter(
        (task) => task.DesiredState === "running" || task.Status.State === "running",
      );
      if (alive.length === count && alive.every(isRunning)) return alive;
      throw new Error(describe(alive));
    });
  }

  waitNode(host: Host, state: "ready" | "down", timeoutMs = 20_000): Promise<NodeSummary> {
    return waitFor(`node ${host.name} ${state}`, { timeoutMs }, async () => {
      const node = await this.node(host);
      if (node.Status.State === state) return node;
      throw new Error(`it is ${node.Status.State}`);
    });
  }

  /** How many of the tasks are on each host, such as `{ host1: 2, host4: 1 }`. */
  async spread(tasks: readonly TaskSummary[]): Promise<Record<string, number>> {
    const names = new Map((await this.nodes()).map((node) => [node.ID, node.Description.Hostname]));
    const counts: Record<string, number> = {};
    for (const task of tasks) {
      const name = names.get(task.NodeID ?? "") ?? "none";
      counts[name] = (counts[name] ?? 0) + 1;
    }
    return counts;
  }
}

export function isRunning(task: TaskSummary): boolean {
  return task.Status.State === "running" && task.DesiredState === "running";
}

/** What makes two looks at the same running tasks equal: same task, same container, same process. */
export function identities(tasks: readonly TaskSummary[]): string[] {
  return tasks
    .map(({ ID, Status }) => `${ID} ${Status.ContainerStatus?.ContainerID} ${Status.ContainerStatus?.PID}`)
    .toSorted();
}

function describe(tasks: readonly TaskSummary[]): string {
  const counts = new Map<string, number>();
  for (const { Status, DesiredState } of tasks) {
    const key = `${Status.State}, wanted ${DesiredState}${Status.Err === undefined ? "" : ` (${Status.Err})`}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return `seen: ${[...counts].map(([key, count]) => `${count} ${key}`).join("; ") || "none"}`;
}
