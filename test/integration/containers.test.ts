/** Local containers of one host, driven by the unmodified docker client. */
import t from "tap";

import { systemClock } from "../../runtime/clock.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { insideNamespaces } from "./containerd.ts";
import { createExec, halfClosed } from "./half-close.ts";
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

const untilAttempts = 200;
const inspect = (name: string, format: string) => ok("inspect", "--format", format, name);

async function until(what: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < untilAttempts; attempt++) {
    if (await what()) return;
    await systemClock.sleep(50);
  }
  throw new Error(`not within ${untilAttempts} looks: ${what.toString()}`);
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
  await until(async () => (await ok("logs", "one")) === "up 1\nup 1");
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

await t.test("a client that closes its side goes on reading to the end", async (t) => {
  const { socket } = host.settings;
  const streams = "stream=1&stdin=1&stdout=1&stderr=1";
  const typed = "typed\n".repeat(20_000);
  // What is said after the input's end comes long after it, and more than any buffer holds.
  const late = "cat; sleep 0.3; echo over; seq 1 100000";
  const rest = Array.from({ length: 100_000 }, (_, index) => `${index + 1}\n`).join("");
  await ok("run", "-d", "--name", "half", image, "sleep", "600");
  for (const isUpgrade of [true, false]) {
    const status = isUpgrade ? "101" : "200";
    const how = isUpgrade ? "an upgrade" : "no upgrade";
    await ok("create", "-i", "--name", "once", image, "sh", "-c", late);
    const ran = await halfClosed(socket, `/containers/once/attach?${streams}`, {
      isUpgrade,
      input: typed,
      afterwards: () => ok("start", "once"),
    });
    t.equal(ran.status, status);
    t.ok(ran.out === `${typed}over\n${rest}`, `attach with ${how}: ${ran.out.length} bytes`);
    t.equal(await ok("wait", "once"), "0");
    await ok("rm", "once");

    const id = await createExec(socket, "half", ["sh", "-c", late]);
    const exec = await halfClosed(socket, `/exec/${id}/start`, { body: {}, isUpgrade, input: typed });
    t.equal(exec.status, status);
    t.ok(exec.out === `${typed}over\n${rest}`, `exec with ${how}: ${exec.out.length} bytes`);
  }
  const shell = await host.shell(
    "",
    `cd "$HOME" && mkdir tree && echo one > tree/one && tar c tree | docker exec -i half tar x -C /tmp && docker exec half cat /tmp/tree/one`,
  );
  t.strictSame([shell.code, shell.out], [0, "one\n"], shell.err);
  // Not the only one who may write: its input stays open, and output comes until the client has gone.
  await ok("run", "-di", "--name", "kept", image, "sh", "-c", "read a; echo got $a; read b; echo got $b");
  const both = halfClosed(socket, `/containers/kept/attach?${streams}&logs=1`, {
    isUpgrade: true,
    input: "first\n",
  });
  await until(async () => (await ok("logs", "kept")) === "got first");
  await host.dockerWith("second\n", "attach", "kept");
  t.equal((await both).out, "got first\ngot second\n");
  await ok("rm", "-f", "half", "kept");
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
  // crun gives a command's terminal no size; it comes right after the start, and until then stty fails.
  const sized = "until stty size; do :; done";
  const exec = await inTerminal("", `stty rows 33 cols 77; docker exec -t term sh -c '${sized}'`);
  t.match(exec.out, /33 77/);
  const left = await inTerminal("ab", "docker attach --detach-keys a,b term");
  t.match(left.out + left.err, /read escape sequence/);
  t.equal(await inspect("term", "{{.State.Running}}"), "true");
  await ok("rm", "-f", "term");
});

