/** Hosts whose address changes under them: tasks reach each other again, and what needs a person is said. */
import t from "tap";

import { call } from "../lab/api.ts";
import type { Host } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import { docker, shoal } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";

/** A user may count on this. */
const healMs = 10_000;

interface Found {
  readonly NetworkSettings: { readonly Networks: Readonly<Record<string, { readonly IPAddress: string }>> };
}

t.test("changed addresses", { skip: noLab || shoal.missing || docker.missing }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-adr", managers: 1, workers: 2, swarm: "none" });
  const [host1, host2, host3] = lab.hosts;
  if (host1 === undefined || host2 === undefined || host3 === undefined)
    throw new Error("hosts were asked for");
  await shoal.run(host1, ["swarm", "init", "--advertise-addr", host1.addr]);
  const token = (await shoal.run(host1, ["swarm", "join-token", "-q", "worker"])).trim();
  const join = ["swarm", "join", "--token", token, `${host1.addr}:2377`];
  await shoal.run(host2, join);
  await shoal.run(host3, [...join, "--advertise-addr", host3.addr]);
  await shoal.run(host1, ["network", "create", "front"]);
  await shoal.run(host1, ["network", "create", "--opt", "encrypted", "safe"]);
  const where = ["--network", "front", "--network", "safe", "--mode", "global", "--publish", "8080:8080"];
  await shoal.run(host1, ["service", "create", ...quick, ...where, "--name", "web", images.web1]);
  await view.waitRunning("web", 3, 60_000);

  const containers = new Map<Host, string>();
  for (const host of lab.hosts) {
    const [id = ""] = (await shoal.run(host, ["ps", "-q", "--no-trunc"])).trim().split("\n");
    containers.set(host, id);
  }
  const addresses = async (host: Host): Promise<string[]> => {
    const found = await call<Found>(host.socket, "GET", `/containers/${containers.get(host)}/json`);
    const networks = found.NetworkSettings.Networks;
    return ["front", "safe"].map((name) => networks[name]?.IPAddress ?? "");
  };
  const reaches = async (from: Host, to: Host): Promise<boolean> => {
    for (const address of await addresses(to)) {
      const get = `timeout 2 wget -q -O - http://${address}:8080/cgi-bin/index.cgi`;
      const { code, stderr } = await docker.try(from, ["exec", containers.get(from) ?? "", "sh", "-c", get]);
      if (code !== 0) throw new Error(`${from.name} to ${address} of ${to.name}: ${stderr}`);
    }
    return true;
  };
  const allReach = async (): Promise<boolean> => {
    const pairs = lab.hosts.flatMap((from) => lab.hosts.map((to) => [from, to] as const));
    for (const [from, to] of pairs) if (from !== to && !(await reaches(from, to))) return false;
    return true;
  };
  const move = (host: Host, from: string, to: string): Promise<string> =>
    host.exec(["sh", "-c", `ip addr del ${from}/24 dev eth0 && ip addr add ${to}/24 dev eth0`]);

  await waitFor("tasks that reach each other", { timeoutMs: 30_000 }, allReach);

  t.test("an address that was chosen is followed, and tasks reach each other again", async (t) => {
    const fresh = host2.addr.replace(/\.\d+$/, ".102");
    await move(host2, host2.addr, fresh);
    // What is tried takes its time too: both directions, plain and by tunnel.
    const startedMs = Date.now();
    await waitFor("the tasks of the moved host", { timeoutMs: 2 * healMs }, async () => {
      return (await reaches(host1, host2)) && (await reaches(host2, host1));
    });
    t.comment(`healed after ${Date.now() - startedMs} ms`);
    await waitFor("every pair", { timeoutMs: healMs }, allReach);
    await lab.lan
      .run(["timeout", "5", "wget", "-q", "-O", "-", `http://${fresh}:8080/cgi-bin/index.cgi`])
      .catch((error: unknown) => t.fail(`the mesh of the moved host: ${String(error)}`));
    const node = await view.node(host2);
    t.equal(node.Status.Addr, fresh);
    t.equal((await view.running("web")).length, 3, "no task was replaced");
    const [id = ""] = (await shoal.run(host2, ["ps", "-q", "--no-trunc"])).trim().split("\n");
    t.equal(id, containers.get(host2), "its container ran on");
  });

  t.test("one that was given is not, and its node and the doctor say so until it is back", async (t) => {
    await move(host3, host3.addr, host3.addr.replace(/\.\d+$/, ".103"));
    const message = async (): Promise<string> => {
      const node = (await view.node(host3)) as NodeSummary & { Status: { Message?: string } };
      return node.Status.Message ?? "";
    };
    await waitFor("the node's message", { timeoutMs: 3 * healMs }, async () => {
      return (await message()).includes(`${host3.addr} is not on this host`);
    });
    const { code, stdout } = await shoal.try(host1, ["net", "doctor"]);
    t.equal(code, 2);
    t.match(stdout, /broken \(address\) host3: the data path address .* next: on host3: ip -4 address/s);
    await move(host3, host3.addr.replace(/\.\d+$/, ".103"), host3.addr);
    await waitFor("every pair", { timeoutMs: 3 * healMs }, allReach);
    await waitFor("no message", { timeoutMs: healMs }, async () => (await message()) === "");
  });

  t.test("none of our processes met an error that nobody handled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
