import { isIP } from "node:net";
import { fileURLToPath } from "node:url";
import t from "tap";

import { bridgeIpv6 } from "../lab/lan.ts";
import { waitFor } from "../lab/shell.ts";
import { anyClient as client } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import { keepAliveServer, listens, namingServer, whileAsked, whileConnected } from "./traffic.ts";

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

t.test("published ports", { skip: noLab || client.missing }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-pub", managers: 1, workers: 2 });
  const [host1, host2, host3] = lab.hosts;
  if (host1 === undefined || host2 === undefined || host3 === undefined)
    throw new Error("hosts were asked for");
  const run = (...argv: string[]): Promise<string> => client.run(host1, argv);
  const outside = ["nsenter", `--net=/run/netns/${lab.lan.netns}`];
  const urlsOf = (port: number): string[] => lab.hosts.map(({ addr }) => `http://${addr}:${port}/`);

  const once = async (url: string): Promise<string> =>
    (await lab.lan.run([process.execPath, requestsFile, "once", url])).trim();

  const replicas = (service: string, count: number): Promise<unknown> =>
    waitFor(`${count} tasks of ${service}`, { timeoutMs: 40_000 }, async () => {
      const tasks = await view.running(service);
      return tasks.length === count && tasks;
    });

  t.test("a task on another host sees the client's own address, of either family", async (t) => {
    const ports = ["--publish", "8081:8080", "--publish", "mode=host,target=8080,published=8083"];
    const where = ["--constraint", "node.hostname==host3", ...ports];
    await run("service", "create", ...quick, "--name", "mirror", ...where, images.bb1, ...mirror);
    const urlsByIpv6 = lab.hosts.map(({ ipv6 }) => `http://[${ipv6}]:8081/`);
    for (const [urls, client] of [
      [[...urlsOf(8081), `http://${host3.addr}:8083/`], "10.230.0.254"],
      [[...urlsByIpv6, `http://[${host3.ipv6}]:8083/`], bridgeIpv6],
    ] as const) {
      for (const url of urls) {
        const seen = await waitFor(`answer of ${url}`, { timeoutMs: 10_000 }, async () => {
          const said = (await once(url)).replace(/[[\]]|::ffff:/g, ""); // as busybox writes an address
          if (isIP(said) !== 0) return said;
          throw new Error(said);
        });
        t.equal(seen, client, url);
      }
    }
    const [url = ""] = urlsByIpv6;
    const seen = await waitFor("a host to know the addresses of others", { timeoutMs: 20_000 }, async () => {
      const said = await host3.exec([process.execPath, requestsFile, "once", url]);
      if (said.includes(":")) return said.replace(/[[\]\s]/g, "");
      throw new Error(said);
    });
    t.equal(seen, host3.ipv6, "asked by the task's own host by way of another");
  });

  t.test(
    "no request fails, by mesh or virtual IP, while the service changes and a worker is killed",
    async (t) => {
      await run("network", "create", "--driver", "overlay", "front");
      const order = [
        "--update-order",
        "start-first",
        "--update-parallelism",
        "2",
        "--stop-grace-period",
        "10s",
      ];
      const health = ["--health-cmd", listens, "--health-interval", "1s"];
      const flags = [...order, ...health, "--network", "front", "--publish", "8080:8080", "--replicas", "4"];
      const monitor = ["--update-monitor", "500ms"];
      await run("service", "create", ...monitor, ...flags, "--name", "web", images.bb1, ...keepAliveServer);
      const service = await view.get<{
        readonly Endpoint: {
          readonly VirtualIPs: readonly { readonly NetworkID: string; readonly Addr: string }[];
        };
      }>("/services/web");
      const [front] = await view.get<readonly { readonly Id: string }[]>(
        `/networks?filters=${encodeURIComponent(JSON.stringify({ name: ["front"] }))}`,
      );
      const virtualIp = service.Endpoint.VirtualIPs.find(({ NetworkID }) => NetworkID === front?.Id);
      const mark = "sleep 424242";
      const where = ["--network", "front", "--constraint", "node.hostname==host1"];
      await run("service", "create", ...quick, ...where, "--name", "client", images.bb1, ...mark.split(" "));
      const inside = (await host1.processes()).find((info) => info.argv.join(" ") === mark);
      const urls = [
        ...urlsOf(8080).map((url) => ({ url, enter: outside })),
        {
          url: `http://${virtualIp?.Addr.split("/")[0]}:8080/`,
          enter: ["nsenter", "--net", "--target", String(inside?.pid)],
        },
      ];
      const traffic = await whileAsked(urls, `${lab.dir}/delay.lua`, async () => {
        await run("service", "update", "--env-add", "VERSION=2", "web");
        await run("service", "scale", "web=10");
        await run("service", "scale", "web=3");
        await run("service", "scale", "web=10");
        await run("node", "update", "--availability", "drain", "host3");
        await waitFor("no task on host3", { timeoutMs: 60_000 }, async () => {
          return (await view.spread(await view.running("web")))["host3"] === undefined;
        });
        await replicas("web", 10);
        const killed = await host2.signalProcess("worker");
        await run("service", "scale", "web=4"); // Tasks stop while host2 goes on sending them clients.
        await waitFor("a new worker on host2", { timeoutMs: 15_000 }, async () => {
          const pid = (await host2.ownProcesses()).worker?.pid;
          return pid !== undefined && pid !== killed;
        });
        await replicas("web", 4);
        await waitFor("the other tasks to be gone", { timeoutMs: 40_000 }, async () => {
          const listed = await Promise.all(
            lab.hosts.map((host) => client.run(host, ["ps", "-q", "--filter", "name=web."])),
          );
          return listed.join("").split("\n").filter(Boolean).length === 4;
        });
      });
      for (const { name, requests, failures } of traffic) {
        t.strictSame(failures, [], name);
        t.ok(requests > 50, `${name}: ${requests} requests`);
      }
      await run("service", "rm", "client");
    },
  );

  t.test("once the service is gone the port refuses", async (t) => {
    await run("service", "rm", "web");
    for (const url of urlsOf(8080)) {
      const refused = await waitFor(`refusal of ${url}`, { timeoutMs: 10_000 }, async () => {
        return (await once(url)) === "ECONNREFUSED";
      });
      t.ok(refused, url);
    }
  });

  t.test(
    "a host is lost: connections to tasks elsewhere go on, and every new one gets its answer",
    async (t) => {
      await run("node", "update", "--availability", "active", "host3");
      const two = ["--replicas", "6", "--replicas-max-per-node", "2", "--publish", "8082:8080"];
      await run(
        "service",
        "create",
        ...quick,
        ...two,
        "--hostname",
        "{{.Task.ID}}",
        "--name",
        "named",
        images.bb1,
        ...namingServer,
      );
      const lostNode = (await view.node(host3)).ID;
      const tasks = await view.waitRunning("named", 6);
      t.strictSame(await view.spread(tasks), { host1: 2, host2: 2, host3: 2 });
      let killedMs = 0;
      let downMs = 0;
      const seen = await whileConnected({ address: host1.addr, port: 8082, enter: outside }, async () => {
        killedMs = Date.now();
        await host3.kill();
        await view.waitNode(host3, "down");
        downMs = Date.now();
      });
      // Those that a task of the lost host had taken are lost with it.
      const failed = seen.fresh.filter(({ error, connected }) => error !== "" && !connected);
      t.strictSame(failed, [], `${seen.fresh.length} new connections`);
      const slow = seen.fresh.filter(({ tookMs }) => tookMs > 900).map(({ beganMs }) => beganMs - killedMs);
      t.ok(slow.length > 0, `${slow.length} waited for an answer of the host that was lost`);
      t.comment(`the last of them was made ${Math.max(...slow)} ms after its loss`);
      const lost = new Set(tasks.filter(({ NodeID }) => NodeID === lostNode).map(({ ID }) => ID));
      const elsewhere = seen.kept.filter(({ task }) => !lost.has(task));
      t.ok(
        elsewhere.length > 0 && elsewhere.length < seen.kept.length,
        `${elsewhere.length} of ${seen.kept.length} elsewhere`,
      );
      for (const { task, error, answeredMs } of elsewhere) {
        t.strictSame({ error, wentOn: answeredMs > downMs - 1_000 }, { error: "", wentOn: true }, task);
      }
    },
  );

  t.test("none of our processes met an error that nobody handled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
