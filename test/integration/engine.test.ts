import { readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";

import type { ContainerSpec } from "../../model/service.ts";
import { Limit } from "../../runtime/limit.ts";
import { newContainerId, systemRandom } from "../../runtime/random.ts";
import type { ContainerCreate, Engine } from "../../worker/engine/engine.ts";
import { shimSocket } from "../../worker/engine/shim-addresses.ts";
import { containersAShim } from "../../worker/engine/shims.ts";
import type { LogLine } from "../../worker/logs/reader.ts";
import { buildImage, buildLayer, busyboxLayer, pushImage, text } from "../lab/image.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("engine");
const none = new AbortController().signal;
const image = `${host.registry}/test/bb:1`;
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
let engine = await host.openEngine();

t.teardown(() => host.stop());

const base = await busyboxLayer();
const content = buildLayer([{ kind: "directory", path: "data" }, text("data/seed", "from the image\n")]);
await pushImage(
  host.registry,
  "test/bb",
  "1",
  buildImage([base, content], { Env: [path, "FROM=image"], Cmd: ["sleep", "600"] }),
);

function request(fields: Partial<ContainerSpec>, rest: Partial<ContainerCreate> = {}): ContainerCreate {
  const id = newContainerId(systemRandom);
  return {
    id,
    name: `test.${id.slice(0, 6)}`,
    image,
    spec: { ...plainSpec, ...fields },
    resources: {},
    labels: { test: "yes" },
    network: { kind: "none" },
    secrets: [],
    configs: [],
    ...rest,
  };
}

async function launch(fields: Partial<ContainerSpec>, rest: Partial<ContainerCreate> = {}): Promise<string> {
  const wanted = request(fields, rest);
  await engine.create(wanted, none);
  await engine.start(wanted.id, none);
  return wanted.id;
}

const shell = (script: string): Partial<ContainerSpec> => ({ command: ["sh", "-c", script] });

async function linesOf(from: Engine, id: string, follow = false, tail?: number): Promise<LogLine[]> {
  const lines: LogLine[] = [];
  const options = { stdout: true, stderr: true, follow, ...(tail !== undefined && { tail }) };
  for await (const line of from.logs(id).read(options, none)) lines.push(line);
  return lines;
}

async function textOf(id: string): Promise<string> {
  return (await linesOf(engine, id, true)).map(({ line }) => Buffer.from(line).toString()).join("\n");
}

/** Runs a script to its end and gives what it printed. */
async function output(
  script: string,
  fields: Partial<ContainerSpec> = {},
  rest: Partial<ContainerCreate> = {},
): Promise<string> {
  const id = await launch({ ...shell(script), ...fields }, rest);
  await engine.wait(id, none);
  const said = await textOf(id);
  await engine.remove(id);
  return said;
}

await t.test("an unknown image is refused with Docker's text", async (t) => {
  await t.rejects(engine.create(request({}), none), {
    code: "not-found",
    message: `No such image: ${image}`,
  });
  await t.rejects(engine.pull(`${host.registry}/test/missing:1`, {}, none), { code: "not-found" });
});

await t.test("pulls once for many, and again without layers", async (t) => {
  const progress: string[] = [];
  const onProgress = ({ kind }: { kind: string }): void => void progress.push(kind);
  const [first, second] = await Promise.all([
    engine.pull(image, { onProgress }, none),
    engine.pull(image, {}, none),
  ]);
  t.equal(first, second);
  t.match(first, { reference: image, config: { env: [path, "FROM=image"], cmd: ["sleep", "600"] } });
  t.ok(progress.includes("downloading") && progress.includes("complete") && progress.at(-1) === "done");
  progress.length = 0;
  await engine.pull(image, { onProgress }, none);
  t.strictSame(progress, ["resolved", "done"]);
  t.equal((await engine.image(`${host.registry}/test/bb@${first.digest}`))?.id, first.id);
  t.equal((await engine.image(first.id.slice(7, 19)))?.id, first.id);
  t.match(await engine.resolve(image, undefined, none), { descriptor: { digest: first.digest } });
});

await t.test("a command runs in the default sandbox", async (t) => {
  const said = await output(
    "id; hostname; env | sort; grep -E 'Seccomp:|CapBnd|CapEff|NoNewPrivs' /proc/self/status; ls /proc/acpi; mount -t tmpfs x /mnt || echo no mount; echo x > /proc/sysrq-trigger || echo no sysrq",
    { env: ["A=1", "FROM"] },
  );
  t.match(said, /uid=0\(root\) gid=0\(root\)/);
  t.match(said, /^A=1$/m);
  t.notMatch(said, /^FROM=/m);
  t.match(said, /CapBnd:\s*00000000a80425fb/);
  t.match(said, /Seccomp:\s*2/);
  t.match(said, /no mount/);
  t.match(said, /no sysrq/);
});

await t.test("exit codes, refusals and memory limits", async (t) => {
  const trap = await launch(shell("trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done"));
  const lines = engine.logs(trap).read({ stdout: true, stderr: true, follow: true }, none);
  await lines.next(); // The trap is set.
  await lines.return(undefined);
  t.match(await engine.stop(trap, { graceMs: 5_000 }, none), { exitCode: 42, oomKilled: false });
  const deaf = await launch({ command: ["sleep", "600"] });
  t.match(await engine.stop(deaf, { graceMs: 100 }, none), { exitCode: 137 });
  const hungry = await launch(shell("tail /dev/zero"), {
    resources: { limits: { memoryBytes: 8 * 2 ** 20 } },
  });
  t.match(await engine.wait(hungry, none), { exitCode: 137, oomKilled: true });
  const missing = request({ command: ["/no/such"] });
  await engine.create(missing, none);
  await t.rejects(engine.start(missing.id, none), {
    code: "failed-precondition",
    message: /executable file not found/,
  });
  t.match(await engine.inspect(missing.id), { status: { state: "stopped", exit: { exitCode: 127 } } });
  await Promise.all([trap, deaf, hungry, missing.id].map((id) => engine.remove(id)));
  t.strictSame(await engine.list(), []);
});

await t.test("users of the image, by name and by number", async (t) => {
  t.match(
    await output("id -u; id -g; grep CapEff /proc/self/status", { user: "nobody" }),
    /^65534\n65534\nCapEff:\s*0+$/,
  );
  t.match(await output("id -u; id -g", { user: "1000:7" }), /^1000\n7$/);
  await t.rejects(engine.create(request({ user: "ghost" }), none), { message: /unable to find user ghost/ });
});

await t.test("mounts, volumes filled from the image, secrets in memory", async (t) => {
  const mounts = [
    { type: "volume", source: "seeded", target: "/data", readOnly: false },
    { type: "tmpfs", target: "/scratch", readOnly: false, tmpfs: { sizeBytes: 1 << 20 } },
    { type: "bind", source: "/etc/hostname", target: "/from-host", readOnly: true },
  ] as const;
  const secrets = [{ target: { name: "key", uid: "0", gid: "0", mode: 0o400 }, data: Buffer.from("hush") }];
  const said = await output(
    "cat /data/seed; echo kept > /data/more; df -m /scratch | tail -1; test -f /from-host && echo bound; cat /run/secrets/key; echo; stat -c %a /run/secrets/key; echo x > /run/secrets/key || echo read-only; grep secrets /proc/mounts",
    { mounts },
    { secrets },
  );
  t.match(said, /from the image\n/);
  t.match(said, /bound\nhush\n400\n/);
  t.match(said, /read-only/);
  t.match(said, /\/run\/secrets\/key tmpfs ro/);
  t.equal(await output("cat /data/more", { mounts: [mounts[0]] }), "kept");
  const absent = { type: "bind", source: "/no/such/path", target: "/x", readOnly: false } as const;
  await t.rejects(engine.create(request({ mounts: [absent] }), none), {
    message: 'invalid mount config for type "bind": bind source path does not exist: /no/such/path',
  });
});

await t.test("commands inside a running container", async (t) => {
  const id = await launch({ env: ["MODE=test"] });
  const run = { timeoutMs: 10_000, outputLimitBytes: 4096 };
  t.strictSame(await engine.exec(id, { ...run, args: ["sh", "-c", "echo $MODE; exit 7"] }, none), {
    exitCode: 7,
    output: "test\n",
  });
  t.equal(
    (await engine.exec(id, { ...run, args: ["sh", "-c", "yes | head -c 100000"] }, none)).output.length,
    4096,
  );
  t.match(await engine.exec(id, { ...run, args: ["/no/such"] }, none), { exitCode: 127 });
  await t.rejects(engine.exec(id, { ...run, timeoutMs: 100, args: ["sleep", "60"] }, none), {
    code: "deadline-exceeded",
  });
  await engine.remove(id);
});

await t.test("log lines come back with stream and time, the last ones on request", async (t) => {
  const id = await launch(
    shell(
      "for i in 1 2 3; do echo out $i; done; echo err >&2; while [ ! -e /seen ]; do sleep 0.02; done; printf last",
    ),
  );
  const all: string[] = [];
  const everything = { stdout: true, stderr: true, follow: true };
  for await (const { stream, line } of engine.logs(id).read(everything, none)) {
    all.push(`${stream} ${Buffer.from(line).toString()}`);
    if (stream === "stderr")
      await engine.exec(id, { args: ["touch", "/seen"], timeoutMs: 10_000, outputLimitBytes: 0 }, none);
  }
  t.strictSame(all, ["stdout out 1", "stdout out 2", "stdout out 3", "stderr err", "stdout last"]);
  t.strictSame(
    (await linesOf(engine, id, false, 2)).map(({ line }) => Buffer.from(line).toString()),
    ["err", "last"],
  );
  await engine.remove(id);
});

await t.test("nothing is lost when the engine is away", async (t) => {
  const counter = await launch(
    shell("i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 5"),
  );
  const sleeper = await launch({});
  const hungry = await launch(shell("sleep 0.3; tail /dev/zero"), {
    resources: { limits: { memoryBytes: 8 * 2 ** 20 } },
  });
  await engine.close();
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  engine = await host.openEngine();
  t.match(await engine.wait(counter, none), { exitCode: 5 });
  const expected = Array.from({ length: 60 }, (_unused, index) => `line ${index + 1}`);
  t.strictSame((await textOf(counter)).split("\n"), expected);
  t.match(await engine.wait(hungry, none), { exitCode: 137, oomKilled: true });
  t.match(await engine.inspect(sleeper), { status: { state: "running" } });
  t.equal(
    (await engine.exec(sleeper, { args: ["true"], timeoutMs: 5_000, outputLimitBytes: 10 }, none)).exitCode,
    0,
  );
  await Promise.all([counter, sleeper, hungry].map((id) => engine.remove(id)));
});

await t.test("containerd may be killed: containers run on, exits meanwhile are found", async (t) => {
  const sleeper = await launch({});
  const short = await launch(shell("sleep 0.5; echo done; exit 3"));
  await host.killContainerd();
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await host.startContainerd();
  t.match(await engine.wait(short, AbortSignal.timeout(20_000)), { exitCode: 3 });
  t.equal(await textOf(short), "done");
  t.match(await engine.inspect(sleeper), { status: { state: "running" } });
  t.match(await engine.stop(sleeper, { graceMs: 100 }, none), { exitCode: 137 });
  const after = await launch(shell("echo again"));
  t.equal(await textOf(after), "again");
  await Promise.all([sleeper, short, after].map((id) => engine.remove(id)));
});

await t.test(
  "the filter of a profile is compiled once, and keeps the same calls from every container",
  async (t) => {
    const script = "grep Seccomp: /proc/self/status; unshare -U true 2>&1 && echo unshared || echo refused";
    for (const how of ["compiled", "given", "given again"]) {
      t.match(await output(script), /Seccomp:\s*2\n.*not permitted\nrefused/, how);
    }
    t.match(await output(script, { seccomp: { mode: "unconfined" } }), /Seccomp:\s*0\nunshared/);
  },
);

await t.test("a profile in Docker's form holds for the capabilities that the container has", async (t) => {
  const script = "unshare -U true 2>&1 && echo unshared || echo refused; mkdir /made && echo made";
  const profile = JSON.stringify({
    defaultAction: "SCMP_ACT_ALLOW",
    archMap: [{ architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86"] }],
    syscalls: [
      { names: ["unshare"], action: "SCMP_ACT_ERRNO", excludes: { caps: ["CAP_SYS_ADMIN"] } },
      { names: ["mkdir"], action: "SCMP_ACT_ERRNO", includes: { caps: ["CAP_SYS_ADMIN"] } },
    ],
  });
  const seccomp = { mode: "custom", profile } as const;
  t.match(await output(script, { seccomp }), /not permitted\nrefused\nmade/);
  t.match(
    await output(script, { seccomp, capabilityAdd: ["SYS_ADMIN"] }),
    /unshared\nmkdir: .*not permitted/,
  );
});

await t.test("a killed shim ends its containers with 137, and others start", async (t) => {
  const ids = await Promise.all(Array.from({ length: 2 * containersAShim }, () => launch({})));
  t.ok(host.shims().length < ids.length, "shims are shared");
  for (const shim of host.shims()) process.kill(shim, "SIGKILL");
  for (const id of ids) t.match(await engine.wait(id, AbortSignal.timeout(20_000)), { exitCode: 137 });
  t.equal(await output("echo on"), "on");
  await Promise.all(ids.map((id) => engine.remove(id)));
});

await t.test(
  "a shim that ends after it was seen, and before containerd calls it, is made again",
  async (t) => {
    const wanted = request(shell("echo made; sleep 600"));
    await engine.create(wanted, none);
    const record = await readFile(
      join(host.settings.stateDir, "containers", wanted.id, "container.json"),
      "utf8",
    );
    const { container } = JSON.parse(record) as { container: { shimGroup: string } };
    const socket = shimSocket(host.settings.containerd, container.shimGroup);
    await rm(socket, { force: true });
    const passing = createServer((connection) => {
      connection.destroy();
      passing.close(); // The file goes with it.
    });
    await new Promise<void>((resolve) => passing.listen(socket, resolve));
    await engine.start(wanted.id, none);
    t.notOk(passing.listening, "it was seen");
    t.match(await engine.inspect(wanted.id), { status: { state: "running" } });
    t.equal(host.shims().length, 1);
    await engine.remove(wanted.id);
  },
);

await t.test("containers that come and go side by side never meet a shim that is just ending", async (t) => {
  const limit = new Limit(6);
  const said = await Promise.all(
    Array.from({ length: 48 }, (_, index) => limit.run(() => output(`echo ${index}`), none)),
  );
  t.strictSame(
    said,
    Array.from({ length: 48 }, (_, index) => String(index)),
  );
});

await t.test("events tell the life of a container in order", async (t) => {
  const stop = new AbortController();
  const actions: string[] = [];
  const listening = (async () => {
    for await (const event of engine.events(stop.signal))
      if (event.kind === "container") actions.push(event.action);
  })();
  const id = await launch(shell("exit 1"));
  await engine.wait(id, none);
  await engine.remove(id);
  stop.abort();
  await listening;
  t.strictSame(actions, ["create", "start", "die", "destroy"]);
});

await t.test("nothing of removed containers is left", async (t) => {
  t.strictSame(host.shims(), []);
  t.strictSame(
    host.warnings.filter((warning) => !warning.startsWith("lost containerd")),
    [],
  );
  await engine.imageStore.remove(image, { force: false });
  t.strictSame(await engine.images(), []);
});
