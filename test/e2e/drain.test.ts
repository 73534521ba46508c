/** The only task of a service is to stop while it answers somebody. */
import { fileURLToPath } from "node:url";
import t from "tap";

import { waitFor } from "../lab/shell.ts";
import { anyClient as client } from "./clients.ts";
import { images, labForTests, noLab, unhandledErrors } from "./fixture.ts";

const requestsFile = fileURLToPath(new URL("requests.js", import.meta.url));
/** Takes three seconds for each answer, and ends at once when it is told to. */
const slow = [
  "sh",
  "-c",
  [
    "set -e",
    "mkdir -p /w/cgi-bin",
    String.raw`printf '#!/bin/sh\ntouch /asked; sleep 3\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\necho done\n' >/w/cgi-bin/index.cgi`,
    "chmod +x /w/cgi-bin/index.cgi",
    "httpd -p 8080 -h /w",
    "trap 'exit 0' TERM",
    "sleep 424243 & wait",
  ].join("\n"),
];

t.test("a lone task that is to stop", { skip: noLab || client.missing }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-drn", managers: 1, workers: 1 });
  const [host1, host2] = lab.hosts;
  if (host1 === undefined || host2 === undefined) throw new Error("hosts were asked for");
  const run = (...argv: string[]): Promise<string> => client.run(host1, argv);
  const ask = async (): Promise<string> =>
    (await lab.lan.run([process.execPath, requestsFile, "once", `http://${host1.addr}:8080/`])).trim();
  const replaced = async (before: string): Promise<boolean> => {
    const tasks = await view.running("web");
    return tasks.length === 1 && tasks[0]?.ID !== before;
  };
  const only = async (): Promise<string> => (await view.waitRunning("web", 1, 60_000))[0]?.ID ?? "";
  const where = async (): Promise<string> => (await view.running("web"))[0]?.NodeID ?? "";
  /** Asks, has `work` done once the task is at the answer, and waits for both. */
  const whileAnswering = async (work: () => Promise<unknown>): Promise<string> => {
    const answer = ask();
    const isAsked = async (): Promise<boolean> =>
      (await Promise.all(lab.hosts.map((host) => host.processes())))
        .flat()
        .some(({ argv }) => argv.join(" ") === "sleep 3");
    await waitFor("the request to arrive", { timeoutMs: 3_000 }, isAsked);
    const [text] = await Promise.all([answer, work()]);
    return text;
  };

  const flags = ["--publish", "8080:8080", "--stop-grace-period", "60s", "--update-monitor", "500ms"];
  await run("service", "create", ...flags, "--name", "web", images.bb1, ...slow);
  await waitFor("an answer", { timeoutMs: 30_000 }, async () => (await ask()) === "done");

  for (const [what, work] of [
    ["an update by stop-first", () => run("service", "update", "--env-add", "A=1", "web")],
    ["a drained node", async () => run("node", "update", "--availability", "drain", await where())],
  ] as const) {
    t.test(`${what} lets it finish the answer it is at, and no longer`, async (t) => {
      const before = await only();
      t.equal(await whileAnswering(work), "done");
      // Long before the grace would be over.
      await waitFor("the new task", { timeoutMs: 30_000 }, () => replaced(before));
    });
  }

  t.test("none of our processes met an error that nobody handled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
