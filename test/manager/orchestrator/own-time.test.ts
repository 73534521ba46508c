import t from "tap";
import { inOwnTime } from "../../../manager/orchestrator/own-time.ts";
import { parseTasks } from "./plan-notation.ts";

const hourMs = 3_600_000;

t.test("a time in the future becomes the time this leader took over; the version stays", (t) => {
  const [task] = parseTasks(`1=running@n1+${hourMs}^7`);
  if (task === undefined) throw new Error("the notation gave no task");
  const seen = inOwnTime(task, { nowMs: 2_000, leadsSinceMs: 1_500 });
  t.match(seen, {
    meta: { createdAtMs: 1_500, version: 7, createdVersion: 7 },
    status: { atMs: 1_500, appliedAtMs: 1_500 },
  });
  t.end();
});

t.test("a time in the past stays: it may be as long ago as it says", (t) => {
  const [task] = parseTasks("1=running@n1+1000");
  if (task === undefined) throw new Error("the notation gave no task");
  t.equal(inOwnTime(task, { nowMs: 2_000, leadsSinceMs: 1_500 }), task);
  t.end();
});
