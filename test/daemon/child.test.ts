import t from "tap";
import { superviseChild } from "../../daemon/child.ts";
import type { HostSettings } from "../../proto/host.ts";
import { silentLog } from "../../runtime/log.ts";
import { VirtualClock } from "../sim/clock.ts";

t.test("a child that could not even be started is started again, and can be stopped", async (t) => {
  const { execPath } = process;
  process.execPath = "/nowhere/node";
  t.teardown(() => (process.execPath = execPath));
  const clock = new VirtualClock();
  const failures: string[] = [];
  let failed = (): void => undefined;
  const child = superviseChild(
    { clock, log: silentLog },
    {
      name: "worker",
      settings: {} as HostSettings,
      onStart: () => [],
      onMessage: () => undefined,
      onExit(reason) {
        failures.push(reason);
        failed();
        return "restart";
      },
    },
  );
  await new Promise<void>((resolve) => (failed = resolve));
  t.match(failures, [/ENOENT/]);
  const again = new Promise<void>((resolve) => (failed = resolve));
  await clock.advance(100);
  await again;
  t.equal(failures.length, 2);
  await child.stop();
});
