/** Images built through the unmodified docker client, by a real buildah, on one host. */
import { existsSync, readdirSync, readFileSync, statfsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { once } from "node:events";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import t from "tap";

import { printTarHeader, tarPadding } from "../../worker/engine/tar.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { insideNamespaces } from "./containerd.ts";
import { LocalHost, type Said } from "./local-host.ts";

insideNamespaces(import.meta.url);

const local = await LocalHost.start("build");
const { registry } = local.host;
const base = `${registry}/test/bb:1`;
await pushImage(
  registry,
  "test/bb",
  "1",
  buildImage([await busyboxLayer()], { Cmd: ["sh"], Env: ["BASE=yes"] }),
);
t.teardown(() => local.stop());

const state = join(local.settings.stateDir, "build");
let contexts = 0;

/** A directory with these files. */
async function contextOf(files: Readonly<Record<string, string>>): Promise<string> {
  const directory = join(local.host.directory, `context-${contexts++}`);
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), text);
  }
  return directory;
}

async function build(files: Readonly<Record<string, string>>, ...args: string[]): Promise<Said> {
  const context = await contextOf(files);
  const own = args.map((arg, index) => (args[index - 1] === "-f" ? join(context, arg) : arg));
  return local.docker("build", ...own, context);
}

function workLeft(): string[] {
  return existsSync(join(state, "work"))
    ? readdirSync(join(state, "work")).filter((name) => name.length === 64)
    : [];
}

/** Sends a context as it is, which the client would not make. */
async function post(query: string, archive: Buffer): Promise<{ status: number; text: string }> {
  const request = httpRequest({
    socketPath: local.settings.socket,
    method: "POST",
    path: `/v1.50/build?${query}`,
  });
  Readable.from([archive]).pipe(request);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  let text = "";
  for await (const piece of response) text += String(piece);
  return { status: response.statusCode ?? 0, text };
}

