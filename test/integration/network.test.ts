import { spawn } from "node:child_process";
import { once } from "node:events";
import t from "tap";

import type { TaskId } from "../../model/ids.ts";
import type { PortSpec } from "../../model/service.ts";
import type {
  Attached,
  AttachNetwork,
  OverlayEndpoint,
  OverlayNetwork,
  OverlayService,
} from "../../worker/network/network.ts";
import { hostMac } from "../../worker/network/addresses.ts";
import { dual, endpoint, inNamespace, overlay, probe, serve, World } from "./network-hosts.ts";
import type { Host } from "./network-hosts.ts";
import { capture, inject } from "./network-wire.ts";

if (process.getuid?.() !== 0) {
  t.plan(0, "needs root for network namespaces");
  process.exit(0);
}

const red = overlay("st_red", 1);
const blue = overlay("st_blue", 2);
const green: OverlayNetwork = { ...dual("st_green", 3), encrypted: true };
const six = dual("st_six", 4);
const seven = dual("st_seven", 5);
const task = (name: string): TaskId => name as TaskId;

await using world = await World.open("network");
const [one, two, three] = [world.host(1), world.host(2), world.host(3)];
let endpoints: OverlayEndpoint[] = [];

let networks: readonly OverlayNetwork[] = [red, blue];
let services: readonly OverlayService[] = [];

async function applyAll(): Promise<void> {
  const all = await Promise.all(world.hosts.map((host) => host.asOther()));
  await Promise.all(
    world.hosts.map((host) => {
      const hosts = all.filter(({ nodeId }) => nodeId !== host.nodeId);
      return host.apply(networks, endpoints, { services, hosts });
    }),
  );
}

async function start(
  host: Host,
  network: OverlayNetwork,
  place: {
    readonly task: string;
    readonly address: string;
    readonly ipv6?: string;
    readonly service: string;
  },
): Promise<string> {
  endpoints = [...endpoints, endpoint(network, host, place)];
  await applyAll();
  const attached = await host.attach({
    taskId: task(place.task),
    networks: [placeOn(network, place)],
  });
  return pathOf(attached);
}

function placeOn(
  network: OverlayNetwork,
  { address, ipv6 }: { address: string; ipv6?: string },
): AttachNetwork {
  return {
    networkId: network.id,
    address: `${address}/24`,
    ...(ipv6 !== undefined && { ipv6: `${ipv6}/64` }),
    aliases: [],
  };
}

function pathOf(attached: Attached): string {
  return attached.kind === "namespace" ? attached.path : "";
}

function ping(path: string, address: string, ...options: readonly string[]): boolean {
  return inNamespace(path, ["busybox", "ping", "-c1", "-W1", ...options, address]).code === 0;
}

function ping6(path: string, address: string, ...options: readonly string[]): boolean {
  return inNamespace(path, ["ping", "-6", "-c1", "-W1", ...options, address]).code === 0;
}

function port(publishedPort: number, targetPort: number, protocol: "tcp" | "udp" = "tcp"): PortSpec {
  return { protocol, targetPort, publishedPort, publishMode: "host" };
}

function get(path: string, host: string, number: number): string {
  return inNamespace(path, [...probe, "get", host, String(number)]).output;
}

let web = "";
let client = "";

await t.test("tasks on different hosts and on one host reach each other", async (t) => {
  web = await start(one, red, { task: "a", address: "10.10.1.10", service: "st_web" });
  client = await start(two, red, { task: "b", address: "10.10.1.11", service: "st_client" });
  await start(two, red, { task: "c", address: "10.10.1.12", service: "st_web" });
  t.ok(ping(client, "10.10.1.10"), "other host");
  t.ok(ping(web, "10.10.1.11"), "and back");
  t.ok(ping(client, "10.10.1.12"), "same host");
  t.ok(ping(client, "10.10.1.1"), "gateway");
});

await t.test("the overlay carries 1422 bytes of payload and not one more", async (t) => {
  t.ok(ping(client, "10.10.1.10", "-s", "1422"));
  const mtu = inNamespace(client, ["ip", "link", "show", "eth0"]).output;
  t.match(mtu, /mtu 1450/);
});

