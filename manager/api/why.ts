/** `/shoal/v1/why`: one cause, the evidence, the next command. */
import { ClusterError } from "../../model/errors.ts";
import type { Node } from "../../model/node.ts";
import type { Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { backoffText } from "../orchestrator/backoff.ts";
import { isOnDownNode, nodesOf, slotsOf, type Slot } from "../orchestrator/plan.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { type Call, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { compareHostnames, hostnameOf } from "./hostname.ts";
import { resolve, resolveById, resolveNode } from "./resolve.ts";
import { shownNodes, shownTasks } from "./why-limits.ts";
import { refusalEvidence } from "./why-refusals.ts";
import { type Count, countOf, failures, overOf } from "./why-slots.ts";
import { type Answer, type Rest, whyFailing, whyKept, whyPaused, whyRolledBack } from "./why-update.ts";

export const whyRoutes: readonly Route[] = [{ method: "GET", path: "/shoal/v1/why/:subject", handle: why }];

/** A service, a task or a node, found in this order. */
function why({ store, clock }: ApiDeps, call: Call): Reply {
  const subject = param(call, "subject");
  const nowMs = clock.now();
  return store.view((view) => {
    const service = found(() => resolve("service", subject, view.services));
    if (service !== undefined) return json(whyService(view, service, nowMs));
    const task = found(() => resolveById("task", subject, view.tasks));
    if (task !== undefined) return json(whyTask(view, task, nowMs));
    const node = found(() => resolveNode(view, subject));
    if (node !== undefined) return json(whyNode(view, node, nowMs));
    throw new ClusterError("not-found", `no service, task or node ${subject} found`);
  });
}

function found<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (reason) {
    if (reason instanceof ClusterError && reason.code === "not-found") return undefined;
    throw reason;
  }
}

export function whyService(view: StoreView, service: Service, nowMs: number): Answer {
  const { spec } = service;
  const Subject = `service ${spec.name}`;
  const all = view.tasks.byService(service.id);
  const live = all.filter(isWanted);
  const counted = countOf(view, service, all);
  const ended = whyPaused(view, service, all, counted) ?? whyJob(service, all);
  if (ended !== undefined) return { Subject, ...ended };
  const stuck = live.find((task) => !isTerminal(task) && task.status.error !== "");
  if (stuck !== undefined) return { ...whyTask(view, stuck, nowMs), Subject };
  const waiting = live.find((task) => task.desiredState === "ready" && !isTerminal(task));
  const wait = waiting === undefined ? undefined : waitOf(view, waiting);
  const known =
    whyLost(view, live, counted.text) ??
    whyRolledBack(view, service, all, counted) ??
    whyOver(service, all, counted) ??
    whyFailing(view, service, all, { counted, wait }) ??
    whyKept(view, service, all, counted);
  if (known !== undefined) return { Subject, ...known };
  if (wait !== undefined) {
    const Next = `shoal service logs --tail 20 ${spec.name}`;
    return { Subject, Cause: wait, Evidence: [counted.text, ...failures(all)], Next };
  }
  if (counted.running < counted.wanted) {
    const states = live.filter((task) => task.status.state !== "running").slice(0, shownTasks);
    const Evidence = states.map((task) => `task ${task.id}: ${task.status.state}: ${task.status.message}`);
    return { Subject, Cause: `on its way: ${counted.text}`, Evidence, Next: `shoal service ps ${spec.name}` };
  }
  return { Subject, Cause: `nothing is wrong: ${counted.text}`, Evidence: failures(all), Next: "" };
}

/** A job that is over, one way or the other; `undefined` for what is still at work and for other services. */
function whyJob({ spec, job }: Service, all: readonly Task[]): Rest | undefined {
  const { mode } = spec;
  if (mode.kind !== "replicated-job" && mode.kind !== "global-job") return undefined;
  const current = all.filter((task) => (task.jobIteration ?? 0) === (job?.iteration ?? 0));
  const places = [...slotsOf(current).values()];
  const isComplete = ({ tasks }: Slot): boolean => tasks.some(({ status }) => status.state === "complete");
  const complete = places.filter(isComplete).length;
  const active = places.filter(
    (slot) => !isComplete(slot) && slot.tasks.some((task) => isWanted(task) || !isTerminal(task)),
  ).length;
  const total = mode.kind === "replicated-job" ? mode.totalCompletions : places.length;
  const counted = `${complete} of ${total} complete`;
  if (complete >= total && active === 0 && total > 0) {
    return { Cause: `finished: ${counted}`, Evidence: [], Next: "" };
  }
  const ended = places.filter((slot) => !isComplete(slot)).length - active;
  if (active > 0 || ended === 0 || complete + ended < total) return undefined;
  return {
    Cause: `given up: ${counted}; the restart policy allows no other task for ${ended}`,
    Evidence: failures(all),
    Next: `shoal service logs --tail 20 ${spec.name}, then shoal service update --force ${spec.name}`,
  };
}

