/** Local containers of one host, driven by the unmodified docker client. */
import t from "tap";

import { systemClock } from "../../runtime/clock.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { insideNamespaces } from "./containerd.ts";
import { LocalHost } from "./local-host.ts";

insideNamespaces(import.meta.url);

const host = await LocalHost.start("containers");
t.teardown(() => host.stop());
const image = `${host.host.registry}/test/bb:1`;
await pushImage(host.host.registry, "test/bb", "1", buildImage([await busyboxLayer()], { Cmd: ["sh"] }));
await host.engine.pull(image, {}, new AbortController().signal);
const docker = (...args: string[]) => host.docker(...args);

/** What the client printed, once it has succeeded. */
async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await docker(...args);
  if (code !== 0) throw new Error(`docker ${args.join(" ")}: ${code}: ${err}`);
  return out.trim();
}

const inspect = (name: string, format: string) => ok("inspect", "--format", format, name);

async function until(what: () => Promise<boolean>): Promise<void> {
  while (!(await what())) await systemClock.sleep(50);
}

await t.test("run -d, ps, logs, stop, start, restart, wait, rm", async (t) => {
  const id = await ok(
    "run",
    "-d",
    "--name",
    "one",
    "-e",
    "A=1",
    image,
    "sh",
    "-c",
    "echo up $A; exec sleep 600",
  );
  t.match(id, /^[0-9a-f]{64}$/);
  t.equal(await ok("ps", "--format", "{{.Names}} {{.State}}"), "one running");
  await until(async () => (await ok("logs", "one")) === "up 1");
  t.match(
    await inspect("one", "{{.State.Running}} {{.Config.Hostname}} {{.HostConfig.NetworkMode}}"),
    /^true [0-9a-f]{12} bridge$/,
  );
  t.match(await inspect("one", "{{.NetworkSettings.Networks.bridge.IPAddress}}"), /^172\.30\./);
  await ok("stop", "-t", "0", "one");
  t.equal(await inspect("one", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
  t.equal(await ok("wait", "one"), "137");
  await ok("start", "one");
  await ok("restart", "-t", "0", "one");
  t.equal(await inspect("one", "{{.State.Status}}"), "running");
  await until(async () => (await ok("logs", "one")) === "up 1\nup 1\nup 1");
  t.match(await docker("rm", "one"), {
    code: 1,
    err: /cannot remove container "\/one": container is running/,
  });
  await ok("rename", "one", "two");
  await ok("kill", "two");
  t.match(await docker("kill", "two"), { code: 1, err: /is not running/ });
  await ok("rm", "two");
  t.match(await docker("inspect", "two"), { code: 1 });
});
