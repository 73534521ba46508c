import { spawnSync } from "node:child_process";
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import t from "tap";

import { printTarEntry, type TarHeader, tarPadding } from "../../../worker/engine/tar.ts";
import { readTar } from "../../../worker/engine/tar-stream.ts";
import { differences } from "../../../worker/files/differences.ts";
import { pack } from "../../../worker/files/pack.ts";
import { bytesOf, textOf, Tree } from "../../../worker/files/tree.ts";
import { unpack, type UnpackOptions } from "../../../worker/files/unpack.ts";

const none = new AbortController().signal;
const plain: TarHeader = {
  name: "",
  type: "0",
  link: "",
  sizeBytes: 0,
  mode: 0o644,
  uid: process.getuid?.() ?? 0,
  gid: process.getgid?.() ?? 0,
  mtime: 1_000,
  major: 0,
  minor: 0,
};

/** A root with something beside it that nobody inside may reach. */
function fixture(): { root: string; outside: string } {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "shoal-files-")));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const [root, outside] = [join(directory, "root"), join(directory, "outside")];
  mkdirSync(root);
  mkdirSync(outside);
  writeFileSync(join(outside, "secret"), "secret");
  return { root, outside };
}

async function* archive(
  entries: readonly (Partial<TarHeader> & { content?: string })[],
): AsyncGenerator<Buffer> {
  for (const { content = "", ...header } of entries) {
    yield printTarEntry({ ...plain, sizeBytes: Buffer.byteLength(content), ...header });
    yield Buffer.from(content);
    yield tarPadding(Buffer.byteLength(content));
  }
  yield Buffer.alloc(1024);
}

async function put(
  root: string,
  path: string,
  entries: Parameters<typeof archive>[0],
  options: UnpackOptions = { kinds: "replaced" },
): Promise<void> {
  const tree = await Tree.open(root);
  try {
    const spot = await tree.walk(path, { last: "followed" });
    try {
      await unpack(tree, spot, readTar(archive(entries), "latin1"), options, none);
    } finally {
      await spot.close();
    }
  } finally {
    await tree.close();
  }
}

async function get(
  root: string,
  path: string,
  base: string,
): Promise<{ header: TarHeader; content: string }[]> {
  const tree = await Tree.open(root);
  const spot = await tree.walk(path, { last: "kept" });
  const entries: { header: TarHeader; content: string }[] = [];
  for await (const { header, content } of readTar(pack(tree, spot, base), "latin1")) {
    const pieces: Buffer[] = [];
    for await (const piece of content) pieces.push(piece);
    entries.push({ header, content: Buffer.concat(pieces).toString("utf8") });
  }
  await spot.close();
  await tree.close();
  return entries;
}

const openFiles = (): number => readdirSync("/proc/self/fd").length;

t.test("a path is walked within the root, whatever its links say", async (t) => {
  const { root, outside } = fixture();
  mkdirSync(join(root, "a/b"), { recursive: true });
  writeFileSync(join(root, "a/b/file"), "inside");
  symlinkSync("/a", join(root, "absolute"));
  symlinkSync("../../../../../../a", join(root, "a/b/up"));
  symlinkSync(outside, join(root, "escape"));
  symlinkSync("loop", join(root, "loop"));
  symlinkSync("/proc/self/root", join(root, "magic"));
  const cases = [
    ["/a/b/file", "/a/b/file"],
    ["a//b/./file", "/a/b/file"],
    ["/../../a/b", "/a/b"],
    ["/absolute/b/file", "/a/b/file"],
    ["/a/b/up/b/file", "/a/b/file"],
    ["/a/b/up/../a", "/a"],
    ["/escape", "missing"],
    ["/escape/secret", "missing"],
    ["/magic", "missing"],
    ["/loop", "too-many-links"],
    ["/a/b/file/", "no-directory"],
    ["/a/b/file/x", "no-directory"],
    ["/", "/"],
    ["/nothing", "missing"],
  ] as const;
  const before = openFiles();
  const tree = await Tree.open(root);
  for (const [path, want] of cases) {
    const found = await tree.walk(path, { last: "followed" }).then(
      async (spot) => {
        await spot.close();
        return spot.path;
      },
      (error: { refusal: string }) => error.refusal,
    );
    t.equal(found, want, path);
  }
  const kept = await tree.walk("/escape", { last: "kept" });
  t.equal(kept.last.kind, "link", "the link itself is there");
  await kept.close();
  await tree.close();
  t.equal(openFiles(), before, "all that was opened is closed");
});