await t.test("names lead to the serving tasks of the asker's networks", async (t) => {
  const ask = (path: string, name: string, ...type: string[]): string =>
    inNamespace(path, ["busybox", "nslookup", ...type, name, "10.10.1.1"]).output;
  for (const name of ["st_web", "web", "tasks.st_web", "web.st_red", "WEB"]) {
    const output = ask(client, name);
    t.match(output, "10.10.1.10", name);
    t.match(output, "10.10.1.12", name);
  }
  t.notMatch(ask(client, "st_client.1.b"), "10.10.1.10", "a task's own name is that task alone");
  t.match(ask(client, "10.10.1.10"), "st_web.1.a.st_red", "address to name");
  t.match(ask(client, "nobody"), /NXDOMAIN/, "an unknown name is unknown even if no resolver answers");
  endpoints = endpoints.map((entry) => (entry.taskId === task("c") ? { ...entry, serving: false } : entry));
  await applyAll();
  const output = ask(client, "web");
  t.match(output, "10.10.1.10");
  t.notMatch(output, "10.10.1.12", "not serving, not answered");
});

await t.test("other names are passed to the host's resolvers; long answers are whole over TCP", async (t) => {
  const resolver = serve(world.outside, [...probe, "resolver"]);
  t.teardown(() => resolver.stop());
  const resolve = (over: string, name: string): string =>
    inNamespace(client, [...probe, "resolve", over, "10.10.1.1", name]).output;
  await until(() => resolve("udp", "example.org") === "1 9.9.9.9", "the resolver answers");
  t.equal(resolve("tcp", "example.org"), "1 9.9.9.9");
  const many = Array.from({ length: 60 }, (_, index) =>
    endpoint(red, one, { task: `m${index}`, address: `10.10.1.${100 + index}`, service: "st_many" }),
  );
  await two.apply(networks, [...endpoints, ...many]);
  t.match(resolve("udp", "many"), /^\d\d truncated 10\.10\.1\./, "as many as fit, and marked");
  t.match(resolve("tcp", "many"), /^60 10\.10\.1\./);
});

await t.test("tasks of different networks do not reach each other, unless one is on both", async (t) => {
  const stranger = await start(two, blue, { task: "d", address: "10.10.2.10", service: "st_db" });
  t.notOk(ping(stranger, "10.10.1.12"), "same host");
  t.notOk(ping(stranger, "10.10.1.10"), "other host");
  t.notOk(ping(client, "10.10.2.10"), "nor the other way");
  t.match(inNamespace(stranger, ["busybox", "nslookup", "web", "10.10.2.1"]).output, /NXDOMAIN|find/);
  endpoints = [
    ...endpoints,
    endpoint(red, three, { task: "e", address: "10.10.1.20", service: "st_both" }),
    endpoint(blue, three, { task: "e", address: "10.10.2.20", service: "st_both" }),
  ];
  await applyAll();
  const both = pathOf(
    await three.attach({
      taskId: task("e"),
      networks: [
        { networkId: red.id, address: "10.10.1.20/24", aliases: [] },
        { networkId: blue.id, address: "10.10.2.20/24", aliases: [] },
      ],
    }),
  );
  t.ok(ping(both, "10.10.1.10") && ping(both, "10.10.2.10"), "on both: reaches both");
  t.ok(ping(stranger, "10.10.2.20"));
});

await t.test("tasks reach the outside under the host's address", async (t) => {
  t.ok(ping(client, world.outsideAddress));
});

