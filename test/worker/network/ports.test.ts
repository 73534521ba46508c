import { createServer, type Server } from "node:net";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import t from "tap";

import type { HostPortSpec } from "../../../worker/network/network.ts";
import { usersOf } from "../../../worker/network/own-ports.ts";
import { PublishedPorts } from "../../../worker/network/ports.ts";

function port(publishedPort: number, more: Partial<HostPortSpec> = {}): HostPortSpec {
  return { protocol: "tcp", targetPort: 80, publishedPort, publishMode: "host", ...more };
}

const nobody = (): undefined => undefined;

t.test("one number may be open at several addresses, and at all of them only alone", async (t) => {
  const ports = new PublishedPorts();
  t.teardown(() => ports.close());
  const one = await ports.hold(port(0, { hostAddress: "127.0.0.1" }), nobody);
  const number = one.publishedPort;
  t.match(one, { hostAddress: "127.0.0.1", targetPort: 80 });
  await ports.hold(port(number, { hostAddress: "127.0.0.2" }), nobody);
  await t.rejects(ports.hold(port(number), nobody), {
    code: "conflict",
    message: `Bind for 0.0.0.0:${number} failed: port is already allocated`,
  });
  await t.rejects(ports.hold(port(number, { hostAddress: "127.0.0.1" }), nobody), {
    message: `Bind for 127.0.0.1:${number} failed: port is already allocated`,
  });
  ports.release([one]);
  await t.rejects(ports.hold(port(number), nobody), { code: "conflict" }, "the other is still there");
  await ports.hold(port(number, { hostAddress: "127.0.0.1", protocol: "udp" }), nobody);
});

t.test("the first free one of several; what others have is theirs", async (t) => {
  const ports = new PublishedPorts();
  const other = createServer().listen(0, "0.0.0.0");
  await once(other, "listening");
  t.teardown(() => {
    ports.close();
    other.close();
  });
  const { port: taken } = other.address() as { port: number };
  await t.rejects(ports.hold(port(taken), nobody), {
    code: "conflict",
    message: `failed to bind host port 0.0.0.0:${taken}/tcp: address already in use`,
  });
  const next = await ports.hold(port(taken, { publishedEnd: Math.min(taken + 20, 65_535) }), nobody);
  t.ok(next.publishedPort > taken);
  await t.rejects(ports.hold(port(taken, { hostAddress: "203.0.113.7" }), nobody), {
    code: "invalid-argument",
    message: /cannot assign requested address/,
  });
});

t.test("SCTP: what tasks have is known", async (t) => {
  const ports = new PublishedPorts();
  t.teardown(() => ports.close());
  const [a, b] = await Promise.all([
    ports.hold(port(0, { protocol: "sctp" }), nobody),
    ports.hold(port(0, { protocol: "sctp" }), nobody),
  ]);
  t.not(a.publishedPort, b.publishedPort);
  await t.rejects(ports.hold(port(a.publishedPort, { protocol: "sctp" }), nobody), { code: "conflict" });
});

/** A socket of its own, as some other program would bind it; the error's code where it cannot. */
async function bind(
  protocol: "tcp" | "udp",
  host: string,
  number: number,
): Promise<Server | Socket | string> {
  const socket = protocol === "tcp" ? createServer() : createSocket("udp4");
  const ready = once(socket, "listening");
  if ("listen" in socket) socket.listen({ port: number, host, exclusive: true });
  else socket.bind({ port: number, address: host, exclusive: true });
  return await ready.then(
    () => socket,
    (error: NodeJS.ErrnoException) => error.code ?? "",
  );
}

for (const protocol of ["tcp", "udp"] as const) {
  t.test(`the port for names, ${protocol}: gateways keep theirs, before and after`, async (t) => {
    const gateways = new Set(["127.0.0.2", "127.0.0.3"]);
    const first = await bind(protocol, "127.0.0.2", 0);
    if (typeof first === "string") throw new Error(first);
    const { port: number } = first.address() as { port: number };
    const addresses = (): string[] => ["127.0.0.1", "127.0.0.2"];
    const ports = new PublishedPorts({ namesPort: number, addresses });
    const open: (Server | Socket)[] = [first];
    t.teardown(() => {
      ports.close();
      for (const socket of open) socket.close();
    });
    const more = async (host: string): Promise<string> => {
      const socket = await bind(protocol, host, number);
      if (typeof socket === "string") return socket;
      open.push(socket);
      return "";
    };
    const held = await ports.hold(port(number, { protocol }), nobody, gateways);
    t.strictSame(held, { protocol, targetPort: 80, publishedPort: number });
    t.equal(await more("127.0.0.3"), "", "a gateway that comes later");
    t.equal(await more("127.0.0.1"), "EADDRINUSE", "no other program has it");
    t.equal(await more("0.0.0.0"), "EADDRINUSE");
    await t.rejects(ports.hold(port(number, { protocol }), nobody, gateways), { code: "conflict" });
    ports.release([held]);
    t.equal(await more("127.0.0.1"), "", "it is given back");
    await t.rejects(ports.hold(port(number, { protocol }), nobody, gateways), {
      code: "conflict",
      message: `failed to bind host port 0.0.0.0:${number}/${protocol}: address already in use`,
    });
    open.pop()?.close();
    t.equal(await more("127.0.0.53"), "", "a program where no device has the address");
    await t.rejects(ports.hold(port(number, { protocol }), nobody, gateways), { code: "conflict" });
    t.equal(await more("127.0.0.1"), "", "nothing of the refused one is left");
  });
}

t.test("who has a port, as the kernel lists it", (t) => {
  const rows = [
    "3500007F:0035 00000000:0000 0A",
    "0100007F:0035 0100007F:1234 01",
    "00000000:0016 00000000:0000 0A",
  ];
  const table = [
    "  sl  local_address rem_address   st",
    ...rows.map((row, index) => `   ${index}: ${row} 0`),
  ].join("\n");
  t.strictSame(usersOf(table, 53, "tcp"), ["127.0.0.53"]);
  t.strictSame(usersOf(table, 53, "udp"), ["127.0.0.53", "127.0.0.1"]);
  t.strictSame(usersOf(table, 5353, "tcp"), []);
  t.end();
});
