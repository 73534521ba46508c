/** Virtual IPs and the mesh of published ports, between three hosts with kernels of their own. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import t from "tap";

import type { TaskId } from "../../model/ids.ts";
import type {
  Attached,
  OverlayEndpoint,
  OverlayNetwork,
  OverlayService,
} from "../../worker/network/network.ts";
import { endpoint, inNamespace, overlay, probe, serve, World } from "./network-hosts.ts";
import type { Host } from "./network-hosts.ts";

if (process.getuid?.() !== 0) {
  t.plan(0, "needs root for network namespaces");
  process.exit(0);
}

const ingress: OverlayNetwork = {
  ...overlay("ingress", 0),
  ingress: true,
  further: [{ subnet: "fd00:10::/64", gateway: "fd00:10::1" }],
};
const red = overlay("red", 1);
const blue = overlay("blue", 2);
const networks = [ingress, red, blue];
const virtualIp = "10.10.1.2";
const web = { serviceId: "id-web", serviceName: "web", aliases: [], localFirst: false, within: [] };
const ports = [
  { protocol: "tcp", targetPort: 8080, publishedPort: 80 },
  { protocol: "udp", targetPort: 53, publishedPort: 5353 },
] as const;
const services: OverlayService[] = [
  { ...web, networkId: red.id, address: virtualIp, ports: [] },
  { ...web, networkId: ingress.id, address: "10.10.0.2", ipv6: "fd00:10::2", ports },
];

await using world = await World.open("mesh");
const [one, two, three] = [world.host(1), world.host(2), world.host(3)];
let endpoints: OverlayEndpoint[] = [];

async function applyAll(wanted: readonly OverlayService[] = services): Promise<void> {
  const offers = new Map(
    await Promise.all(world.hosts.map(async (host) => [host, await host.offer()] as const)),
  );
  await Promise.all(
    world.hosts.map((host) => {
      const hosts = [...offers]
        .filter(([other]) => other !== host)
        .map(([{ nodeId, address, index }, { ipv6Addresses }]) => ({
          nodeId,
          address,
          index,
          ipv6Addresses,
        }));
      return host.apply(networks, endpoints, { services: wanted, hosts });
    }),
  );
}

/** A task on several networks, the first of which carries its default route. */
async function start(host: Host, name: string, last: number, on: readonly OverlayNetwork[]): Promise<string> {
  const places = on.map((network) => ({
    network,
    address: `${network.gateway.slice(0, -1)}${last}`,
    ...(network.further !== undefined && { ipv6: `fd00:10::${last}` }),
  }));
  const service = on.includes(ingress) ? "web" : name;
  const made = places.map(({ network, ...place }) =>
    endpoint(network, host, { task: name, service, ...place }),
  );
  endpoints = [...endpoints, ...made];
  await applyAll();
  const attached: Attached = await host.attach({
    taskId: name as TaskId,
    networks: places.map(({ network, address, ipv6 }) => ({
      networkId: network.id,
      address: `${address}/24`,
      ...(ipv6 !== undefined && { ipv6: `${ipv6}/64` }),
      aliases: [],
    })),
  });
  return attached.kind === "namespace" ? attached.path : "";
}

function setServing(serving: Readonly<Record<string, boolean>>): Promise<void> {
  endpoints = endpoints.map((each) => ({ ...each, serving: serving[each.taskId] ?? each.serving }));
  return applyAll();
}

function get(from: string, host: string, port: number, ...localPort: string[]): string {
  return inNamespace(from, [...probe, "get", host, String(port), ...localPort]).output;
}

/** Who answers connections, in many tries. */
function answers(from: string, host: string, port: number): string[] {
  return surveyed(from, "survey", host, port);
}

function surveyed(from: string, mode: "survey" | "survey-udp", host: string, port: number): string[] {
  const { output } = inNamespace(from, [...probe, mode, host, String(port)]);
  return [...new Set(output.split("\n"))].toSorted();
}