await t.test(
  "a host-mode port works from outside, from the host, under localhost and from tasks",
  async (t) => {
    const attached = await three.attach({
      taskId: task("p"),
      ports: [port(18080, 80), port(0, 80), port(15353, 53, "udp")],
    });
    const [fixed, chosen] = attached.publishedPorts;
    t.match(fixed, { publishedPort: 18080, targetPort: 80, protocol: "tcp" });
    t.ok((chosen?.publishedPort ?? 0) > 1024, "a free port is chosen for 0");
    const server = serve(pathOf(attached), [...probe, "serve", "80", "hello"]);
    const echo = serve(pathOf(attached), [...probe, "echo-udp", "53"]);
    t.teardown(() => {
      server.stop();
      echo.stop();
    });
    const address = attached.kind === "namespace" ? (attached.addresses[0]?.address.split("/")[0] ?? "") : "";
    await until(() => get(three.netns, address, 80) === "hello", "the server answers");
    const ask = (from: string, to: string, udpPort: string): string =>
      inNamespace(from, [...probe, "ask-udp", to, udpPort]).output;
    await until(() => ask(three.netns, address, "53") === "hello", "the UDP server answers");
    t.equal(get(world.outside, three.address, 18080), "hello", "from another host");
    t.equal(get(world.outside, three.address, chosen?.publishedPort ?? 0), "hello", "the chosen port");
    t.equal(get(three.netns, three.address, 18080), "hello", "from the host by its address");
    t.equal(get(three.netns, "127.0.0.1", 18080), "hello", "from the host by localhost");
    t.equal(get(pathOf(attached), three.address, 18080), "hello", "from the task itself");
    t.equal(get(client, three.address, 18080), "hello", "from an overlay task of another host");
    t.notOk(get(world.outside, address, 80).includes("hello"), "never by the task's own address");
    t.equal(ask(world.outside, three.address, "15353"), "hello", "a UDP port");

    const peer = pathOf(await three.attach({ taskId: task("peer") }));
    for (const bridged of ["1", "0"]) {
      const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"; // There when br_netfilter is loaded.
      three.run("sh", "-c", `test ! -e ${setting} || echo ${bridged} > ${setting}`);
      t.equal(get(peer, three.address, 18080), "hello", `from a task beside it, br_netfilter ${bridged}`);
      t.equal(get(pathOf(attached), three.address, 18080), "hello", `from itself, br_netfilter ${bridged}`);
    }
    await three.detach(task("peer"));

    await t.rejects(
      three.attach({ taskId: task("q"), ports: [port(18080, 80)] }),
      /Bind for 0\.0\.0\.0:18080 failed: port is already allocated/,
    );
    const program = serve(three.netns, [...probe, "serve", "18081", "program"]);
    t.teardown(() => program.stop());
    await until(() => get(three.netns, "127.0.0.1", 18081) === "program", "the program listens");
    await t.rejects(
      three.attach({ taskId: task("q"), ports: [port(18081, 80)] }),
      /failed to bind host port 0\.0\.0\.0:18081\/tcp: address already in use/,
    );
    t.strictSame(
      (await three.list()).map(({ taskId }) => taskId).toSorted(),
      ["e", "p"],
      "a refused task leaves nothing",
    );
  },
);

await t.test("host and none: the host's own namespace, and one with a loopback device only", async (t) => {
  const shared = await one.attach({ taskId: task("h"), host: true });
  t.equal(shared.kind, "host");
  const none = pathOf(await one.attach({ taskId: task("n"), none: true }));
  t.ok(ping(none, "127.0.0.1"));
  t.notOk(ping(none, world.outsideAddress));
});

await t.test("kill -9 and restart: the data plane runs on, and all is adopted again", async (t) => {
  const before = await two.list();
  await two.kill();
  t.ok(ping(client, "10.10.1.10"), "while nobody is there");
  await two.start();
  t.strictSame(await two.list(), before);
  t.ok(ping(client, "10.10.1.10"), "before the first apply");
  t.match(inNamespace(client, ["busybox", "nslookup", "web", "10.10.1.1"]).output, "10.10.1.10", "names too");
  const again = await two.attach({ taskId: task("b"), networks: [] });
  t.equal(pathOf(again), client, "an attach repeated gives what was there");
  await three.kill();
  await three.start();
  await t.rejects(
    three.attach({ taskId: task("q"), ports: [port(18080, 80)] }),
    /Bind for 0\.0\.0\.0:18080 failed: port is already allocated/,
    "ports are held again",
  );
  await applyAll();
  t.ok(ping(client, "10.10.1.10"), "after apply");
  t.strictSame([...one.warnings, ...two.warnings, ...three.warnings], []);
});

