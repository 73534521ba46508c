import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";

import { unpackContext } from "../../../worker/builder/context.ts";
import { printTarHeader, tarPadding } from "../../../worker/engine/tar.ts";

const signal = new AbortController().signal;
const root = await mkdtemp(join(tmpdir(), "shoal-context-"));
t.teardown(() => rm(root, { recursive: true }));
let count = 0;

interface Entry {
  readonly name: string;
  readonly type?: string;
  readonly link?: string;
  readonly text?: string;
  readonly mode?: string;
}

function tar(...entries: readonly Entry[]): Buffer {
  const parts = entries.flatMap(({ name, type = "0", link = "", text = "", mode = "0000644" }) => {
    const header = printTarHeader(name, text.length, "file");
    header.write(mode, 100, "latin1");
    header.write("00000001750", 136, "latin1");
    header.write(type, 156, "latin1");
    header.write(link, 157, 100, "utf8");
    header.write("        ", 148, "latin1");
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    return [header, Buffer.from(text), tarPadding(text.length)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

async function unpack(archive: Buffer, limitBytes = 1 << 20) {
  const outer = join(root, String(count++));
  const directory = join(outer, "context");
  await mkdir(directory, { recursive: true });
  const context = await unpackContext(directory, once(archive), limitBytes, signal);
  return { outer, directory, context };
}

t.test("files, directories and links as they were, modes and times too", async (t) => {
  const archive = tar(
    { name: "a", text: "first" },
    { name: "./a", text: "second", mode: "0000755" },
    { name: "deep/er/b", text: "b" },
    { name: "deep/", type: "5", mode: "0000700" },
    { name: "hard", type: "1", link: "deep/er/b" },
    { name: "deep/soft", type: "2", link: "../a" },
    { name: "away", type: "2", link: "/etc/passwd" },
  );
  for (const bytes of [archive, gzipSync(archive)]) {
    const { directory, context } = await unpack(bytes);
    t.equal(await readFile(join(directory, "a"), "utf8"), "second");
    t.equal((await stat(join(directory, "a"))).mode & 0o7777, 0o755);
    t.equal((await stat(join(directory, "a"))).mtimeMs, 1_000_000);
    t.equal((await stat(join(directory, "deep"))).mtimeMs, 1_000_000);
    t.equal((await stat(join(directory, "hard"))).ino, (await stat(join(directory, "deep/er/b"))).ino);
    t.equal(await readlink(join(directory, "away")), "/etc/passwd");
    t.equal(await context.text("deep/soft", 10), "second");
    t.equal(await context.text("away", 10_000), undefined, "a link that leads out leads nowhere");
    t.equal(await context.text("none", 10), undefined);
    await t.rejects(context.text("a", 3), /a has 6 bytes, at most 3 are accepted/);
    await t.rejects(context.text("../a", 10), /leads out of it/);
  }
});

t.test("a file beyond the limit is refused before it is read", async (t) => {
  const { directory, context } = await unpack(tar({ name: "Dockerfile", text: "FROM a" }));
  const sizeBytes = 64 * 2 ** 30; // A hole; more than any buffer takes.
  await truncate(join(directory, "Dockerfile"), sizeBytes);
  await t.rejects(context.text("Dockerfile", 1 << 20), {
    code: "invalid-argument",
    message: `${sizeBytes} bytes`,
  });
});

t.test("what would reach out of the directory, or is no file, is refused", async (t) => {
  const cases: readonly [readonly Entry[], RegExp][] = [
    [[{ name: "../a" }], /leads out of it/],
    [[{ name: "a/../../b" }], /leads out of it/],
    [[{ name: "/a" }], /leads out of it/],
    [[{ name: "a", type: "2", link: "/" }, { name: "a/b" }], /"a\/b" below "a", which is no directory/],
    [[{ name: "a", text: "x" }, { name: "a/b" }], /below "a", which is no directory/],
    [
      [
        { name: "a/b", text: "x" },
        { name: "a", type: "2", link: "/" },
      ],
      /"a" twice/,
    ],
    [[{ name: "a", type: "1", link: "/etc/passwd" }], /leads out of it/],
    [
      [
        { name: "a", type: "2", link: "/etc/passwd" },
        { name: "b", type: "1", link: "a" },
      ],
      /which is no file before it/,
    ],
    [[{ name: "a", type: "3" }], /of type "3"/],
    [[{ name: "a", type: "4" }], /of type "4"/],
    [[{ name: "a", type: "6" }], /of type "6"/],
    [[{ name: "a", text: "12345678901" }], /more than 10 bytes/],
  ];
  for (const [entries, wanted] of cases)
    await t.rejects(unpack(tar(...entries), 10), wanted, JSON.stringify(entries));
  await t.rejects(unpack(Buffer.from("no archive".repeat(100))), { code: "invalid-argument" });
  await t.rejects(unpack(Buffer.alloc(0)), /the archive is empty/);
  for (let index = 0; index < count; index++)
    t.strictSame(await readdir(join(root, String(index))), ["context"], "nothing beside the directory");
});

t.test("a small archive that becomes large is stopped at the limit", async (t) => {
  const bomb = gzipSync(tar({ name: "zeros", text: "0".repeat(8 << 20) }));
  t.ok(bomb.length < 64 << 10);
  await t.rejects(unpack(bomb, 1 << 20), { code: "too-large" });
});
