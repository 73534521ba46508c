/** Volumes of a host through the unmodified docker client, and what containers see of them. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";

import type { Mount } from "../../model/service.ts";
import { newContainerId, systemRandom } from "../../runtime/random.ts";
import { loadSchema } from "../api/schema.ts";
import { buildImage, buildLayer, busyboxLayer, pushImage, text } from "../lab/image.ts";
import { runTool } from "../../worker/mounts/tool.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("volumes");
const none = new AbortController().signal;
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker, refused } = door;
const schema = loadSchema();
const image = `${host.registry}/test/bb:1`;

t.teardown(async () => {
  await door.close();
  await host.stop();
});

const content = buildLayer([
  { kind: "directory", path: "data", mode: 0o700 },
  text("data/seed", "from the image\n"),
]);
await pushImage(host.registry, "test/bb", "1", buildImage([await busyboxLayer(), content], {}));
await engine.pull(image, {}, none);

/** A container with one mount that ran a script to its end; it stays until it is removed. */
async function ran(
  script: string,
  mount: Omit<Mount & { type: "volume" }, "type" | "readOnly">,
): Promise<string> {
  const id = newContainerId(systemRandom);
  const spec = {
    ...plainSpec,
    command: ["sh", "-c", script],
    mounts: [{ type: "volume", readOnly: false, ...mount }],
  } as const;
  const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
  await engine.create({ id, name: id, image, spec, ...rest }, none);
  await engine.start(id, none);
  const { exitCode } = await engine.wait(id, none);
  t.equal(exitCode, 0, script);
  return id;
}

await t.test("create, ls with filters, inspect, rm", async (t) => {
  t.equal(await docker("volume", "create", "--label", "team=red", "v1"), "v1");
  t.equal(await docker("volume", "create", "v1"), "v1", "the same name again is no failure");
  t.equal(await docker("volume", "create", "v2"), "v2");
  t.match(await docker("volume", "create"), /^[0-9a-f]{64}$/);
  const list = async (...filters: string[]): Promise<string[]> =>
    (await docker("volume", "ls", "-q", ...filters.flatMap((filter) => ["--filter", filter])))
      .split("\n")
      .filter(Boolean);
  t.equal((await list()).length, 3);
  t.strictSame(await list("label=team=red"), ["v1"]);
  t.strictSame(await list("name=v"), ["v1", "v2"]);
  t.strictSame(await list("driver=other"), []);
  t.strictSame(await list("dangling=false"), []);
  t.equal(
    await docker("volume", "inspect", "--format", "{{.Labels.team}} {{.Driver}} {{.Scope}}", "v1"),
    "red local local",
  );
  const listed = await door.ask("GET", "/volumes");
  t.strictSame(schema?.problems("VolumeListResponse", listed.json()) ?? [], []);
  t.match(await refused("volume", "inspect", "none"), /get none: no such volume/);
  t.match(await refused("volume", "rm", "none"), /get none: no such volume/);
  t.equal(await docker("volume", "rm", "-f", "none"), "none");
  t.match(await refused("volume", "create", "../v"), /invalid characters for a local volume name/);
  t.match(await refused("volume", "create", "-d", "nosuch", "v3"), /plugin "nosuch" not found/);
  for (const path of ["..%2f..%2fetc", "%2e%2e", "a%00b"])
    t.equal((await door.ask("GET", `/volumes/${path}`)).status, 404, path);
  t.equal(await docker("volume", "rm", "v2"), "v2");
});

await t.test("prune takes anonymous ones, named ones only when asked", async (t) => {
  t.match(
    await docker("volume", "prune", "-f"),
    /^Deleted Volumes:\n[0-9a-f]{64}\n\nTotal reclaimed space: /,
  );
  t.match(await docker("volume", "prune", "-f"), /^Total reclaimed space: 0B/);
  t.notMatch(await docker("volume", "prune", "-af", "--filter", "label!=team"), /v1/);
  t.match(await docker("volume", "prune", "-af"), /^Deleted Volumes:\nv1\n/);
});

await t.test("a fresh volume has what the image has there; in use it stays", async (t) => {
  const first = await ran("grep 'from the image' /data/seed && echo mine > /data/own", {
    source: "v1",
    target: "/data",
  });
  t.match(await refused("volume", "rm", "v1"), `remove v1: volume is in use - [${first}]`);
  t.match(await docker("volume", "prune", "-af"), /reclaimed space: 0B/);
  const second = await ran("grep mine /else/own && grep image /else/seed", { source: "v1", target: "/else" });
  await engine.remove(first);
  t.match(await refused("volume", "rm", "v1"), second);
  await engine.remove(second);
  t.equal(await docker("volume", "rm", "v1"), "v1");
});