/** What ended and is not started again, so that the service is short of it; `undefined` when nothing is. */
function whyOver({ spec }: Service, all: readonly Task[], counted: Count): Rest | undefined {
  if (spec.mode.kind !== "replicated" && spec.mode.kind !== "global") return undefined;
  if (counted.running >= counted.wanted) return undefined;
  const over = [...slotsOf(all).values()].flatMap((slot) => overOf(slot) ?? []);
  if (over.length === 0) return undefined;
  const finished = over.filter(({ status }) => status.state === "complete").length;
  const what = finished === over.length ? "finished" : "given up";
  return {
    Cause: `${what}: ${counted.text}; the restart policy allows no other task for ${over.length} of ${counted.wanted}`,
    Evidence: failures(all),
    Next: `shoal service logs --tail 20 ${spec.name}, then shoal service update --force ${spec.name}`,
  };
}

/** Tasks of nodes that are down: nobody knows whether they run. */
function whyLost(view: StoreView, live: readonly Task[], counted: string): Rest | undefined {
  const nodes = nodesOf(view);
  const lost = live.filter((task) => !isTerminal(task) && isOnDownNode(nodes, task));
  const [first] = lost;
  const node = first?.nodeId === undefined ? undefined : view.nodes.get(first.nodeId);
  if (node === undefined) return undefined;
  const hosts = lost.flatMap(({ nodeId }) => (nodeId === undefined ? [] : [view.nodes.get(nodeId)]));
  const names = [...new Set(hosts.flatMap((host) => (host === undefined ? [] : [hostnameOf(host)])))];
  return {
    Cause: `${lost.length} of its tasks are on nodes that are down: ${names.toSorted(compareHostnames).slice(0, shownNodes).join(", ")}`,
    Evidence: [
      counted,
      ...lost.slice(0, shownTasks).map((task) => `task ${task.id}: on its node ${task.status.state}`),
    ],
    Next: `shoal why ${hostnameOf(node)}`,
  };
}

export function whyTask(view: StoreView, task: Task, nowMs: number): Answer {
  const name = view.services.get(task.serviceId)?.spec.name ?? task.serviceId;
  const Subject = `task ${task.id}`;
  const { state, message, error } = task.status;
  if (state === "pending") {
    const Cause = `pending: ${error === "" ? "the scheduler has not looked at it yet" : error}`;
    return { Subject, Cause, ...refusalEvidence(view, task, name, nowMs) };
  }
  if (state === "new" && isWanted(task)) {
    const Cause = `new: ${error === "" ? "it has not been given its addresses yet" : error}`;
    return { Subject, Cause, Evidence: [], Next: error === "" ? "" : `shoal service inspect ${name}` };
  }
  const node = task.nodeId === undefined ? undefined : view.nodes.get(task.nodeId);
  const Evidence = [
    `wanted: ${task.desiredState}; observed: ${state}: ${message}`,
    ...(node === undefined ? [] : [`on node ${hostnameOf(node)}, which is ${node.status.state}`]),
    ...(task.status.exitCode === undefined ? [] : [`exit code ${task.status.exitCode}`]),
  ];
  const wait = waitOf(view, task);
  if (wait !== undefined)
    return { Subject, Cause: wait, Evidence, Next: `shoal service logs --tail 20 ${name}` };
  if (error !== "") {
    return { Subject, Cause: `${state}: ${error}`, Evidence, Next: `shoal service logs --tail 20 ${name}` };
  }
  if (node !== undefined && node.status.state === "down" && !isTerminal(task)) {
    const Cause = `its node ${hostnameOf(node)} is down; nobody knows whether it runs`;
    return { Subject, Cause, Evidence, Next: `shoal why ${hostnameOf(node)}` };
  }
  if (!isWanted(task))
    return { Subject, Cause: "it was asked to stop", Evidence, Next: `shoal service ps ${name}` };
  return { Subject, Cause: `${state}: ${message}`, Evidence, Next: "" };
}

export function whyNode(view: StoreView, node: Node, nowMs: number): Answer {
  const host = hostnameOf(node);
  const Subject = `node ${host}`;
  const { state, message, sinceMs } = node.status;
  const tasks = view.tasks.byNode(node.id).filter((task) => isWanted(task) && !isTerminal(task)).length;
  const since = sinceMs === undefined ? "" : ` for ${Math.max(0, Math.round((nowMs - sinceMs) / 1000))}s`;
  const Evidence = [
    `state ${state}${since}${message === "" ? "" : `: ${message}`}`,
    `availability ${node.spec.availability}`,
    `${tasks} tasks wanted on it`,
  ];
  if (state === "down") {
    const Cause = `it is down: no heartbeat came${since}; its tasks run elsewhere unless their service waits`;
    return { Subject, Cause, Evidence, Next: `on ${host}: journalctl -u shoald --since -10min` };
  }
  if (state !== "ready") {
    const Cause = `it is ${state}: it keeps its tasks and gets no new ones`;
    return { Subject, Cause, Evidence, Next: "shoal node ls" };
  }
  if (node.spec.availability !== "active") {
    const what =
      node.spec.availability === "drain"
        ? "drained: its tasks run elsewhere"
        : "paused: it gets no new tasks";
    return { Subject, Cause: what, Evidence, Next: `shoal node update --availability active ${host}` };
  }
  return { Subject, Cause: "nothing is wrong: it is ready and takes tasks", Evidence, Next: "" };
}

function waitOf(view: StoreView, task: Task): string | undefined {
  const revision = revisionOfTask(view, task);
  return revision === undefined
    ? undefined
    : backoffText(task, revision.task.restart, revision.serviceLabels);
}