t.test("a mount is seen at its place, and what is behind a link is resolved for it", async (t) => {
  const { root, outside } = fixture();
  mkdirSync(join(root, "run"));
  symlinkSync("run", join(root, "var"));
  const tree = await Tree.open(root);
  await tree.mount({ target: "/var/data", source: outside, readOnly: true });
  const spot = await tree.walk("/run/data/secret", { last: "followed" });
  t.equal(spot.path, "/run/data/secret");
  t.equal(tree.readOnlyAt(spot.names), "mount");
  await spot.close();
  const up = await tree.walk("/run/data/..", { last: "followed" });
  t.equal(up.path, "/run");
  t.strictSame(await tree.list(up.last, up.names), ["data"]);
  await up.close();
  await tree.close();
});

t.test("what goes out comes back: kinds, owners, modes, times, links, names of any bytes", async (t) => {
  const { root } = fixture();
  const strange = Buffer.concat([Buffer.from(join(root, "from/b")), Buffer.from([0xff, 0xfe])]);
  mkdirSync(join(root, "from/deep"), { recursive: true });
  writeFileSync(join(root, "from/deep/file"), "content");
  writeFileSync(strange, "bytes");
  writeFileSync(join(root, `from/${"long".repeat(40)}`), "long");
  writeFileSync(join(root, "from/zwölf"), "ö");
  linkSync(join(root, "from/deep/file"), join(root, "from/hard"));
  symlinkSync("/nowhere/at/all", join(root, "from/soft"));
  chmodSync(join(root, "from/deep/file"), 0o4751);
  utimesSync(join(root, "from/deep/file"), 5_000, 5_000);
  utimesSync(join(root, "from/deep"), 6_000, 6_000);
  const out = await get(root, "/from", "to");
  t.strictSame(
    out.map(({ header: { name, type, link } }) => [name.slice(0, 12), type, link]),
    [
      ["to/", "5", ""],
      ["to/b\xff\xfe", "0", ""],
      ["to/deep/", "5", ""],
      ["to/deep/file", "0", ""],
      ["to/hard", "1", "to/deep/file"],
      ["to/longlongl", "0", ""],
      ["to/soft", "2", "/nowhere/at/all"],
      [bytesOf("to/zwölf"), "0", ""],
    ],
  );
  await put(
    root,
    "/",
    out.map(({ header, content }) => ({ ...header, content })),
  );
  const [file, hard, deep] = ["to/deep/file", "to/hard", "to/deep"].map((path) =>
    lstatSync(join(root, path)),
  );
  t.strictSame([(file?.mode ?? 0) & 0o7777, file?.mtimeMs, deep?.mtimeMs], [0o4751, 5_000_000, 6_000_000]);
  t.equal(file?.ino, hard?.ino);
  t.equal(readlinkSync(join(root, "to/soft")), "/nowhere/at/all");
  t.equal(readFileSync(join(root, `to/${"long".repeat(40)}`), "utf8"), "long");
  t.ok(readdirSync(join(root, "to"), "latin1").includes("b\xff\xfe"));
  t.equal(readFileSync(join(root, "to/zwölf"), "utf8"), "ö");
});

const skipAttributes =
  spawnSync("getfattr", ["--version"]).error === undefined ? false : "no getfattr (Debian's attr)";
/** cap_net_raw+ep, as `setcap` writes it. */
const raw = Buffer.from("0100000200200000000000000000000000000000", "hex").toString("latin1");

