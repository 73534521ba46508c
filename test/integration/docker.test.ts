/**
 * A host as its users' clients see it: the golden comparison with Docker, and then an afternoon of work by the unmodified
 * docker client, dockerode, and docker-py.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { join } from "node:path";
import { PassThrough, type Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import Docker from "dockerode";
import t from "tap";
import { WebSocket } from "ws";

import { compare, judge, printDifference } from "../golden/compare.ts";
import { expected } from "../golden/expected.ts";
import { askHost, isQuick, loadRecord } from "../golden/record.ts";
import { tryRun } from "../lab/shell.ts";
import { packTar, type TarEntry } from "../lab/tar.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";
import { openTestDoor } from "./front-door.ts";
import { LocalHost } from "./local-host.ts";

insideNamespaces(import.meta.url);

const host = await LocalHost.start("docker");
t.teardown(() => host.stop());
const repository = `${host.host.registry}/afternoon/app`;
const home = join(host.host.directory, "afternoon");
await mkdir(home);

/** What the client printed, once it has succeeded. */
async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await host.docker(...args);
  if (code !== 0) throw new Error(`docker ${args.join(" ")}: ${code}: ${err}`);
  return out.trim();
}

/** Debian's own: the package python3-docker is for no other. */
const python = "/usr/bin/python3";
const script = fileURLToPath(new URL("../../../test/integration/docker-py-engine.py", import.meta.url));
const pyChecks = ["run", "life", "files", "images", "networks_and_volumes", "events_and_streams"];

async function noClient(): Promise<string | false> {
  if (!existsSync(python)) return `no ${python}`;
  const { code } = await tryRun([python, "-c", "import docker"]);
  return code === 0 ? false : "docker-py is not installed (Debian's python3-docker)";
}
const skipPy = await noClient();

await t.test("what Docker was asked is answered alike, but for what is listed", async (t) => {
  const record = await loadRecord();
  const ours = await askHost(host, { isAsked: isQuick });
  const asked = new Set(ours.map(({ call }) => call));
  const same = record.filter(({ call }) => asked.has(call));
  t.equal(
    same.length,
    asked.size,
    "the record is of the calls that are made; `npm run golden` makes a new one",
  );
  const { unexpected } = judge(compare(same, ours), expected);
  t.strictSame(unexpected.map(printDifference), []);
  const failed = (recorded: typeof record): string[] =>
    recorded.flatMap(({ call, answer }) => ("status" in answer && answer.status === 500 ? [call] : []));
  const dockers = new Set(failed(same));
  t.strictSame(
    failed(ours).filter((call) => !dockers.has(call)),
    [],
    "no failure of ours where Docker has none",
  );
});

await t.test("an afternoon with the docker client: build, run, look, change, ship", async (t) => {
  const context = join(home, "app");
  await mkdir(context);
  await writeFile(join(context, "say"), "version 1\n");
  await writeFile(
    join(context, "Dockerfile"),
    'FROM bb\nCOPY say /say\nRUN cat /say > /built\nCMD ["sh", "/serve"]\n',
  );
  await writeFile(join(context, "serve"), "echo up; while :; do cat /say /data/* | nc -l -p 80; done\n");
  await ok("build", "-t", `${repository}:1`, context).catch((error: unknown) => t.fail(String(error)));
  await ok("network", "create", "back");
  await ok("volume", "create", "data");
  await ok("run", "--rm", "-v", "data:/data", "bb", "sh", "-c", "echo kept > /data/file");
  await ok(
    "create",
    "--name",
    "app",
    "--network",
    "back",
    "-v",
    "data:/data",
    "-p",
    "18099:80",
    `${repository}:1`,
  );
  await ok("cp", join(context, "serve"), "app:/serve");
  await ok("start", "app");
  const following = host.docker("logs", "-f", "app");
  const ask = "until nc -w 1 app 80 < /dev/null; do :; done";
  t.equal(await ok("run", "--rm", "--network", "back", "bb", "sh", "-c", ask), "version 1\nkept");
  const { out: published } = await host.shell(
    "",
    "until busybox nc -w 1 127.0.0.1 18099 < /dev/null; do :; done",
  );
  t.equal(published, "version 1\nkept\n");
  await ok("exec", "app", "sh", "-c", "echo version 2 > /say");
  const typed = "echo $((6*7)); hostname; exit 5\n";
  const terminal = await host.shell(typed, "script -qec 'docker run --rm -it --hostname here bb' /dev/null");
  t.match(terminal, { code: 5, out: /42\r?\n[^]*here/ });
  await ok("commit", "-m", "by hand", "app", `${repository}:2`);
  await ok("push", "-q", `${repository}:2`);
  await ok("cp", "app:/say", join(home, "taken"));
  t.equal(await readFile(join(home, "taken"), "utf8"), "version 2\n");
  await ok("stop", "-t", "0", "app");
  t.match(await following, { code: 0, out: "up\n" }, "who follows is told the end");
  t.match(await ok("ps", "-a", "--filter", "name=app", "--format", "{{.Status}}"), /^Exited \(137\)/);
  await ok("rm", "app");
});