await t.test("names, groups and namespaces of the host; what a user cannot be", async (t) => {
  const run = (options: string[], script: string) => ok("run", "--rm", ...options, image, "sh", "-c", script);
  t.equal(await run(["--uts", "host"], "hostname"), (await host.shell("", "hostname")).out.trim());
  t.equal(
    await run(["--ipc", "host"], "readlink /proc/self/ns/ipc"),
    (await host.shell("", "readlink /proc/self/ns/ipc")).out.trim(),
  );
  t.match(
    await run(["-h", "me", "--domainname", "example.org"], "grep me /etc/hosts"),
    /\tme\.example\.org me$/,
  );
  t.match(await run(["-u", "1000:1001", "--group-add", "5"], "id"), /groups=5,1001$|groups=1001,5$/);
  const own = (await host.shell("", "readlink /proc/self/ns/cgroup")).out.trim();
  t.equal(await run(["--cgroupns", "host"], "readlink /proc/self/ns/cgroup"), own);
  t.not(await run(["--cgroupns", "private"], "readlink /proc/self/ns/cgroup"), own);
  await ok("run", "-d", "--init", "--name", "who", image, "sleep", "600");
  t.equal(await inspect("who", "{{.Path}} {{json .Args}}"), 'sleep ["600"]', "not the init in front of it");
  t.match(await inspect("who", "{{.HostsPath}}"), /hosts$/);
  t.equal(await ok("diff", "who"), "", "what is mounted is no change");
  t.match(await docker("exec", "-u", "nosuch", "who", "id"), {
    code: 126,
    out: /unable to find user nosuch/,
  });
  t.match(await docker("exec", "-w", "/no/such", "who", "id"), { code: 126, out: /chdir/ });
  await ok("rm", "-f", "who");
  t.match(await docker("create", "--entrypoint", "", image), {
    code: 1,
    err: /No command specified|no command/,
  });
});

await t.test("policies start again what has ended, and a stop by hand holds", async (t) => {
  await ok(
    "run",
    "-d",
    "--name",
    "fails",
    "--restart",
    "on-failure:2",
    image,
    "sh",
    "-c",
    "echo again; exit 3",
  );
  await until(async () => (await inspect("fails", "{{.RestartCount}} {{.State.Status}}")) === "2 exited");
  t.equal(await ok("logs", "fails"), "again\nagain\nagain");
  await ok("run", "-d", "--name", "ends", "--restart", "always", image, "true");
  await until(async () => Number(await inspect("ends", "{{.RestartCount}}")) > 1);
  await until(async () =>
    (await ok("ps", "--format", "{{.Status}}", "--filter", "name=ends")).startsWith("Restarting (0)"),
  );
  await ok("stop", "ends");
  t.equal(await inspect("ends", "{{.State.Status}}"), "exited");
  await ok("start", "ends");
  await ok("rm", "-f", "fails", "ends");
  for (const policy of ["always", "unless-stopped"]) {
    await ok("run", "-d", "--name", policy, "--restart", policy, image, "sleep", "600");
    await ok("stop", "-t", "0", policy);
  }
  await host.away(async () => undefined);
  t.equal(await inspect("always", "{{.State.Status}}"), "exited", "a new worker is no start of the engine");
  await host.away(async () => undefined, "restarted");
  await until(async () => (await inspect("always", "{{.State.Status}}")) === "running");
  t.equal(
    await inspect("unless-stopped", "{{.State.Status}}"),
    "exited",
    "for good, over a start of the engine",
  );
  await ok("rm", "-f", "always", "unless-stopped");
});

