import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import t, { type Test } from "tap";
import type { Client } from "../../cli/client.ts";
import { register } from "../../cli/commands/stack.ts";

const folder = mkdtempSync(join(tmpdir(), "shoal-stack-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

/** A manager that has the given services and warns of every one that it is given. */
function manager(services: readonly unknown[]): Client {
  const answers: Readonly<Record<string, unknown>> = {
    "/info": { Swarm: { ControlAvailable: true } },
    "/networks": [],
    "/services": services,
  };
  return {
    get: <T>(path: string) => Promise.resolve(answers[path] as T),
    post: <T>(path: string) =>
      Promise.resolve((path.startsWith("/services") ? { ID: "s1", Warnings: ["beware"] } : {}) as T),
    delete: () => Promise.resolve(),
    stream: () => Promise.reject(new Error("no stream is expected")),
  };
}

/** What a deployment of this compose file writes to standard error. */
async function complaints(t: Test, text: string, services: readonly unknown[] = []): Promise<string> {
  const path = join(folder, "compose.yaml");
  writeFileSync(path, text);
  const written = t.capture(process.stderr, "write");
  const program = new Command();
  register(program, () => manager(services));
  const words = ["stack", "deploy", "--resolve-image", "never", "-c", path, "st"];
  await program.parseAsync(words, { from: "user" });
  return written()
    .map(({ args }) => String(args[0]))
    .join("");
}

const plain = "services: { web: { image: x } }";

t.test("what the manager warns of is printed when a service is created and when it is updated", async (t) => {
  t.equal(await complaints(t, plain), "beware\n");
  const there = { ID: "s1", Version: { Index: 1 }, Spec: { Name: "st_web", Labels: {}, TaskTemplate: {} } };
  t.equal(await complaints(t, plain, [there]), "beware\n");
});

t.test("options without effect are told as docker tells them", async (t) => {
  const text = `
services:
  web: { image: x, build: ., privileged: true, restart: always, depends_on: [db], container_name: w }
  db: { image: x, shm_size: 1m, expose: ["80"] }
`;
  const want = `Ignoring unsupported options: build, depends_on, privileged, shm_size

Ignoring deprecated options:

container_name: Setting the container name is not supported.

expose: Exposing ports is unnecessary - services on the same network can access each other's containers on any port.

beware
beware
`;
  t.equal(await complaints(t, text), want);
});