await t.test(
  "killed while attaching: the successor sweeps what is not whole, and the tasks attach again",
  async (t) => {
    const names = Array.from({ length: 12 }, (_, index) => task(`k${index}`));
    for (const taskId of names) void three.attach({ taskId, ports: [port(0, 80)] }).catch(() => undefined);
    await until(
      () => three.run("ls", `${three.runDir}/netns`).output.includes("k"),
      "attaching is under way",
    );
    await three.kill();
    await three.start();
    const whole = (await three.list()).map(({ taskId }) => taskId);
    const left = three.run("ls", `${three.runDir}/netns`, `${three.runDir}/network/tasks`).output;
    for (const taskId of names) if (!whole.includes(taskId)) t.notMatch(left, new RegExp(`^${taskId}$`, "m"));
    for (const taskId of names) t.ok(ping(pathOf(await three.attach({ taskId })), "172.29.0.1"), taskId);
    for (const taskId of names) await three.detach(taskId);
    t.strictSame(three.warnings, []);
  },
);

await t.test("a removed task is unreachable at once, and nothing of it is left", async (t) => {
  const refusal = (): string => inNamespace(client, [...probe, "refusal", "10.10.1.10", "80"]).output;
  await one.detach(task("a"));
  await one.detach(task("a"));
  endpoints = endpoints.filter(({ taskId }) => taskId !== task("a"));
  t.equal(refusal(), "EHOSTUNREACH at once", "before other hosts know: its host answers");
  await applyAll();
  t.equal(refusal(), "EHOSTUNREACH at once", "its own host answers");
  t.notMatch(one.run("ip", "route").output, "10.10.1.10");
  t.notMatch(one.run("ip", "neigh", "show", "nud", "permanent").output, "10.10.1.10");
});

