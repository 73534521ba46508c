/** Files of containers in and out, and what is made of them: cp, diff, export, commit, df, by the docker client and dockerode. */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Docker from "dockerode";
import t from "tap";

import { printTarEntry, type TarHeader } from "../../worker/engine/tar.ts";
import { readTar } from "../../worker/engine/tar-stream.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { plainHeader } from "../lab/tar.ts";
import { insideNamespaces } from "./containerd.ts";
import { LocalHost } from "./local-host.ts";

insideNamespaces(import.meta.url);

const host = await LocalHost.start("files");
t.teardown(() => host.stop());
const image = `${host.host.registry}/test/bb:1`;
const layer = await busyboxLayer();
await pushImage(host.host.registry, "test/bb", "1", buildImage([layer], { Cmd: ["sh"], Env: ["A=1"] }));
await host.engine.pull(image, {}, new AbortController().signal);
const directory = join(host.host.directory, "client");
mkdirSync(directory);
const sdk = new Docker({ socketPath: host.settings.socket });

async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await host.docker(...args);
  if (code !== 0) throw new Error(`docker ${args.join(" ")}: ${code}: ${err}`);
  return out.trim();
}

const here = (path: string): string => join(directory, path);
const read = (path: string): string => readFileSync(here(path), "utf8");
const stops = ["--stop-timeout", "0"];

await t.test("cp in and out, of one that runs and of one that does not", async (t) => {
  mkdirSync(here("tree/sub"), { recursive: true });
  writeFileSync(here("tree/one"), "one");
  writeFileSync(here("tree/sub/two"), "two");
  symlinkSync("sub/two", here("tree/link"));
  await ok(
    "run",
    "-d",
    ...stops,
    "--name",
    "live",
    "-v",
    "data:/data",
    "--tmpfs",
    "/scratch",
    image,
    "sleep",
    "600",
  );
  await ok(
    "create",
    ...stops,
    "--name",
    "still",
    "-v",
    "data:/data",
    "-v",
    `${directory}:/bound/here:ro`,
    image,
    "cat",
    "/in/one",
  );
  for (const name of ["live", "still"]) {
    await ok("cp", here("tree"), `${name}:/in`);
    await ok("cp", here("tree/one"), `${name}:/data/${name}`);
    await ok("cp", `${here("tree")}/.`, `${name}:/etc`);
    await ok("cp", `${name}:/in`, here(`${name}-out`));
    t.equal(read(`${name}-out/sub/two`), "two");
    t.equal(read(`${name}-out/link`), "two");
    await ok("cp", `${name}:/etc/sub/two`, here(`${name}-two`));
    t.equal(read(`${name}-two`), "two");
    await ok("cp", "-L", `${name}:/in/link`, here(`${name}-followed`));
    t.equal(read(`${name}-followed`), "two");
    t.match(await host.docker("cp", `${name}:/nope`, directory), {
      code: 1,
      err: /Could not find the file \/nope in container/,
    });
    t.match(await host.docker("cp", here("tree/one"), `${name}:/in/one/x`), { code: 1 });
  }
  t.equal(await ok("exec", "live", "sh", "-c", "cat /data/live /data/still /in/link"), "oneonetwo");
  await ok("cp", here("tree/one"), "live:/scratch/one");
  t.equal(await ok("exec", "live", "cat", "/scratch/one"), "one");
  await ok("cp", "still:/bound/here/tree/one", here("through-bind"));
  t.equal(read("through-bind"), "one");
  t.match(await host.docker("cp", here("tree/one"), "still:/bound/here/"), {
    code: 1,
    err: /mounted volume is marked read-only/,
  });
  const started = await host.docker("start", "-a", "still");
  t.strictSame(started, { code: 0, out: "one", err: "" }, "what was written is there when it starts");
  await ok("cp", "still:/in/sub", here("after-end"));
  t.equal(read("after-end/two"), "two");
  await ok("create", "--name", "locked", "--read-only", image);
  t.match(await host.docker("cp", here("tree/one"), "locked:/x"), {
    code: 1,
    err: /container rootfs is marked read-only/,
  });
  t.strictSame(readdirSync(join(host.settings.runDir, "views")), [], "no view is left mounted");
  await ok("rm", "-f", "live", "still", "locked");
});

