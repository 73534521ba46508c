/** `/tasks` */
import { ClusterError } from "../../model/errors.ts";
import { revisionKey } from "../../model/service.ts";
import { type Task, taskName, taskStates } from "../../model/task.ts";
import type { Clock } from "../../runtime/clock.ts";
import { type Filters, jsonContentType, parseFilters } from "../../runtime/http.ts";
import { isTaskDirty } from "../orchestrator/dirty.ts";
import type { StoreView } from "../store/transaction.ts";
import { type Call, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { anyOf, hasPrefix, swarmLabelsMatch } from "./query.ts";
import { resolve, resolveById, resolveNode } from "./resolve.ts";
import { printedSlot, printTask, type TaskJoin, taskText } from "./task-json.ts";

export const taskRoutes: readonly Route[] = [
  { method: "GET", path: "/tasks", handle: listTasks },
  { method: "GET", path: "/tasks/:id", handle: inspectTask },
];

const filterKeys = ["id", "name", "service", "node", "label", "desired-state", "runtime", "_up-to-date"];

/** Tasks that are printed in one go; longer lists are sent in pieces. */
const pieceTasks = 200;
/** Filters that every task has to be asked about. */
const askedOfEach = ["id", "name", "label", "desired-state", "runtime", "_up-to-date"];

/** `GET /tasks`: an array, history included. */
function listTasks({ store, clock }: ApiDeps, call: Call): Reply {
  const filters = parseFilters(call.query.get("filters"), filterKeys);
  for (const state of filters.get("desired-state") ?? []) {
    if (!Object.hasOwn(taskStates, state.toLowerCase())) {
      throw new ClusterError("invalid-argument", `Invalid desired-state filter: '${state}'`);
    }
  }
  const listed = store.view((view): ListedTask[] => {
    const networks = new Map(view.networks.list().map((network) => [network.id, network]));
    const network: TaskJoin["network"] = (id) => networks.get(id);
    return selectTasks(view, filters).map((task) => ({
      task,
      join: { revision: revisionOf(view, task), network },
    }));
  });
  if (listed.length > pieceTasks)
    return { kind: "stream", contentType: jsonContentType, chunks: inPieces(clock, listed, call.signal) };
  return { kind: "text", text: `[${printAll(listed)}]` };
}

/** A task with what it was joined with at the moment of the request: stored objects never change. */
interface ListedTask {
  readonly task: Task;
  readonly join: TaskJoin;
}

function printAll(listed: readonly ListedTask[]): string {
  return listed.map(({ task, join }) => taskText(task, join)).join(",");
}

/** The array as bytes; all other work of the main thread gets its turn between two pieces. */
async function* inPieces(
  clock: Clock,
  listed: readonly ListedTask[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < listed.length; at += pieceTasks) {
    if (at > 0) await clock.sleep(0, signal);
    yield Buffer.from(`${at === 0 ? "[" : ","}${printAll(listed.slice(at, at + pieceTasks))}`);
  }
  yield Buffer.from("]\n");
}

/** `GET /tasks/{id}` */
function inspectTask({ store }: ApiDeps, call: Call): Reply {
  return store.view((view) => {
    const task = resolveById("task", param(call, "id"), view.tasks);
    return json(printTask(task, joinOf(view, task)));
  });
}

function joinOf(view: StoreView, task: Task): TaskJoin {
  return { revision: revisionOf(view, task), network: (id) => view.networks.get(id) };
}

function revisionOf(view: StoreView, { serviceId, specVersion }: Task) {
  return view.revisions.get(revisionKey(serviceId, specVersion));
}

/** @throws {ClusterError} `not-found` for a service or node that is filtered on and unknown. */
function selectTasks(view: StoreView, filters: Filters): Task[] {
  const upToDate = filters.get("_up-to-date")?.some((each) => each.toLowerCase() === "true") ?? false;
  const found = candidates(view, filters);
  if (!askedOfEach.some((key) => filters.has(key))) return [...found];
  return found.filter((task) => {
    const revision = revisionOf(view, task);
    const service = view.services.get(task.serviceId);
    if (upToDate) {
      const node = task.nodeId === undefined ? undefined : view.nodes.get(task.nodeId);
      if (service === undefined || isTaskDirty(service, task, revision, node)) return false;
    }
    if (filters.has("label")) {
      const labels = {
        ...revision?.serviceLabels,
        ...service?.spec.labels,
        ...revision?.task.container.labels,
      };
      if (!swarmLabelsMatch(labels, filters.get("label"))) return false;
    }
    return (
      anyOf(filters, "id", hasPrefix(task.id)) &&
      anyOf(filters, "name", hasPrefix(shownName(revision?.serviceName ?? "", task))) &&
      anyOf(filters, "desired-state", (wanted) => wanted.toLowerCase() === task.desiredState) &&
      anyOf(filters, "runtime", (wanted) => wanted === "container")
    );
  });
}

function shownName(serviceName: string, task: Task): string {
  return taskName(serviceName, { ...task, slot: printedSlot(task) });
}

/** Uses an index where a filter allows it: a cluster may hold a million tasks. */
function candidates(view: StoreView, filters: Filters): readonly Task[] {
  const services =
    filters.get("service")?.map((wanted) => resolve("service", wanted, view.services).id) ?? [];
  const nodes = filters.get("node")?.map((wanted) => resolveNode(view, wanted).id) ?? [];
  if (services.length > 0) {
    const ofServices = [...new Set(services)].flatMap((id) => view.tasks.byService(id));
    return nodes.length === 0
      ? ofServices
      : ofServices.filter((task) => task.nodeId !== undefined && nodes.includes(task.nodeId));
  }
  if (nodes.length > 0) return [...new Set(nodes)].flatMap((id) => view.tasks.byNode(id));
  return view.tasks.list();
}
