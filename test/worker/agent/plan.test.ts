import t from "tap";
import type { TaskId } from "../../../model/ids.ts";
import type { DesiredState, TaskStatus } from "../../../model/task.ts";
import { ManagerPool } from "../../../worker/agent/managers.ts";
import { planTasks } from "../../../worker/agent/plan.ts";
import { Reporter } from "../../../worker/agent/reporter.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { assignment } from "./fixtures.ts";

/** "a=running b=shutdown!": task = desired state, "!" not confirmed, "-" being removed. */
function local(text: string) {
  const words = text.split(" ").filter((word) => word !== "");
  return new Map(
    words.map((word) => {
      const [id = "", rest = ""] = word.split("=");
      const taskId = id as TaskId;
      const desiredState = rest.replace(/[!-]$/, "") as DesiredState;
      return [taskId, { taskId, desiredState, confirmed: !rest.endsWith("!"), removing: rest.endsWith("-") }];
    }),
  );
}

function assigned(text: string) {
  return new Map(
    [...local(text).values()].map((task) => [
      task.taskId,
      assignment(task.taskId, { desiredState: task.desiredState }),
    ]),
  );
}

t.test("a change of when a task ends by itself is passed on, alone as it is", (t) => {
  const known = { taskId: "a" as TaskId, desiredState: "running", confirmed: true, removing: false } as const;
  const wanted = assignment("a", { stopAfterMs: 5_000 });
  const steps = (local: { readonly stopAfterMs?: number }) =>
    planTasks(new Map([[known.taskId, wanted]]), new Map([[known.taskId, { ...known, ...local }]]));
  t.strictSame(steps({}), [{ kind: "update", assignment: wanted }]);
  t.strictSame(steps({ stopAfterMs: 5_000 }), []);
  t.end();
});

const cases = [
  { name: "a new task is added", assigned: "a=running", local: "", want: "+a=running" },
  {
    name: "an unassigned task is removed, before others are added",
    assigned: "b=ready",
    local: "a=running",
    want: "-a +b=ready",
  },
  { name: "nothing to do", assigned: "a=running", local: "a=running", want: "" },
  {
    name: "a raised desired state is passed on",
    assigned: "a=shutdown",
    local: "a=running",
    want: "~a=shutdown",
  },
  { name: "a lowered desired state is ignored", assigned: "a=running", local: "a=shutdown", want: "" },
  {
    name: "a task from the journal is confirmed, never lowered",
    assigned: "a=running",
    local: "a=shutdown!",
    want: "~a=shutdown",
  },
  {
    name: "a removal that has begun is neither repeated nor taken back",
    assigned: "a=running",
    local: "a=remove- b=remove-",
    want: "",
  },
] as const;
for (const { name, want, ...input } of cases) {
  t.test(name, (t) => {
    const steps = planTasks(assigned(input.assigned), local(input.local)).map((step) => {
      switch (step.kind) {
        case "add":
          return `+${step.assignment.taskId}=${step.assignment.desiredState}`;
        case "update":
          return `~${step.assignment.taskId}=${step.assignment.desiredState}`;
        case "remove":
          return `-${step.taskId}`;
      }
    });
    t.equal(steps.join(" "), want);
    t.end();
  });
}

const status = (state: TaskStatus["state"]): TaskStatus => ({
  state,
  atMs: 1,
  message: "",
  error: "",
  appliedAtMs: 0,
});
const id = (text: string) => text as TaskId;

t.test("a report never goes backwards, and only the latest of a task is sent", (t) => {
  const reporter = new Reporter(() => undefined);
  reporter.report(id("a"), status("accepted"));
  t.ok(reporter.report(id("a"), status("running")));
  t.notOk(reporter.report(id("a"), status("preparing")));
  t.match(reporter.take(10), { sequence: 1, reports: [{ taskId: "a", status: { state: "running" } }] });
  t.equal(reporter.take(10), undefined);
  t.end();
});

t.test("everything is sent again to a new session, but not what is forgotten", (t) => {
  const reporter = new Reporter(() => undefined);
  for (const name of ["a", "b", "c"]) reporter.report(id(name), status("running"));
  reporter.take(2);
  t.equal(reporter.unacknowledgedCount, 3);
  reporter.forget(id("b"));
  reporter.restart();
  t.strictSame(
    reporter
      .take(10)
      ?.reports.map(({ taskId }) => taskId)
      .toSorted((a, b) => a.localeCompare(b)),
    ["a", "c"],
  );
  reporter.acknowledge(2);
  t.equal(reporter.unacknowledgedCount, 0);
  t.end();
});

t.test("a new round of managers does not begin with the one that ended the last", (t) => {
  for (let seed = 0; seed < 20; seed += 1) {
    const random = seededRandom(seed);
    const pool = new ManagerPool(["a:1", "b:1", "c:1"]);
    pool.succeeded("a:1");
    let last = pool.next(random);
    for (let count = 0; count < 9; count += 1) {
      const next = pool.next(random);
      t.not(next, last, `seed ${seed}`);
      last = next;
    }
  }
  t.end();
});

t.test("the named leader is tried first, then every other manager before one is tried again", (t) => {
  for (let seed = 0; seed < 20; seed += 1) {
    const random = seededRandom(seed);
    const pool = new ManagerPool(["a:1", "b:1", "c:1"]);
    pool.hint("b:1");
    t.equal(pool.next(random), "b:1");
    pool.failed("b:1");
    const tried = new Set([pool.next(random), pool.next(random), pool.next(random)]);
    t.strictSame(
      [...tried].toSorted((a = "", b = "") => a.localeCompare(b)),
      ["a:1", "b:1", "c:1"],
      `seed ${seed}`,
    );
  }
  const pool = new ManagerPool(["a:1"]);
  pool.replace([]);
  t.equal(pool.next(seededRandom(1)), "a:1", "an empty list is not believed");
  t.end();
});