t.test(
  "extended attributes go along: what programs may do, and a user's own",
  { skip: skipAttributes },
  async (t) => {
    const { root } = fixture();
    const own = new Map([
      ["user.plain", "text\n=0\0\xff"],
      [bytesOf("user.ö"), ""],
    ]);
    const long = new Map([["user.long", "x".repeat(3_000)]]);
    const isRoot = process.getuid?.() === 0; // Nobody else may give programs more than they have.
    const capable = new Map([...own, ...(isRoot ? [["security.capability", raw] as const] : [])]);
    mkdirSync(join(root, "plain"));
    await put(root, "/", [
      { name: "in/", type: "5", mode: 0o755, attributes: own },
      { name: bytesOf("in/a tool=\\ö"), mode: 0o755, content: "x", attributes: capable },
      { name: "in/\xff", mode: 0o755, content: "x", attributes: capable },
      { name: "in/one more", type: "1", link: bytesOf("in/a tool=\\ö"), attributes: capable },
      { name: "in/other", mode: 0o755, content: "x", attributes: long },
      { name: "plain/", type: "5", mode: 0o755, attributes: long },
    ]);
    const said = spawnSync("getfattr", ["-dR", "-e", "hex", "-m", "-", "."], {
      cwd: root,
      encoding: "latin1",
    }).stdout;
    const hex = (text: string): string => `0x${Buffer.from(text, "latin1").toString("hex")}`;
    t.equal(
      said.split(`user.plain=${hex("text\n=0\0\xff")}`).length,
      5,
      "directory, two files, one under two names",
    );
    t.equal(said.split("user.long=0x78").length, 3);
    if (!isRoot) return;
    t.equal(said.split(`security.capability=${hex(raw)}`).length, 4);
    const out = await get(root, "/in", "out");
    const given = out.map(({ header: { name, attributes } }) => [
      name,
      attributes?.get("security.capability"),
    ]);
    t.strictSame(given, [
      ["out/", undefined],
      [bytesOf("out/a tool=\\ö"), raw],
      ["out/one more", undefined],
      ["out/other", undefined],
      ["out/\xff", raw],
    ]);
    const tree = await Tree.open(root);
    await tree.mount({ target: "/plain/deep", source: join(root, "in"), readOnly: true });
    const spot = await tree.walk("/", { last: "kept" });
    const seen: string[] = [];
    for await (const { header } of readTar(pack(tree, spot, "all"), "latin1"))
      if (header.attributes?.has("security.capability") === true) seen.push(header.name);
    await spot.close();
    await tree.close();
    const all = ["in/a tool=\\ö", "plain/deep/a tool=\\ö"].map((path) => bytesOf(`all/${path}`));
    const wanted = [all[0], "all/in/\xff", all[1], "all/plain/deep/\xff"];
    t.strictSame(seen.length, 3, "a file that has two names, and one of them below a mount, is one entry");
    t.ok(
      seen.every((name) => wanted.includes(name)),
      seen.join(" "),
    );
    t.ok(
      out.every(({ header: { attributes } }) => attributes?.get("user.plain") === undefined),
      "as Docker has it",
    );
    t.equal(
      (await get(root, "/in/one more", "alone"))[0]?.header.attributes?.get("security.capability"),
      raw,
    );
  },
);

t.test("attributes that are not a container's to set are refused, and nothing is replaced", async (t) => {
  const { root } = fixture();
  writeFileSync(join(root, "file"), "before");
  const cases: readonly (readonly [Partial<TarHeader>, RegExp])[] = [
    ...[
      "trusted.overlay.redirect",
      "security.selinux",
      "security.capability2",
      "system.posix_acl_access",
      "user.",
      "",
      `user.${"n".repeat(251)}`,
      "user.\xff",
      "user.a\0b",
    ].map(
      (name) => [{ attributes: new Map([[name, "x"]]) }, /is refused: security.capability and user/] as const,
    ),
    [{ attributes: new Map([["user.large", "x".repeat(65_537)]]) }, /has 65537 bytes/],
    [
      { attributes: new Map(Array.from({ length: 257 }, (_, at) => [`user.${at}`, "x"])) },
      /257, at most 256/,
    ],
    [{ type: "2", link: "x", attributes: new Map([["user.a", "x"]]) }, /only files and directories/],
    [{ type: "6", attributes: new Map([["user.a", "x"]]) }, /only files and directories/],
  ];
  for (const [entry, message] of cases)
    await t.rejects(put(root, "/", [{ name: "file", ...entry }]), { code: "invalid-argument", message });
  t.equal(readFileSync(join(root, "file"), "utf8"), "before");
  if (skipAttributes !== false) return;
  const damaged = { name: "damaged", attributes: new Map([["security.capability", "no such thing"]]) };
  await t.rejects(put(root, "/", [damaged]), {
    code: "invalid-argument",
    message:
      /^cannot set attribute "security.capability" of "damaged": (Invalid argument|Operation not permitted)$/,
  });
});