await t.test("what one host pushed another pulls, to the same image", async (t) => {
  const other = await startTestHost("docker-other", { registry: "another's" });
  const engine = await other.openEngine();
  const door = await openTestDoor(other, engine);
  try {
    t.match(await door.docker("pull", `${repository}:2`), /Status: Downloaded newer image/);
    t.equal(
      await door.docker("image", "inspect", "-f", "{{.Id}} {{.Comment}}", `${repository}:2`),
      await ok("image", "inspect", "-f", "{{.Id}} {{.Comment}}", `${repository}:2`),
    );
    t.match(await door.docker("pull", `${repository}:2`), /Image is up to date/);
  } finally {
    await door.close();
    await other.stop();
  }
});

await t.test("networks and volumes together: three containers that know each other by name", async (t) => {
  await ok(
    "run",
    "-d",
    "--name",
    "db",
    "--network",
    "back",
    "--network-alias",
    "store",
    "-v",
    "data:/data",
    "bb",
    "sh",
    "-c",
    "while :; do cat /data/file | nc -l -p 5432; done",
  );
  await ok("network", "create", "front");
  await ok(
    "create",
    "--name",
    "web",
    "--network",
    "back",
    "bb",
    "sh",
    "-c",
    "while :; do nc -w 1 store 5432 < /dev/null | nc -l -p 80; done",
  );
  await ok("network", "connect", "--alias", "www", "front", "web");
  await ok("start", "web");
  const seen = await ok(
    "run",
    "--rm",
    "--network",
    "front",
    "bb",
    "sh",
    "-c",
    "until nc -w 1 www 80 < /dev/null | grep kept; do :; done; nc -w 1 store 5432 < /dev/null || echo apart",
  );
  t.equal(seen, "kept\napart");
  t.match(await host.docker("network", "rm", "back"), { code: 1, err: /has active endpoints/ });
  t.match(await host.docker("volume", "rm", "data"), { code: 1, err: /volume is in use/ });
  await ok("rm", "-f", "web", "db");
  await ok("network", "rm", "front", "back");
  await ok("volume", "rm", "data");
  t.match(await ok("system", "prune", "-f"), /Total reclaimed space/);
});

await t.test("a build on a network of this host; stderr that looks like an error is told", async (t) => {
  await ok("network", "create", "builders");
  await ok(
    "run",
    "-d",
    "--name",
    "mirror",
    "--network",
    "builders",
    "bb",
    "sh",
    "-c",
    "while :; do echo packages | nc -l -p 80; done",
  );
  const context = join(home, "net");
  await mkdir(context);
  const fetch = "until nc -w 1 mirror 80 < /dev/null; do :; done; echo 'Error: not at all' >&2";
  await writeFile(join(context, "Dockerfile"), `FROM bb\nRUN ${fetch}\n`);
  const built = await host.docker("build", "--network", "builders", context);
  t.equal(built.code, 0, built.err);
  t.match(built.out, /packages\n/);
  t.match(built.out, /Error: not at all\n/);
  t.match(await host.docker("build", "--network", "nosuch", context), {
    code: 1,
    err: /network nosuch not found/,
  });
  await ok("rm", "-f", "mirror");
  await ok("network", "rm", "builders");
});

await t.test("a WebSocket is attached to a container: output, input, end", async (t) => {
  const url = (path: string): string => `ws+unix://${host.settings.socket}:/v1.50${path}`;
  const refused = new WebSocket(url("/containers/nosuch/attach/ws?stream=1"));
  refused.on("error", () => undefined);
  const [, answer] = (await once(refused, "unexpected-response")) as [unknown, { statusCode: number }];
  t.equal(answer.statusCode, 404);
  await ok("create", "-i", "--name", "ws", "bb", "sh", "-c", "echo up; echo err >&2; cat; echo over");
  const socket = new WebSocket(url("/containers/ws/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"));
  let said = "";
  let isBinary = true;
  const closed = once(socket, "close");
  socket.on("message", (data: Buffer, binary: boolean) => {
    said += data.toString();
    isBinary &&= binary;
    if (said.includes("typed")) socket.close();
  });
  await once(socket, "open");
  await ok("start", "ws");
  socket.send("typed\n");
  await closed;
  t.match(said, /up\n/);
  t.match(said, /err\n/);
  t.ok(isBinary, "binary messages, whatever the bytes are");
  t.equal(await ok("wait", "ws"), "0", "the input of the one who held it alone ends with the socket");
  t.match(await ok("logs", "ws"), /over/);
  const late = new WebSocket(url("/containers/ws/attach/ws?logs=1&stdout=1"));
  let kept = "";
  late.on("message", (data: Buffer) => (kept += data.toString()));
  await once(late, "close");
  t.equal(kept, "up\ntyped\nover\n");
  await ok("rm", "ws");
});

