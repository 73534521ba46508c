/** Bridge networks of one host, made and used by the unmodified docker client. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { isDeepStrictEqual } from "node:util";

import Docker from "dockerode";
import t from "tap";

import { systemClock } from "../../runtime/clock.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { insideNamespaces } from "./containerd.ts";
import { LocalHost } from "./local-host.ts";

insideNamespaces(import.meta.url);

const host = await LocalHost.start("bridges");
t.teardown(() => host.stop());
const image = `${host.host.registry}/test/bb:1`;
await pushImage(
  host.host.registry,
  "test/bb",
  "1",
  buildImage([await busyboxLayer()], { Cmd: ["sleep", "600"] }),
);
await host.engine.pull(image, {}, new AbortController().signal);
const docker = (...args: string[]) => host.docker(...args);

/** What the client printed, once it has succeeded. */
async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await docker(...args);
  if (code !== 0) throw new Error(`docker ${args.join(" ")}: ${code}: ${err}`);
  return out.trim();
}

/** What the client printed as its error, once it has failed. */
async function refused(...args: string[]): Promise<string> {
  const { code, out, err } = await docker(...args);
  if (code === 0) throw new Error(`docker ${args.join(" ")} succeeded: ${out}`);
  return err.trim();
}

const inspect = (name: string, format: string) => ok("inspect", "--format", format, name);
const inside = (name: string, ...args: string[]) => docker("exec", name, ...args);
const run = (name: string, ...args: string[]) => ok("run", "-d", "--name", name, ...args);
const server = ["nc", "-ll", "-p", "80", "-e", "hostname"];
const addressOn = (name: string, network: string) =>
  inspect(name, `{{(index .NetworkSettings.Networks "${network}").IPAddress}}`);

/** What answers on the host itself. */
const here = (where: string) => host.shell("", `busybox nc -w 3 ${where} < /dev/null`);
const hasIptables = (await host.shell("", "iptables -S FORWARD")).code === 0;
const lines = (text: string) => text.split("\n").toSorted();

async function get(from: string, where: string): Promise<string> {
  const { code, out } = await inside(from, "sh", "-c", `nc -w 2 ${where} < /dev/null`);
  return code === 0 ? out.trim() : `exit ${code}`;
}

