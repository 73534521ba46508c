import { createServer } from "node:net";
import { once } from "node:events";
import t from "tap";

import type { HostPortSpec } from "../../../worker/network/network.ts";
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