await t.test("cp keeps owners, and -a gives what goes in to the container's user", async (t) => {
  await ok("run", "-d", ...stops, "--name", "owned", "-u", "65534:7", image, "sleep", "600");
  writeFileSync(here("mine"), "mine");
  const own = `${process.getuid?.() ?? 0} ${process.getgid?.() ?? 0}`;
  await ok("cp", here("mine"), "owned:/tmp/plain");
  await ok("cp", "-a", here("mine"), "owned:/tmp/given");
  t.equal(await ok("exec", "owned", "stat", "-c", "%u %g", "/tmp/plain"), own);
  t.equal(await ok("exec", "owned", "stat", "-c", "%u %g", "/tmp/given"), "65534 7");
  await ok("rm", "-f", "owned");
});

await t.test("what a program may do goes along: cp, commit, export and import, push and pull", async (t) => {
  const value = "0x0100000200200000000000000000000000000000"; // cap_net_raw+ep
  const { code, err } = await host.shell(
    "",
    `cd ${directory} && echo x > tool && chmod 755 tool && setfattr -n security.capability -v ${value} tool`,
  );
  t.equal(code, 0, err);
  let taken = 0;
  const capabilityIn = async (container: string): Promise<string> => {
    const out = here(`taken${++taken}`);
    await ok("cp", `${container}:/bin/tool`, out);
    const { out: said } = await host.shell(
      "",
      `getfattr -n security.capability -e hex --absolute-names ${out}`,
    );
    return /=(0x[0-9a-f]+)/.exec(said)?.[1] ?? said;
  };
  await ok("run", "-d", ...stops, "--name", "live", image, "sleep", "600");
  await ok("create", "--name", "still", image);
  for (const name of ["live", "still"]) {
    await ok("cp", here("tool"), `${name}:/bin/tool`);
    t.equal(await capabilityIn(name), value, name);
    await ok("cp", `${name}:/bin`, here(`${name}-bin`));
    const { out } = await host.shell(
      "",
      `getfattr -R -d -m security.capability -e hex ${here(`${name}-bin`)}`,
    );
    t.equal(out.split("# file").length, 2, "one of all that are there has any");
  }
  const remote = `${host.host.registry}/test/capable:1`;
  await ok("commit", "live", remote);
  await ok("push", "-q", remote);
  await ok("export", "-o", here("capable.tar"), "live");
  await ok("import", here("capable.tar"), "capable:flat");
  await ok("save", "-o", here("capable-saved.tar"), remote);
  await ok("create", "--name", "committed", remote);
  t.equal(await capabilityIn("committed"), value);
  await ok("rm", "-f", "live", "still", "committed");
  for (const way of [
    ["pull", "-q", remote],
    ["load", "-q", "-i", here("capable-saved.tar")],
  ]) {
    await ok("rmi", remote);
    await ok(...way);
    await ok("create", "--name", "again", remote);
    t.equal(await capabilityIn("again"), value, way[0] ?? "");
    await ok("rm", "again");
  }
  await ok("create", "--name", "flat", "capable:flat", "sh");
  t.equal(await capabilityIn("flat"), value);
  const entryWith = (...attributes: (readonly [string, string])[]): Buffer =>
    printTarEntry({ ...plainHeader, name: "x", mode: 0o755, attributes: new Map(attributes) });
  const damaged = entryWith(["user.a", "b"]);
  damaged.write("99", 512, "latin1"); // The length of the record.
  const many = Array.from({ length: 300 }, (_, index) => [`user.a${index}`, ""] as const);
  const hostile: [bytes: Buffer, why: RegExp][] = [
    [entryWith(["trusted.overlay.opaque", "y"]), /trusted.overlay.opaque.* is refused/],
    [entryWith(["security.selinux", "system_u"]), /security.selinux.* is refused/],
    [
      entryWith(["security.capability", "x"]),
      /cannot set attribute .*security.capability.*: Invalid argument/,
    ],
    [entryWith(["user.big", "x".repeat(70_000)]), /user.big.* has 70000 bytes, at most 65536/],
    [entryWith(...many), /300, at most 256 are accepted/],
    [damaged, /invalid pax header/],
  ];
  for (const [bytes, why] of hostile) {
    const archive = Buffer.concat([bytes, Buffer.alloc(1024)]);
    await t.rejects(sdk.getContainer("flat").putArchive(archive, { path: "/" }), {
      statusCode: 400,
      message: why,
    });
  }
  await ok("rm", "flat");
  await ok("rmi", remote, "capable:flat");
});