function tar(...entries: { name: string; type?: string; link?: string; text?: string }[]): Buffer {
  const parts = entries.flatMap(({ name, type = "0", link = "", text = "" }) => {
    const header = printTarHeader(name, text.length, "file");
    header.write(type, 156, "latin1");
    header.write(link, 157, 100, "utf8");
    header.write("        ", 148, "latin1");
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    return [header, Buffer.from(text), tarPadding(text.length)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

await t.test("stages, arguments, labels and tags; what was built runs", async (t) => {
  const files = {
    Dockerfile: `ARG VERSION=none
ARG BASE=${registry}/test/bb
FROM \${BASE}:1 AS make
ARG VERSION
# a comment
RUN echo "made \\
    # in between
    $VERSION $BASE" > /made; \\
    hostname > /name
FROM ${base}
COPY --from=make /made /made
COPY hello.txt sub/ /data/
ENV GREETING="good morning" OTHER=1
WORKDIR /data
USER 1000:1000
HEALTHCHECK --interval=1s CMD true
CMD ["cat", "/made", "hello.txt"]
`,
    "hello.txt": "hello\n",
    "sub/inner": "inner\n",
    "secret.key": "not for the image\n",
    ".dockerignore": "*.key\n",
  };
  const args = [
    "--cache-from",
    "app:0,other",
    "--build-arg",
    "VERSION=7",
    "--label",
    "team=red",
    "-t",
    "shoal/built:1",
    "-t",
    "shoal/built:extra",
  ];
  const { code, out, err } = await build(files, ...args);
  t.equal(code, 0, err);
  t.match(out, /^\[Warning\] --cache-from is without effect \(app:0, other\)/m);
  t.match(out, /^Step 1\/14 : ARG VERSION=none\nStep 2\/14 : ARG BASE=/m);
  t.match(out, /^Step 3\/14 : FROM \$\{BASE\}:1 AS make\n ---> [0-9a-f]{12}\nStep 4\/14 : ARG VERSION\n/m);
  t.match(out, /^Step 7\/14 : COPY --from=make \/made \/made\n ---> [0-9a-f]{11,12}\n/m);
  t.match(
    out,
    /\nSuccessfully built [0-9a-f]{12}\nSuccessfully tagged shoal\/built:1\nSuccessfully tagged shoal\/built:extra\n$/,
  );
  t.match(
    (await local.docker("run", "--rm", "shoal/built:1")).out,
    /^made {5}7 yes\nhello\n$|^made .*7 .*\nhello\n$/,
  );
  const inspected = await local.docker(
    "image",
    "inspect",
    "--format",
    "{{json .Config}} {{json .RepoTags}}",
    "shoal/built:1",
  );
  const [config = "", tags = ""] = inspected.out.trim().split(/ (?=\["shoal)/);
  t.match(JSON.parse(config), {
    Env: [
      "BASE=yes",
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "GREETING=good morning",
      "OTHER=1",
    ],
    Labels: { team: "red" },
    WorkingDir: "/data",
    User: "1000:1000",
    Healthcheck: { Test: ["CMD-SHELL", "true"], Interval: 1e9 },
  });
  t.strictSame(Object.keys((JSON.parse(config) as { Labels: object }).Labels), ["team"], "and no label more");
  t.strictSame(JSON.parse(tags), ["shoal/built:1", "shoal/built:extra"]);
  t.match((await local.docker("run", "--rm", "shoal/built:1", "ls", "/data")).out, /^hello.txt\ninner\n$/);

  const again = await build(files, ...args);
  t.match(again.out, / ---> Using cache\n ---> [0-9a-f]{12}\n/, "the second time steps come from the cache");
  t.equal(again.out.match(/Successfully built \w+/)?.[0], out.match(/Successfully built \w+/)?.[0]);
  const fresh = await build(files, "--no-cache", "-q", ...args);
  t.match(fresh.out, /^sha256:[0-9a-f]{64}\n$/, "quietly: the id and nothing else");
  t.strictSame(workLeft(), []);
});

await t.test("a target, another Dockerfile, a base that was built here, FROM scratch", async (t) => {
  const files = {
    "docker/Special": `FROM shoal/built:1 AS one\nRUN echo one > /tmp/one\nFROM scratch AS two\nCOPY a /a\nFROM one\nRUN exit 1\n`,
    a: "a\n",
  };
  const one = await build(files, "-f", "docker/Special", "--target", "one", "-t", "one");
  t.equal(one.code, 0, one.err);
  t.match(one.out, /Step 2\/2 : RUN echo one/);
  const two = await build(files, "-f", "docker/Special", "--target", "TWO", "-t", "two");
  t.equal(two.code, 0, two.err);
  t.match(two.out, /Step 3\/4 : FROM scratch AS two\n --->\s*\n/);
  const none = await build(files, "-f", "docker/Special", "--target", "three");
  t.match(none.err, /failed to reach build target three in Dockerfile/);
});

await t.test("a command that fails ends the build with its code, in Docker's words", async (t) => {
  const failed = await build({ Dockerfile: `FROM ${base}\nRUN echo to stderr >&2; exit 7\n` });
  t.equal(failed.code, 7);
  t.match(failed.out, /Step 2\/2 : RUN/);
  t.match(failed.out + failed.err, /to stderr/);
  t.match(failed.err, "The command '/bin/sh -c echo to stderr >&2; exit 7' returned a non-zero code: 7");
  const json = await build({ Dockerfile: `FROM ${base}\nSHELL ["sh", "-ec"]\nRUN exit 9\n` });
  t.match(json.err, "The command 'sh -ec exit 9' returned a non-zero code: 9");
  t.strictSame(workLeft(), []);
});

await t.test("networks: the default one has an address of its own, none has none", async (t) => {
  const files = {
    Dockerfile: `FROM ${base}\nRUN ip -4 addr show | grep -o 'inet [0-9.]*' ; cat /etc/resolv.conf; grep CapEff /proc/self/status\n`,
  };
  const own = await build(files, "--no-cache");
  t.match(own.out, /inet 172\.30\.\d+\.\d+/);
  t.match(own.out, /CapEff:\s+00000000a80425fb/, "Docker's capabilities");
  const resolver = (await local.docker("run", "--rm", base, "grep", "nameserver", "/etc/resolv.conf")).out;
  t.ok(
    own.out.includes(resolver.split("\n")[0] ?? "?"),
    `${own.out}: the resolver of containers, ${resolver}`,
  );
  const none = await build(files, "--no-cache", "--network", "none");
  t.notMatch(none.out, /inet 172/);
  t.match((await build(files, "--network", "unknown")).err, /network unknown not found/);
  const limited = await build(
    {
      Dockerfile: `FROM ${base}\nRUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; ulimit -n; grep wanted /etc/hosts\n`,
    },
    "--memory=64m",
    "--ulimit=nofile=100:200",
    "--add-host=wanted:10.9.8.7",
  );
  t.match(limited.out, /^100$/m, limited.err);
  t.match(limited.out, /10\.9\.8\.7\s+wanted/);
});

await t.test("what a Dockerfile cannot have is refused before anything is done", async (t) => {
  const cases: [string, RegExp][] = [
    ["FORM x\n", /dockerfile parse error line 1: unknown instruction: FORM/],
    ["RUN x\n", /no build stage in current context/],
    [
      `FROM ${base}\nRUN --mount=type=bind,source=/,target=/host ls /host\n`,
      /the --mount option requires BuildKit/,
    ],
    [`FROM ${base}\nONBUILD RUN --mount=type=bind,target=/host ls\n`, /the --mount option requires BuildKit/],
    [`FROM ${base}\nCOPY --from=3 a b\n`, /invalid from flag value 3/],
    [`FROM ${base}\nRUN cat <<EOF\nx\nEOF\n`, /here-documents require BuildKit/],
    [`FROM ${registry}/test/none:1\n`, /manifest for .*none:1 not found|repository does not exist/],
  ];
  for (const [Dockerfile, wanted] of cases) t.match((await build({ Dockerfile })).err, wanted);
  const remote = await post("remote=https://example.invalid/x.git", Buffer.alloc(0));
  t.equal(remote.status, 400);
  t.match(remote.text, /no remote context is accepted/);
});

await t.test("a context cannot reach out of its directory", async (t) => {
  const Dockerfile = {
    name: "Dockerfile",
    text: `FROM ${base}\nCOPY . /all/\nRUN ls -la /all; cat /all/link || true\n`,
  };
  const victim = join(local.host.directory, "victim");
  await writeFile(victim, "untouched\n");
  for (const [entry, wanted] of [
    [{ name: "../outside", text: "x" }, /leads out of it/],
    [{ name: "/etc/outside", text: "x" }, /leads out of it/],
    [{ name: "device", type: "3" }, /of type/],
    [{ name: "pipe", type: "6" }, /of type/],
    [{ name: "hard", type: "1", link: "../../../victim" }, /leads out of it/],
    [{ name: "hard", type: "1", link: "absent" }, /which is no file before it/],
  ] as const) {
    const { status, text } = await post("", tar(Dockerfile, entry));
    t.equal(status, 400, entry.name);
    t.match(text, wanted);
  }
  const through = await post(
    "",
    tar(
      Dockerfile,
      { name: "up", type: "2", link: victim },
      { name: "up", text: "new" },
      { name: "dir", type: "2", link: dirname(victim) },
      { name: "dir/victim", text: "overwritten" },
    ),
  );
  t.equal(through.status, 400);
  t.match(through.text, /below .*dir.*, which is no directory/);
  const read = await post("", tar(Dockerfile, { name: "link", type: "2", link: victim }));
  t.notMatch(read.text, /untouched/, "nothing is read through an absolute link");
  const asFile = await post("", tar({ name: "Dockerfile", type: "2", link: victim }));
  t.match(asFile.text, /Cannot locate specified Dockerfile/);
  t.equal(readFileSync(victim, "utf8"), "untouched\n");
  t.strictSame(workLeft(), []);
});

await t.test("after a context that is refused the connection goes on: the rest of it is read", async (t) => {
  const rest = { name: "large", text: "x".repeat(8 * 2 ** 20) };
  const archive = tar({ name: "device", type: "3" }, rest);
  const socket = connect({ path: local.settings.socket });
  socket.write(`POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: ${archive.length}\r\n\r\n`);
  socket.write(archive);
  socket.write("GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  let said = "";
  for await (const piece of socket) said += String(piece);
  t.match(said, /^HTTP\/1\.1 400 [^]*HTTP\/1\.1 200 OK[^]*OK$/);
});

await t.test("a client that goes away ends its build, and nothing of it is left", async (t) => {
  const noted = (): string[] => (existsSync("/run/crun") ? readdirSync("/run/crun").toSorted() : []);
  const before = noted();
  const archive = tar({ name: "Dockerfile", text: `FROM ${base}\nRUN echo begun; sleep 1000\n` });
  const request = httpRequest({
    socketPath: local.settings.socket,
    method: "POST",
    path: "/build?nocache=1",
  });
  Readable.from([archive]).pipe(request);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  for await (const piece of response) if (String(piece).includes("begun\\n")) break;
  const [id = ""] = workLeft();
  t.match(id, /^[0-9a-f]{64}$/);
  response.destroy();
  request.destroy();
  while (workLeft().length > 0) await new Promise((resolve) => setImmediate(resolve));
  const cgroup = `${local.settings.cgroupParent}/build-${id.slice(0, 12)}`;
  const left = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && cgroupsOf(pid).includes(cgroup));
  t.strictSame(left, [], "no process of it runs");
  const hierarchies = ["", ...readdirSync("/sys/fs/cgroup")].map((name) =>
    join("/sys/fs/cgroup", name, cgroup),
  );
  const isCgroup = (path: string): boolean =>
    existsSync(path) && [0x27e0eb, 0x63677270].includes(statfsSync(path).type);
  t.strictSame(hierarchies.filter(isCgroup), [], "nor is its cgroup left");
  t.strictSame(noted(), before, "nor what its runtime noted");
  const after = await build({ Dockerfile: `FROM ${base}\nRUN true\n` });
  t.equal(after.code, 0, after.err);
});

await t.test("the cache can be pruned; images stay", async (t) => {
  t.match((await local.docker("system", "df")).out, /^Build Cache +1 +0 +[0-9.]+MB +[0-9.]+MB/m);
  const step = { Dockerfile: `FROM ${base}\nRUN echo kept\n` };
  await build(step);
  // The image that steps begin from was made long ago.
  t.equal((await local.docker("builder", "prune", "-f", "--filter", "until=24h")).code, 0);
  t.match((await build(step)).out, /Using cache/, "no step of today is gone");
  const pruned = await local.docker("builder", "prune", "-f", "--filter", "until=0s");
  t.match(pruned.out, /^Total reclaimed space: [0-9.]+ ?[kM]B/m, pruned.err);
  t.equal((await local.docker("run", "--rm", "shoal/built:1", "cat", "/made")).code, 0);
  t.match((await local.docker("builder", "prune", "-f")).out, /Total reclaimed space: 0 ?B/);
  const after = await build({ Dockerfile: `FROM shoal/built:1\nRUN true\n` });
  t.equal(after.code, 0, after.err);
  t.match((await local.docker("image", "history", "shoal/built:1")).out, /HEALTHCHECK/);
});

function cgroupsOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return ""; // It ended meanwhile.
  }
}