const first = await start(one, "a", 10, [ingress, red]);
const second = await start(two, "b", 11, [ingress, red]);
const client = await start(three, "c", 12, [red]);
const stranger = await start(three, "d", 13, [blue]);
const servers = [
  serve(first, [...probe, "tell", "8080", "a"]),
  serve(second, [...probe, "tell", "8080", "b"]),
  serve(first, [...probe, "tell-udp", "53", "a"]),
  serve(second, [...probe, "tell-udp", "53", "b"]),
];
t.teardown(() => servers.forEach((server) => server.stop()));
for (const address of ["10.10.1.10", "10.10.1.11"]) {
  await until(() => get(client, address, 8080).includes("10.10.1.12"), `the server of ${address} answers`);
}

await t.test("a virtual IP leads to the serving tasks, which see who asks", async (t) => {
  t.strictSame(answers(client, virtualIp, 8080), ["a 10.10.1.12", "b 10.10.1.12"]);
  t.match(inNamespace(client, ["busybox", "nslookup", "web", red.gateway]).output, virtualIp);
});

await t.test("a task reaches itself through its service's virtual IP", async (t) => {
  t.strictSame(answers(first, virtualIp, 8080), ["a 10.10.1.1", "b 10.10.1.10"]);
});

await t.test(
  "nobody on another network reaches a virtual IP, or a task by the ingress network",
  async (t) => {
    t.notMatch(get(stranger, virtualIp, 8080), /10\.10/);
    t.notMatch(get(second, "10.10.0.10", 8080), /^a/);
  },
);

await t.test("every host publishes the port, and tasks see the client's own address", async (t) => {
  const both = [`a ${world.outsideAddress}`, `b ${world.outsideAddress}`];
  const bothByIpv6 = [`a ${world.outsideIpv6}`, `b ${world.outsideIpv6}`];
  for (const host of world.hosts) {
    t.strictSame(answers(world.outside, host.address, 80), both, host.nodeId);
    t.strictSame(answers(world.outside, host.ipv6, 80), bothByIpv6, `${host.nodeId} by IPv6`);
  }
});

await t.test("hosts and tasks reach the port by any host's address, hosts by localhost too", async (t) => {
  t.strictSame(answers(three.netns, "127.0.0.1", 80), ["a 10.233.0.3", "b 10.233.0.3"]);
  t.strictSame(answers(three.netns, three.address, 80), ["a 10.233.0.3", "b 10.233.0.3"]);
  t.strictSame(answers(three.netns, one.address, 80), ["a 10.233.0.3", "b 10.233.0.3"]);
  t.strictSame(answers(one.netns, two.address, 80), ["a 10.233.0.1", "b 10.233.0.1"]);
  t.strictSame(answers(one.netns, "127.0.0.1", 80), ["a 10.10.0.1", "b 10.233.0.1"]);
  t.strictSame(answers(client, one.address, 80), ["a 10.10.1.12", "b 10.10.1.12"]);
  t.strictSame(answers(stranger, three.address, 80), ["a 10.10.2.13", "b 10.10.2.13"]);
  t.strictSame(
    answers(first, two.address, 80),
    ["a 10.10.0.1", "b 10.10.0.10"],
    "a task of the service itself",
  );
});

await t.test("by IPv6 too; only localhost, which no answer could go back to, hides who asks", async (t) => {
  t.strictSame(answers(three.netns, "::1", 80), ["a 10.233.0.3", "b 10.233.0.3"]);
  t.strictSame(answers(three.netns, three.ipv6, 80), ["a fd00:233::3", "b fd00:233::3"]);
  t.strictSame(answers(three.netns, one.ipv6, 80), ["a fd00:233::3", "b fd00:233::3"]);
  t.strictSame(answers(one.netns, one.ipv6, 80), ["a fd00:233::1", "b fd00:233::1"]);
  t.strictSame(answers(one.netns, two.ipv6, 80), ["a fd00:233::1", "b fd00:233::1"]);
  t.strictSame(answers(first, one.ipv6, 80), ["a fd00:10::1", "b fd00:10::10"], "a task of the service");
  t.strictSame(answers(first, two.ipv6, 80), ["a fd00:10::1", "b fd00:10::10"]);
});

