import { array, assert, integer, option, property } from "fast-check";
import t from "tap";
import type { TaskId } from "../../../model/ids.ts";
import type { TaskState, TaskStatus } from "../../../model/task.ts";
import { planIsolation } from "../../../worker/agent/isolation.ts";

function task(taskId: string, stopAfterMs: number | undefined, state: TaskState = "running") {
  const status: TaskStatus = { state, atMs: 0, message: "", error: "", appliedAtMs: 0 };
  return {
    assignment: { taskId: taskId as TaskId, ...(stopAfterMs !== undefined && { stopAfterMs }) },
    status,
  };
}

const cases = [
  { name: "no task asks for it", tasks: [task("a", undefined)], silentMs: 1e9, stop: [], nextMs: undefined },
  { name: "not yet", tasks: [task("a", 500), task("b", 300)], silentMs: 100, stop: [], nextMs: 200 },
  { name: "exactly at its time", tasks: [task("a", 500)], silentMs: 500, stop: ["a"], nextMs: undefined },
  {
    name: "one is due, the other later",
    tasks: [task("a", 500), task("b", 900)],
    silentMs: 600,
    stop: ["a"],
    nextMs: 300,
  },
  {
    name: "what ended is left alone",
    tasks: [task("a", 5, "complete")],
    silentMs: 600,
    stop: [],
    nextMs: undefined,
  },
  {
    name: "also what does not run yet",
    tasks: [task("a", 5, "preparing")],
    silentMs: 9,
    stop: ["a"],
    nextMs: undefined,
  },
];
for (const { name, tasks, silentMs, stop, nextMs } of cases) {
  t.test(`isolation: ${name}`, (t) => {
    t.strictSame(planIsolation(tasks, silentMs), { stop, nextMs });
    t.end();
  });
}

t.test(
  "property: looked at when it says, every task that asks for it ends in its time, none earlier",
  (t) => {
    const limits = array(option(integer({ min: 1, max: 1_000 }), { nil: undefined }), { maxLength: 8 });
    assert(
      property(limits, (all) => {
        const endedAtMs = new Map<string, number>();
        let silentMs = 0;
        for (;;) {
          const left = all.flatMap((limit, i) => (endedAtMs.has(`t${i}`) ? [] : [task(`t${i}`, limit)]));
          const { stop, nextMs } = planIsolation(left, silentMs);
          for (const id of stop) endedAtMs.set(id, silentMs);
          if (nextMs === undefined) break;
          silentMs += nextMs;
        }
        return all.every((limit, i) => endedAtMs.get(`t${i}`) === limit);
      }),
    );
    t.end();
  },
);