await t.test("a container cannot lead cp out of itself", async (t) => {
  const secret = here("secret");
  writeFileSync(secret, "secret");
  await ok("run", "-d", ...stops, "--name", "sly", image, "sleep", "600");
  await ok(
    "exec",
    "sly",
    "sh",
    "-c",
    `ln -s / /all; ln -s ../../../../../.. /up; ln -s ${directory} /door; ln -s /proc/1/root /magic`,
  );
  for (const path of [`/all${secret}`, `/up${secret}`, "/door/secret", `/magic${secret}`]) {
    t.match(await host.docker("cp", `sly:${path}`, here("stolen")), {
      code: 1,
      err: /Could not find the file/,
    });
  }
  t.match(await host.docker("cp", secret, "sly:/door/"), { code: 1 });
  const hostile: Partial<TarHeader>[] = [
    { name: "../../../../tmp/out", sizeBytes: 0 },
    { name: "x", type: "1", link: "../../../../../../etc/passwd" },
  ];
  for (const entry of hostile) {
    const bytes = Buffer.concat([printTarEntry({ ...plainHeader, ...entry }), Buffer.alloc(1024)]);
    await t.rejects(sdk.getContainer("sly").putArchive(bytes, { path: "/tmp" }), /HTTP code 400/);
  }
  await t.rejects(
    sdk.getContainer("sly").putArchive(Buffer.from("no archive at all ".repeat(99)), { path: "/" }),
    /HTTP code 400/,
  );
  const device = printTarEntry({ ...plainHeader, name: "disk", type: "4", major: 8, minor: 0, mode: 0o666 });
  await sdk.getContainer("sly").putArchive(Buffer.concat([device, Buffer.alloc(1024)]), { path: "/" });
  t.match(
    await host.docker("exec", "sly", "sh", "-c", "test -b /disk && cat /disk"),
    { err: /not permitted/ },
    "a device that was brought in is not one of the container's",
  );
  t.equal(readFileSync(secret, "utf8"), "secret");
  // Names that change under way: a directory becomes a link to the host and back while files are put into it.
  await ok(
    "exec",
    "-d",
    "sly",
    "sh",
    "-c",
    `mkdir /swap; while :; do mv /swap /aside; ln -s ${directory} /swap; rm /swap; mv /aside /swap; done`,
  );
  const many = Buffer.concat([
    ...Array.from({ length: 50 }, (_, index) =>
      printTarEntry({ ...plainHeader, name: `swap/planted${index}` }),
    ),
    Buffer.alloc(1024),
  ]);
  for (let round = 0; round < 10; round++)
    await sdk
      .getContainer("sly")
      .putArchive(many, { path: "/" })
      .catch(() => undefined);
  t.notOk(
    readdirSync(directory).some((name) => name.startsWith("planted")),
    "nothing was put on the host",
  );
  await ok("rm", "-f", "sly");
});

await t.test("diff, export, and import of what was exported", async (t) => {
  await ok(
    "run",
    "--name",
    "made",
    image,
    "sh",
    "-c",
    "mkdir -p /new/dir; echo x > /new/dir/file; rm /bin/vi; echo y >> /etc/passwd; rm -r /tmp; mkdir /tmp",
  );
  const diff = (await ok("diff", "made")).split("\n");
  for (const line of [
    "A /new",
    "A /new/dir",
    "A /new/dir/file",
    "C /etc",
    "A /etc/passwd",
    "C /bin",
    "D /bin/vi",
  ]) {
    t.ok(diff.includes(line) || diff.includes(line.replace(/^A/, "C")), `${line} in ${diff.join(", ")}`);
  }
  await ok("export", "-o", here("made.tar"), "made");
  const names: string[] = [];
  const bytes = async function* (): AsyncGenerator<Buffer> {
    yield readFileSync(here("made.tar"));
  };
  for await (const { header } of readTar(bytes())) names.push(header.name);
  t.ok(names.includes("new/dir/file") && !names.includes("bin/vi"), names.slice(0, 20).join(" "));
  await ok("import", here("made.tar"), "flat:1");
  t.equal(await ok("run", "--rm", "flat:1", "cat", "/new/dir/file"), "x");
  await ok("create", "--name", "clean", image);
  t.equal(await ok("diff", "clean"), "");
  const changes = await new Promise((resolve) =>
    sdk.getContainer("clean").changes((_error: unknown, data: unknown) => resolve(String(data).trim())),
  );
  t.equal(changes, "null", "as Docker says none");
  await ok("rm", "made", "clean");
  await ok("rmi", "flat:1");
});