await t.test("a client may use one port of its own towards two hosts", async (t) => {
  await setServing({ a: false });
  const held = await hold(world.outside, one.address, 80);
  t.equal(await held.line(), `b ${world.outsideAddress}`);
  for (const host of [one, two, three]) {
    t.equal(get(world.outside, host.address, 80, "40001"), `b ${world.outsideAddress}`, host.nodeId);
  }
  t.equal(await held.again(), `b ${world.outsideAddress}`);
  held.stop();
  for (const host of [one, two, three]) {
    t.equal(get(world.outside, host.ipv6, 80, "40001"), `b ${world.outsideIpv6}`, `${host.nodeId} by IPv6`);
  }
  await setServing({ a: true });
});

await t.test("datagrams are spread too, and a steady flow leaves a task that serves no more", async (t) => {
  for (const [address, caller, flows, to] of [
    [three.address, world.outsideAddress, [], "10.10.0.10"],
    [three.ipv6, world.outsideIpv6, ["-f", "ipv6"], "fd00:10::10"],
  ] as const) {
    const survey = (): string[] => surveyed(world.outside, "survey-udp", address, 5353);
    await until(() => survey().length === 2, `both answer at ${address}`);
    t.strictSame(survey(), [`a ${caller}`, `b ${caller}`]);
    await setServing({ a: false });
    t.strictSame(survey(), [`b ${caller}`]);
    t.notMatch(
      three.run("conntrack", "-L", "-p", "udp", ...flows).output,
      `src=${to}`,
      "no flow to a is left",
    );
    await setServing({ a: true });
  }
});

/** Tells each client of the protocol with that number who answers and who asked: Node.js has no SCTP. */
const tellBy = `import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, int(sys.argv[1]))
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("::", int(sys.argv[2])))
server.listen()
while True:
    client, address = server.accept()
    client.sendall((sys.argv[3] + " " + address[0].replace("::ffff:", "")).encode())
    client.close()`;
const askBy = `import socket, sys
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[1]))
client.settimeout(5)
client.connect((sys.argv[2], int(sys.argv[3])))
print(client.recv(100).decode(), end="")`;
const sctp = "132";
const hasSctp = spawnSync("python3", ["-c", `import socket; socket.socket(2, 1, ${sctp})`]).status === 0;

await t.test(
  "SCTP: a port of every host and a virtual IP lead to the task",
  { skip: !hasSctp && "needs a kernel with SCTP" },
  async (t) => {
    const port = { protocol: "sctp", targetPort: 9000, publishedPort: 9001 } as const;
    await setServing({ b: false });
    await applyAll(
      services.map((each) => (each.networkId === ingress.id ? { ...each, ports: [...ports, port] } : each)),
    );
    const server = serve(first, ["python3", "-c", tellBy, sctp, "9000", "a"]);
    const ask = (from: string, host: string, number: string): string =>
      inNamespace(from, ["python3", "-c", askBy, sctp, host, number]).output;
    await until(() => ask(client, "10.10.1.10", "9000") === "a 10.10.1.12", "the server answers");
    for (const { address, ipv6 } of world.hosts) {
      t.equal(ask(world.outside, address, "9001"), `a ${world.outsideAddress}`, address);
      t.equal(ask(world.outside, ipv6, "9001"), `a ${world.outsideIpv6}`, ipv6);
    }
    t.equal(ask(client, virtualIp, "9000"), "a 10.10.1.12");
    server.stop();
    await setServing({ b: true });
  },
);

await t.test(
  "SCTP: a task that publishes a port of it is refused where the kernel has none",
  { skip: hasSctp && "this kernel has it" },
  async (t) => {
    const port = { protocol: "sctp", targetPort: 9000, publishedPort: 9001, publishMode: "ingress" } as const;
    await t.rejects(one.attach({ taskId: "s" as TaskId, ports: [port] }), {
      message: /9000\/sctp: .* has no SCTP/,
    });
  },
);

