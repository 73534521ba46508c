import t from "tap";
import { backoff } from "../../runtime/backoff.ts";
import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { LoopGroup, runInBackground, runLoop } from "../../runtime/loop.ts";
import { seededRandom } from "../../runtime/random.ts";
import { aborted, deadline, orAborted, within } from "../../runtime/signal.ts";

t.test("delays grow to the limit and chance only shortens them", (t) => {
  const options = { firstMs: 100, limitMs: 1_000, factor: 2, jitterRatio: 0.5 };
  const delays = backoff(seededRandom(7), options);
  for (const fullMs of [100, 200, 400, 800, 1_000, 1_000]) {
    const delayMs = delays.next().value;
    t.ok(delayMs <= fullMs && delayMs >= fullMs / 2, `${delayMs} of ${fullMs}`);
  }
  t.end();
});

t.test("a loop that throws starts again after a delay, and ends with its signal", async (t) => {
  const controller = new AbortController();
  const slept: number[] = [];
  const clock: Clock = { ...systemClock, monotonic: () => 0, sleep: async (ms) => void slept.push(ms) };
  let starts = 0;
  await runLoop(
    { clock, random: seededRandom(1), log: silentLog },
    "test",
    async () => {
      starts += 1;
      if (starts === 4) controller.abort(new Error("enough"));
      throw new Error("body failed");
    },
    controller.signal,
  );
  t.equal(starts, 4);
  t.equal(slept.length, 3);
  t.ok((slept[2] ?? 0) > (slept[0] ?? 0));
});

t.test("what is only away is told as a warning without its stack, anything else as an error", async (t) => {
  const told: unknown[] = [];
  const log = {
    ...silentLog,
    warn: (fields: object) => void told.push({ level: "warn", ...fields }),
    error: (fields: object) => void told.push({ level: "error", ...fields }),
  };
  const clock: Clock = { ...systemClock, sleep: async () => undefined };
  const failures = [new ClusterError("unavailable", "nobody there"), new TypeError("x is not a function")];
  const [, broken] = failures;
  await runLoop(
    { clock, random: seededRandom(1), log },
    "test",
    async () => {
      const failure = failures.shift();
      if (failure !== undefined) throw failure;
    },
    new AbortController().signal,
  );
  t.match(told, [
    { level: "warn", loop: "test", error: "nobody there" },
    { level: "error", loop: "test", error: broken },
  ]);
});

t.test("a group ends all its loops, and names the one that does not end", async (t) => {
  const errors: unknown[] = [];
  const log = { ...silentLog, error: (fields: unknown) => void errors.push(fields) };
  const group = new LoopGroup({ clock: systemClock, random: seededRandom(1), log });
  group.start("good", (signal) => aborted(signal));
  await group.stop("over");
  t.strictSame(errors, []);
  const stubborn = new LoopGroup({ clock: systemClock, random: seededRandom(1), log });
  stubborn.start("stubborn", () => new Promise(() => {}));
  await stubborn.stop("over", 1);
  t.match(errors, [{ loops: ["stubborn"] }]);
});

t.test("background work that fails is logged, and silent once nobody cares", async (t) => {
  const errors: unknown[] = [];
  const log = { ...silentLog, error: (fields: unknown) => void errors.push(fields) };
  const controller = new AbortController();
  runInBackground(log, "work", Promise.reject(new Error("failed")), controller.signal);
  await Promise.resolve();
  controller.abort();
  runInBackground(log, "late", Promise.reject(new Error("failed")), controller.signal);
  await Promise.resolve();
  t.match(errors, [{ work: "work" }]);
});

t.test("a wait has a bound whose error names what was waited for", async (t) => {
  await t.rejects(within(systemClock, 1, "the answer", new Promise(() => {})), {
    code: "deadline-exceeded",
    message: "the answer took more than 1 ms",
  });
  t.equal(await within(systemClock, 1_000, "the answer", Promise.resolve(42)), 42);
  const controller = new AbortController();
  using limit = deadline(systemClock, 60_000, "all", controller.signal);
  const waiting = orAborted(new Promise(() => {}), limit.signal);
  controller.abort(new Error("stopped"));
  await t.rejects(waiting, { message: "stopped" });
});
