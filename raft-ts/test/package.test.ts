import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import * as api from "../src/index.ts";

/** Compiled to build/test, so the package is two folders up. */
const packageRoot = fileURLToPath(new URL("../../", import.meta.url));
const readme = readFileSync(`${packageRoot}README.md`, "utf8");

/** The only block of its language in the README. */
function block(language: string): string {
  const [found, ...more] = [...readme.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\`$`, "gm"))];
  if (found?.[1] === undefined || more.length > 0)
    throw new Error(`the README has not one ${language} block`);
  return found[1];
}

function run(command: string, args: readonly string[], cwd: string): string {
  // No script of a package runs, and nothing is fetched: there is no dependency. The test runner puts hooks for node into the
  // environment of every child; `env` takes them out again.
  const argv = ["-u", "NODE_OPTIONS", command, ...args];
  return execFileSync("env", argv, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

const consumer = `
import { MemoryStorage, RaftNode, type Ready, type RaftOptions } from "raft-ts";
const options: RaftOptions = { id: "a", storage: new MemoryStorage(), random: () => 0 };
const ready: Ready = new RaftNode(options).ready();
const index: number | undefined = ready.write?.entries[0]?.index;
const isTyped: 0 extends 1 & Ready ? "no" : "yes" = "yes";
console.log(index, isTyped);
`;

t.test("the packed package installs elsewhere; the README's example runs there, and types are found", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "raft-ts-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const packed = run(
    "npm",
    ["pack", "--json", "--ignore-scripts", "--pack-destination", folder],
    packageRoot,
  );
  const [archive] = JSON.parse(packed) as { filename: string; files: { path: string }[] }[];
  if (archive === undefined) throw new Error("npm pack made nothing");
  const paths = archive.files.map(({ path }) => path);
  for (const path of ["LICENSE", "README.md", "docs/api.md", "build/src/index.js", "build/src/index.d.ts"]) {
    t.ok(paths.includes(path), path);
  }
  t.strictSame(
    paths.filter((path) => path.includes("test")),
    [],
  );

  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "user", private: true, type: "module" }),
  );
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", `./${archive.filename}`], folder);
  writeFileSync(join(folder, "kv.mjs"), block("js"));
  t.equal(run(process.execPath, ["kv.mjs"], folder), block("text"));

  writeFileSync(join(folder, "consumer.ts"), consumer);
  const compiler = fileURLToPath(import.meta.resolve("typescript/package.json"));
  const options = [
    "--noEmit",
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "--lib",
    "es2023,dom",
  ];
  t.equal(run(process.execPath, [join(compiler, "..", "bin", "tsc"), ...options, "consumer.ts"], folder), "");
  t.end();
});

t.test("the example is short, and there is no dependency", (t) => {
  const lines = block("js")
    .split("\n")
    .filter((line) => line.trim() !== "");
  t.ok(lines.length <= 40, `${lines.length} lines`);
  const manifest: unknown = JSON.parse(readFileSync(`${packageRoot}package.json`, "utf8"));
  t.notMatch(manifest, { dependencies: Object });
  t.notMatch(manifest, { peerDependencies: Object });
  t.end();
});

t.test("the API's page names every call", (t) => {
  const text = readFileSync(`${packageRoot}docs/api.md`, "utf8");
  const words = new Set(text.match(/\w+/g));
  const methods = [api.RaftNode, api.MemoryStorage].flatMap(({ prototype }) =>
    Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor"),
  );
  const missing = [...Object.keys(api), ...methods].filter((name) => !words.has(name));
  t.strictSame(missing, []);
  t.end();
});