await t.test("who is connected stays so while new clients go elsewhere", async (t) => {
  await setServing({ b: false });
  const [inside, outside] = [
    await hold(client, virtualIp, 8080),
    await hold(world.outside, three.address, 80),
  ];
  t.equal(await inside.line(), "a 10.10.1.12");
  t.equal(await outside.line(), `a ${world.outsideAddress}`);
  await setServing({ a: false, b: true });
  t.strictSame(answers(client, virtualIp, 8080), ["b 10.10.1.12"]);
  t.strictSame(answers(world.outside, three.address, 80), [`b ${world.outsideAddress}`]);
  t.equal(await inside.again(), "a 10.10.1.12");
  t.equal(await outside.again(), `a ${world.outsideAddress}`);
  inside.stop();
  outside.stop();
});

await t.test("a service that nobody serves refuses at once", async (t) => {
  await setServing({ a: false, b: false });
  const refusal = (from: string, host: string, port: number): string =>
    inNamespace(from, [...probe, "refusal", host, String(port)]).output;
  t.equal(refusal(world.outside, one.address, 80), "ECONNREFUSED at once");
  t.equal(refusal(world.outside, one.ipv6, 80), "ECONNREFUSED at once");
  t.equal(refusal(three.netns, "127.0.0.1", 80), "ECONNREFUSED at once");
  t.match(refusal(client, virtualIp, 8080), /^(EHOSTUNREACH|ECONNREFUSED) at once$/);
  await setServing({ a: true, b: true });
  t.equal(answers(world.outside, one.address, 80).length, 2);
});

await t.test("a port that a program of a host has stays with it; the other hosts publish it", async (t) => {
  const program = serve(three.netns, [...probe, "serve", "81", "program"]);
  await until(() => get(three.netns, "127.0.0.1", 81) === "program", "the program listens");
  const more = services.map((each) =>
    each.networkId === ingress.id
      ? { ...each, ports: [...ports, { protocol: "tcp", targetPort: 8080, publishedPort: 81 } as const] }
      : each,
  );
  await applyAll(more);
  t.equal(get(world.outside, three.address, 81), "program");
  t.equal(answers(world.outside, one.address, 81).length, 2);
  t.match(three.warnings, [/port 81\/tcp of the mesh is not published on this host/]);
  program.stop();
  await until(
    () => answers(world.outside, three.address, 81).length === 2,
    "the port is published once it is free",
  );
  await applyAll();
  t.equal(get(world.outside, three.address, 81), "ECONNREFUSED");
});

await t.test("local-first: a host with a serving task gives clients to no other", async (t) => {
  await applyAll(services.map((each) => ({ ...each, localFirst: true })));
  t.strictSame(answers(world.outside, one.address, 80), [`a ${world.outsideAddress}`]);
  t.strictSame(answers(world.outside, two.address, 80), [`b ${world.outsideAddress}`]);
  t.equal(answers(world.outside, three.address, 80).length, 2, "a host without one goes on to all");
  t.equal(answers(client, virtualIp, 8080).length, 2, "inside, virtual IPs lead to all");
  await setServing({ a: false });
  await applyAll(services.map((each) => ({ ...each, localFirst: true })));
  t.strictSame(
    answers(world.outside, one.address, 80),
    [`b ${world.outsideAddress}`],
    "its own serves no more",
  );
  await setServing({ a: true });
});

await t.test("a port may be published on some of the hosts' addresses alone", async (t) => {
  three.run("ip", "address", "add", "10.233.9.3/24", "dev", "eth0");
  inNamespace(world.outside, ["ip", "route", "replace", "10.233.9.0/24", "dev", "br0"]);
  await applyAll(services.map((each) => ({ ...each, within: ["10.233.9.0/24"] })));
  t.equal(answers(world.outside, "10.233.9.3", 80).length, 2);
  t.equal(get(world.outside, three.ipv6, 80), "ECONNREFUSED", "none of IPv6 is among them");
  await applyAll(services.map((each) => ({ ...each, within: ["10.233.9.0/24", "fd00:233::3"] })));
  t.equal(answers(world.outside, three.ipv6, 80).length, 2);
  t.equal(get(world.outside, one.ipv6, 80), "ECONNREFUSED");
  t.equal(get(world.outside, three.address, 80), "ECONNREFUSED");
  t.equal(get(three.netns, "127.0.0.1", 80), "ECONNREFUSED");
  await applyAll();
  t.equal(answers(world.outside, three.address, 80).length, 2);
});