await t.test("commit: the layer, the configuration, what is said of it", async (t) => {
  await ok("run", "-d", ...stops, "--name", "base", "-e", "B=2", "-w", "/work", image, "sleep", "600");
  await ok("exec", "base", "sh", "-c", "echo written > /file; rm /bin/vi");
  const id = await ok(
    "commit",
    "-a",
    "me",
    "-m",
    "why",
    "-c",
    "ENV C=3",
    "-c",
    'CMD ["cat", "/file"]',
    "-c",
    "LABEL k=v",
    "base",
    "mine:1",
  );
  t.match(id, /^sha256:[0-9a-f]{64}$/);
  t.equal(await ok("inspect", "-f", "{{.State.Paused}}", "base"), "false");
  const shown = await ok(
    "image",
    "inspect",
    "-f",
    "{{.Author}} {{.Comment}} {{json .Config.Cmd}} {{.Config.Labels.k}} {{.Config.WorkingDir}} {{len .RootFS.Layers}}",
    "mine:1",
  );
  t.equal(shown, 'me why ["cat","/file"] v /work 2');
  t.match(
    await ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "mine:1"),
    /^sleep 600\|why/,
  );
  t.equal(await ok("run", "--rm", "mine:1"), "written");
  t.equal(
    await ok("run", "--rm", "mine:1", "sh", "-c", "echo $A$B$C; ls /bin/vi 2>/dev/null").then(
      (text) => text,
      () => "123",
    ),
    "123",
  );
  await ok("push", "-q", `${host.host.registry}/test/mine:1`).catch(() => undefined);
  const again = await sdk.getContainer("base").commit({ repo: "mine", tag: "2", pause: false });
  t.match(again, { Id: /^sha256:/ });
  t.match(await host.docker("commit", "base", "Bad:1"), {
    code: 1,
    err: /invalid reference format|must be lowercase/,
  });
  t.match(await host.docker("commit", "-c", "RUN x", "base", "no:1"), {
    code: 1,
    err: /not a valid change command/,
  });
  await ok("rm", "-f", "base");
  await ok("rmi", "mine:1", "mine:2");
});

await t.test(
  "images mounted into containers: read-only, in parts, kept for as long as they are used",
  async (t) => {
    const make = "mkdir /data; echo seen > /data/file; ln -s file /data/link; ln -s /etc /data/out";
    await ok("run", "--name", "layered", image, "sh", "-c", make);
    await ok("commit", "layered", "mounted:1");
    await ok("rm", "layered");
    const mount = (source: string, target: string, subpath = ""): string[] => [
      "--mount",
      `type=image,source=${source},target=${target}${subpath && `,image-subpath=${subpath}`}`,
    ];
    // Whoever may mount cannot write to it either; of one layer or of several.
    const both = [...mount(image, "/one"), ...mount("mounted:1", "/two")];
    const write =
      "cat /two/data/file; for at in /one /two; do mount -o remount,rw $at; echo no > $at/new || echo kept; done";
    const tried = await host.docker(
      "run",
      "--rm",
      "--cap-add",
      "SYS_ADMIN",
      ...both,
      image,
      "sh",
      "-c",
      write,
    );
    t.match(tried, { code: 0, out: "seen\nkept\nkept\n", err: /Read-only file system/ });
    for (const [subpath, why] of [
      ["data/out", /invalid subpath data\/out: it leads out of the image/],
      ["nothing", /cannot access path \/nothing of the image: it does not exist/],
    ] as const)
      t.match(await host.docker("create", ...mount("mounted:1", "/x", subpath), image), {
        code: 1,
        err: why,
      });
    t.match(await host.docker("create", ...mount("nosuch", "/x"), image), {
      err: /No such image: nosuch:latest/,
    });

    const three = [
      ...mount("mounted:1", "/x"),
      ...mount("mounted:1", "/y", "data"),
      ...mount("mounted:1", "/z", "data/link"),
    ];
    const look = "cat /x/data/file /y/link /z; exec sleep 600";
    await ok("create", ...stops, "--name", "user", ...three, image, "sh", "-c", look);
    const [mounts = "", asked = ""] = (
      await ok("inspect", "-f", "{{json .Mounts}}\n{{json .HostConfig.Mounts}}", "user")
    ).split("\n");
    const [whole, below, file] = JSON.parse(mounts) as Record<string, string>[];
    const shown = {
      Type: "image",
      Name: "mounted:1",
      Destination: "/x",
      Mode: "",
      RW: false,
      Propagation: "",
    };
    t.strictSame({ ...whole, Source: "" }, { ...shown, Source: "" });
    t.strictSame([below?.["Destination"], file?.["Destination"]], ["/y", "/z"]);
    t.equal(readFileSync(join(whole?.["Source"] ?? "", "data/file"), "utf8"), "seen\n");
    t.strictSame((JSON.parse(asked) as object[]).slice(0, 2), [
      { Type: "image", Source: "mounted:1", Target: "/x" },
      { Type: "image", Source: "mounted:1", Target: "/y", ImageOptions: { Subpath: "data" } },
    ]);
    await ok("cp", "user:/x/data/file", here("of-image"));
    t.equal(read("of-image"), "seen\n");
    t.match(await host.docker("cp", here("of-image"), "user:/x/"), { code: 1, err: /marked read-only/ });
    const userId = (await ok("inspect", "-f", "{{.Id}}", "user")).slice(0, 12);
    t.match(await host.docker("rmi", "mounted:1"), {
      code: 1,
      err: new RegExp(`container ${userId} is using`),
    });
    await ok("start", "user");
    t.match(await host.docker("rmi", "-f", await ok("inspect", "-f", "{{.Id}}", "mounted:1")), {
      code: 1,
      err: /cannot be forced\) - image is being used by running container/,
    });
    await ok("image", "prune", "-af");
    t.equal(
      await ok("run", "--rm", "--volumes-from", "user", image, "cat", "/x/data/file", "/y/file"),
      "seen\nseen",
    );
    await ok("stop", "user");
    await ok("rmi", "-f", "mounted:1");
    // As a reboot does, and a worker that begins anew.
    await host.away(async () => {
      const all = [whole, below, file].map((each) => each?.["Source"]);
      t.equal((await host.shell("", `umount ${all.join(" ")}`)).code, 0);
    });
    await ok("start", "user");
    t.equal(
      await ok("logs", "user"),
      Array(6).fill("seen").join("\n"),
      "its files are there as long as it is",
    );
    await ok("rm", "-f", "user");
    t.strictSame(readdirSync(join(host.settings.runDir, "images")), ["empty"], "nothing of it is left");
    const { out: left } = await host.shell(
      "",
      `grep -c " ${host.settings.runDir}/images" /proc/self/mountinfo`,
    );
    t.equal(left, "0\n");
  },
);

