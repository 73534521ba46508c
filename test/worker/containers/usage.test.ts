import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { pidsBelow } from "../../../worker/containers/usage.ts";

t.test("processes of a container are also those in groups that it made itself", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "shoal-cgroup-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const group = (path: string, procs: string): void => {
    mkdirSync(join(directory, path), { recursive: true });
    writeFileSync(join(directory, path, "cgroup.procs"), procs);
  };
  group("", "");
  group("init.scope", "10\n");
  group("system.slice", "");
  group("system.slice/cron.service", "20\n21\n");
  group("flat", "30\n");
  t.strictSame(
    (await pidsBelow(directory)).toSorted((a, b) => a - b),
    [10, 20, 21, 30],
  );
  t.strictSame(await pidsBelow(join(directory, "flat")), [30]);
  t.strictSame(await pidsBelow(join(directory, "gone")), []);
});