await t.test("an encrypted network", async (t) => {
  networks = [red, blue, green];
  const plain = "what-everybody-may-read";
  const secret = "what-nobody-may-read";
  const [ipv6, other] = ["fd00:10:3::10", "fd00:10:3::11"];
  const first = await start(one, green, { task: "g1", address: "10.10.3.10", ipv6, service: "st_safe" });
  const second = await start(two, green, {
    task: "g2",
    address: "10.10.3.11",
    ipv6: other,
    service: "st_asker",
  });
  const beside = await start(one, red, { task: "r1", address: "10.10.1.30", service: "st_open" });
  const servers = [
    serve(first, [...probe, "serve", "80", secret, "::"]),
    serve(beside, [...probe, "serve", "80", plain]),
  ];
  t.teardown(() => servers.forEach((server) => server.stop()));
  await until(() => get(second, "10.10.3.10", 80) === secret, "the server answers by the tunnel");
  await until(() => get(client, "10.10.1.30", 80) === plain, "the server answers in clear");

  await t.test("is on the wire as packets of the tunnel alone", async (t) => {
    const wire = await capture(two.netns, "eth0", [plain, secret]);
    t.equal(get(second, "10.10.3.10", 80), secret);
    t.equal(get(client, "10.10.1.30", 80), plain);
    const both = await wire.stop();
    t.strictSame(both.found, [plain], "the capture sees what is in clear");
    t.ok(both.kinds["ip 17 4789"], "as VXLAN");
    const alone = await capture(two.netns, "eth0", [secret]);
    t.equal(get(second, "10.10.3.10", 80), secret);
    t.ok(ping(second, "10.10.3.10", "-s", "1362"), "the whole MTU passes");
    t.equal(get(second, ipv6, 80), secret);
    t.ok(ping6(second, ipv6, "-M", "do", "-s", "1342"), "by IPv6 too");
    t.match(inNamespace(second, ["ip", "link", "show", "eth0"]).output, /mtu 1390/);
    const { kinds, found } = await alone.stop();
    t.strictSame(found, []);
    const others = Object.keys(kinds).filter((kind) => kind.startsWith("ip "));
    t.strictSame(others, ["ip 17 51822"]);
  });

  await t.test("takes nothing that came in clear", async (t) => {
    const text = "from-somebody-else";
    const mac = hostMac(one.address);
    for (const [{ vni }, want] of [[red, [text]] as const, [green, []] as const]) {
      const inside = await capture(one.netns, `vx${vni}`, [text]);
      inject(world.outside, { host: one.address, vni, mac, text });
      ping(vni === red.vni ? client : second, vni === red.vni ? "10.10.1.30" : "10.10.3.10");
      t.strictSame((await inside.stop()).found, want, `network ${vni}`);
    }
  });

  await t.test("a key makes room for the next one without a packet lost", async (t) => {
    const before = (await one.tunnel()).keys;
    const pinging = spawn("nsenter", [`--net=${second}`, "ping", "-i", "0.02", "10.10.3.10"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let printed = "";
    pinging.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    await one.replaceTunnelKey();
    const orders: string[] = [];
    for (let step = 0; step < 8; step += 1) {
      await one.examine([]); // Each look takes a step, and its outcome is told to all.
      await applyAll();
      const { keys } = await one.tunnel();
      const order = keys.map(({ slot }) => slot).join(" ");
      if (orders.at(-1) !== order) orders.push(order);
      if (keys.length === 1 && keys[0]?.slot === 1) break;
    }
    pinging.kill("SIGINT");
    await once(pinging, "close");
    t.strictSame(orders, ["0 1", "1 0", "1"]);
    // Those after the last answer are still under way.
    const answered = new Set([...printed.matchAll(/icmp_seq=(\d+)/g)].map(([, seq]) => Number(seq)));
    const last = Math.max(...answered);
    const lost = Array.from({ length: last }, (_, at) => at + 1).filter((seq) => !answered.has(seq));
    t.strictSame(lost, [], `${answered.size} packets`);
    t.not((await one.tunnel()).keys[0]?.publicKey, before[0]?.publicKey);
    t.equal(get(second, "10.10.3.10", 80), secret);
    t.notMatch(one.run("ip", "link").output, /shoal-wg0/, "the old device is gone");
  });

  await t.test("heals when devices, peers and rules are taken away, and leaks nothing", async (t) => {
    const wire = await capture(two.netns, "eth0", [secret]);
    for (const harm of [
      ["ip", "link", "delete", "shoal-wg1"],
      ["nft", "flush", "ruleset"],
      ["ip", "route", "delete", "198.18.0.0/15"],
    ]) {
      t.equal(one.run(...harm).code, 0, harm.join(" "));
      await one.examine([]);
      await until(() => get(second, "10.10.3.10", 80) === secret, "it answers again");
    }
    t.strictSame((await wire.stop()).found, []);
    t.match(one.warnings.splice(0).join(), /shoal-wg1 is gone.*table ip shoal_tunnel is gone/s);
  });

  await t.test("the examination names a tunnel that is cut", async (t) => {
    const tunnelOf = async () => (await two.examine([one])).filter(({ test }) => test === "tunnel");
    t.match(await tunnelOf(), [{ peer: one.nodeId, state: "ok", text: /^1440 bytes pass/ }]);
    t.equal(
      one.run(
        "nft",
        "add table ip cut; add chain ip cut in { type filter hook input priority -10; }; add rule ip cut in udp dport 51823 drop",
      ).code,
      0,
    );
    t.match(await tunnelOf(), [
      { peer: one.nodeId, state: "broken", text: /no answer; the other end was last heard \d+ s ago/ },
    ]);
    one.run("nft", "delete", "table", "ip", "cut");
    await until(() => get(second, "10.10.3.10", 80) === secret, "it answers again");
  });

  await t.test("a successor goes on with the keys it finds", async (t) => {
    const { keys } = await one.tunnel();
    await one.kill();
    t.ok(ping(second, "10.10.3.10"), "while nobody is there");
    await one.start();
    t.strictSame((await one.tunnel()).keys, keys);
    t.ok(ping(second, "10.10.3.10"), "before the first apply");
    await applyAll();
    t.strictSame(one.warnings, []);
  });
});

await t.test("networks with IPv6 beside IPv4", async (t) => {
  networks = [...networks, six, seven];
  const at = (network: number, host: number) => ({
    address: `10.10.${network}.${host}`,
    ipv6: `fd00:10:${network}::${host}`,
  });
  const first = await start(one, six, { task: "s1", ...at(4, 10), service: "st_dual" });
  const second = await start(two, six, { task: "s2", ...at(4, 11), service: "st_asker" });
  await start(two, six, { task: "s3", ...at(4, 12), service: "st_dual" });
  const stranger = await start(two, seven, { task: "s4", ...at(5, 10), service: "st_other" });
  const server = serve(first, [...probe, "serve", "80", "six", "::"]);
  t.teardown(() => server.stop());
  await until(() => get(second, "fd00:10:4::10", 80) === "six", "the server answers");

  await t.test("tasks reach each other by both, over the whole MTU", (t) => {
    t.ok(ping6(second, "fd00:10:4::10", "-M", "do", "-s", "1402"), "other host");
    t.ok(ping6(first, "fd00:10:4::11"), "and back");
    t.ok(ping6(second, "fd00:10:4::12"), "same host");
    t.ok(ping6(second, "fd00:10:4::1"), "gateway");
    t.ok(ping(second, "10.10.4.10"));
    t.match(
      inNamespace(first, ["cat", "/proc/net/if_inet6"]).output,
      /^fd000010000400000000000000000010 \w+ 40 /m,
    );
    t.notMatch(inNamespace(first, ["cat", "/proc/net/if_inet6"]).output, /^fe80/m);
    t.end();
  });

  await t.test("names have addresses of the families that their network has", (t) => {
    const ask = (path: string, name: string, type: string, at = "10.10.4.1"): string =>
      inNamespace(path, ["busybox", "nslookup", `-type=${type}`, name, at]).output;
    for (const name of ["dual", "tasks.st_dual", "st_dual.st_six"]) {
      const output = ask(second, name, "aaaa");
      t.match(output, "fd00:10:4::10", name);
      t.match(output, "fd00:10:4::12", name);
    }
    t.match(ask(second, "dual", "a"), "10.10.4.10");
    t.notMatch(ask(second, "st_asker.1.s2", "aaaa"), "fd00:10:4::10");
    const reversed = inNamespace(second, ["busybox", "nslookup", "fd00:10:4::10", "10.10.4.1"]).output;
    t.match(reversed, "st_dual.1.s1.st_six", "address to name");
    t.match(ask(client, "client", "a", "10.10.1.1"), "10.10.1.11");
    t.notMatch(
      ask(client, "client", "aaaa", "10.10.1.1"),
      /fd00|NXDOMAIN/,
      "a network without IPv6: no such record",
    );
    t.end();
  });

  await t.test("networks are kept apart, and a task on two is answered on both", async (t) => {
    t.notOk(ping6(stranger, "fd00:10:4::12"), "same host");
    t.notOk(ping6(stranger, "fd00:10:4::10"), "other host");
    t.notOk(ping6(client, "fd00:10:4::11"), "from a network without IPv6");
    const places = [at(4, 20), at(5, 20)] as const;
    endpoints = [
      ...endpoints,
      endpoint(six, three, { task: "s5", ...places[0], service: "st_both" }),
      endpoint(seven, three, { task: "s5", ...places[1], service: "st_both" }),
    ];
    await applyAll();
    const request = { taskId: task("s5"), networks: [placeOn(six, places[0]), placeOn(seven, places[1])] };
    const both = pathOf(await three.attach(request));
    t.ok(ping6(both, "fd00:10:4::10") && ping6(both, "fd00:10:5::10"), "on both: reaches both");
    t.ok(ping6(stranger, "fd00:10:5::20") && ping6(second, "fd00:10:4::20"));
  });

  await t.test("a virtual IP leads to who serves; without one, callers are told at once", async (t) => {
    const service = { networkId: six.id, serviceId: "id-st_dual", serviceName: "st_dual", aliases: ["dual"] };
    const virtualIp = { ...at(4, 99), ports: [], localFirst: false, within: [] };
    services = [{ ...service, ...virtualIp }];
    endpoints = endpoints.map((each) => (each.taskId === task("s3") ? { ...each, serving: false } : each));
    await applyAll();
    t.equal(get(second, "fd00:10:4::99", 80), "six", "by another host's task");
    t.equal(get(first, "fd00:10:4::99", 80), "six", "by the serving task itself");
    t.match(
      inNamespace(second, ["busybox", "nslookup", "-type=aaaa", "dual", "10.10.4.1"]).output,
      "fd00:10:4::99",
    );
    const found = await two.examine([one]);
    for (const [test, subject] of [
      ["vxlan", "network st_six by IPv6"],
      ["vip", "st_dual on network st_six by IPv6"],
    ] as const)
      t.match(
        found.filter((each) => each.subject === subject),
        [{ test, state: "ok" }],
        subject,
      );
    endpoints = endpoints.map((each) => (each.taskId === task("s1") ? { ...each, serving: false } : each));
    await applyAll();
    const refusal = inNamespace(second, [...probe, "refusal", "fd00:10:4::99", "80"]).output;
    t.match(refusal, "ENETUNREACH at once");
  });

  await t.test("tasks reach the outside under the host's address", (t) => {
    for (const [path, address, device] of [
      [one.netns, "fd00:99::1/64", "eth0"],
      [world.outside, "fd00:99::fe/64", "br0"],
    ] as const)
      t.equal(inNamespace(path, ["ip", "address", "add", address, "dev", device, "nodad"]).code, 0);
    t.ok(ping6(first, "fd00:99::fe"));
    t.end();
  });

  await t.test("what is taken away heals, and a successor goes on", async (t) => {
    one.warnings.splice(0);
    for (const harm of [
      "nft delete table ip6 shoal_net",
      "ip -6 route delete fd00:10:4::11",
      `ip -6 neigh delete fd00:10:4::10 dev ov${six.vni}`,
      `ip -6 address flush dev ov${six.vni} scope global`,
      `sysctl -w net.ipv6.conf.ov${six.vni}.disable_ipv6=1`,
      `sysctl -w net.ipv6.conf.vx${six.vni}.disable_ipv6=1`,
      "sysctl -w net.ipv6.conf.all.forwarding=0",
      `ip link delete vx${six.vni}`,
    ]) {
      t.equal(one.run(...harm.split(" ")).code, 0, harm);
      await one.examine([]);
      await until(() => ping6(second, "fd00:10:4::10"), harm);
      t.ok(one.warnings.splice(0).length > 0, "and is said");
    }
    await one.kill();
    t.ok(ping6(second, "fd00:10:4::10"), "while nobody is there");
    await one.start();
    t.ok(ping6(second, "fd00:10:4::10"), "before the first apply");
    await applyAll();
    t.strictSame(one.warnings, []);
  });
});

await t.test("networks nobody wants any more are removed with all that belongs to them", async (t) => {
  for (const host of world.hosts) {
    for (const { taskId } of await host.list()) await host.detach(taskId);
  }
  endpoints = [];
  networks = [];
  services = [];
  await applyAll();
  for (const host of world.hosts) {
    const left = [
      "ip link",
      "ip nexthop",
      "ip route show proto 77",
      "ip -6 route show proto 77",
      "ip neigh show nud permanent",
    ]
      .map((line) => host.run(...line.split(" ")).output)
      .join("");
    t.notMatch(left, /ov\d|vx\d|sv-|shoal-wg|10\.10\.|fd00:10:|198\.18\./, `host ${host.index}`);
    t.notMatch(host.run("nft", "list", "tables").output, /shoal_tunnel|ip6 shoal_net/);
    t.match(host.run("nft", "list", "table", "ip", "shoal_net").output, "chain forward");
  }
});

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`timed out: ${what}`);
}