await t.test("create, ls, inspect, rm: subnets that are chosen, and those that are asked for", async (t) => {
  const id = await ok("network", "create", "plain");
  t.match(id, /^[0-9a-f]{64}$/);
  t.match(await ok("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"), /^plain bridge local$/m);
  t.equal(
    await ok("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "plain"),
    "172.17.0.1",
  );
  const asked =
    "--subnet 10.99.0.0/24 --ip-range 10.99.0.128/25 --gateway 10.99.0.254 --aux-address router=10.99.0.129 --label tier=back " +
    "-o com.docker.network.bridge.name=mine0 -o com.docker.network.driver.mtu=1400";
  await ok("network", "create", ...asked.split(" "), "shaped");
  t.strictSame(JSON.parse(await ok("network", "inspect", "--format", "{{json .IPAM.Config}}", "shaped")), [
    {
      Subnet: "10.99.0.0/24",
      IPRange: "10.99.0.128/25",
      Gateway: "10.99.0.254",
      AuxiliaryAddresses: { router: "10.99.0.129" },
    },
  ]);
  t.match(await host.shell("", "ip -4 -o address show mine0"), { out: /10\.99\.0\.254\/24/ });
  t.equal(
    await ok("network", "ls", "-q", "--no-trunc", "--filter", "label=tier=back"),
    await ok("network", "inspect", "-f", "{{.Id}}", "shaped"),
  );
  await run("shaped1", "--network", "shaped", image);
  t.equal(await addressOn("shaped1", "shaped"), "10.99.0.128", "from the range, no address that is left out");
  t.match((await inside("shaped1", "ip", "link", "show", "eth0")).out, /mtu 1400/);
  t.match(await refused("network", "create", "plain"), /network with name plain already exists/);
  t.match(
    await refused("network", "create", "--subnet", "10.99.0.128/25", "other"),
    /Pool overlaps with other one on this address space: 10\.99\.0\.128\/25 with network shaped/,
  );
  t.match(
    await refused("network", "create", "--subnet", "10.99.0.1/24", "other"),
    /it should be 10\.99\.0\.0\/24/,
  );
  t.match(
    await refused("network", "create", "bridge"),
    /operation is not permitted on predefined bridge network/,
  );
  t.match(await refused("network", "rm", "host"), /host is a pre-defined network and cannot be removed/);
  t.match(
    await refused("network", "rm", "shaped"),
    /network shaped has active endpoints \(name:"shaped1" id:"[0-9a-f]{12}"\)/,
  );
  t.match(await refused("network", "rm", "nope"), /network nope not found/);
  t.match(await host.shell("", "ip link show mine0"), { out: /mtu 1400/ });
  await ok("rm", "-f", "shaped1");
  t.match(await host.shell("", "ip link show mine0"), { out: /mtu 1400/ }, "also when the last one has gone");
  await ok("network", "rm", "shaped", "plain");
  t.match(await host.shell("", "ip link show mine0"), { code: 1 }, "its device is gone");
});

await t.test(
  "containers know each other by name, alias and short id, on their own network only",
  async (t) => {
    await ok("network", "create", "red");
    await ok("network", "create", "blue");
    const id = await run("web", "--network", "red", "--network-alias", "www", image, ...server);
    await run("client", "--network", "red", image);
    await run("stranger", "--network", "blue", image);
    await run("plain1", image);
    for (const name of ["web", "www", id.slice(0, 12), "web.red", "WEB"]) {
      t.equal(await get("client", `${name} 80`), id.slice(0, 12), name);
    }
    t.match((await inside("client", "nslookup", await addressOn("web", "red"))).out, /name = web\.red/);
    t.match(await get("stranger", "web 80"), /^exit/, "no name of another network");
    t.match(await get("stranger", `${await addressOn("web", "red")} 80`), /^exit/, "nor its address");
    t.match(await get("plain1", "web 80"), /^exit/, "no names on the host's own bridge");
    t.strictSame(
      JSON.parse(await inspect("web", '{{json (index .NetworkSettings.Networks "red").DNSNames}}')),
      ["web", "www", id.slice(0, 12)],
    );
    await ok("rename", "web", "site");
    t.equal(await get("client", "site 80"), id.slice(0, 12), "a new name at once");
    t.match(await get("client", "web 80"), /^exit/, "and not the old one");
    await ok("rename", "site", "web");
  },
);

await t.test("connect and disconnect while it runs, and while it does not", async (t) => {
  await ok("network", "connect", "--alias", "guest", "red", "stranger");
  const id = (await inspect("web", "{{.Id}}")).slice(0, 12);
  t.equal(await get("stranger", "web 80"), id);
  t.match((await inside("client", "nslookup", "guest")).out, await addressOn("stranger", "red"));
  t.match(
    await refused("network", "connect", "red", "stranger"),
    /endpoint with name stranger already exists in network red/,
  );
  t.match(
    (await inside("stranger", "ip", "route")).out,
    /default via 172\.\d+\.0\.1 dev eth0/,
    "blue comes before red",
  );
  await ok("network", "disconnect", "blue", "stranger");
  t.match((await inside("stranger", "ip", "route")).out, /default via 172\.\d+\.0\.1 dev eth1/);
  t.equal(await get("stranger", "web 80"), id, "names too");
  t.match(await refused("network", "disconnect", "blue", "stranger"), /is not connected to network blue/);
  await ok("network", "connect", "blue", "stranger");
  t.equal(await get("stranger", "web 80"), id);
  await ok("network", "disconnect", "red", "stranger");
  t.match(await get("stranger", "web 80"), /^exit/);
  await ok("stop", "-t", "0", "stranger");
  await ok("network", "connect", "red", "stranger");
  await ok("start", "stranger");
  t.equal(await get("stranger", "web 80"), id, "from its next start on");
  t.match(
    await refused("network", "connect", "host", "stranger"),
    /cannot connect container to host network/,
  );
  await ok("rm", "-f", "stranger", "client", "web", "plain1");
  await ok("network", "rm", "blue", "red");
});

await t.test("addresses, MACs, several networks at once, links", async (t) => {
  await ok("network", "create", "--subnet", "10.98.0.0/24", "fixed");
  await ok("network", "create", "free");
  await run(
    "aa",
    "--network",
    "fixed",
    "--ip",
    "10.98.0.50",
    "--mac-address",
    "02:42:ac:11:00:99",
    image,
    ...server,
  );
  t.equal(await addressOn("aa", "fixed"), "10.98.0.50");
  t.match((await inside("aa", "ip", "link", "show", "eth0")).out, /02:42:ac:11:00:99/);
  t.match(
    await refused("run", "--rm", "--network", "fixed", "--ip", "10.98.0.50", image, "true"),
    /failed to set up container networking: Address already in use/,
  );
  t.match(
    await refused("run", "--rm", "--network", "fixed", "--ip", "10.97.0.50", image, "true"),
    /no configured subnet or ip-range contain the IP address 10\.97\.0\.50/,
  );
  t.match(
    await refused("run", "--rm", "--network", "free", "--ip", "172.17.0.9", image, "true"),
    /user specified IP address is supported only when connecting to networks with user configured subnets/,
  );
  t.match(
    await refused("run", "--rm", "--ip", "172.30.0.9", image, "true"),
    /user specified IP address is supported on user defined networks only/,
  );
  t.match(
    await refused("run", "--rm", "--network", "nope", image, "true"),
    /failed to set up container networking: network nope not found/,
  );
  await run("bb", "--network", "fixed", "--network", "name=free,alias=both", "--link", "aa:db", image);
  t.match(await get("bb", "db 80"), /^[0-9a-f]{12}$/, "a link on a network of users");
  t.match((await inside("bb", "ip", "-o", "-4", "address")).out, /eth1/);
  await run("cc", "--network", "free", image);
  t.match((await inside("cc", "nslookup", "both")).out, await addressOn("bb", "free"));
  await run("old", image, ...server);
  await run("new", "--link", "old:legacy", image);
  t.match(await get("new", "legacy 80"), /^[0-9a-f]{12}$/, "a link on the host's own bridge");
  await run("joined", "--network", "container:aa", image);
  t.match((await inside("joined", "ip", "-o", "-4", "address")).out, /10\.98\.0\.50/);
  await ok("restart", "-t", "0", "aa");
  t.match(await get("bb", "db 80"), /^[0-9a-f]{12}$/, "starts again although another is in its namespace");
  t.match((await inside("joined", "true")).code, 0, "which stays with the former one");
  await ok("rm", "-f", "aa", "bb", "cc", "old", "new", "joined");
  await ok("network", "rm", "fixed", "free");
});

await t.test("internal networks, networks whose containers do not talk", async (t) => {
  await ok("network", "create", "--internal", "cell");
  await ok("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "quiet");
  await run("in1", "--network", "cell", "-p", "8088:80", image, ...server);
  await run("in2", "--network", "cell", image);
  t.match(await get("in2", "in1 80"), /^[0-9a-f]{12}$/);
  t.match(await here("127.0.0.1 8088"), { code: 1 }, "publishes nothing");
  await run("open1", image, ...server);
  t.match(await get("in2", `${await addressOn("open1", "bridge")} 80`), /^exit/);
  await run("q1", "--network", "quiet", "-p", "8089:80", image, ...server);
  await run("q2", "--network", "quiet", image);
  t.match(await get("q2", "q1 80"), /^exit/);
  t.match(await get("q2", "172.30.0.1 8089"), /^[0-9a-f]{12}$/, "but by what it publishes");
  await ok("rm", "-f", "in1", "in2", "open1", "q1", "q2");
  t.match(await ok("network", "prune", "-f"), /cell[^]*quiet|quiet[^]*cell/);
});

await t.test("published ports: one address, ranges, conflicts, loopback and hairpin", async (t) => {
  await ok("network", "create", "pub");
  const id = (
    await run("p1", "--network", "pub", "-p", "127.0.0.1:8090:80", "-p", "8091-8092:80", image, ...server)
  ).slice(0, 12);
  t.match(await here("127.0.0.1 8090"), { out: id });
  t.match(await here("172.30.0.1 8090"), { code: 1 }, "at that address only");
  t.match(await here("127.0.0.1 8091"), { out: id });
  t.equal(await get("p1", "172.30.0.1 8091"), id, "from itself");
  t.strictSame(JSON.parse(await inspect("p1", "{{json .NetworkSettings.Ports}}")), {
    "80/tcp": [
      { HostIp: "127.0.0.1", HostPort: "8090" },
      { HostIp: "0.0.0.0", HostPort: "8091" },
      { HostIp: "::", HostPort: "8091" },
    ],
  });
  const ports = ["80/tcp -> 0.0.0.0:8091", "80/tcp -> 127.0.0.1:8090", "80/tcp -> [::]:8091"];
  t.strictSame(lines(await ok("port", "p1")), ports);
  t.match(await here("::1 8091"), { out: id }, "by IPv6 as well");
  t.match(await here("::1 8090"), { code: 1 });
  t.match(
    await refused("run", "--rm", "-p", "8091:80", image, "true"),
    /driver failed programming external connectivity on endpoint .*: Bind for 0\.0\.0\.0:8091 failed: port is already allocated/,
  );
  await ok("create", "--name", "f1", "-p", "8091:80", image);
  const failure = await refused("start", "f1");
  const state = await inspect("f1", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}");
  t.match(state, /^created 128 failed to set up container networking: .*port is already allocated$/);
  t.ok(failure.includes(state.replace("created 128 ", "")), "what the client was told");
  t.equal(await ok("wait", "f1"), "128");
  await ok("rm", "f1");
  await run("p2", "-p", "8091-8092:80", image, ...server);
  t.match(await ok("port", "p2"), "80/tcp -> 0.0.0.0:8092", "the next one of the range");
  t.match(
    await refused("run", "--rm", "-p", "203.0.113.9:80:80", image, "true"),
    /cannot assign requested address/,
  );
  await run("p3", "--expose", "80", "-P", image, ...server);
  const [, chosen = ""] = /0\.0\.0\.0:(\d+)/.exec(await ok("port", "p3")) ?? [];
  t.match(await here(`127.0.0.1 ${chosen}`), { code: 0 });
  const sender = createSocket("udp4");
  const send = () => sender.send("steady", 8095, "127.0.0.1");
  send(); // To nobody yet: the kernel remembers the flow.
  await run("p4", "-p", "8095:514/udp", image);
  send();
  const flows = (await host.shell("", "conntrack -L -p udp --orig-port-dst 8095")).out;
  const [, address] = /src=\S+ dst=127\.0\.0\.1 .* src=(\S+)/.exec(flows) ?? [];
  t.equal(address, await addressOn("p4", "bridge"), "a sender that was there before");
  sender.close();
  await ok("rm", "-f", "p1", "p2", "p3", "p4");
  t.match(await here("127.0.0.1 8091"), { code: 1 });
  await ok("network", "rm", "pub");
});

await t.test("IPv6 beside IPv4: subnets, addresses, names, the outside, isolation, ports", async (t) => {
  const table = async () => (await host.shell("", "nft list table ip6 shoal_net")).code;
  t.equal(await table(), 1, "without a network that has it, there are no rules for it");
  const six = (name: string, network: string) =>
    inspect(name, `{{(index .NetworkSettings.Networks "${network}").GlobalIPv6Address}}`);
  await ok("network", "create", "--ipv6", "chosen");
  const asked =
    "--ipv6 --subnet 10.95.0.0/24 --subnet fd00:95::/64 --gateway fd00:95::fe --ip-range fd00:95::80/121";
  await ok("network", "create", ...asked.split(" "), "dual");
  t.strictSame(JSON.parse(await ok("network", "inspect", "--format", "{{json .IPAM.Config}}", "dual")), [
    { Subnet: "10.95.0.0/24", Gateway: "10.95.0.1" },
    { Subnet: "fd00:95::/64", IPRange: "fd00:95::80/121", Gateway: "fd00:95::fe" },
  ]);
  t.match(
    await ok("network", "inspect", "-f", "{{.EnableIPv6}} {{(index .IPAM.Config 1).Subnet}}", "chosen"),
    /^true fd[0-9a-f:]+::\/64$/,
  );
  t.match(
    await refused("network", "create", "--ipv6", "--subnet", "fd00:95:0:0:1::/80", "other"),
    /Pool overlaps with other one on this address space: fd00:95:0:0:1::\/80 with network dual/,
  );
  const id = (
    await run(
      "v1",
      "--network",
      "dual",
      "--ip6",
      "fd00:95::5",
      "--network-alias",
      "www",
      "-p",
      "8086:80",
      image,
      ...server,
    )
  ).slice(0, 12);
  await run("v2", "--network", "dual", image);
  await run("v3", "--network", "chosen", image);
  t.equal(await six("v1", "dual"), "fd00:95::5");
  t.equal(await six("v2", "dual"), "fd00:95::80", "from the range");
  t.match(JSON.parse(await inspect("v1", "{{json .NetworkSettings.Networks.dual}}")), {
    IPAMConfig: { IPv6Address: "fd00:95::5" },
    IPv6Gateway: "fd00:95::fe",
    GlobalIPv6PrefixLen: 64,
  });
  t.match(
    await ok("network", "inspect", "-f", "{{json .Containers}}", "dual"),
    /"IPv6Address":"fd00:95::5\/64"/,
  );
  t.match(
    await refused("run", "--rm", "--network", "dual", "--ip6", "fd00:95::5", image, "true"),
    /failed to set up container networking: Address already in use/,
  );
  t.match(
    await refused("run", "--rm", "--network", "chosen", "--ip6", "fd00:95::6", image, "true"),
    /user specified IP address is supported only when connecting to networks with user configured subnets/,
  );
  const addresses = (await inside("v2", "ip", "-6", "-o", "address", "show", "eth0")).out;
  t.match(addresses, /fd00:95::80\/64/);
  t.notMatch(addresses, /tentative|fe80/, "nothing is waited for, and no link of its own");
  for (const where of ["v1", "www", "fd00:95::5"]) t.equal(await get("v2", `${where} 80`), id, where);
  t.match((await inside("v2", "nslookup", "-type=aaaa", "www")).out, /fd00:95::5/);
  t.match((await inside("v2", "nslookup", "fd00:95::5")).out, /name = v1\.dual/);
  t.match((await inside("v1", "cat", "/etc/hosts")).out, /^fd00:95::5\t/m);
  t.match(await get("v3", "fd00:95::5 80"), /^exit/, "isolated");
  t.match((await inside("v2", "ping", "-c", "1", "-W", "2", "fd00:95::99")).out, /100% packet loss|bytes/);

  await host.shell(
    "",
    "ip link add far0 type bridge; ip link set far0 up; ip -6 address add 2001:db8::1/64 dev far0 nodad",
  );
  t.equal(await get("v3", "2001:db8::1 8086"), id, "what another publishes, by an address of the host");
  t.equal(await get("v1", "2001:db8::1 8086"), id, "what it publishes itself");
  t.match(await here("2001:db8::1 8086"), { out: id });
  t.match(await here("::1 8086"), { out: id }, "localhost too");
  t.match(await here("127.0.0.1 8086"), { out: id }, "IPv4 as ever");
  t.match(
    await host.shell("", "conntrack -f ipv6 -L -p tcp 2>/dev/null"),
    { out: /dst=2001:db8::1 sport=\d+ dport=8086 src=fd00:95::5/ },
    "translated by rules, and not carried",
  );
  await run("v4", "--network", "chosen", "-p", "[2001:db8::1]:8087:80", image, ...server);
  t.match(await here("2001:db8::1 8087"), { code: 0 }, "at one address");
  t.match(await here("::1 8087"), { code: 1 });
  t.strictSame(lines(await ok("port", "v4")), ["80/tcp -> [2001:db8::1]:8087"]);

  await ok("network", "connect", "--ip6", "fd00:95::33", "dual", "v3");
  t.equal(await six("v3", "dual"), "fd00:95::33");
  t.equal(await get("v3", "fd00:95::5 80"), id, "once it is on the network");
  t.match((await inside("v3", "ip", "-6", "rule")).out, /from fd00:95::33 lookup/);
  await ok("network", "disconnect", "chosen", "v3");
  t.match((await inside("v3", "ip", "-6", "route")).out, /default via fd00:95::fe dev eth1/);
  t.equal(await get("v3", "www 80"), id);

  const device = `br-${(await ok("network", "inspect", "-f", "{{.Id}}", "dual")).slice(0, 12)}`;
  const broken = [
    `ip -6 address del fd00:95::fe/64 dev ${device}`,
    "ip -6 route del fd00:95::5",
    "nft delete table ip6 shoal_net",
    `echo 1 > /proc/sys/net/ipv6/conf/${device}/disable_ipv6`,
  ];
  await host.shell("", broken.join("; "));
  const mended = /was not as it was left, and is mended: .*ip6 shoal_net is gone/;
  // One look may come upon the half of it. Each answer is waited for up to some seconds.
  const look = async () => ({
    inside: await get("v2", "fd00:95::5 80"),
    outside: (await here("2001:db8::1 8086")).out.trim(),
    table: await table(),
    isSaid: mended.test(host.warnings.join("\n")),
  });
  const well = { inside: id, outside: id, table: 0, isSaid: true };
  let seen = await look();
  for (let attempt = 0; attempt < 100 && !isDeepStrictEqual(seen, well); attempt++) seen = await look();
  t.strictSame(seen, well, "mended by the next looks");
  host.warnings.splice(0);

  await ok("network", "create", "--ipv6", "--internal", "locked");
  await run("w1", "--network", "locked", image, ...server);
  await run("w2", "--network", "locked", image);
  t.match(await get("w2", `${await six("w1", "locked")} 80`), /^[0-9a-f]{12}$/);
  t.match(await get("w2", "2001:db8::1 8086"), /^exit/, "and nothing outside");
  await host.away(async () => {
    t.match(await here("2001:db8::1 8086"), { out: id }, "rules stay while the worker is away");
  });
  t.equal(await get("v2", "v1 80"), id);
  await ok("rm", "-f", "v1", "v2", "v3", "v4", "w1", "w2");
  await ok("network", "rm", "dual", "chosen", "locked");
  t.equal(await table(), 1, "with the last network the rules go");
  await host.shell("", "ip link del far0");
});

await t.test("a worker that was away finds networks, names, addresses and ports as they were", async (t) => {
  await ok("network", "create", "--label", "kept=yes", "lasting");
  const id = (await run("l1", "--network", "lasting", "-p", "8095:80", image, ...server)).slice(0, 12);
  await run("l2", "--network", "lasting", image);
  const before = await addressOn("l1", "lasting");
  await host.away(async () => {
    t.match(await here("127.0.0.1 8095"), { out: id }, "meanwhile");
  });
  t.equal(await addressOn("l1", "lasting"), before);
  t.equal(await get("l2", "l1 80"), id);
  t.match(await here("127.0.0.1 8095"), { out: id });
  t.equal(
    await ok("network", "ls", "-q", "--no-trunc", "-f", "label=kept"),
    await ok("network", "inspect", "-f", "{{.Id}}", "lasting"),
  );
  await run("l3", "--network", "lasting", image);
  t.not(await addressOn("l3", "lasting"), before, "no address twice");
  await ok("network", "disconnect", "lasting", "l2");
  await ok("rm", "-f", "l1", "l2", "l3");
  await ok("network", "rm", "lasting");
  t.strictSame(host.warnings, []);
});

await t.test("a host that was started anew has its networks, its containers their names", async (t) => {
  const network = await ok("network", "create", "--subnet", "10.96.0.0/24", "rooted");
  const id = (await run("b1", "--network", "rooted", "--ip", "10.96.0.7", image, ...server)).slice(0, 12);
  await run("b2", "--network", "rooted", image);
  await ok("stop", "-t", "0", "b1", "b2");
  const device = `br-${network.slice(0, 12)}`;
  await host.away(async () => {
    const left = `ip link del ${device}; nft delete table ip shoal_net; rm -rf ${host.settings.runDir}/network`;
    t.match(await host.shell("", left), { code: 0 });
  });
  t.match(
    await host.shell("", `ip -4 -o address show ${device}`),
    { out: /10\.96\.0\.1\/24/ },
    "before anybody needs it",
  );
  await ok("start", "b1", "b2");
  t.equal(await get("b2", "b1 80"), id);
  t.equal(await addressOn("b1", "rooted"), "10.96.0.7");
  await ok("rm", "-f", "b1", "b2");
  await ok("network", "rm", "rooted");
});

await t.test(
  "where the host drops what is forwarded, as beside Docker, containers reach each other all the same",
  { skip: hasIptables ? false : "no iptables here" },
  async (t) => {
    await ok("network", "create", "beside");
    const id = (await run("d1", "--network", "beside", image, ...server)).slice(0, 12);
    await run("d2", "--network", "beside", image);
    await host.shell(
      "",
      "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER",
    );
    let answer = await get("d2", "d1 80"); // Waits up to two seconds itself.
    for (let attempt = 0; attempt < 10 && answer !== id; attempt++) answer = await get("d2", "d1 80");
    t.equal(answer, id, "the host's next looks notice it");
    await host.away(async () => void (await host.shell("", "iptables -F DOCKER-USER")));
    t.equal(await get("d2", "d1 80"), id, "a new worker lets them pass before its first look");
    t.match(await host.shell("", "iptables -S DOCKER-USER"), {
      out: /devgroup --src-group 0x5348 -j ACCEPT/,
    });
    t.match(await host.shell("", "iptables -S FORWARD"), {
      out: /^-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n$/,
    });
    await ok("rm", "-f", "d1", "d2");
    await ok("network", "rm", "beside");
  },
);

await t.test("events of networks", async (t) => {
  await ok("network", "create", "told");
  await run("e1", "--network", "told", image);
  await ok("rm", "-f", "e1");
  await ok("network", "rm", "told");
  const untilS = String(Math.ceil(systemClock.now() / 1_000) + 1); // The client cuts what is less than a second.
  const told = await ok(
    "events",
    "--since",
    "1m",
    "--until",
    untilS,
    "--filter",
    "type=network",
    "--filter",
    "network=told",
    "--format",
    "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}",
  );
  t.strictSame(
    told.split("\n"),
    ["create", "connect", "disconnect", "destroy"].map((action) => `${action} told bridge`),
  );
});

await t.test("host-gateway is where a container finds what the host listens on", async (t) => {
  const listener = createServer((socket) => socket.end("from the host\n")).listen(0, "0.0.0.0");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  const script = `grep -c host-gateway /etc/hosts; nc -w 3 box ${port} < /dev/null`;
  await ok("network", "create", "far");
  try {
    for (const network of ["bridge", "far", "host"]) {
      const args = [
        "--rm",
        "--network",
        network,
        "--add-host",
        "box:host-gateway",
        image,
        "sh",
        "-c",
        script,
      ];
      t.equal((await docker("run", ...args)).out, "0\nfrom the host\n", network);
    }
    t.match(await refused("create", "--add-host", "box:nowhere", image), /invalid (IP address|argument)/);
  } finally {
    listener.close();
    await ok("network", "rm", "far");
  }
});

await t.test("the same by dockerode", async (t) => {
  const client = new Docker({ socketPath: host.settings.socket });
  const network = await client.createNetwork({ Name: "rode", Labels: { by: "sdk" } });
  const container = await client.createContainer({
    name: "r1",
    Image: image,
    NetworkingConfig: { EndpointsConfig: { rode: { Aliases: ["one"] } } },
    HostConfig: { NetworkMode: "rode", PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "0" }] } },
    ExposedPorts: { "80/tcp": {} },
  });
  await container.start();
  const seen = await network.inspect();
  t.strictSame(Object.keys(seen.Containers ?? {}), [container.id]);
  t.match(await container.inspect(), {
    NetworkSettings: {
      SandboxKey: /netns/,
      Ports: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: /^\d+$/ }] },
      Networks: {
        rode: {
          Aliases: ["one"],
          NetworkID: network.id,
          IPPrefixLen: 16,
          DNSNames: ["r1", "one", container.id.slice(0, 12)],
        },
      },
    },
  });
  const other = await client.createNetwork({ Name: "rode2", Internal: true });
  await other.connect({ Container: "r1", EndpointConfig: { Aliases: ["two"] } });
  t.match(await container.inspect(), { NetworkSettings: { Networks: { rode: {}, rode2: { Gateway: "" } } } });
  await t.rejects(network.remove(), /active endpoints/);
  await other.disconnect({ Container: "r1" });
  await container.remove({ force: true });
  t.strictSame(
    (await client.listNetworks({ filters: JSON.stringify({ label: ["by=sdk"] }) })).map(({ Name }) => Name),
    ["rode"],
  );
  await network.remove();
  await other.remove();
});
