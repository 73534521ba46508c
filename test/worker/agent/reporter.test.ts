import t from "tap";
import type { TaskId } from "../../../model/ids.ts";
import type { TaskState, TaskStatus } from "../../../model/task.ts";
import { Reporter } from "../../../worker/agent/reporter.ts";

const task = (word: string): TaskId => word as TaskId;
const status = (state: TaskState): TaskStatus => ({ state, atMs: 1, message: "", error: "", appliedAtMs: 0 });

function reporter(): { reports: Reporter; calls: () => number } {
  let calls = 0;
  return { reports: new Reporter(() => (calls += 1)), calls: () => calls };
}

t.test(
  "while a batch is not acknowledged, statuses wait and only the latest of a task is sent",
  async (t) => {
    const { reports, calls } = reporter();
    reports.report(task("a"), status("accepted"));
    t.equal(calls(), 1);
    t.match(reports.take(10), { sequence: 1, reports: [{ taskId: "a", status: { state: "accepted" } }] });
    for (const state of ["preparing", "starting", "running"] as const)
      reports.report(task("a"), status(state));
    t.equal(calls(), 1, "there is nothing to take yet");
    t.equal(reports.take(10), undefined);
    t.equal(reports.unacknowledgedCount, 2);
    reports.acknowledge(1);
    t.equal(calls(), 2);
    t.match(reports.take(10), { sequence: 2, reports: [{ taskId: "a", status: { state: "running" } }] });
    reports.acknowledge(2);
    t.equal(reports.unacknowledgedCount, 0);
    t.equal(reports.take(10), undefined);
  },
);

t.test("an acknowledgement of an earlier batch is not one of this", async (t) => {
  const { reports } = reporter();
  reports.report(task("a"), status("running"));
  reports.take(10);
  reports.restart();
  t.match(reports.take(10), { sequence: 2, reports: [{ taskId: "a" }] }, "a new leader may have missed it");
  reports.acknowledge(1);
  t.equal(reports.unacknowledgedCount, 1);
});

t.test("what does not fit a batch follows in the next", async (t) => {
  const { reports, calls } = reporter();
  for (const word of ["a", "b", "c"]) reports.report(task(word), status("running"));
  t.equal(reports.take(2)?.reports.length, 2);
  const before = calls();
  reports.acknowledge(1);
  t.equal(calls(), before + 1);
  t.match(reports.take(2)?.reports, [{ taskId: "c" }]);
});
