import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import t, { type Test } from "tap";

import { hostLimits, limitWarnings } from "../../../worker/engine/host-limits.ts";

async function cgroups(t: Test, files: Readonly<Record<string, string>>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "shoal-cgroups-"));
  t.teardown(() => rm(root, { recursive: true }));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  return root;
}

const all = {
  memory: true,
  swap: true,
  cpuPeriod: true,
  cpuQuota: true,
  cpuShares: true,
  cpuset: true,
  pids: true,
};

t.test("version 1: each limit has a file of its own", async (t) => {
  const names = [
    "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.oom_control",
    "cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us cpu/cpu.shares cpuset/cpuset.cpus pids/cgroup.procs",
  ].flatMap((line) => line.split(" "));
  const whole = await cgroups(t, Object.fromEntries(names.map((name) => [name, ""])));
  const at = { version: 1, own: "0::/\n" } as const;
  t.strictSame(hostLimits({ ...at, root: whole }), { ...all, oomKillDisable: true });
  const some = hostLimits({ ...at, root: await cgroups(t, { "memory/memory.limit_in_bytes": "" }) });
  t.match(some, { memory: true, swap: false, cpuQuota: false, pids: false });
  t.strictSame(limitWarnings(some, 1), [
    "WARNING: No swap limit support",
    "WARNING: No oom kill disable support",
    "WARNING: No cpu cfs quota support",
    "WARNING: No cpu cfs period support",
    "WARNING: No cpu shares support",
    "WARNING: No cpuset support",
  ]);
});

t.test("version 2: controllers, and a file for swap that the root does not have", async (t) => {
  const controllers = { "cgroup.controllers": "cpuset cpu io memory pids\n" };
  const at = { version: 2, own: "0::/system.slice/shoald.service\n" } as const;
  const own = { ...controllers, "system.slice/shoald.service/memory.swap.max": "max" };
  const whole = hostLimits({ ...at, root: await cgroups(t, own) });
  t.strictSame(whole, { ...all, oomKillDisable: false });
  t.strictSame(limitWarnings(whole, 2), []);
  const without = { ...controllers, "system.slice/memory.max": "max", "other/memory.swap.max": "max" };
  const root = await cgroups(t, without);
  t.equal(hostLimits({ ...at, root }).swap, false);
  t.equal(hostLimits({ ...at, own: "0::/\n", root }).swap, true, "seen at any group below the root");
  const few = hostLimits({ ...at, root: await cgroups(t, { "cgroup.controllers": "io\n" }) });
  t.match(few, { memory: false, swap: false, cpuQuota: false, cpuset: false, pids: false });
});