t.test("hostile archives reach nothing outside", async (t) => {
  const { root, outside } = fixture();
  mkdirSync(join(root, "at"));
  symlinkSync(outside, join(root, "at/door"));
  const refused = [
    [{ name: "../up", content: "x" }],
    [{ name: "a/../../up", content: "x" }],
    [{ name: "hard", type: "1", link: "../../outside/secret" }],
    [{ name: "zero\0/../../up", link: "", type: "2" }],
    [{ name: "strange", type: "Z" }],
  ];
  for (const entries of refused.slice(0, 3).concat(refused.slice(4))) {
    await t.rejects(put(root, "/at", entries), JSON.stringify(entries));
  }
  // What is harmless once it is taken for what it is inside.
  await put(root, "/at", [
    { name: "/absolute", content: "a" },
    { name: "out", type: "2", link: "/../../outside" },
  ]);
  t.equal(readFileSync(join(root, "at/absolute"), "utf8"), "a");
  await t.rejects(put(root, "/at", [{ name: "hard", type: "1", link: "door/secret" }]));
  await put(root, "/at", [{ name: "door/planted", content: "planted" }]).catch(() => undefined);
  await put(root, "/at", [
    { name: "trap", type: "2", link: outside },
    { name: "trap/planted", content: "planted" },
  ]).catch(() => undefined);
  t.strictSame(readdirSync(outside), ["secret"]);
  t.equal(readFileSync(join(outside, "secret"), "utf8"), "secret");
  // Taking the place of a directory removes what is in it, and not what its links lead to.
  mkdirSync(join(root, "at/full/inner"), { recursive: true });
  symlinkSync(outside, join(root, "at/full/inner/link"));
  await put(root, "/at", [{ name: "full", content: "now a file" }]);
  t.equal(readFileSync(join(root, "at/full"), "utf8"), "now a file");
  t.strictSame(readdirSync(outside), ["secret"]);
});

t.test("directories and others keep apart when asked to", async (t) => {
  const { root } = fixture();
  mkdirSync(join(root, "dir"));
  writeFileSync(join(root, "file"), "");
  const kept = { kinds: "kept" } as const;
  await t.rejects(put(root, "/", [{ name: "dir", content: "x" }], kept), {
    message: 'cannot overwrite directory "dir" with non-directory "/"',
  });
  await t.rejects(put(root, "/", [{ name: "file/", type: "5" }], kept), {
    message: 'cannot overwrite non-directory "file" with directory "/"',
  });
  await put(root, "/", [{ name: "file", content: "new" }], kept);
  t.equal(readFileSync(join(root, "file"), "utf8"), "new");
});

t.test("an archive that ends early, lies about sizes or is none is refused", async (t) => {
  const { root } = fixture();
  const whole: Buffer[] = [];
  for await (const piece of archive([{ name: "file", content: "0123456789" }])) whole.push(piece);
  const bytes = Buffer.concat(whole);
  for (const end of [100, 513, 600]) {
    const tree = await Tree.open(root);
    const spot = await tree.walk("/", { last: "followed" });
    const cut = async function* (): AsyncGenerator<Buffer> {
      yield bytes.subarray(0, end);
    };
    await t.rejects(unpack(tree, spot, readTar(cut(), "latin1"), { kinds: "replaced" }, none), String(end));
    await tree.close();
  }
});

t.test("no bytes make the reader of archives do anything but refuse or read", async (t) => {
  const ran = await fc.check(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2_000 }), fc.boolean(), async (noise, isSummed) => {
      const block = Buffer.alloc(Math.max(512, noise.length));
      block.set(noise);
      if (isSummed) {
        block.write("        ", 148, "latin1");
        const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
        block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
      }
      try {
        const bytes = async function* (): AsyncGenerator<Buffer> {
          yield block;
        };
        for await (const { header } of readTar(bytes(), "latin1")) {
          if (!Number.isSafeInteger(header.sizeBytes) || header.sizeBytes < 0) return false;
        }
      } catch (error) {
        return (error as { code?: string }).code === "invalid-argument";
      }
      return true;
    }),
    { numRuns: Number(process.env["FUZZ_RUNS"] ?? 2_000) },
  );
  t.notOk(ran.failed, fc.defaultReportMessage(ran) ?? "");
});

