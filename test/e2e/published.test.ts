import { spawn } from "node:child_process";
import { once as first } from "node:events";
import { fileURLToPath } from "node:url";
import t from "tap";

import { waitFor } from "../lab/shell.ts";
import { clients } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import type { Requests } from "./requests.ts";

const requestsFile = fileURLToPath(new URL("requests.js", import.meta.url));
/** Tells each client its address. */
const mirror = [
  "sh",
  "-c",
  [
    "mkdir -p /w/cgi-bin",
    String.raw`printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\necho $REMOTE_ADDR\n' >/w/cgi-bin/index.cgi`,
    "chmod +x /w/cgi-bin/index.cgi",
    "exec httpd -f -p 8080 -h /w",
  ].join(" && "),
];

t.test("published ports", { skip: noLab }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-pub", managers: 1, workers: 2 });
  const [host1, , host3] = lab.hosts;
  if (host1 === undefined || host3 === undefined) throw new Error("hosts were asked for");
  const client = clients.find(({ missing }) => missing === false);
  if (client === undefined) throw new Error("no client at all is there");
  const run = (...argv: string[]): Promise<string> => client.run(host1, argv);
  const urlsOf = (port: number): string[] => lab.hosts.map(({ addr }) => `http://${addr}:${port}/`);

  const once = async (url: string): Promise<string> =>
    (await lab.lan.run([process.execPath, requestsFile, "once", url])).trim();

  /** Asks every host from outside, again and again, while `work` is done. */
  async function whileAsked(port: number, work: () => Promise<void>): Promise<Requests> {
    const child = spawn(
      "nsenter",
      [`--net=/run/netns/${lab.lan.netns}`, process.execPath, requestsFile, "many", ...urlsOf(port)],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const ended = first(child, "close");
    try {
      await first(child, "spawn");
      await work();
    } finally {
      child.kill("SIGTERM");
      await ended;
    }
    return JSON.parse(output) as Requests;
  }
  const replicas = (service: string, count: number): Promise<unknown> =>
    waitFor(`${count} tasks of ${service}`, { timeoutMs: 40_000 }, async () => {
      const tasks = await view.running(service);
      return tasks.length === count && tasks;
    });

  t.test("a task on another host sees the client's own address", async (t) => {
    const where = ["--constraint", "node.hostname==host3", "--publish", "8081:8080"];
    await run("service", "create", ...quick, "--name", "mirror", ...where, images.bb1, ...mirror);
    for (const url of urlsOf(8081)) {
      const seen = await waitFor(`answer of ${url}`, { timeoutMs: 10_000 }, async () => {
        const said = await once(url);
        if (said.includes("10.")) return said.replace(/[[\]]|::ffff:/g, ""); // as busybox writes an address
        throw new Error(said);
      });
      t.equal(seen, "10.230.0.254", url);
    }
  });

  t.test("no request fails while the service is updated, scaled and moved", async (t) => {
    const order = ["--update-order", "start-first", "--update-parallelism", "2", "--publish", "8080:8080"];
    await run("service", "create", ...quick, ...order, "--replicas", "4", "--name", "web", images.web1);
    const { answered, failed, answers } = await whileAsked(8080, async () => {
      await run("service", "update", "--image", images.web2, "web");
      await run("service", "scale", "web=7");
      await run("service", "scale", "web=2");
      await run("service", "scale", "web=4");
      await run("node", "update", "--availability", "drain", "host3");
      await waitFor("no task on host3", { timeoutMs: 30_000 }, async () => {
        return (await view.spread(await view.running("web")))["host3"] === undefined;
      });
      await replicas("web", 4);
    });
    t.strictSame(failed, []);
    t.ok(answered > 100, `${answered} requests were answered`);
    t.ok((answers["version=1"] ?? 0) > 0 && (answers["version=2"] ?? 0) > 0, JSON.stringify(answers));
  });

  t.test("once the service is gone the port refuses", async (t) => {
    await run("service", "rm", "web");
    for (const url of urlsOf(8080)) {
      const refused = await waitFor(`refusal of ${url}`, { timeoutMs: 10_000 }, async () => {
        return (await once(url)) === "ECONNREFUSED";
      });
      t.ok(refused, url);
    }
  });

  t.test("none of our processes met an error that nobody handled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
