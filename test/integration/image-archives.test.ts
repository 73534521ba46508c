/** `docker save`, `load` and `import` over a real containerd, and archives that mean harm. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";

import {
  buildImage,
  buildLayer,
  busyboxLayer,
  type Image,
  type Layer,
  pushImage,
  text,
} from "../lab/image.ts";
import { packTar, type TarEntry, plainHeader } from "../lab/tar.ts";
import { spoolArchive } from "../../worker/engine/spool.ts";
import { printTarEntry, printTarHeader, tarPadding } from "../../worker/engine/tar.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("archives");
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker, run } = door;
const base = await busyboxLayer();
const image = buildImage([base, buildLayer([text("saved", "yes\n")])], { Cmd: ["true"] });
const path = join(host.directory, "saved.tar");

t.teardown(async () => {
  await door.close();
  await host.stop();
});

await pushImage(host.registry, "test/bb", "1", image);

async function load(archive: Buffer): Promise<string> {
  const { out, err } = await run(["load"], archive);
  return out + err;
}

/** A layer of any bytes. */
function rawLayer(tar: Buffer): Layer {
  const data = gzipSync(tar);
  const digestOf = (bytes: Buffer): string => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const blob = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: digestOf(data), data };
  return { blob, diffId: digestOf(tar) };
}

/** As Docker wrote them before it knew OCI layouts: a link to a layer that was there already. */
function oldArchive(
  { config, layers }: Image,
  changes: { config?: Buffer; layer?: Buffer } = {},
): TarEntry[] {
  const entry = { Config: "abc.json", RepoTags: ["old:1"], Layers: ["a/layer.tar", "b/layer.tar"] };
  return [
    { kind: "file", path: "a/layer.tar", data: layers[0]?.data ?? Buffer.alloc(0) },
    { kind: "file", path: "c/layer.tar", data: changes.layer ?? layers[1]?.data ?? Buffer.alloc(0) },
    { kind: "link", path: "b/layer.tar", target: "../c/layer.tar" },
    { kind: "file", path: "abc.json", data: changes.config ?? config.data },
    text("manifest.json", JSON.stringify([entry])),
  ];
}

await t.test("what was saved is loaded under its names, on a host that had nothing of it", async (t) => {
  await docker("pull", "-q", `${host.registry}/test/bb:1`);
  await docker("tag", `${host.registry}/test/bb:1`, "mine:1");
  await docker("tag", `${host.registry}/test/bb:1`, "mine:2");
  await docker("save", "-o", path, "mine", `${host.registry}/test/bb:1`);
  const listed = execFileSync("tar", ["-tf", path], { encoding: "utf8" }).split("\n");
  t.equal(
    listed.filter((name) => name.startsWith("blobs/sha256/") && name !== "blobs/sha256/").length,
    4,
    "each part once",
  );
  await docker("rmi", "-f", image.config.digest);
  t.strictSame(await engine.images(), []);
  const printed = await docker("load", "-i", path);
  for (const name of ["mine:1", "mine:2", `${host.registry}/test/bb:1`])
    t.match(printed, `Loaded image: ${name}`);
  t.equal(await docker("image", "inspect", "--format", "{{.Id}}", "mine:2"), image.config.digest);
  t.equal((await docker("save", image.config.digest.slice(7, 19))).length > 0, true);
  t.match((await run(["save", "-o", path, "nosuch"])).err, /No such image: nosuch:latest/);
  await docker("rmi", "-f", image.config.digest);
});

await t.test("gzipped archives, Docker's old form, an image without a name", async (t) => {
  const saved = await readFile(path);
  t.match(await load(gzipSync(saved)), "Loaded image: mine:1");
  await docker("rmi", "-f", image.config.digest);
  t.match(await load(packTar(oldArchive(image))), "Loaded image: old:1");
  t.equal(await docker("image", "inspect", "--format", "{{.Id}}", "old:1"), image.config.digest);
  await docker("rmi", "old:1");
  const nameless = oldArchive(image).map((entry) =>
    entry.path === "manifest.json" && entry.kind === "file"
      ? { ...entry, data: Buffer.from(entry.data.toString().replace('["old:1"]', "null")) }
      : entry,
  );
  t.match(await load(packTar(nameless)), `Loaded image ID: ${image.config.digest}`);
  t.equal(await docker("images", "-q", "--no-trunc", "-f", "dangling=true"), image.config.digest);
  await docker("image", "prune", "-f");
  t.strictSame(await engine.images(), []);
});

