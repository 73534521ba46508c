import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const binaries = join(root, "node_modules", ".bin");

t.test("the committed protobuf code is what the .proto files generate", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "shoal-generated-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  execFileSync(join(binaries, "buf"), ["generate", "--output", folder], {
    cwd: root,
    env: { ...process.env, PATH: `${binaries}${delimiter}${process.env["PATH"] ?? ""}` },
    stdio: "pipe",
  });
  const fresh = read(join(folder, "proto", "gen"));
  const committed = read(join(root, "proto", "gen"));
  t.strictSame([...committed.keys()], [...fresh.keys()], "the same files");
  const stale = [...fresh].filter(([path, text]) => committed.get(path) !== text).map(([path]) => path);
  t.strictSame(stale, [], "run npm run generate");
  t.end();
});

function read(folder: string): Map<string, string> {
  const paths = readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
  return new Map(paths.map((path) => [relative(folder, path), readFileSync(path, "utf8")]));
}
