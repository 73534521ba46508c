import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { tryRun } from "../lab/shell.ts";
import { images, labForTests, noLab, unhandledErrors } from "./fixture.ts";

/** Debian's own: the package python3-docker is for no other. */
const python = "/usr/bin/python3";
const script = fileURLToPath(new URL("../../../test/e2e/docker-py.py", import.meta.url));
const checks = ["connection", "swarm", "payloads", "service", "modes", "nodes", "events"];
const limitMs = 180_000;

async function noClient(): Promise<string | false> {
  if (!existsSync(python)) return `no ${python}`;
  const { code } = await tryRun([python, "-c", "import docker"]);
  return code === 0 ? false : "docker-py is not installed (Debian's python3-docker)";
}

const skip = noLab === false ? await noClient() : noLab;

t.test("docker-py drives the swarm, and raises what it raises with Docker", { skip }, async (t) => {
  const { lab } = await labForTests(t, { name: "e-py", managers: 1, workers: 1 });
  const [host] = lab.hosts;
  if (host === undefined) throw new Error("a host was asked for");
  const { stdout, stderr } = await tryRun([python, script, host.socket, images.bb1], { timeoutMs: limitMs });
  const results = stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { name: string; why: string | null; ms: number });
  for (const { name, why, ms } of results) t.equal(why ?? "", "", `${name}: ${ms} ms`);
  t.strictSame(
    results.map(({ name }) => name),
    checks,
    `every check was made ${stderr}`,
  );
  t.strictSame(await unhandledErrors(lab), []);
});
