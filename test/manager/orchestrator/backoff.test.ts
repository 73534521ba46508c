import { assert, integer, property } from "fast-check";
import t from "tap";
import { backoffText, crashesAfter, restartWaitMs } from "../../../manager/orchestrator/backoff.ts";
import { decideReplicated } from "../../../manager/orchestrator/replicated.ts";
import { taskSpec } from "../../sim/objects.ts";
import { parseTasks, printPlan, scene, type SceneText } from "./plan-notation.ts";

const waits = [
  { name: "what did not crash does not wait", crashes: 0, delayMs: 5000, want: 0 },
  { name: "the first wait is the policy's delay", crashes: 1, delayMs: 5000, want: 5000 },
  { name: "each further one doubles it", crashes: 3, delayMs: 5000, want: 20_000 },
  { name: "up to five minutes", crashes: 30, delayMs: 5000, want: 300_000 },
  { name: "no count overflows", crashes: 1e9, delayMs: 1, want: 300_000 },
  { name: "a delay of 0 is kept once", crashes: 1, delayMs: 0, want: 0 },
  { name: "and then waits a second", crashes: 2, delayMs: 0, want: 1000 },
  { name: "a longer delay than the bound stays", crashes: 9, delayMs: 900_000, want: 900_000 },
  { name: "the bound is a knob", crashes: 9, delayMs: 5000, max: "30s", want: 30_000 },
  { name: "a bound below the delay turns it off", crashes: 9, delayMs: 5000, max: "0s", want: 5000 },
  { name: "no delay means five seconds", crashes: 1, delayMs: undefined, want: 5000 },
] as const;

for (const { name, crashes, delayMs, want, ...rest } of waits) {
  t.test(`back-off: ${name}`, (t) => {
    const labels = "max" in rest ? { "shoal.restart.max-delay": rest.max } : {};
    t.equal(restartWaitMs({ crashes }, delayMs === undefined ? {} : { delayMs }, labels), want);
    t.end();
  });
}

t.test("a task that ran well for a minute begins the count anew", (t) => {
  t.equal(crashesAfter({ crashes: 7 }, { beganMs: 0, endedMs: 59_999 }), 8);
  t.equal(crashesAfter({ crashes: 7 }, { beganMs: 0, endedMs: 60_000 }), 1);
  t.equal(crashesAfter({}, { beganMs: 0, endedMs: 1 }), 1);
  t.end();
});

t.test("property: waits never shrink as crashes grow, and stay between delay and bound", (t) => {
  assert(
    property(integer({ min: 1, max: 60 }), integer({ min: 0, max: 400_000 }), (crashes, delayMs) => {
      const now = restartWaitMs({ crashes }, { delayMs }, {});
      const next = restartWaitMs({ crashes: crashes + 1 }, { delayMs }, {});
      return now <= next && now >= delayMs && next <= Math.max(delayMs, 300_000);
    }),
  );
  t.end();
});

const decisions: readonly (SceneText & { readonly name: string; readonly want: string })[] = [
  {
    name: "a task that ended soon counts on",
    tasks: "1=failed@n1+20000#3!3",
    nowMs: 20_000,
    want: "-t1 +1r!4",
  },
  {
    name: "the wait follows the count",
    tasks: "1=failed/shutdown@n1 1=ready/ready@n1+100#3!3",
    nowMs: 5100,
    want: "@20100",
  },
  {
    name: "a long run ends the back-off",
    tasks: "1=failed@n1+90000#3!3",
    ranSinceMs: { t1: 20_000 },
    nowMs: 90_000,
    want: "-t1 +1r",
  },
  {
    name: "a new version of the spec begins the count anew",
    tasks: "1=failed@n1+20000#3!3",
    service: { specVersion: 5, updateStatus: { state: "paused", message: "" } },
    nowMs: 20_000,
    want: "-t1 +1r",
  },
  {
    name: "attempts within a window are counted over the wait that follows",
    tasks: "1=failed/shutdown@n1+1000#1!1 1=failed/shutdown@n1+12000#2!2 1=failed@n1+33000#3!3",
    spec: { task: { ...taskSpec(), restart: { maxAttempts: 3, windowMs: 10_000, delayMs: 5000 } } },
    nowMs: 33_000,
    want: "-t3",
  },
];

for (const { name, want, ...text } of decisions) {
  t.test(`back-off: ${name}`, (t) => {
    t.equal(printPlan(decideReplicated(scene(text))), want);
    t.end();
  });
}

t.test("a task that waits for its restart says so, with the count and the time", (t) => {
  const [waiting, running, fresh] = parseTasks("1=ready/ready@n1+1000#3!3 1=running@n1#3!3 1=ready/ready@n1");
  if (waiting === undefined || running === undefined || fresh === undefined) throw new Error("no tasks");
  t.equal(
    backoffText(waiting, {}, {}),
    "crash back-off: 3 tasks in a row ended soon after their start; starts at 1970-01-01T00:00:21.000Z, 20s after the last one ended",
  );
  t.match(backoffText({ ...waiting, crashes: 1 }, {}, {}), /^restart delay: starts at .*, 5s after/);
  t.equal(backoffText(running, {}, {}), undefined);
  t.equal(backoffText(fresh, {}, {}), undefined);
  t.end();
});

const ends = ["complete", "failed", "rejected"] as const;
const restarted = {
  any: ["complete", "failed", "rejected"],
  "on-failure": ["failed", "rejected"],
  none: [],
} as const;

for (const condition of ["any", "on-failure", "none"] as const) {
  for (const end of ends) {
    const again = (restarted[condition] as readonly string[]).includes(end);
    t.test(`restart ${condition}: what is ${end} is ${again ? "" : "not "}replaced`, (t) => {
      const text = {
        tasks: `1=${end}@n1`,
        spec: { task: { ...taskSpec(), restart: { condition, delayMs: 0 } } },
      };
      t.equal(printPlan(decideReplicated(scene(text))), again ? "-t1 +1" : "-t1");
      t.end();
    });
  }
}