await t.test("health is probed and told", async (t) => {
  const check = ["--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "2"];
  await ok("run", "-d", "--name", "ill", ...check, image, "sleep", "600");
  await until(async () => (await inspect("ill", "{{.State.Health.Status}}")) === "unhealthy");
  t.match(
    await ok("ps", "--filter", "health=unhealthy", "--format", "{{.Names}} {{.Status}}"),
    /^ill Up .*\(unhealthy\)$/,
  );
  await ok("exec", "ill", "touch", "/tmp/well");
  await until(async () => (await inspect("ill", "{{.State.Health.Status}}")) === "healthy");
  await host.away(async () => undefined);
  t.equal(await inspect("ill", "{{.State.Health.Status}}"), "healthy", "a new worker knows it");
  const events = await ok(
    "events",
    "--since",
    "1h",
    "--until",
    "-1s",
    "--filter",
    "container=ill",
    "--format",
    "{{.Action}}",
  );
  t.notMatch(events, /unhealthy/, "a new worker begins a new history");
  await ok("rm", "-f", "ill");
});

await t.test("what ends while no worker is there is decided on by the next", async (t) => {
  await ok(
    "run",
    "-d",
    "--name",
    "stays",
    "--restart",
    "always",
    "-p",
    "18080:80",
    image,
    "sh",
    "-c",
    "echo up; exec sleep 600",
  );
  await ok("run", "-d", "--name", "runs", image, "sleep", "600");
  await ok("exec", "-d", "runs", "sh", "-c", "sleep 1; echo over > /tmp/over");
  await ok("run", "-d", "--name", "ended", image, "sleep", "600");
  await ok("run", "-d", "--rm", "--name", "vanishes", image, "sleep", "600");
  const pids = await Promise.all(
    ["stays", "ended", "vanishes"].map((name) => inspect(name, "{{.State.Pid}}")),
  );
  const before = await inspect("runs", "{{.State.Pid}} {{.State.StartedAt}}");
  await host.away(async () => {
    for (const pid of pids) process.kill(Number(pid), "SIGKILL");
    await systemClock.sleep(500); // Nobody is there who could tell that they have ended.
  });
  await until(async () => (await inspect("stays", "{{.State.Status}} {{.RestartCount}}")) === "running 1");
  t.equal(await inspect("ended", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
  await until(async () => (await ok("ps", "-aq", "--filter", "name=vanishes")) === "");
  t.equal(await inspect("runs", "{{.State.Pid}} {{.State.StartedAt}}"), before);
  t.match(await ok("port", "stays"), "80/tcp -> 0.0.0.0:18080");
  t.equal(await ok("exec", "runs", "echo", "here"), "here");
  t.equal(await inspect("runs", "{{.ExecIDs}}"), "[]", "commands of a former worker are nobody's");
  await until(async () => (await docker("exec", "runs", "cat", "/tmp/over")).out === "over\n");
  await ok("rm", "-f", "stays", "runs", "ended");
});

await t.test("published ports reach the container, and are free when it has gone", async (t) => {
  const fetch = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/18081; timeout 2 cat <&3'";
  const serve = "while :; do echo hello | nc -l -p 80; done";
  for (const name of ["web1", "web2"]) {
    await ok("run", "-d", "--name", name, "-p", "18081:80", image, "sh", "-c", serve);
    await until(async () => (await host.shell("", fetch)).out === "hello\n");
    await ok("rm", "-f", name);
  }
  await ok("run", "-d", "--name", "web", "-p", "18081:80", image, "sleep", "600");
  t.match(await docker("run", "--name", "other", "-p", "18081:80", image, "true"), {
    code: 125,
    err: /Bind for 0\.0\.0\.0:18081 failed: port is already allocated/,
  });
  await ok("rm", "-f", "web", "other");
});

await t.test("the sandbox is what was asked for", async (t) => {
  const run = (options: string[], script: string) => ok("run", "--rm", ...options, image, "sh", "-c", script);
  const memory =
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
  t.equal(await run(["-m", "32m"], memory), String(32 * 2 ** 20));
  t.equal(await run(["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn"), "100\n200");
  t.match(
    await run(["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], "grep CapBnd /proc/self/status"),
    /0000000000001000/,
  );
  t.match(
    await run(
      ["--privileged"],
      "grep -E 'CapBnd|Seccomp:' /proc/self/status; ls /dev | wc -l; mkdir /m; mount -t tmpfs x /m && echo mounted",
    ),
    /Seccomp:\s0[^]*mounted/,
  );
  t.equal(
    await run(["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status"),
    "NoNewPrivs:\t1",
  );
  t.equal(await run(["--sysctl", "net.core.somaxconn=77"], "cat /proc/sys/net/core/somaxconn"), "77");
  t.match(
    await run(["--tmpfs", "/t:size=1m"], "grep ' /t ' /proc/mounts"),
    /tmpfs.*nosuid,nodev,noexec.*size=1024k/,
  );
  t.match(
    await run(["--mount", "type=tmpfs,dst=/o,tmpfs-size=1m"], "grep ' /o ' /proc/mounts"),
    /nosuid,nodev,noexec.*size=1024k/,
  );
  t.match(
    await run(
      [
        "--mount",
        `type=bind,src=${host.host.directory},dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate`,
      ],
      "touch /b/x || echo refused",
    ),
    /refused/,
  );
  t.match(await run(["--read-only"], "touch /x || echo refused"), /refused/);
  t.equal(
    await run(["--hostname", "me", "--add-host", "db:10.1.2.3"], "hostname; grep db /etc/hosts"),
    "me\n10.1.2.3\tdb",
  );
  t.match(await run(["--dns", "9.9.9.9"], "cat /etc/resolv.conf"), /nameserver/);
  t.equal(await run(["-u", "1000:1001", "--group-add", "5"], "id -u; id -g; id -G"), "1000\n1001\n1001 5");
  t.match(await run(["--shm-size", "1m"], "grep /dev/shm /proc/mounts"), /size=1024k/);
  t.equal(
    await run(["--device", "/dev/null:/dev/other"], "echo x > /dev/other && ls -l /dev/other | cut -c1"),
    "c",
  );
  t.equal(
    await run(["--pid", "host"], "test -e /proc/1/stat && echo $$ | grep -qv '^1$' && echo shared"),
    "shared",
  );
  t.match(await run(["--network", "none"], "ls /sys/class/net"), /^lo$/);
  const { cgroupParent } = host.settings;
  for (const parent of ["tenant", `${cgroupParent}/tenant`]) {
    const id = await ok(
      "run",
      "-d",
      "--name",
      "grouped",
      "--cgroup-parent",
      parent,
      "-m",
      "32m",
      image,
      "sleep",
      "600",
    );
    const groups = await host.shell("", `cat /proc/${await inspect("grouped", "{{.State.Pid}}")}/cgroup`);
    t.match(groups.out, `${cgroupParent}/tenant/${id}\n`, parent);
    t.equal(await inspect("grouped", "{{.HostConfig.CgroupParent}}"), parent);
    t.match(await ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "grouped"), /^[1-9].* \/ 32MiB$/);
    t.match(await ok("top", "grouped"), /sleep 600/);
    await ok("rm", "-f", "grouped");
  }
  await ok("run", "-d", "--name", "first", "-v", "named:/data", image, "sleep", "600");
  const own = await ok("exec", "first", "readlink", "/proc/self/ns/net");
  t.equal(await run(["--network", "container:first"], "readlink /proc/self/ns/net"), own);
  t.equal(await run(["--pid", "container:first"], "cat /proc/1/comm"), "sleep");
  t.match(await docker("run", "--rm", "--ipc", "container:first", image, "true"), {
    code: 125,
    err: /can't join IPC of container [0-9a-f]{64}: non-shareable IPC/,
  });
  await ok("run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "1m", image, "sleep", "600");
  await run(["--ipc", "container:donor"], "echo shared > /dev/shm/x");
  t.equal(
    await ok(
      "exec",
      "donor",
      "sh",
      "-c",
      "cat /dev/shm/x; df -k /dev/shm | tail -1 | cut -c1-80 | tr -s ' ' | cut -d' ' -f2",
    ),
    "shared\n1024",
  );
  await ok("restart", "-t", "0", "donor");
  t.match(
    await docker("exec", "donor", "cat", "/dev/shm/x"),
    { code: 1 },
    "each run begins with an empty one",
  );
  await ok("rm", "-f", "donor");
  await run(["--volumes-from", "first"], "echo kept > /data/file");
  t.equal(await run(["-v", "named:/d:ro"], "cat /d/file; touch /d/x || echo refused"), "kept\nrefused");
  t.equal(await run(["-v", `${host.host.directory}/made:/m`], "echo new > /m/file; cat /m/file"), "new");
  await ok("rm", "-f", "first");
});

await t.test("what cannot be is refused in Docker's words", async (t) => {
  const cases = [
    [["-m", "1m"], "Minimum memory limit allowed is 6MB"],
    [["--cpus", "1000"], "range of CPUs is from 0.01 to"],
    [["--cap-add", "NOPE"], 'invalid CapAdd: unknown capability: "CAP_NOPE"'],
    [["--security-opt", "nope=x"], 'invalid --security-opt 2: "nope=x"'],
    [["--network", "container:nope"], "No such container: nope"],
    [
      ["--device", "/dev/nope"],
      'error gathering device information while adding custom device "/dev/nope": no such file or directory',
    ],
    [
      ["--mount", "type=bind,src=/nope,dst=/x"],
      'invalid mount config for type "bind": bind source path does not exist: /nope',
    ],
    [["-v", "vol1:/x", "-v", "vol2:/x"], "Duplicate mount point: /x"],
    [["-w", "nope"], "the working directory 'nope' is invalid, it needs to be an absolute path"],
    [["--name", "?"], "Invalid container name (?), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"],
    [["--log-driver", "nope"], "logger: no log driver named 'nope' is registered"],
    [["--gpus", "all"], 'could not select device driver "" with capabilities: [[gpu]]'],
    [
      ["--storage-opt", "size=1g"],
      "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
    ],
    [["--runtime", "kata"], "unknown or invalid runtime name: kata"],
    [["--volume-driver", "nope", "-v", "x:/x"], 'plugin "nope" not found'],
    [["--cgroup-parent", "/x/../y"], "invalid cgroup parent: /x/../y"],
    [["--device-read-bps", "/dev/null:1mb"], '"/dev/null": not a block device'],
    [["--blkio-weight-device", "/dev/nope:100"], '"/dev/nope": no such file or directory'],
    [["--stop-signal", "SIGNOPE"], "SIGNOPE"],
    [["--mount", "type=image,src=x,dst=/x"], "image"],
    [
      ["--security-opt", "apparmor=nope"],
      "AppArmor is not supported on this host, but the profile 'nope' was specified",
    ],
    [["--oom-score-adj", "2000"], "Invalid value 2000, range for oom score adj is [-1000, 1000]"],
  ] as const;
  for (const [options, text] of cases) {
    const { code, err } = await docker("create", ...options, image, "true");
    t.ok(code === 1 && err.includes(text), `${options.join(" ")}: ${err}`);
  }
  t.equal(await ok("ps", "-aq"), "", "nothing is left of them");
});

await t.test("stats, top, pause, update, prune, events", async (t) => {
  await ok("run", "-d", "--name", "busy", "-m", "64m", image, "sleep", "600");
  t.match(
    await ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "busy"),
    /^busy .* \/ 64MiB 1$/,
  );
  t.match(await ok("top", "busy"), /sleep 600/);
  await ok("pause", "busy");
  t.match(await ok("ps", "--format", "{{.Status}}"), /\(Paused\)$/);
  t.match(await docker("pause", "busy"), { code: 1, err: /is already paused/ });
  await ok("unpause", "busy");
  await ok("update", "-m", "32m", "--memory-swap", "64m", "--restart", "unless-stopped", "busy");
  t.equal(
    await inspect("busy", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}"),
    `${32 * 2 ** 20} unless-stopped`,
  );
  t.match(await ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "busy"), /32MiB$/);
  await ok("stop", "-t", "0", "busy");
  t.match(await ok("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "busy"), /busy/);
  t.match(await ok("container", "prune", "-f"), /Deleted Containers:\n[0-9a-f]{64}/);
  const events = await ok(
    "events",
    "--since",
    "1h",
    "--until",
    "-1s",
    "--filter",
    "container=busy",
    "--format",
    "{{.Action}}",
  );
  t.strictSame(events.split("\n"), [
    "create",
    "start",
    "top",
    "pause",
    "unpause",
    "update",
    "kill",
    "die",
    "stop",
    "destroy",
  ]);
});

await t.test("what is paused is stopped and removed; a limit is lifted from what runs", async (t) => {
  await ok("run", "-d", "--name", "still", "--pids-limit", "20", image, "sleep", "600");
  const limit = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
  const limitNow = async (): Promise<string> => (await docker("exec", "still", "sh", "-c", limit)).out.trim();
  t.equal(await limitNow(), "20");
  await ok("update", "--pids-limit", "-1", "still");
  t.equal(Number(await limitNow()), 2 ** 22, "as many as Linux can have");
  await ok("pause", "still");
  await ok("stop", "-t", "1", "still");
  t.equal(await inspect("still", "{{.State.Status}} {{.State.Paused}}"), "exited false");
  await ok("start", "still");
  await ok("pause", "still");
  const id = await inspect("still", "{{.Id}}");
  const stopping = host.engine.stop(id, { graceMs: 100 }, AbortSignal.timeout(10_000));
  t.match(await stopping, { exitCode: 137 }, "as the agent stops it");
  await ok("start", "still");
  await ok("pause", "still");
  await ok("rm", "-f", "still");
  t.match(await docker("inspect", "still"), { code: 1 });
});

await t.test("logs: follow to the end, tail, since, timestamps", async (t) => {
  await ok("run", "-d", "--name", "says", image, "sh", "-c", "echo one; echo two >&2; sleep 0.3; echo three");
  const followed = await docker("logs", "-f", "says");
  t.strictSame([followed.out, followed.err], ["one\nthree\n", "two\n"]);
  t.equal(await ok("logs", "--tail", "1", "says"), "three");
  t.match(await ok("logs", "-t", "--tail", "1", "says"), /^\d{4}-\d\d-\d\dT[\d:.]{18}Z three$/);
  t.equal(await ok("logs", "--since", "2h", "--until", "1h", "says"), "");
  await ok("rm", "says");
  await ok("run", "-d", "--name", "mute", "--log-driver", "none", image, "echo", "x");
  t.match(await docker("logs", "mute"), {
    code: 1,
    err: /configured logging driver does not support reading/,
  });
  await ok("rm", "-f", "mute");
});

await t.test("nothing was lost on the way", async (t) => {
  t.strictSame(host.host.warnings, []);
  t.strictSame(host.warnings, []);
});
