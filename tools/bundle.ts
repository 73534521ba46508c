/**
 * Makes one file of each program and what it imports, packages too: `build/bundle/NAME.js`. A worker or manager starts from it in
 * half the processor time, and keeps 15 MiB less, than from its six hundred modules. Does nothing while no module is newer.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { SourceMap, type SourceMapPayload } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { encodeLineTable, type SourceLine } from "../runtime/line-table.ts";
import { lineTableOf, programs } from "../runtime/programs.ts";
import { isUpToDate, writeRecord } from "./made-from.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const outdir = join(root, "build/bundle");

/** Packages of the older kind ask for Node's own modules by this. */
const requireForPackages =
  "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);";

const record = join(outdir, "made-from.json");
if (await isUpToDate(record)) process.exit();
const start = new Date();
const { outputFiles, metafile } = await build({
  absWorkingDir: root,
  entryPoints: Object.fromEntries(Object.entries(programs).map(([name, file]) => [name, `build/${file}`])),
  outdir,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  banner: { js: requireForPackages },
  legalComments: "none",
  sourcemap: "external",
  sourcesContent: false,
  write: false,
  metafile: true,
  logLevel: "warning",
});
await mkdir(outdir, { recursive: true });
for (const { path, text, contents } of outputFiles) {
  if (path.endsWith(".map"))
    await writeChanged(lineTableOf(path.slice(0, -".map".length)), lineTable(path, text));
  else await writeChanged(path, contents);
}
const own = ["build/tools/bundle.js", "build/runtime/programs.js", "build/runtime/line-table.js"];
await writeRecord(
  record,
  {
    inputs: [...Object.keys(metafile.inputs), ...own].map((path) => join(root, path)),
    outputs: Object.keys(programs).flatMap((name) => [
      join(outdir, `${name}.js`),
      lineTableOf(join(outdir, `${name}.js`)),
    ]),
  },
  start,
);

/** Where each line of the bundle comes from, but for those of packages. The map itself takes half a second to read, which a running manager does not have. */
function lineTable(path: string, map: string): Buffer {
  const payload = JSON.parse(map) as SourceMapPayload;
  const entries = new SourceMap(payload);
  const ours = new Map(
    payload.sources
      .map((source) => [source, relative(root, resolve(dirname(path), source))] as const)
      .filter(([, place]) => !place.includes("node_modules/")),
  );
  const rows: (SourceLine | undefined)[] = [];
  const lineCount = payload.mappings.split(";").length;
  for (let line = 0; line < lineCount; line += 1) {
    const entry = entries.findEntry(line, 1_000);
    const isHere = "originalSource" in entry && entry.generatedLine === line;
    const source = isHere ? ours.get(entry.originalSource) : undefined;
    rows.push(isHere && source !== undefined ? { source, line: entry.originalLine + 1 } : undefined);
  }
  return encodeLineTable(rows);
}

/** A file that stays as it is may be read by a program that starts just now. */
async function writeChanged(path: string, content: Uint8Array): Promise<void> {
  const before = await readFile(path).catch(() => undefined); // None, the first time.
  if (before?.equals(content) !== true) await writeFile(path, content);
}
