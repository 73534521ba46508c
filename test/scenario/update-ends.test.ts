import t from "tap";
import type { UpdatePolicy } from "../../model/service.ts";
import type { TaskId } from "../../model/ids.ts";
import { isTerminal } from "../../model/task.ts";
import { serviceSpec, taskSpec } from "../sim/objects.ts";
import { image, started } from "./cluster.ts";

const policy: UpdatePolicy = {
  parallelism: 0,
  delayMs: 0,
  failureAction: "continue",
  monitorMs: 1000,
  maxFailureRatio: 0,
  order: "start-first",
};
const onlyOnce = { ...taskSpec(), restart: { condition: "none" } } as const;
const modes = [{ kind: "replicated", replicas: 2 }, { kind: "global" }] as const;

for (const mode of modes) {
  t.test(
    `${mode.kind}: an update that goes on past failures ends, and its restarts still replace`,
    async (t) => {
      await using c = await started(["n1", "n2"]);
      const labels = { "shoal.update.deadline": "10s" };
      await c.create("web", serviceSpec({ mode, labels, update: policy }));
      await c.until(() => c.running("web").length === 2);
      await c.update("web", image("stuck:1"));
      const tookMs = await c.until(() => c.service("web").updateStatus?.state === "completed");
      t.ok(tookMs >= 10_000, "not before what hangs counts as failed");
      await c.clock.advance(60_000);
      t.equal(c.running("web", "web:1").length, 2, "the old ones stay");
      const stuck = c.tasks("web").filter(({ status }) => status.state === "preparing");
      t.equal(stuck.length, 2, "beside those that hang");
      await report(
        c,
        stuck.map(({ id }) => id),
      );
      await c.until(() => c.tasks("web").filter((task) => !isTerminal(task)).length === 2, 1_000);
      t.equal(c.running("web", "stuck:1").length, 2);
      t.strictSame(c.errors, []);
    },
  );

  for (const order of ["start-first", "stop-first"] as const) {
    t.test(`${mode.kind}, ${order}: an update whose failures are not restarted ends, once`, async (t) => {
      await using c = await started(["n1", "n2"]);
      await c.create("web", serviceSpec({ mode, task: onlyOnce, update: { ...policy, order } }));
      await c.until(() => c.running("web").length === 2);
      await c.update("web", image("bad:1"));
      await c.until(() => c.service("web").updateStatus?.state === "completed", 5_000);
      const { updateStatus } = c.service("web");
      const made = c.tasks("web").length;
      await c.clock.advance(60_000);
      t.strictSame(c.service("web").updateStatus, updateStatus, "no further update begins");
      t.equal(c.tasks("web").length, made);
      t.equal(c.running("web", "web:1").length, order === "start-first" ? 2 : 0);
      t.strictSame(c.errors, []);
    });
  }

  t.test(`${mode.kind}: a rollback to what fails tries every slot once and ends`, async (t) => {
    await using c = await started(["n1", "n2"]);
    const task = { ...onlyOnce, container: { ...onlyOnce.container, image: "bad:1" } };
    await c.create("web", serviceSpec({ mode, task, update: policy, rollback: policy }));
    await c.until(() => c.tasks("web").filter(isTerminal).length === 2);
    await c.update("web", image("crash:2"));
    await c.until(() => c.service("web").updateStatus?.state === "completed", 5_000);
    const before = new Set(c.tasks("web").map(({ id }) => id));
    await c.rollback("web");
    await c.until(() => c.service("web").updateStatus?.state === "rollback_completed", 5_000);
    await c.clock.advance(60_000);
    t.equal(c.tasks("web").filter(({ id }) => !before.has(id)).length, 2);
    t.equal(c.service("web").updateStatus?.state, "rollback_completed");
    t.strictSame(c.errors, []);
  });
}

t.test("a global start-first service updates where its limit is one replica per node", async (t) => {
  await using c = await started(["n1", "n2"]);
  const task = { ...taskSpec(), placement: { constraints: [], spread: [], maxReplicas: 1, platforms: [] } };
  const update: UpdatePolicy = { ...policy, failureAction: "pause" };
  await c.create("web", serviceSpec({ mode: { kind: "global" }, task, update }));
  await c.until(() => c.running("web").length === 2);
  await c.update("web", image("web:2"));
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  t.equal(c.running("web", "web:2").length, 2);
  t.equal(c.running("web").length, 2);
  t.strictSame(c.errors, []);
});

/** As if what they waited for had come after all. */
async function report(c: Awaited<ReturnType<typeof started>>, taskIds: readonly TaskId[]): Promise<void> {
  await c.store.update((tx) => {
    for (const taskId of taskIds) {
      const task = tx.tasks.get(taskId);
      if (task === undefined) throw new Error(`no task ${taskId}`);
      const status = { ...task.status, state: "running" as const, atMs: tx.nowMs, appliedAtMs: tx.nowMs };
      tx.tasks.update({ ...task, status });
    }
  });
}
