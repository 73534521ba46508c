import type { NodeSummary } from "../lab/swarm.ts";
import { isRunning, type TaskSummary } from "../e2e/view.ts";

/** The part of a service object, as listed with its status, that is shown. */
export interface ListedService {
  readonly ID: string;
  readonly Spec: { readonly Name: string };
  readonly UpdateStatus?: { readonly State?: string };
  readonly ServiceStatus?: { readonly RunningTasks: number; readonly DesiredTasks: number };
}

const drawEveryMs = 150;

/** Whether tables are drawn: on a terminal while they change, where each drawing stays as lines of text only once a step is there. */
export function isDrawn({
  terminal,
  there,
  changed,
  sinceDrawnMs,
}: {
  readonly terminal: boolean;
  readonly there: boolean;
  readonly changed: boolean;
  readonly sinceDrawnMs: number;
}): boolean {
  return changed && (there || (terminal && sinceDrawnMs > drawEveryMs));
}

/** One line a node: name, role, state and how many tasks run on it. */
export function nodeTable(nodes: readonly NodeSummary[], tasks: readonly TaskSummary[]): string {
  const rows = nodes
    .toSorted((a, b) => a.Description.Hostname.localeCompare(b.Description.Hostname))
    .map((node) => {
      const own = tasks.filter((task) => task.NodeID === node.ID && task.Status.State === "running");
      const alive = node.Status.State === "down" ? 0 : own.length;
      const role = node.ManagerStatus?.Leader === true ? "leader" : node.Spec.Role;
      return [node.Description.Hostname, role, stateText(node), `${"▪".repeat(alive)} ${alive}`];
    });
  return table([["NODE", "ROLE", "STATE", "TASKS"], ...rows]);
}

/** A new leader has to hear from each node first; its tasks run on meanwhile. */
function stateText({ Status: { State: state } }: NodeSummary): string {
  return state === "unknown" ? "not heard yet" : state;
}

/** Those tasks that run and are meant to, on a node that is there: what is left of a service when hosts are lost. */
export function runningTasks(
  service: ListedService,
  nodes: readonly NodeSummary[],
  tasks: readonly TaskSummary[],
): TaskSummary[] {
  const ready = new Set(nodes.filter((node) => node.Status.State === "ready").map(({ ID }) => ID));
  return tasks.filter(
    (task) => task.ServiceID === service.ID && isRunning(task) && ready.has(task.NodeID ?? ""),
  );
}

/**
 * One line a service: running of wanted tasks, versions of the running ones, state of its update. Tasks on nodes that a new
 * leader has not heard yet are among them.
 */
export function serviceTable(
  services: readonly ListedService[],
  nodes: readonly NodeSummary[],
  tasks: readonly TaskSummary[],
): string {
  const rows = services
    .toSorted((a, b) => a.Spec.Name.localeCompare(b.Spec.Name))
    .map((service) => {
      const own = runningTasks(service, nodes.map(asBefore), tasks);
      const wanted = service.ServiceStatus?.DesiredTasks ?? 0;
      const update = service.UpdateStatus?.State ?? "";
      return [service.Spec.Name, `${own.length}/${wanted}`, versions(own), update];
    });
  return table([["SERVICE", "RUNNING", "VERSIONS", "UPDATE"], ...rows]);
}

function asBefore(node: NodeSummary): NodeSummary {
  return node.Status.State === "unknown" ? { ...node, Status: { ...node.Status, State: "ready" } } : node;
}

/** Versions of the running tasks, such as `web:1 ▪▪ web:2 ▪▪▪▪`. */
export function versions(tasks: readonly TaskSummary[]): string {
  const counts = new Map<string, number>();
  for (const task of tasks) {
    if (task.Status.State !== "running") continue;
    const image = shortImage(task.Spec.ContainerSpec.Image);
    counts.set(image, (counts.get(image) ?? 0) + 1);
  }
  return [...counts]
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([image, count]) => `${image} ${"▪".repeat(count)}`)
    .join("  ");
}

/** `10.230.0.254:5000/web:1@sha256:…` as `web:1`. */
function shortImage(image: string): string {
  return image.replace(/@.*/, "").replace(/.*\//, "");
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("   ")
        .trimEnd(),
    )
    .join("\n");
}
