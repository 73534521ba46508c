/** Ports of the whole cluster and virtual IPs: who gets which, and when they are given back. */
import t from "tap";

import type { NetworkId } from "../../model/ids.ts";
import type { EndpointSpec, PortSpec } from "../../model/service.ts";
import { id, networkObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { ScenarioCluster } from "./cluster.ts";

const ingress = id<NetworkId>("ingress");
const net = id<NetworkId>("net");

function port(publishedPort: number, more: Partial<PortSpec> = {}): PortSpec {
  return { protocol: "tcp", targetPort: 8080, publishedPort, publishMode: "ingress", ...more };
}

function publishing(...ports: readonly PortSpec[]): { readonly endpoint: EndpointSpec } {
  return { endpoint: { mode: "vip", ports } };
}

async function started(withIngress = true): Promise<ScenarioCluster> {
  const cluster = new ScenarioCluster();
  await cluster.start(["n1", "n2"]);
  await cluster.store.update((tx) => {
    tx.networks.create(networkObject("net"));
    if (withIngress) tx.networks.create(networkObject("ingress", { ingress: true }));
  });
  return cluster;
}

t.test("a service that publishes a port is on the ingress network, and so are its tasks", async (t) => {
  await using c = await started();
  const networks = [{ networkId: net, aliases: [] }];
  await c.create(
    "web",
    serviceSpec({ replicas: 2, ...publishing(port(80)), task: { ...taskSpec(), networks } }),
  );
  await c.until(() => c.running("web").length === 2);
  const { endpoint } = c.service("web");
  t.strictSame(endpoint?.ports, [port(80)]);
  t.strictSame(
    endpoint?.virtualIps.map(({ networkId, address }) => `${networkId} ${address}`),
    [`${net} 10.0.1.2/24`, `${ingress} 10.0.0.2/24`],
  );
  for (const task of c.running("web")) {
    t.strictSame(
      task.networks.map(({ networkId }) => networkId),
      [ingress, net],
    );
  }
  t.strictSame(c.errors, []);
});

t.test("ports left to the cluster come from 30000 up, each protocol for itself, and stay", async (t) => {
  await using c = await started();
  await c.create("a", serviceSpec(publishing(port(0), port(0, { protocol: "udp" }))));
  await c.create("b", serviceSpec(publishing(port(0), port(0, { publishMode: "host", targetPort: 9 }))));
  await c.until(() => c.running("a").length === 1 && c.running("b").length === 1);
  const chosen = (name: string): number[] =>
    c.service(name).endpoint?.ports.map(({ publishedPort }) => publishedPort) ?? [];
  t.strictSame(chosen("a"), [30_000, 30_000]);
  t.strictSame(chosen("b"), [30_001, 0]);
  await c.update("a", (spec) => ({
    ...spec,
    endpoint: { mode: "vip", ports: [port(0, { targetPort: 1 }), port(0)] },
  }));
  await c.until(() => chosen("a")[0] === 30_002);
  t.strictSame(chosen("a"), [30_002, 30_000], "the one that was there keeps its number");
  t.strictSame(c.errors, []);
});

t.test("no port is chosen that a service opens on its own hosts", async (t) => {
  await using c = await started();
  const onHost = port(30_000, { publishMode: "host" });
  await c.create("dns", serviceSpec(publishing(port(30_001, { publishMode: "host", protocol: "udp" }))));
  await c.create("web", serviceSpec(publishing(port(30_001, { publishMode: "host" }))));
  await c.create(
    "both",
    serviceSpec(publishing(onHost, port(0, { targetPort: 9 }), port(0, { protocol: "udp" }))),
  );
  await c.until(() => c.running("both").length === 1);
  t.strictSame(
    c.service("both").endpoint?.ports.map(({ publishedPort }) => publishedPort),
    [30_000, 30_002, 30_000],
  );
  t.strictSame(c.errors, []);
});

t.test("what a service gives up, another may have", async (t) => {
  await using c = await started();
  await c.create("a", serviceSpec(publishing(port(80))));
  await c.create("b", serviceSpec(publishing(port(80))));
  await c.until(() => c.running("a").length === 1);
  await c.until(() => c.tasks("b")[0]?.status.error !== "");
  t.match(c.tasks("b")[0]?.status, {
    state: "new",
    error: /port 80\/tcp is already published by service/,
  });
  await c.update("a", (spec) => ({ ...spec, ...publishing() }));
  await c.until(() => c.running("b").length === 1);
  t.equal(c.service("a").endpoint?.virtualIps.length ?? 0, 0);
  await c.store.update((tx) => tx.services.remove(id("b")));
  await c.create("d", serviceSpec(publishing(port(80))));
  await c.until(() => c.running("d").length === 1);
  t.strictSame(c.errors, []);
});

t.test("without an ingress network a service waits and says why, until there is one", async (t) => {
  await using c = await started(false);
  await c.create("web", serviceSpec(publishing(port(80))));
  await c.until(() => c.tasks("web")[0]?.status.error !== "");
  t.equal(
    c.tasks("web")[0]?.status.error,
    "service needs ingress network, but no ingress network is present",
  );
  await c.store.update((tx) => tx.networks.create(networkObject("ingress", { ingress: true })));
  await c.until(() => c.running("web").length === 1);
  t.strictSame(c.errors, []);
});

t.test("dnsrr has no virtual IP, and one that changes to it gives its own back", async (t) => {
  await using c = await started();
  const networks = [{ networkId: net, aliases: [] }];
  const task = { ...taskSpec(), networks };
  await c.create("web", serviceSpec({ task }));
  await c.until(() => c.running("web").length === 1);
  t.equal(c.service("web").endpoint?.virtualIps.length, 1);
  await c.update("web", (spec) => ({ ...spec, endpoint: { mode: "dnsrr", ports: [] } }));
  await c.until(() => c.service("web").endpoint?.virtualIps.length === 0);
  t.strictSame(c.errors, []);
});

t.test("a new leader gives nobody what somebody has", async (t) => {
  await using c = await started();
  await c.create("a", serviceSpec(publishing(port(0))));
  await c.until(() => c.running("a").length === 1);
  const before = c.service("a").endpoint;
  await c.changeLeader(2);
  c.startLoops();
  await c.create("b", serviceSpec(publishing(port(0))));
  await c.until(() => c.running("b").length === 1);
  t.strictSame(c.service("a").endpoint, before);
  t.equal(c.service("b").endpoint?.ports[0]?.publishedPort, 30_001);
  const addresses = ["a", "b"].flatMap((name) => [
    ...(c.service(name).endpoint?.virtualIps ?? []).map(({ address }) => address),
    ...c.running(name).flatMap((task) => task.networks.map(({ address }) => address)),
  ]);
  t.equal(new Set(addresses).size, addresses.length);
  t.strictSame(c.errors, []);
});
