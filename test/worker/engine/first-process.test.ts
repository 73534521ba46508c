import { spawn } from "node:child_process";
import { once } from "node:events";
import t from "tap";

import { namesCgroupOf, signalFirstProcess } from "../../../worker/engine/first-process.ts";

const id = "c0ffee".padEnd(64, "0");

t.test("a process is a container's by its cgroup, or one below it", (t) => {
  t.ok(namesCgroupOf(`0::/shoal/${id}\n`, id));
  t.ok(namesCgroupOf(`12:memory:/shoal/${id}\n1:name=systemd:/shoal/${id}/init.scope\n`, id));
  t.ok(namesCgroupOf(`0::/../other:shoal/${id}\n`, id), "a path may have colons");
  t.notOk(namesCgroupOf(`0::/shoal/${"d".repeat(64)}\n`, id));
  t.notOk(namesCgroupOf(`0::/shoal/${id}0\n`, id));
  t.notOk(namesCgroupOf("0::/\n", id));
  t.notOk(namesCgroupOf("", id));
  t.end();
});

t.test("a process that is not the container's, or none, gets no signal", async (t) => {
  const other = spawn("sleep", ["60"]);
  t.teardown(() => other.kill("SIGKILL"));
  await once(other, "spawn");
  t.notOk(signalFirstProcess(other.pid ?? 0, id, 9));
  t.equal(other.exitCode ?? other.signalCode, null);
  t.notOk(signalFirstProcess(0, id, 9));
  t.notOk(signalFirstProcess(2 ** 22 + 1, id, 9));
});
