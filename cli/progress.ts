import { setTimeout as delay } from "node:timers/promises";
import type { ApiNode, ApiService, ApiTask } from "./api-types.ts";
import { type Client, filters } from "./client.ts";
import { jobProgress } from "./job-progress.ts";

const pollEveryMs = 200;
const mostBars = 20;
const defaultMonitorNs = 5e9;
const barStates = [
  "new",
  "allocated",
  "pending",
  "assigned",
  "accepted",
  "preparing",
  "ready",
  "starting",
  "running",
];
const desiredOrder = ["ready", "running", "complete", "shutdown", "remove"];

/** Shows these lines in place of those before. */
export type Screen = (lines: readonly string[]) => void;

/**
 * Shows how a service gets to its specification, and returns when it is there and has stayed so for
 * its monitor time.
 * @throws when its update or rollback is paused.
 */
export function showProgress(client: Client, serviceId: string, quiet: boolean): Promise<void> {
  return follow(client, serviceId, quiet ? () => undefined : openScreen());
}

export async function follow(client: Client, serviceId: string, screen: Screen): Promise<void> {
  let stableSinceMs: number | undefined;
  let rollingBack = false;
  let rollbackCause: string | undefined; // Its end has a message of its own, which does not tell.
  for (;;) {
    const [service, tasks, nodes] = await Promise.all([
      client.get<ApiService>(`/services/${serviceId}`, { insertDefaults: false }),
      client.get<ApiTask[]>("/tasks", {
        filters: filters({ service: [serviceId], "_up-to-date": ["true"] }),
      }),
      client.get<ApiNode[]>("/nodes"),
    ]);
    const job = jobProgress(service, tasks, nodes.length);
    if (job !== undefined) {
      screen(job.lines);
      if (job.finished) return;
      if (job.givenUp !== undefined) throw new Error(job.givenUp);
      await delay(pollEveryMs);
      continue;
    }
    const { State: state, Message: message = "" } = service.UpdateStatus ?? {};
    if (state === "paused") throw new Error(`service update paused: ${message}`);
    if (state === "rollback_paused") throw new Error(`service rollback paused: ${message}`);
    rollingBack ||= state === "rollback_started";
    if (state === "rollback_started" && message !== "") rollbackCause ??= message;
    const downNodes = new Set(nodes.filter((node) => node.Status.State === "down").map((node) => node.ID));
    const slots = currentTasks(tasks, downNodes);
    const wanted = service.Spec.Mode.Replicated?.Replicas ?? slots.size;
    const running = [...slots.values()].filter((task) => task.Status.State === "running").length;
    const converged = running === wanted && (service.Spec.Mode.Global === undefined || slots.size > 0);
    const verb = rollingBack ? "rolling back update" : "overall progress";
    const lines = [
      slots.size === 0 && wanted !== 0
        ? "waiting for new tasks"
        : `${verb}: ${running} out of ${wanted} tasks`,
      ...bars(service, slots, wanted),
      ...(rollbackCause === undefined ? [] : [`rollback: ${rollbackCause}`]),
    ];
    if (!converged) {
      if (stableSinceMs !== undefined) lines.push("verify: Detected task failure");
      stableSinceMs = undefined;
      if (state === "completed") return screen([...lines, ""]);
    } else {
      stableSinceMs ??= Date.now();
      const monitorNs = service.Spec.UpdateConfig?.Monitor ?? defaultMonitorNs;
      const leftMs = stableSinceMs + monitorNs / 1e6 - Date.now();
      if (leftMs <= 0)
        return screen([
          ...lines,
          `verify: Service ${serviceId} converged`,
          ...(rollingBack ? [`rollback: ${message}`] : []),
        ]);
      lines.push(`verify: Waiting ${Math.ceil(leftMs / 1_000)} seconds to verify that tasks are stable...`);
    }
    screen(lines);
    await delay(pollEveryMs);
  }
}

/** The task that stands for each slot: the one most wanted, and of those the least far. */
function currentTasks(tasks: readonly ApiTask[], downNodes: ReadonlySet<string>): Map<string, ApiTask> {
  const slots = new Map<string, ApiTask>();
  for (const task of tasks) {
    if (desiredOrder.indexOf(task.DesiredState) > desiredOrder.indexOf("running")) continue;
    if (task.NodeID !== undefined && downNodes.has(task.NodeID)) continue;
    const slot = task.Slot === undefined ? (task.NodeID ?? task.ID) : String(task.Slot);
    const other = slots.get(slot);
    if (other === undefined || isBefore(task, other)) slots.set(slot, task);
  }
  return slots;
}

function isBefore(a: ApiTask, b: ApiTask): boolean {
  const desired = desiredOrder.indexOf(a.DesiredState) - desiredOrder.indexOf(b.DesiredState);
  return desired !== 0 ? desired < 0 : barStates.indexOf(a.Status.State) < barStates.indexOf(b.Status.State);
}

function bars(service: ApiService, slots: ReadonlyMap<string, ApiTask>, wanted: number): string[] {
  if (service.Spec.Mode.Replicated === undefined || wanted > mostBars) return [];
  const width = String(wanted).length;
  return Array.from({ length: wanted }, (_, index) => {
    const task = slots.get(String(index + 1));
    const head = `${String(index + 1).padStart(width)}/${wanted}:`;
    if (task === undefined) return head;
    const place = Math.max(0, barStates.indexOf(task.Status.State)) + 1;
    const bar = `[${"=".repeat(place * 5)}>${" ".repeat((barStates.length - place) * 5)}]`;
    return `${head} ${task.Status.State.padEnd(9)} ${task.Status.Err ? task.Status.Err.slice(0, 75) : bar}`;
  });
}

/** On a terminal the lines are redrawn in place; elsewhere a line is printed when it is new. */
function openScreen(): Screen {
  let shown: readonly string[] = [];
  if (!process.stdout.isTTY) {
    return (lines) => {
      lines
        .filter((line, index) => line !== shown[index] && line !== "")
        .forEach((line) => process.stdout.write(`${line}\n`));
      shown = lines;
    };
  }
  return (lines) => {
    const up = shown.length > 0 ? `\x1b[${shown.length}A` : "";
    process.stdout.write(`${up}${lines.map((line) => `\x1b[2K${line}\n`).join("")}\x1b[J`);
    shown = lines;
  };
}