t.test("differences: what was added, changed and removed, parents before it", async (t) => {
  const [image, all, own] = [fixture().root, fixture().root, fixture().root];
  for (const root of [image, all]) {
    mkdirSync(join(root, "etc/old"), { recursive: true });
    for (const path of ["etc/same", "etc/changed", "etc/touched"]) {
      writeFileSync(join(root, path), "1");
      utimesSync(join(root, path), 1, 1);
    }
    mkdirSync(join(root, "unlooked"));
  }
  writeFileSync(join(image, "etc/old/gone"), "");
  writeFileSync(join(image, "etc/removed"), "");
  writeFileSync(join(all, "etc/changed"), "22");
  mkdirSync(join(all, "new/deep"), { recursive: true });
  writeFileSync(join(all, "new/deep/file"), "");
  // The kernel copies what is opened for writing, changed or not.
  for (const path of ["etc/old", "new/deep"]) mkdirSync(join(own, path), { recursive: true });
  for (const path of ["etc/changed", "etc/touched", "new/deep/file"]) writeFileSync(join(own, path), "");
  const trees = { own: await Tree.open(own), all: await Tree.open(all), image: await Tree.open(image) };
  const found = await differences(trees);
  t.strictSame(
    found.map(({ path, kind }) => `${kind} ${textOf(bytesOf(path))}`),
    [
      "modified /etc",
      "modified /etc/changed",
      "modified /etc/old",
      "removed /etc/old/gone",
      "removed /etc/removed",
      "added /new",
      "added /new/deep",
      "added /new/deep/file",
    ],
  );
  for (const tree of Object.values(trees)) await tree.close();
});

t.test("nothing is put through a read-only mount below the target", async (t) => {
  const { root, outside } = fixture();
  mkdirSync(join(root, "data/inner"), { recursive: true });
  mkdirSync(join(root, "own"));
  const tree = await Tree.open(root);
  await tree.mount({ target: "/data/inner", source: outside, readOnly: true });
  const target = await tree.walk("/data", { last: "followed" });
  const into = (entries: Parameters<typeof archive>[0]): Promise<void> =>
    unpack(tree, target, readTar(archive(entries), "latin1"), { kinds: "replaced" }, none);
  symlinkSync("inner", join(root, "data/link"));
  const refused = { code: "permission-denied", message: "mounted volume is marked read-only" };
  await t.rejects(into([{ name: "inner/secret", content: "changed" }]), refused);
  await t.rejects(into([{ name: "link/new", content: "new" }]), refused, "through a link");
  await t.rejects(into([{ name: "inner/made/new", content: "new" }]), refused, "directories on the way");
  await t.rejects(into([{ name: "inner/", type: "5", mode: 0o777 }]), refused, "the mount itself");
  await t.rejects(into([{ name: "inner/made/", type: "5" }]), refused);
  t.strictSame(readdirSync(outside), ["secret"]);
  t.equal(readFileSync(join(outside, "secret"), "utf8"), "secret");
  await into([{ name: "beside", content: "beside" }]);
  t.equal(readFileSync(join(root, "data/beside"), "utf8"), "beside");
  await target.close();
  await tree.close();
});

t.test("a volume that may be written to, below a read-only root", async (t) => {
  const { root, outside } = fixture();
  mkdirSync(join(root, "data"));
  const tree = await Tree.open(root, { readOnly: true });
  await tree.mount({ target: "/data", source: outside, readOnly: false });
  const target = await tree.walk("/", { last: "followed" });
  const into = (entries: Parameters<typeof archive>[0]): Promise<void> =>
    unpack(tree, target, readTar(archive(entries), "latin1"), { kinds: "replaced" }, none);
  await into([
    { name: "data/", type: "5", mode: 0o755 },
    { name: "data/new", content: "new" },
  ]);
  t.equal(readFileSync(join(outside, "new"), "utf8"), "new");
  const refused = { code: "permission-denied", message: "container rootfs is marked read-only" };
  await t.rejects(into([{ name: "data/../other", content: "x" }]), refused);
  await target.close();
  await tree.close();
});
