import type { Test } from "tap";

import type { Host } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import { call } from "../lab/api.ts";
import { docker } from "./clients.ts";
import { images, quick } from "./fixture.ts";
import type { View } from "./view.ts";

const page = "mkdir -p /w && hostname >/w/index.html && exec httpd -f -p 8080 -h /w";
const server = [images.bb1, "sh", "-c", page] as const;

interface Inspected {
  readonly NetworkSettings: { readonly Networks: Readonly<Record<string, { readonly IPAddress: string }>> };
}

interface InspectedNetwork {
  readonly Scope: string;
  readonly Containers: Readonly<Record<string, { readonly Name: string; readonly IPv4Address: string }>>;
  readonly Peers?: readonly { readonly Name: string }[];
}

/** Containers of `docker run` on a network of the cluster, on a manager and on a worker, whose processes are killed. */
export function attachedContainers(t: Test, hosts: readonly [Host, Host], view: View): void {
  const [host1, host2] = hosts;
  const run = (host: Host, ...args: string[]): Promise<string> => docker.run(host, args);
  const refused = async (host: Host, ...args: string[]): Promise<string> => {
    const { code, stderr } = await docker.try(host, args);
    if (code === 0) throw new Error(`it was not refused: docker ${args.join(" ")}`);
    return stderr;
  };
  /** The host name of whoever answers by that name, asked from a container. */
  const ask = (host: Host, container: string, name: string): Promise<string> =>
    waitFor(`answer of ${name} in ${container}`, { timeoutMs: 15_000 }, async () => {
      const said = await run(
        host,
        "exec",
        container,
        "timeout",
        "2",
        "wget",
        "-q",
        "-O",
        "-",
        `http://${name}:8080/`,
      );
      return said.trim();
    });
  const addressOf = async (host: Host, container: string, network = "front"): Promise<string> => {
    const [found] = JSON.parse(await run(host, "inspect", container)) as Inspected[];
    return found?.NetworkSettings.Networks[network]?.IPAddress ?? "";
  };
  const network = async (host: Host): Promise<InspectedNetwork> => {
    const [found] = JSON.parse(await run(host, "network", "inspect", "-v", "front")) as InspectedNetwork[];
    if (found === undefined) throw new Error("no network was shown");
    return found;
  };
  const isUp = async (host: Host): Promise<void> => {
    await waitFor(`front door of ${host.name}`, { timeoutMs: 20_000 }, () => run(host, "version"));
    await view.waitNode(host, "ready", 30_000);
  };
  const killAgain = async (host: Host, name: "worker" | "manager"): Promise<void> => {
    const old = await host.signalProcess(name);
    await waitFor(`new ${name}`, { timeoutMs: 15_000 }, async () => {
      const pid = (await host.ownProcesses())[name]?.pid;
      return pid !== undefined && pid !== old;
    });
    await isUp(host);
  };

  void t.test("containers on both hosts and tasks reach each other by name", async (t) => {
    await isUp(host2);
    // The second subnet has what the first has no room for. Docker's client would send them in any order.
    const Config = ["10.55.0.0/29", "10.56.0.0/24"].map((Subnet) => ({ Subnet }));
    const body = { Name: "front", Driver: "overlay", Attachable: true, IPAM: { Config } };
    await call(host1.socket, "POST", "/networks/create", { body });
    await run(host1, "network", "create", "-d", "overlay", "closed");
    const own = ["--network", "front", "--network-alias", "store", "--ip", "10.56.0.77"];
    await run(host2, "run", "-d", "--name", "c2", "--hostname", "two", ...own, ...server);
    await run(host1, "run", "-d", "--name", "c1", "--hostname", "one", "--network", "front", ...server);
    const where = ["--network", "front", "--constraint", "node.hostname==host1", "--hostname", "task"];
    await run(host1, "service", "create", ...quick, ...where, "--name", "svc", ...server);
    t.equal(await addressOf(host2, "c2"), "10.56.0.77");
    t.equal(await ask(host1, "c1", "c2"), "two");
    t.equal(await ask(host1, "c1", "store"), "two");
    t.equal(await ask(host2, "c2", "c1"), "one");
    t.equal(await ask(host2, "c2", "svc"), "task");
    const [task = ""] = (await run(host1, "ps", "-q", "--filter", "name=svc.")).split("\n");
    t.equal(await ask(host1, task, "store"), "two");
  });

  void t.test("network inspect shows each host its own, and the managers all of them", async (t) => {
    const [one, two] = [await network(host1), await network(host2)];
    const names = ({ Containers }: InspectedNetwork): string[] =>
      Object.values(Containers)
        .map(({ Name, IPv4Address }) => `${Name.replace(/^svc.*/, "svc")} ${IPv4Address.split("/")[1] ?? ""}`)
        .toSorted((a, b) => a.localeCompare(b));
    t.strictSame(names(one), ["c1 29", "svc 29"]);
    t.strictSame(names(two), ["c2 24"]);
    t.equal(two.Scope, "swarm");
    t.strictSame(
      one.Peers?.map(({ Name }) => Name).toSorted((a, b) => a.localeCompare(b)),
      ["host1", "host2"],
    );
    t.match(await run(host2, "network", "ls"), /front +overlay +swarm/);
  });

  void t.test("what cannot be is refused in Docker's words", async (t) => {
    const on = (name: string, ...more: string[]): Promise<string> =>
      refused(host2, "run", "--rm", "--network", name, ...more, images.bb1, "true");
    t.match(
      await on("closed"),
      /Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable/,
    );
    t.match(await on("nope"), /rpc error: code = NotFound desc = network nope not found/);
    t.match(await on("front", "--ip", "10.56.0.77"), /Address already in use/);
    t.match(
      await on("front", "--ip", "10.57.0.77"),
      /no configured subnet or ip-range contain the IP address/,
    );
    t.match(
      await refused(host1, "network", "rm", "front"),
      /network front has active endpoints \(.*name:"c2"/,
    );
  });

  void t.test("a container joins and leaves it while it runs, beside its bridge", async (t) => {
    await run(host2, "run", "-d", "--name", "both", "--hostname", "both", ...server);
    await run(host2, "network", "connect", "--alias", "side", "front", "both");
    t.equal(await ask(host1, "c1", "side"), "both");
    t.equal(await ask(host2, "both", "c1"), "one");
    t.match(await addressOf(host2, "both", "bridge"), /^\d/);
    t.match(await refused(host2, "network", "connect", "front", "both"), /already exists in network front/);
    await run(host2, "network", "disconnect", "front", "both");
    t.equal(await addressOf(host2, "both", "front"), "");
    await waitFor("the name to go", { timeoutMs: 10_000 }, async () => {
      return (await docker.try(host1, ["exec", "c1", "nslookup", "side"])).code !== 0;
    });
    await run(host2, "rm", "-f", "both");
  });

  void t.test("worker and manager killed: addresses and names stay, and nobody is given them", async (t) => {
    const before = [await addressOf(host1, "c1"), await addressOf(host2, "c2")];
    await killAgain(host2, "worker");
    await killAgain(host1, "manager");
    t.equal(await ask(host1, "c1", "store"), "two");
    t.equal(await ask(host2, "c2", "c1"), "one");
    t.strictSame([await addressOf(host1, "c1"), await addressOf(host2, "c2")], before);
    await run(host1, "run", "-d", "--name", "c3", "--network", "front", ...server);
    const third = await addressOf(host1, "c3");
    t.match(third, /^10\.5[56]\.0\./);
    t.notOk(before.includes(third), third);
    await run(host1, "rm", "-f", "c3");
  });

  void t.test("one that ends gives back its address and its names", async (t) => {
    await run(host2, "kill", "c2");
    await waitFor("the name to go", { timeoutMs: 10_000 }, async () => {
      return (await docker.try(host1, ["exec", "c1", "nslookup", "store"])).code !== 0;
    });
    await run(host1, "run", "-d", "--name", "heir", "--network", "front", "--ip", "10.56.0.77", ...server);
    t.match(await refused(host2, "start", "c2"), /Address already in use/);
    await run(host1, "rm", "-f", "heir");
    await waitFor("start of c2", { timeoutMs: 10_000 }, () => run(host2, "start", "c2"));
    t.equal(await ask(host1, "c1", "store"), "two");
    await run(host1, "service", "rm", "svc");
    await run(host1, "rm", "-f", "c1");
    await run(host2, "rm", "-f", "c2");
    await waitFor("removal of the network", { timeoutMs: 15_000 }, () =>
      run(host1, "network", "rm", "front"),
    );
    t.match(await refused(host2, "network", "inspect", "front"), /not found/);
  });

  void t.test(
    "a host that leaves the cluster takes its containers off the network, and they run on",
    async (t) => {
      await run(host1, "network", "create", "-d", "overlay", "--attachable", "last");
      await run(host2, "run", "-d", "--name", "stays", "--network", "last", ...server);
      t.match(await refused(host1, "network", "rm", "last"), /has active endpoints/);
      await run(host2, "swarm", "leave");
      await waitFor("removal of the network", { timeoutMs: 15_000 }, () =>
        run(host1, "network", "rm", "last"),
      );
      t.match(await run(host2, "ps", "--format", "{{.Names}} {{.State}}"), /^stays running$/m);
      t.equal(await addressOf(host2, "stays", "last"), "");
      t.match(await refused(host2, "restart", "-t", "0", "stays"), /network last not found/);
      await run(host2, "rm", "-f", "stays");
    },
  );
}