await t.test("a port that takes another's place is open before the other closes", async (t) => {
  const both = (...published: number[]): OverlayService[] =>
    services.map((each) =>
      each.networkId === ingress.id
        ? {
            ...each,
            ports: published.map((publishedPort) => ({ protocol: "tcp", targetPort: 8080, publishedPort })),
          }
        : each,
    );
  await applyAll(both(80, 82));
  t.equal(answers(world.outside, three.address, 80).length, 2);
  t.equal(answers(world.outside, three.address, 82).length, 2);
  const held = await hold(world.outside, three.address, 80);
  const said = await held.line();
  await applyAll(both(82));
  t.equal(get(world.outside, three.address, 80), "ECONNREFUSED");
  t.equal(answers(world.outside, three.address, 82).length, 2);
  t.equal(await held.again(), said, "who is connected by the old one stays so");
  held.stop();
  await applyAll();
});

await t.test("kill -9 and restart: connections go on, and ports and rules are as they were", async (t) => {
  const held = await hold(world.outside, three.address, 80);
  const said = await held.line();
  const heldIpv6 = await hold(world.outside, three.ipv6, 80);
  const saidIpv6 = await heldIpv6.line();
  await three.kill();
  t.equal(answers(world.outside, three.address, 80).length, 2, "while nobody is there");
  t.equal(answers(world.outside, three.ipv6, 80).length, 2, "by IPv6 either");
  await three.start();
  t.equal(answers(world.outside, three.address, 80).length, 2);
  t.equal(await held.again(), said);
  t.equal(await heldIpv6.again(), saidIpv6);
  held.stop();
  heldIpv6.stop();
  const rules = (): string[] =>
    [["rule"], ["-6", "rule"]].flatMap((argv) => three.run("ip", ...argv).output.split("\n")).toSorted();
  const before = rules();
  await applyAll();
  t.strictSame(rules(), before);
  for (const harm of ["ip -6 rule delete fwmark 0x10000/0xffff0000", "nft delete table ip6 shoal_net"]) {
    t.equal(three.run("sh", "-c", harm).code, 0, harm);
  }
  await until(
    () => rules().join() === before.join() && answers(world.outside, three.ipv6, 80).length === 2,
    "it heals",
  );
});

await t.test("without services nothing of it is left", async (t) => {
  for (const host of world.hosts) {
    for (const { taskId } of await host.list()) await host.detach(taskId);
    await host.apply([], [], {});
    t.notMatch(host.run("ip", "rule").output, "fwmark");
    t.notMatch(host.run("ip", "-6", "rule").output, "fwmark");
    t.notMatch(host.run("ip", "route", "show", "table", "all").output, /ov\d|vx\d/);
    t.equal(get(world.outside, host.address, 80), "ECONNREFUSED");
    t.equal(get(world.outside, host.ipv6, 80), "ECONNREFUSED");
  }
});

interface Held {
  line(): Promise<string>;
  again(): Promise<string>;
  stop(): void;
}

/** A connection that stays open. */
async function hold(from: string, host: string, port: number): Promise<Held> {
  const child = spawn("nsenter", [`--net=${from}`, ...probe, "hold", host, String(port)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await once(child, "spawn");
  const lines: string[] = [];
  child.stdout.on("data", (chunk: Buffer) => lines.push(chunk.toString().trim()));
  const line = async (): Promise<string> => {
    await until(() => lines.length > 0, "the connection says something");
    return lines.shift() ?? "";
  };
  return {
    line,
    again: () => {
      child.stdin.write("\n");
      return line();
    },
    stop: () => void child.kill("SIGKILL"),
  };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`timed out: ${what}`);
}