const text = (path: string, content: string): TarEntry => ({
  kind: "file",
  path,
  data: Buffer.from(content),
});

async function textOf(stream: Readable): Promise<string> {
  let said = "";
  for await (const piece of stream) said += String(piece);
  return said;
}

await t.test("the same kind of work by dockerode", async (t) => {
  const sdk = new Docker({ socketPath: host.settings.socket });
  const done = (stream: NodeJS.ReadableStream): Promise<object[]> =>
    new Promise((resolve, reject) => {
      sdk.modem.followProgress(stream, (error, lines) => (error === null ? resolve(lines) : reject(error)));
    });
  const archive = packTar([
    text("Dockerfile", 'FROM bb\nCOPY say /say\nCMD ["cat", "/say"]\n'),
    text("say", "hello\n"),
  ]);
  const lines = await done(
    await sdk.buildImage(archive as unknown as NodeJS.ReadableStream, { t: `${repository}:rode` }),
  );
  t.match(lines.at(-1), { stream: `Successfully tagged ${repository}:rode\n` });
  const wrong = packTar([text("Dockerfile", "FROM bb\nRUN exit 5\n")]);
  const failed = await done(await sdk.buildImage(wrong as unknown as NodeJS.ReadableStream, {}));
  t.match(failed.at(-1), { errorDetail: { code: 5 }, error: /returned a non-zero code: 5/ });
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const [result] = (await sdk.run("bb", ["sh", "-c", "echo out; echo err >&2; exit 3"], [stdout, stderr], {
    Tty: false,
  })) as [{ StatusCode: number }];
  t.equal(result.StatusCode, 3);
  stdout.end();
  stderr.end();
  t.strictSame([await textOf(stdout), await textOf(stderr)], ["out\n", "err\n"]);

  await sdk.createVolume({ Name: "rode", Labels: { by: "rode" } });
  t.match(await sdk.getVolume("rode").inspect(), { Name: "rode", Labels: { by: "rode" } });
  const network = await sdk.createNetwork({ Name: "rode" });
  const container = await sdk.createContainer({
    name: "rode1",
    Image: `${repository}:rode`,
    Cmd: ["sh", "-c", "read line; echo got $line; exec sleep 600"],
    OpenStdin: true,
    HostConfig: { NetworkMode: "rode", Binds: ["rode:/data"] },
  });
  const stream = await container.attach({
    stream: true,
    stdin: true,
    stdout: true,
    stderr: true,
    hijack: true,
  });
  const output = new PassThrough();
  container.modem.demuxStream(stream, output, output);
  await container.start();
  stream.write("typed\n");
  t.equal(String(((await once(output, "data")) as [Buffer])[0]), "got typed\n");
  stream.end();
  const exec = await container.exec({
    Cmd: ["sh", "-c", "cat; exit 4"],
    AttachStdin: true,
    AttachStdout: true,
  });
  const inside = await exec.start({ hijack: true, stdin: true });
  const echoed = new PassThrough();
  exec.modem.demuxStream(inside, echoed, echoed);
  inside.end("through exec\n");
  await once(inside, "end");
  t.equal(String(echoed.read()), "through exec\n");
  t.equal((await exec.inspect()).ExitCode, 4);
  await container.putArchive(packTar([text("in", "put\n")]), { path: "/data" });
  t.match(await textOf((await container.getArchive({ path: "/data/in" })) as unknown as Readable), /put\n/);
  t.match(await container.stats({ stream: false }), { memory_stats: { usage: /\d+/ } });
  t.match(String(await container.logs({ stdout: true })), /got typed/);
  await container.stop({ t: 0 });
  t.equal(((await container.wait()) as { StatusCode: number }).StatusCode, 137);
  t.match(await container.commit({ repo: "rode-made", tag: "1" }), { Id: /^sha256:/ });
  await container.remove({ v: true });
  await network.remove();
  await sdk.getVolume("rode").remove();
  await done(await sdk.getImage(`${repository}:rode`).push({ authconfig: {} }));
  await sdk.getImage(`${repository}:rode`).remove();
  await done(await sdk.pull(`${repository}:rode`));
  t.match(await sdk.getImage(`${repository}:rode`).inspect(), { Config: { Cmd: ["cat", "/say"] } });
  await sdk.getImage("rode-made:1").remove();
  await t.rejects(sdk.getContainer("rode1").inspect(), /no such container|No such container/);
});

await t.test("and by docker-py", { skip: skipPy }, async (t) => {
  const argv = [python, script, host.settings.socket, "bb", repository];
  const { stdout, stderr } = await tryRun(argv, { timeoutMs: 120_000 });
  const results = stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { name: string; why: string | null });
  for (const { name, why } of results) t.equal(why ?? "", "", name);
  t.strictSame(
    results.map(({ name }) => name),
    pyChecks,
    `every check was made ${stderr}`,
  );
});

await t.test("nothing was lost on the way", async (t) => {
  t.strictSame(host.host.warnings, []);
  t.strictSame(host.warnings, []);
});
