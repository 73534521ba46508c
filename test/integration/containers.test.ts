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

await t.test("run attached: output, exit code, streams apart, input to its end, --rm", async (t) => {
  const both = await docker(
    "run",
    "--rm",
    "--name",
    "loud",
    image,
    "sh",
    "-c",
    "echo out; echo err >&2; exit 7",
  );
  t.strictSame(both, { code: 7, out: "out\n", err: "err\n" });
  t.equal(await ok("ps", "-aq", "--filter", "name=loud"), "");
  const text = "0123456789\n".repeat(50_000);
  const cat = await host.dockerWith(text, "run", "--rm", "-i", image, "cat");
  t.equal(cat.code, 0, cat.err);
  t.ok(cat.out === text, "all that went in came out");
  const many = await docker("run", "--rm", image, "sh", "-c", "seq 1 100000");
  t.equal(many.out.trim().split("\n").length, 100_000);
  t.match(await docker("run", "--rm", image, "/no/such"), { code: 127, err: /executable file not found/ });
  t.match(await docker("run", "--rm", image, "/etc"), { code: 126, err: /permission denied/ });
  t.match(await docker("run", "--rm", `${image}0`, "true"), { code: 125 });
});

await t.test("exec: streams apart, code, input, environment, user, detached, refusals", async (t) => {
  await ok("run", "-d", "--name", "ex", "-e", "A=1", image, "sleep", "600");
  t.strictSame(
    await docker("exec", "-e", "B=2", "-w", "/tmp", "ex", "sh", "-c", "echo $A$B; pwd; echo e >&2; exit 3"),
    {
      code: 3,
      out: "12\n/tmp\n",
      err: "e\n",
    },
  );
  const text = "abc\n".repeat(100_000);
  const cat = await host.dockerWith(text, "exec", "-i", "ex", "cat");
  t.ok(cat.out === text && cat.code === 0, "all that went in came out");
  t.equal(await ok("exec", "-u", "65534:65534", "ex", "id", "-u"), "65534");
  await ok("exec", "-d", "ex", "sh", "-c", "echo yes > /tmp/detached");
  await until(async () => (await docker("exec", "ex", "cat", "/tmp/detached")).out === "yes\n");
  t.match(await docker("exec", "ex", "/no/such"), { code: 127, out: /executable file not found/ });
  t.equal((await docker("exec", "ex", "seq", "1", "200000")).out.length, 1_288_895);
  await ok("rm", "-f", "ex");
  t.match(await docker("exec", "ex", "true"), { code: 1, err: /No such container: ex/ });
});

await t.test("a terminal: run -it and exec -it, size and detach keys", async (t) => {
  // script(1) gives the client a terminal.
  const inTerminal = (input: string, command: string) =>
    host.shell(input, `script -qec ${JSON.stringify(command)} /dev/null`);
  const ran = await inTerminal(
    "echo $((6*7)) tty; exit 5\n",
    `stty rows 33 cols 77; docker run --rm -it ${image}`,
  );
  t.match(ran.out, /42 tty/);
  t.equal(ran.code, 5);
  await ok("run", "-dit", "--name", "term", image);
  const exec = await inTerminal("", "stty rows 33 cols 77; docker exec -t term stty size");
  t.match(exec.out, /33 77/);
  const left = await inTerminal("ab", "docker attach --detach-keys a,b term");
  t.match(left.out + left.err, /read escape sequence/);
  t.equal(await inspect("term", "{{.State.Running}}"), "true");
  await ok("rm", "-f", "term");
});
