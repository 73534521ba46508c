import t from "tap";
import type { HealthCheck } from "../../../model/service.ts";
import {
  afterProbe,
  initialHealth,
  keptOutputBytes,
  nextProbeDelayMs,
  planHealth,
} from "../../../worker/health/state.ts";
import type { HealthPlan } from "../../../worker/health/state.ts";

const none = { intervalMs: 0, timeoutMs: 0, startPeriodMs: 0, startIntervalMs: 0, retries: 0 };
const plan: HealthPlan = {
  command: ["true"],
  intervalMs: 1_000,
  timeoutMs: 500,
  startPeriodMs: 3_000,
  startIntervalMs: 200,
  retries: 2,
};

/** "F0 F4000 S5000": failures and successes at milliseconds after the start. */
function run(text: string): string {
  let state = initialHealth;
  const seen = text.split(" ").map((word) => {
    const startedAtMs = Number(word.slice(1));
    const exitCode = word.startsWith("S") ? 0 : 1;
    state = afterProbe(plan, state, { startedAtMs, endedAtMs: startedAtMs, exitCode, output: "" }, 0);
    return `${state.status}/${state.failingStreak}`;
  });
  return seen.join(" ");
}

const cases = [
  { name: "the first success is healthy at once", probes: "S100", want: "healthy/0" },
  {
    name: "failures of the start period do not count",
    probes: "F0 F1000 F2900 F3000",
    want: "starting/0 starting/0 starting/0 starting/1",
  },
  { name: "retries failures in a row are unhealthy", probes: "F3000 F4000", want: "starting/1 unhealthy/2" },
  {
    name: "a success between starts the count anew",
    probes: "S1 F3000 S4000 F5000 F6000",
    want: "healthy/0 healthy/1 healthy/0 healthy/1 unhealthy/2",
  },
  {
    name: "once healthy, the start period protects no more",
    probes: "S1 F100 F200",
    want: "healthy/0 healthy/1 unhealthy/2",
  },
];
for (const { name, probes, want } of cases) {
  t.test(name, (t) => {
    t.equal(run(probes), want);
    t.end();
  });
}

t.test("the last five results and 4096 characters of output are kept", (t) => {
  let state = initialHealth;
  for (let at = 0; at < 7; at += 1) {
    state = afterProbe(
      plan,
      state,
      { startedAtMs: at, endedAtMs: at, exitCode: 0, output: "x".repeat(9_000) },
      0,
    );
  }
  t.strictSame(
    state.log.map(({ startedAtMs }) => startedAtMs),
    [2, 3, 4, 5, 6],
  );
  t.equal(state.log[0]?.output.length, keptOutputBytes);
  t.end();
});

t.test("probes are close together only while starting within the start period", (t) => {
  t.equal(nextProbeDelayMs(plan, initialHealth, 0), 200);
  t.equal(nextProbeDelayMs(plan, initialHealth, 3_000), 1_000);
  t.equal(nextProbeDelayMs(plan, { ...initialHealth, status: "healthy" }, 0), 1_000);
  t.end();
});

t.test("a task's check goes over the image's; NONE turns it off; zero inherits", (t) => {
  const image: HealthCheck = { ...none, test: ["CMD-SHELL", "curl x"], intervalMs: 7_000, retries: 5 };
  const own = (test: string[], more = {}): HealthCheck => ({ ...none, ...more, test });
  t.match(planHealth(undefined, image), {
    command: ["/bin/sh", "-c", "curl x"],
    intervalMs: 7_000,
    retries: 5,
    timeoutMs: 30_000,
  });
  t.match(planHealth(own([], { intervalMs: 100 }), image), {
    command: ["/bin/sh", "-c", "curl x"],
    intervalMs: 100,
    retries: 5,
  });
  t.match(planHealth(own(["CMD", "a", "b"]), image), { command: ["a", "b"] });
  t.equal(planHealth(own(["NONE"]), image), undefined);
  t.equal(planHealth(undefined, undefined), undefined);
  t.end();
});
