import { mock } from "node:test";
import t from "tap";
import { systemClock } from "../../runtime/clock.ts";

const dayMs = 24 * 3_600_000;

t.test("a wait of months is as long as it says, and can be cancelled in each part of it", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.teardown(() => mock.timers.reset());
  const rung: string[] = [];
  systemClock.after(60 * dayMs, () => rung.push("kept"));
  const cancel = systemClock.after(60 * dayMs, () => rung.push("cancelled"));
  const stop = new AbortController();
  const slept = systemClock.sleep(60 * dayMs, stop.signal);
  mock.timers.tick(30 * dayMs);
  cancel();
  stop.abort(new Error("enough"));
  await t.rejects(slept, { message: "enough" });
  mock.timers.tick(10 * dayMs);
  mock.timers.tick(19 * dayMs);
  t.strictSame(rung, []);
  mock.timers.tick(20 * dayMs); // The mock counts what a timer begins from the end of its tick.
  t.strictSame(rung, ["kept"]);
});
