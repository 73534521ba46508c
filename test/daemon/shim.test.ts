import { execFile } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";

import { installShim, shimProgram, shimScript } from "../../daemon/shim.ts";
import { shimAddressDirectory } from "../../proto/host.ts";

const id = "0123abcd";
const address = "unix:///run/containerd/s/0f";

/** The script, and beside it a program that says that it was called. */
function world(directory: string) {
  const settings = { runDir: join(directory, "it's run"), runtimeRoot: join(directory, "it's runtime") };
  const program = join(directory, "real");
  writeFileSync(program, '#!/bin/sh\necho "real $*"\n', { mode: 0o755 });
  const script = join(directory, "script");
  writeFileSync(script, shimScript(program, settings), { mode: 0o755 });
  const records = join(settings.runtimeRoot, "shoal");
  const addresses = shimAddressDirectory(settings);
  const bundle = join(directory, "bundle");
  for (const each of [bundle, records, addresses]) mkdirSync(each, { recursive: true });
  const ask = async (...words: readonly string[]): Promise<Buffer> => {
    const options = { cwd: bundle, encoding: "buffer" } as const;
    return (await promisify(execFile)(script, words, options)).stdout;
  };
  const argv = (namespace: string, action: string): readonly string[] => {
    const common = ["-namespace", namespace, "-address", "/c.sock", "-publish-binary", "/usr/bin/containerd"];
    return [...common, "-id", id, ...(action === "delete" ? ["-bundle", bundle] : []), action];
  };
  return { settings, records, addresses, bundle, ask, argv };
}

t.test(
  "nothing is cleaned up after a container that the runtime has deleted, and everything of any other",
  async (t) => {
    const { records, ask, argv } = world(t.testdir());
    const response = await ask(...argv("shoal", "delete"));
    t.equal(response.toString("hex"), "108901", "field 2 of shim.proto's DeleteResponse, exit_status: 137");
    const isAsked = async (namespace: string): Promise<boolean> =>
      (await ask(...argv(namespace, "delete"))).toString().startsWith("real -namespace");
    t.ok(await isAsked("moby"), "another namespace has another runtime root");
    mkdirSync(join(records, id));
    t.ok(await isAsked("shoal"));
  },
);

t.test("without any record of a runtime the program is asked", async (t) => {
  const directory = t.testdir();
  const { settings, ask, argv } = world(directory);
  writeFileSync(
    join(directory, "script"),
    shimScript(join(directory, "real"), { ...settings, runtimeRoot: "/nowhere" }),
  );
  t.match((await ask(...argv("shoal", "delete"))).toString(), /^real /);
});

t.test("a container whose group has a shim gets that one's address", async (t) => {
  const { addresses, bundle, ask, argv } = world(t.testdir());
  t.match((await ask(...argv("shoal", "start"))).toString(), /^real /, "nobody has named one");
  writeFileSync(join(addresses, id), `${address}\n`);
  t.match((await ask(...argv("moby", "start"))).toString(), /^real /);
  t.notOk(existsSync(join(bundle, "address")));
  t.equal((await ask(...argv("shoal", "start"))).toString(), address);
  t.equal(readFileSync(join(bundle, "address"), "utf8"), address, "by which a new containerd finds the shim");
});

t.test("whatever else is asked, the program answers with every word as it came", async (t) => {
  const { ask } = world(t.testdir());
  t.equal((await ask("-v")).toString(), "real -v\n");
  t.equal((await ask()).toString(), "real \n");
  t.match((await ask("-namespace", "shoal", "-id", "", "delete")).toString(), /^real /);
});

t.test("the script is put where containerd looks first, for the program beside containerd", (t) => {
  const directory = t.testdir({ bin: {}, old: {} });
  const { settings } = world(directory);
  const path = process.env["PATH"];
  t.teardown(() => (process.env["PATH"] = path));
  process.env["PATH"] = join(directory, "bin");
  const beside = join(directory, "bin", shimProgram);
  writeFileSync(beside, "");
  chmodSync(beside, 0o755);
  installShim(join(directory, "programs"), "/nowhere/containerd", settings);
  const written = join(directory, "programs", shimProgram);
  t.equal(statSync(written).mode & 0o777, 0o755);
  t.ok(readFileSync(written, "utf8").includes(`exec '${beside}' "$@"`));
  t.end();
});
