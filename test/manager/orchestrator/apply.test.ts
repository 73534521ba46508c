import t from "tap";
import type { TaskId } from "../../../model/ids.ts";
import type { TaskState } from "../../../model/task.ts";
import { applyStep } from "../../../manager/orchestrator/apply.ts";
import type { Step } from "../../../manager/orchestrator/plan.ts";
import { createTask } from "../../../manager/store/revisions.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { id, serviceObject, serviceSpec } from "../../sim/objects.ts";

const old = id<TaskId>("old");
const fresh = id<TaskId>("fresh");

/** Carries out a replacement of a task that is in this state by now. @returns What is wanted of both tasks after it. */
async function replaced(state: TaskState, shutdown: Step[number]): Promise<(string | undefined)[]> {
  const { store } = loneStore(new VirtualClock());
  await store.update((tx) => {
    const service = tx.services.create(serviceObject("web", serviceSpec()));
    const task = createTask(tx, service, { id: old, slot: 1, desiredState: "running" });
    tx.tasks.update({ ...task, status: { ...task.status, state } });
  });
  const step: Step = [shutdown, { kind: "create", slot: 1, desiredState: "ready", restarts: 0 }];
  const planned = { serviceId: serviceObject("web", serviceSpec()).id, specVersion: 0 };
  await store.update((tx) => applyStep(tx, planned, step, () => fresh));
  return store.view((view) => [old, fresh].map((taskId) => view.tasks.get(taskId)?.desiredState));
}

t.test("a task that was to go because it does not serve stays when it serves by now", async (t) => {
  const idle: Step[number] = { kind: "shutdown", taskId: old, unlessRunning: true };
  t.strictSame(await replaced("starting", idle), ["shutdown", "ready"]);
  t.strictSame(await replaced("running", idle), ["running", undefined]);
  t.strictSame(await replaced("running", { kind: "shutdown", taskId: old }), ["shutdown", "ready"]);
});