await t.test("options of the driver: tmpfs and bind; content below a bind is never removed", async (t) => {
  await docker(
    "volume",
    "create",
    "-o",
    "type=tmpfs",
    "-o",
    "device=tmpfs",
    "-o",
    "o=size=64k,uid=7",
    "memory",
  );
  await engine.remove(
    await ran("[ $(stat -c %u /data) = 7 ] && ! dd if=/dev/zero of=/data/x bs=1k count=100 2> /dev/null", {
      source: "memory",
      target: "/data",
      volume: { noCopy: true },
    }),
  );
  t.match(
    await docker("volume", "prune", "-af"),
    /reclaimed space: 0B/,
    "options say where it is: never pruned",
  );
  t.equal(await docker("volume", "rm", "memory"), "memory");
  const outside = join(host.directory, "out side");
  await mkdir(outside);
  await writeFile(join(outside, "kept"), "yes\n");
  await docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", `device=${outside}`, "bound");
  t.equal(await docker("volume", "inspect", "--format", "{{.Options.device}}", "bound"), outside);
  const mounts = (): Promise<string> => readFile("/proc/self/mountinfo", "utf8");
  const use = { type: "volume", readOnly: false, source: "bound", target: "/data" } as const;
  const users = [newContainerId(systemRandom), newContainerId(systemRandom)];
  const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
  for (const id of users) {
    const spec = { ...plainSpec, command: ["sleep", "600"], mounts: [use] };
    await engine.create({ id, name: id, image, spec, ...rest }, none);
  }
  t.notMatch(await mounts(), /_data/, "not before somebody runs with it");
  for (const id of users) await engine.start(id, none);
  for (const id of users) {
    t.match(await mounts(), /_data/);
    await engine.stop(id, { graceMs: 0 }, none);
  }
  for (const id of users) await engine.remove(id);
  t.notMatch(await mounts(), /_data/, "nor after the last has ended");
  await engine.remove(
    await ran("grep yes /data/kept && echo new > /data/new", { source: "bound", target: "/data" }),
  );
  t.equal(await readFile(join(outside, "new"), "utf8"), "new\n");
  t.equal(await docker("volume", "rm", "bound"), "bound");
  t.equal(await readFile(join(outside, "kept"), "utf8"), "yes\n");
  t.notMatch(await mounts(), /_data/);
});

await t.test("a bad option is refused, a mount that fails says what the kernel said", async (t) => {
  t.match(await refused("volume", "create", "-o", "size=1g", "bad"), /invalid option: "size"/);
  t.match(await refused("volume", "create", "-o", "type=tmpfs", "bad"), /missing required option: "device"/);
  await docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such/path", "bad");
  await t.rejects(ran("true", { source: "bad", target: "/data" }), {
    code: "failed-precondition",
    message: /failed to mount local volume: mount \/no\/such\/path:/,
  });
  t.equal(await docker("volume", "rm", "bad"), "bad");
});

await t.test("a part of a volume is found anew at each start, within the volume", async (t) => {
  await docker("volume", "create", "shared");
  const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
  const part = { source: "shared", target: "/part", volume: { subpath: "sub", noCopy: true } } as const;
  await engine.remove(
    await ran("mkdir /all/sub && echo mine > /all/sub/own", { source: "shared", target: "/all" }),
  );
  const id = newContainerId(systemRandom);
  const script = "ls -A /part; touch /part/written; exit 0";
  const spec = {
    ...plainSpec,
    command: ["sh", "-c", script],
    mounts: [{ type: "volume", readOnly: false, ...part }],
  } as const;
  await engine.create({ id, name: id, image, spec, ...rest }, none);
  const printed = async (): Promise<string> => {
    await engine.start(id, none);
    await engine.wait(id, none);
    return docker("logs", id);
  };
  t.match(await printed(), /^own$/m);
  const opened = await engine.files.open(id, "read", none);
  const seen = await opened.tree.walk("/part/own", { last: "kept" });
  t.equal(seen.last.stats.size, 5n, "seen without a start as well");
  await seen.close();
  await opened.close();
  const inVolume = join(host.settings.stateDir, "volumes", "shared", "_data");
  const outside = join(host.directory, "not for containers");
  await mkdir(outside);
  for (const link of [outside, "/", `../../../../..${outside}`]) {
    await engine.remove(
      await ran(`rm -rf /all/sub && ln -s '${link}' /all/sub`, { source: "shared", target: "/all" }),
    );
    await engine.start(id, none).then(
      () => engine.wait(id, none),
      (error: Error) => t.match(error.message, /cannot access path \/sub of the volume/),
    );
    t.strictSame(await readdir(outside), [], `nothing was written through ${link}`);
    t.equal(existsSync("/written"), false);
  }
  await engine.remove(await ran("rm /all/sub && mkdir /all/sub", { source: "shared", target: "/all" }));
  await engine.start(id, none);
  t.equal((await engine.wait(id, none)).exitCode, 0);
  t.strictSame(await readdir(join(host.settings.runDir, "containers", "subpaths")), [], "nothing is left");
  await engine.remove(id);
  t.strictSame(await readdir(join(inVolume, "sub")), ["written"]);
  await docker("volume", "rm", "shared");
});

