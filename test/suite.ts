/**
 * Runs test files, each as a process of its own: `node build/test/suite.js unit|integration|e2e`, or files by name.
 *
 * tap's own command loads a recorder of modules into every process that a test starts, managers and workers among them, which
 * costs each of them most of a second. Nothing here needs what it records, so the files are started without.
 */
import { execFileSync, type ChildProcess } from "node:child_process";
import { readdir } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

interface Suite {
  /** From the root of the repository. */
  readonly folders: readonly string[];
  readonly without: readonly string[];
  readonly jobs: number;
  /** Of one file. */
  readonly timeoutSeconds: number;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const integration = "build/test/integration";
const e2e = "build/test/e2e";
const suites: Readonly<Record<string, Suite>> = {
  unit: {
    folders: ["build/test", "raft-ts/build/test"],
    without: [integration, e2e],
    jobs: Math.max(2, availableParallelism()),
    timeoutSeconds: 120,
  },
  integration: { folders: [integration], without: [], jobs: 2, timeoutSeconds: 300 },
  // One lab at a time: its hosts are named alike.
  e2e: { folders: [e2e], without: [], jobs: 1, timeoutSeconds: 600 },
};

async function filesOf({ folders, without }: Suite): Promise<string[]> {
  const files: string[] = [];
  for (const folder of folders) {
    for (const entry of await readdir(join(root, folder), { recursive: true })) {
      const file = join(folder, entry);
      if (file.endsWith(".test.js") && !without.some((other) => file.startsWith(`${other}/`)))
        files.push(file);
    }
  }
  return files.toSorted();
}

const [first = "", ...rest] = process.argv.slice(2);
const suite = suites[first];
const named = [first, ...rest].filter(Boolean).map((file) => relative(root, file));
const files = suite === undefined ? named : await filesOf(suite);
if (files.length === 0 || (suite !== undefined && rest.length > 0)) {
  console.error(`usage: node build/test/suite.js ${Object.keys(suites).join("|")}|FILES`);
  process.exit(2);
}
// Labs and some tests start the programs as they are installed: of these very modules.
execFileSync(process.execPath, ["build/tools/bundle.js"], { cwd: root, stdio: "inherit" });
const { jobs, timeoutSeconds } = suite ?? { jobs: 1, timeoutSeconds: 600 };
t.setTimeout(0); // Each file has its own.
t.jobs = jobs;
t.plan(files.length);
/** What ends this run ends its files, those that would be next too. */
let ending: NodeJS.Signals | undefined;
const running = new Set<ChildProcess>();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    ending = signal;
    for (const child of running) child.kill(signal);
  });
}
t.on("spawn", (test) => {
  test.on("process", (child) => {
    running.add(child);
    child.on("exit", () => running.delete(child));
    if (ending !== undefined) child.kill(ending);
  });
});
for (const file of files) {
  // What tap's library adds to the environment of a process that it starts is that recorder again.
  const argv = ["-u", "NODE_OPTIONS", process.execPath, "--enable-source-maps", file];
  const env = { ...process.env, TAP_TIMEOUT: String(timeoutSeconds) };
  void t.spawn("env", argv, { cwd: root, env, timeout: timeoutSeconds * 1000, buffered: jobs > 1 }, file);
}
