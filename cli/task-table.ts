import type { ApiPort, ApiTask } from "./api-types.ts";
import { type Client, filters } from "./client.ts";
import { ago, capitalise, ellipsis, familiarImage, naturalOrder, shortId, table, write } from "./print.ts";
import { namesOf } from "./resolve.ts";

const shownErrorLength = 30;

export interface TaskListOptions {
  readonly trunc: boolean;
  readonly quiet?: boolean;
  readonly filter: readonly string[];
}

/** "key=value" arguments as the API's filters. */
export function filterArguments(list: readonly string[]): Record<string, string[]> {
  const result: Record<string, string[]> = {};
  for (const text of list) {
    const split = text.indexOf("=");
    if (split < 1) throw new Error(`invalid filter '${text}': expected key=value`);
    (result[text.slice(0, split)] ??= []).push(text.slice(split + 1));
  }
  return result;
}

export async function listTasks(
  client: Client,
  base: Readonly<Record<string, string[]>>,
  options: TaskListOptions,
): Promise<ApiTask[]> {
  const tasks = await client.get<ApiTask[]>("/tasks", {
    filters: filters({ ...base, ...filterArguments(options.filter) }),
  });
  return tasks;
}

/** Tasks as `service ps` shows them: by name, newest first, earlier ones indented below. */
export async function printTasks(
  client: Client,
  tasks: readonly ApiTask[],
  options: TaskListOptions,
): Promise<void> {
  const names = await namesOf(client, tasks);
  const named = tasks
    .map((task) => ({ task, name: `${names.service(task.ServiceID)}.${task.Slot ?? task.NodeID ?? ""}` }))
    .toSorted(
      (a, b) => naturalOrder(a.name, b.name) || Date.parse(b.task.CreatedAt) - Date.parse(a.task.CreatedAt),
    );
  if (options.quiet === true) {
    return named.forEach(({ task }) => write(options.trunc ? shortId(task.ID) : task.ID));
  }
  const now = Date.now();
  const rows = named.map(({ task, name }, index) => {
    const earlier = named[index - 1]?.name === name;
    const error = task.Status.Err ?? "";
    const shownError = error === "" ? "" : `"${options.trunc ? ellipsis(error, shownErrorLength) : error}"`;
    return [
      options.trunc ? shortId(task.ID) : task.ID,
      earlier ? ` \\_ ${name}` : name,
      familiarImage(task.Spec.ContainerSpec?.Image ?? ""),
      task.NodeID === undefined ? "" : names.node(task.NodeID),
      capitalise(task.DesiredState),
      `${capitalise(task.Status.State)} ${ago(task.Status.Timestamp, now).toLowerCase()}`,
      shownError,
      (task.Status.PortStatus?.Ports ?? []).map(printPort).join(","),
    ];
  });
  return write(
    table([["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"], ...rows]),
  );
}

export function printPort(port: ApiPort): string {
  return `*:${port.PublishedPort ?? 0}->${port.TargetPort}/${port.Protocol}`;
}