await t.test(
  "an image of many layers gives an empty volume its content, as often as it is empty",
  async (t) => {
    const layers = [await busyboxLayer()];
    for (let index = 0; index < 59; index++)
      layers.push(buildLayer([text(`data/${String(index)}`, `${String(index)}\n`)]));
    await pushImage(host.registry, "test/many", "1", buildImage(layers, {}));
    const many = `${host.registry}/test/many:1`;
    const data = join(host.settings.stateDir, "volumes", "many", "_data");
    const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
    const mounts = [{ type: "volume", readOnly: false, source: "many", target: "/data" }] as const;
    for (const round of ["first", "second"]) {
      const id = newContainerId(systemRandom);
      await engine.pull(many, {}, none);
      await engine.create(
        { id, name: id, image: many, spec: { ...plainSpec, command: ["true"], mounts }, ...rest },
        none,
      );
      t.equal((await readdir(data)).length, 59, round);
      t.match(await refused("volume", "rm", "many"), /volume is in use/);
      await engine.remove(id);
      for (const name of await readdir(data)) await rm(join(data, name));
    }
    await docker("volume", "rm", "many");
  },
);

await t.test("an anonymous volume stays for another container that has it", async (t) => {
  const names = async (): Promise<string[]> => (await engine.volumes.list()).map(({ name }) => name);
  t.strictSame(await names(), []);
  const first = await ran("echo mine > /data/own", { source: "", target: "/data" });
  const [name = ""] = await names();
  const second = await ran("cat /data/own", { source: name, target: "/data" });
  await engine.remove(first);
  t.strictSame(await names(), [name]);
  await engine.start(second, none);
  t.equal((await engine.wait(second, none)).exitCode, 0);
  await engine.remove(second);
  t.strictSame(await names(), []);
});

await t.test(
  "binds: on our own files, read-only with the root, made again when they are missing",
  async (t) => {
    const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
    const hosts = join(host.directory, "own-hosts");
    const made = join(host.directory, "made");
    await writeFile(hosts, "192.0.2.7 mine\n");
    const script = "grep -q mine /etc/hosts && ! grep -q localhost /etc/hosts && ! echo x > /etc/hostname";
    const id = newContainerId(systemRandom);
    const spec = { ...plainSpec, command: ["sh", "-c", script], readOnly: true } as const;
    const mounts = [
      { type: "bind", target: "/etc/hosts", readOnly: false, source: hosts },
      { type: "bind", target: "/made", readOnly: false, source: made, bind: { createMountpoint: true } },
    ] as const;
    await engine.create({ id, name: id, image, spec: { ...spec, mounts }, ...rest }, none);
    for (const round of ["first", "second"]) {
      await engine.start(id, none);
      t.equal((await engine.wait(id, none)).exitCode, 0, round);
      await rm(made, { recursive: true });
    }
    await rm(hosts);
    await t.rejects(engine.start(id, none), { message: /bind source path does not exist: .*own-hosts/ });
    await engine.remove(id);
  },
);

await t.test(
  "a container that shows the engine's own directories sees what is unmounted there",
  async (t) => {
    const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
    const inside = join(host.directory, "inside");
    await mkdir(inside);
    await runTool("mount", ["-t", "tmpfs", "tmpfs", inside]);
    await runTool("mount", ["--make-rshared", "/"]);
    const id = newContainerId(systemRandom);
    const script = "while grep -q ' /host/inside ' /proc/self/mountinfo; do sleep 0.1; done";
    const mounts = [{ type: "bind", target: "/host", readOnly: false, source: host.directory }] as const;
    const spec = { ...plainSpec, command: ["sh", "-c", script], mounts } as const;
    await engine.create({ id, name: id, image, spec, ...rest }, none);
    await engine.start(id, none);
    await runTool("umount", [inside]);
    const { exitCode } = await engine.wait(id, AbortSignal.timeout(20_000));
    t.equal(exitCode, 0);
    await runTool("mount", ["--make-rslave", "/"]);
    await engine.remove(id);
  },
);