await t.test("df and prune: sizes of images, containers and volumes", async (t) => {
  await ok(
    "run",
    "--name",
    "big",
    "-v",
    "used:/v",
    image,
    "sh",
    "-c",
    "head -c 3000000 /dev/zero > /file; head -c 2000000 /dev/zero > /v/file",
  );
  const df = (await ok("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}")).split(
    "\n",
  );
  t.match(df[0] ?? "", /^Images\|1\|1\|/);
  t.match(df[1] ?? "", /^Containers\|1\|0\|3(\.\d+)?MB/);
  t.match(df[2] ?? "", /^Local Volumes\|\d+\|1\|2(\.\d+)?MB/);
  t.match(df[3] ?? "", /^Build Cache\|0\|0\|0B/);
  t.match(await ok("system", "df", "-v"), /big/);
  t.match(await ok("ps", "-as", "--format", "{{.Size}}"), /^3(\.\d+)?MB \(virtual \d+/);
  t.equal(
    await ok("inspect", "-s", "-f", "{{.SizeRw}}", "big"),
    "3000000",
    "and nothing for what its volume is mounted on",
  );
  const told = async (type: string, format: string): Promise<string> =>
    ok("events", "--since", "1m", "--until", "-1s", "--filter", `type=${type}`, "--format", format);
  t.match(await told("volume", "{{.Action}} {{.Actor.ID}}"), /mount used\nunmount used/);
  t.match(await told("container", "{{.Action}} {{.Actor.Attributes.execDuration}}"), /die \d+/);
  t.match(await ok("container", "prune", "-f"), /Total reclaimed space: 3(\.\d+)?MB/);
});

await t.test("a prune is told with what it gave back", async (t) => {
  const told = await ok(
    "events",
    "--since",
    "1m",
    "--until",
    "-1s",
    "--filter",
    "event=prune",
    "--format",
    "{{.Type}} {{.Actor.Attributes.reclaimed}}",
  );
  t.match(told, /^container 30\d{5}$/);
});

await t.test("nothing went wrong on the way", async (t) => {
  t.strictSame(host.host.warnings, []);
});
