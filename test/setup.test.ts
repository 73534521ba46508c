import { spawnSync } from "node:child_process";
import { chmod, copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";

/** Runs a copy of setup.sh where `present` are installed, with stand-ins for what it starts. @returns arguments of `apt-get install`. */
async function setup(
  t: { testdir(): string },
  { present = [], argv = [] }: { readonly present?: readonly string[]; readonly argv?: readonly string[] },
): Promise<{ readonly code: number | null; readonly err: string; readonly installed: readonly string[] }> {
  const directory = t.testdir();
  const programs = join(directory, "bin");
  await mkdir(programs);
  const script = join(directory, "setup.sh");
  await copyFile(new URL("../../setup.sh", import.meta.url), script);
  await writeFile(join(directory, "package-lock.json"), "{}");
  await mkdir(join(directory, "node_modules"));
  const calls = join(directory, "calls");
  await writeFile(calls, "");
  const standIns = {
    "dpkg-query": `case " ${present.join(" ")} " in *" $3 "*) echo install ok installed ;; *) exit 1 ;; esac`,
    "apt-get": `[ "$1" != install ] || echo "$*" >>${calls}`,
    systemctl: ":",
    npm: ":",
    npx: ":",
    id: "echo 0",
  };
  for (const [name, body] of Object.entries(standIns)) {
    await writeFile(join(programs, name), `#!/bin/sh\n${body}\n`);
    await chmod(join(programs, name), 0o755);
  }
  const { status, stderr } = spawnSync("sh", [script, ...argv], {
    encoding: "utf8",
    env: { PATH: `${programs}:/usr/bin:/bin` },
  });
  const installed = (await readFile(calls, "utf8")).split(/\s+/).filter((word) => word !== "");
  return { code: status, err: stderr, installed };
}

t.test("a host gets what it needs, a machine for tests more", async (t) => {
  const host = await setup(t, { argv: ["--host"] });
  t.equal(host.code, 0, host.err);
  t.ok(host.installed.includes("containerd") && host.installed.includes("nats-server"));
  t.notOk(host.installed.includes("wrk"));
  const whole = await setup(t, {});
  t.ok(whole.installed.includes("containerd") && whole.installed.includes("wrk"));
});

t.test("Docker's own containerd stays, and nothing is ever removed for what is installed", async (t) => {
  const { code, err, installed } = await setup(t, { present: ["containerd.io"], argv: ["--host"] });
  t.equal(code, 0, err);
  t.notOk(installed.includes("containerd") || installed.includes("runc"));
  t.ok(installed.includes("crun"));
  t.ok(installed.includes("--no-remove"));
});

t.test("other arguments are refused", async (t) => {
  const { code, err } = await setup(t, { argv: ["--hots"] });
  t.equal(code, 2);
  t.match(err, /unknown argument --hots; accepted is --host/);
});