await t.test("archives that mean harm are refused, and leave nothing behind", async (t) => {
  const raw = (name: string, type: string, link = "", data: Buffer = Buffer.alloc(0)): Buffer => {
    const header = printTarHeader(name, data.length, "file");
    header.write(type, 156, "latin1");
    header.write(link, 157, "latin1");
    header.write("        ", 148, "latin1");
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, "0")}\0 `,
      148,
      "latin1",
    );
    return Buffer.concat([header, data, tarPadding(data.length)]);
  };
  const end = Buffer.alloc(1024);
  const other = buildLayer([text("else", "x")]).blob.data;
  const huge = raw("manifest.json", "0", "", Buffer.alloc(5 * 2 ** 20, " "));
  const bomb = JSON.stringify([
    { Config: "abc.json", RepoTags: null, Layers: Array.from({ length: 600 }, () => "a") },
  ]);
  const pax = Buffer.from("20 path=../../evil\n\n");
  const endless = Buffer.from("3=\n".repeat(300_000));
  const cases: { name: string; archive: Buffer; want: RegExp | string }[] = [
    {
      name: "a path that leads out",
      archive: raw("../evil", "0", "", Buffer.from("x")),
      want: /"\.\.\/evil", which leads out of it/,
    },
    {
      name: "an absolute path",
      archive: raw("/etc/evil", "0", "", Buffer.from("x")),
      want: /which leads out of it/,
    },
    {
      name: "a pax path that leads out",
      archive: Buffer.concat([raw("pax", "x", "", pax), raw("a", "0")]),
      want: /which leads out of it/,
    },
    {
      name: "a pax header of lengths alone",
      archive: Buffer.concat([raw("pax", "x", "", endless), raw("a", "0")]),
      want: /invalid pax header/,
    },
    {
      name: "a link that leads out",
      archive: raw("a", "2", "../../etc/passwd"),
      want: /which leads out of it/,
    },
    { name: "an absolute link", archive: raw("a", "2", "/etc/passwd"), want: /which leads out of it/ },
    { name: "a hard link that leads out", archive: raw("a", "1", "../x"), want: /which leads out of it/ },
    {
      name: "a device node",
      archive: raw("dev", "3"),
      want: /of type "3": files, directories and links are accepted/,
    },
    { name: "a huge manifest", archive: huge, want: /manifest\.json in the archive has 5242880 bytes/ },
    {
      name: "a manifest of many layers",
      archive: Buffer.concat([
        raw("abc.json", "0", "", image.config.data),
        raw("manifest.json", "0", "", Buffer.from(bomb)),
      ]),
      want: /600 layers, at most 512/,
    },
    { name: "a header that is none", archive: Buffer.alloc(512, "x"), want: /invalid tar header/ },
    {
      name: "links in a circle",
      archive: packTar([
        { kind: "link", path: "manifest.json", target: "index.json" },
        { kind: "link", path: "index.json", target: "manifest.json" },
      ]),
      want: /neither manifest\.json nor index\.json/,
    },
    {
      name: "an end in the middle",
      archive: packTar(oldArchive(image)).subarray(0, 700),
      want: /ends in the middle|unexpected end/,
    },
    { name: "another compression", archive: Buffer.from("BZh91AY&SY"), want: /compressed with bzip2/ },
    {
      name: "damaged gzip",
      archive: gzipSync(packTar(oldArchive(image))).subarray(0, 5000),
      want: /archive is damaged/,
    },
    {
      name: "another layer than the configuration says",
      archive: packTar(oldArchive(image, { layer: other })),
      want: /holds sha256:[0-9a-f]+ where the image says/,
    },
    {
      name: "a configuration that is none",
      archive: packTar(oldArchive(image, { config: Buffer.from("[]") })),
      want: /image configuration is not a JSON object/,
    },
  ];
  for (const { name, archive, want } of cases) {
    t.match(await load(archive.length % 512 === 0 ? Buffer.concat([archive, end]) : archive), want, name);
  }
  t.strictSame(await engine.images(), []);
  t.strictSame(await readdir(join(host.settings.stateDir, "archives")), []);
});

await t.test(
  "attributes that a layer asks for: those of the host's overlay are dropped, impossible ones refused",
  async (t) => {
    const imageWith = (name: string, attributes: Iterable<readonly [string, string]>, type = "0"): Image => {
      const entry = printTarEntry({ ...plainHeader, type, name, attributes: new Map(attributes) });
      return buildImage([base, rawLayer(Buffer.concat([entry, Buffer.alloc(1024)]))], {});
    };
    const many = Array.from({ length: 300 }, (_, index) => [`user.a${index}`, "x".repeat(200)] as const);
    const damaged = printTarEntry({ ...plainHeader, name: "x", attributes: new Map([["user.a", "b"]]) });
    damaged.write("99", 512, "latin1"); // The length of the record.
    const refused: { name: string; image: Image; want: RegExp }[] = [
      {
        name: "a capability that is none",
        image: imageWith("x", [["security.capability", "x"]]),
        want: /invalid argument/,
      },
      {
        name: "a huge one",
        image: imageWith("x", [["user.big", "x".repeat(70_000)]]),
        want: /argument list too long|too large/,
      },
      { name: "many", image: imageWith("x", many), want: /no space left on device/ },
      { name: "one without a name", image: imageWith("x", [["user.", "x"]]), want: /invalid argument/ },
      {
        name: "a damaged record",
        image: buildImage([base, rawLayer(Buffer.concat([damaged, Buffer.alloc(1024)]))], {}),
        want: /invalid tar header/,
      },
    ];
    for (const { name, image: hostile, want } of refused) {
      t.match(await load(packTar(oldArchive(hostile))), want, `${name}, loaded`);
      await pushImage(host.registry, "test/hostile", "1", hostile);
      t.match((await run(["pull", "-q", `${host.registry}/test/hostile:1`])).err, want, `${name}, pulled`);
    }
    t.strictSame(await engine.images(), []);
    const layers = {
      "trusted.overlay.opaque": "y",
      "trusted.overlay.redirect": "/../../etc",
      "trusted.x": "y",
    };
    t.match(
      await load(packTar(oldArchive(imageWith("marked/", Object.entries(layers), "5")))),
      "Loaded image: old:1",
    );
    const found = execFileSync("find", [join(host.directory, "root"), "-path", "*/fs/marked"], {
      encoding: "utf8",
    });
    const [directory = "", ...others] = found.trim().split("\n");
    t.strictSame(others, []);
    t.equal(execFileSync("getfattr", ["-d", "-m", "-", directory], { encoding: "utf8" }), "", "none was set");
    await docker("rmi", "old:1");
  },
);

await t.test("import makes an image of one layer, with its changes", async (t) => {
  const root = packTar([{ kind: "directory", path: "bin" }, text("bin/hello", "#!\n", 0o755)]);
  const imported = async (archive: Buffer, ...args: string[]): Promise<string> => {
    const { out, err } = await run(["import", ...args], archive);
    return (out + err).trim();
  };
  const args = [
    "-c",
    'CMD ["hello"]',
    "-c",
    "ENV A=b C='d e'",
    "-c",
    "LABEL x=y",
    "-m",
    "by hand",
    "-",
    "made:1",
  ];
  const id = await imported(root, ...args);
  t.match(id, /^sha256:[0-9a-f]{64}$/);
  t.equal(
    await docker(
      "image",
      "inspect",
      "--format",
      "{{.Id}} {{.Config.Cmd}} {{.Config.Env}} {{.Config.Labels.x}} {{.Comment}} {{len .RootFS.Layers}}",
      "made:1",
    ),
    `${id} [hello] [A=b C=d e] y by hand 1`,
  );
  t.match(await imported(gzipSync(root), "-", "made:2"), /^sha256:/);
  t.equal(
    await docker("image", "inspect", "--format", "{{.RootFS.Layers}}", "made:2"),
    await docker("image", "inspect", "--format", "{{.RootFS.Layers}}", "made:1"),
  );
  t.match(await imported(root, "-c", "RUN rm", "-", "made:3"), /RUN is not a valid change command/);
  t.match((await door.ask("POST", "/images/create?fromSrc=http://x/y")).text, /only the request's body/);
  await docker("rmi", "made:1", "made:2");
  t.strictSame(await engine.images(), []);
});

await t.test("an archive of many small files does not take the last of the disk either", async (t) => {
  const small = join(host.directory, "small");
  await mkdir(small);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=560m", "small", small]);
  t.teardown(() => execFileSync("umount", [small]));
  const data = Buffer.alloc(1 << 20);
  const entries = Array.from({ length: 70 }, (_, at): TarEntry => ({ kind: "file", path: `f${at}`, data }));
  async function* body(): AsyncGenerator<Buffer> {
    yield packTar(entries);
  }
  await t.rejects(spoolArchive(small, body(), new AbortController().signal), { code: "resource-exhausted" });
  t.strictSame(await readdir(small), []);
});
