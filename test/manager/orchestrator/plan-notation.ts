import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { Node } from "../../../model/node.ts";
import { revisionKey, type Revision, type Service, type ServiceSpec } from "../../../model/service.ts";
import type { DesiredState, Task, TaskState } from "../../../model/task.ts";
import type { Plan, Scene, TaskChange } from "../../../manager/orchestrator/plan.ts";
import { id, nodeObject, serviceSpec } from "../../sim/objects.ts";

/**
 * Tasks in short: "slot=state/desired@node:vN+ms#restarts!crashes~iteration", only slot and state required,
 * such as "1=running 2=failed@n1:v1". The task's id is "t" and its place in the list, from 1. Its
 * version is its time, but for "^version": as made by a leader with another clock. A restarted task without crashes
 * stands after one crash; ">" is to move.
 */
export function parseTasks(text: string): Task[] {
  return text
    .split(" ")
    .filter((word) => word !== "")
    .map((word, i) => {
      const match =
        /^(\d+)=([a-z]+)(?:\/([a-z]+))?(?:@(\w+))?(?::v(\d+))?(?:\+(\d+))?(?:#(\d+))?(?:!(\d+))?(?:~(\d+))?(?:\^(\d+))?(>)?$/.exec(
          word,
        );
      if (match === null) throw new Error(`not a task: ${word}`);
      const [, slot, state, desired, node, version, ms, restarts, crashes, iteration, born, moving] = match;
      const createdAtMs = Number(ms ?? 0);
      const createdVersion = Number(born ?? ms ?? 0);
      return {
        id: id<TaskId>(`t${i + 1}x`),
        meta: { version: createdVersion, createdVersion, createdAtMs, updatedAtMs: createdAtMs },
        serviceId: id<ServiceId>("web"),
        specVersion: Number(version ?? 0),
        slot: Number(slot),
        ...(node === undefined ? {} : { nodeId: id<NodeId>(node) }),
        desiredState: (desired ?? "running") as DesiredState,
        status: {
          state: state as TaskState,
          atMs: createdAtMs,
          message: "",
          error: "",
          appliedAtMs: createdAtMs,
        },
        networks: [],
        ...(restarts === undefined ? {} : { restarts: Number(restarts), crashes: Number(crashes ?? 1) }),
        ...(moving === undefined ? {} : { moving: true }),
        ...(iteration === undefined ? {} : { jobIteration: Number(iteration) }),
      };
    });
}

/** "+2" creates in slot 2 ("+2r" as ready, "+2c" to complete, "+n1" on a node, "!3" after three crashes), "-t1" shuts down ("-t1?" unless it runs), "xt1" removes, "^t1" promotes; steps part by ";". */
export function printPlan({ steps, wakeAtMs }: Plan): string {
  const text = steps.map((step) => step.map(printChange).join(" ")).join("; ");
  return wakeAtMs === undefined ? text : `${text} @${wakeAtMs}`.trim();
}

const goals = { ready: "r", running: "", complete: "c" } as const;

function printChange(change: TaskChange): string {
  const name = (taskId: TaskId): string => taskId.replace(/x0*$/, "");
  switch (change.kind) {
    case "create":
      return `+${change.nodeId?.replace(/0+$/, "") ?? change.slot}${goals[change.desiredState]}${(change.crashes ?? 0) > 1 ? `!${change.crashes}` : ""}`;
    case "shutdown":
      return `-${name(change.taskId)}${change.unlessRunning === true ? "?" : ""}`;
    case "remove":
      return `x${name(change.taskId)}`;
    case "forget":
      return `!${name(change.taskId)}`;
    case "promote":
      return `^${name(change.taskId)}`;
    case "begin-update":
      return "updating";
    case "update-status":
      return change.status.state;
    case "roll-back":
      return "roll-back";
  }
}

export interface SceneText {
  readonly tasks: string;
  readonly nodes?: readonly ReturnType<typeof nodeObject>[];
  readonly spec?: Partial<ServiceSpec> & { readonly replicas?: number };
  readonly service?: Partial<Service>;
  readonly nowMs?: number;
  readonly leadsSinceMs?: number;
  readonly historyLimit?: number;
  readonly ranSinceMs?: Readonly<Record<string, number>>;
}

/** Every older version of the spec ran another image. */
export function scene(text: SceneText): Scene {
  const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };
  const spec = serviceSpec(text.spec ?? {});
  const service: Service = { id: id<ServiceId>("web"), meta, spec, specVersion: 0, ...text.service };
  const nodes = (text.nodes ?? [nodeObject("n1"), nodeObject("n2"), nodeObject("n3")]).map((node): Node => ({
    ...node,
    meta,
  }));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const revisions = new Map<number, Revision>();
  const tasks = parseTasks(text.tasks);
  for (const { specVersion } of tasks) {
    const current = specVersion === service.specVersion;
    const { container } = spec.task;
    revisions.set(specVersion, {
      id: revisionKey(service.id, specVersion),
      meta,
      serviceId: service.id,
      specVersion,
      serviceName: spec.name,
      serviceLabels: {},
      task: current ? spec.task : { ...spec.task, container: { ...container, image: `old:${specVersion}` } },
      endpoint: spec.endpoint,
    });
  }
  return {
    service,
    tasks,
    nodes,
    node: (nodeId) => byId.get(nodeId),
    revision: (version) => revisions.get(version),
    ranSinceMs: (taskId) => text.ranSinceMs?.[taskId.replace(/x0*$/, "")],
    nowMs: text.nowMs ?? 0,
    leadsSinceMs: text.leadsSinceMs ?? 0,
    historyLimit: text.historyLimit ?? 5,
  };
}
