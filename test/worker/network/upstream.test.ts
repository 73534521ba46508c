import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";
import { networkInterfaces } from "node:os";
import t from "tap";

import { systemClock } from "../../../runtime/clock.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { framed, Upstream } from "../../../worker/network/upstream.ts";

t.test("a resolver that the kernel has no way to is one that did not answer", async (t) => {
  const upstream = new Upstream({ clock: systemClock, random: systemRandom, resolvConf: "/nowhere" });
  const question = Buffer.alloc(17);
  // The kernel refuses to connect a socket to the broadcast address, as it does without a route.
  const asked = upstream.ask(question, { over: "udp", servers: ["255.255.255.255"], skip: () => false });
  await t.rejects(asked, { code: "unavailable", message: /255\.255\.255\.255: connect E/ });
});

/** One of a link, if this host has any, else the loopback's. */
const local = Object.entries(networkInterfaces()).flatMap(([device, all = []]) =>
  all.flatMap(({ address }) => (/^fe80:/i.test(address) ? [`${address}%${device}`] : [])),
);

for (const server of ["::1", ...local.slice(0, 1)]) {
  t.test(`a resolver with an IPv6 address is asked: ${server}`, async (t) => {
    const tcp = createServer((socket) => {
      socket.on("data", (bytes) =>
        socket.end(framed(Buffer.concat([bytes.subarray(2), Buffer.from("tcp")]))),
      );
    });
    const udp = createSocket("udp6");
    t.teardown(() => udp.close());
    t.teardown(() => tcp.close());
    tcp.listen({ port: 0, host: server });
    await once(tcp, "listening");
    const address = tcp.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    udp.on("message", (bytes, from) =>
      udp.send(Buffer.concat([bytes, Buffer.from("udp")]), from.port, from.address),
    );
    udp.bind(port, server);
    await once(udp, "listening");
    const upstream = new Upstream({ clock: systemClock, random: systemRandom, resolvConf: "/nowhere", port });
    const question = Buffer.alloc(17, 7);
    for (const over of ["udp", "tcp"] as const) {
      const reply = await upstream.ask(question, { over, servers: [server], skip: () => false });
      t.equal(reply.toString(), `${question.toString()}${over}`);
    }
  });
}
