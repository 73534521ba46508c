import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent, createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { silentLog } from "../../../runtime/log.ts";
import type { FrontDoorDeps } from "../../../worker/api/deps.ts";
import { printEndpoints } from "../../../worker/api/endpoint-print.ts";
import { inspectNetwork, listNetworks, pruneNetworks, refuseUnknown } from "../../../worker/api/network.ts";
import type { LocalNetwork } from "../../../worker/bridges/record.ts";
import { plainEndpoint } from "../../../worker/containers/endpoints.ts";
import { VirtualClock } from "../../sim/clock.ts";

/** A manager's host with one network of its own, where nothing answers on the manager's socket. */
function fixture() {
  const warnings: string[] = [];
  const kept = new Set(["own"]);
  const record = {
    id: "1",
    name: "own",
    labels: {},
    createdAtMs: 0,
    auxiliary: {},
  } as unknown as LocalNetwork;
  const networks = {
    predefined: [],
    list: () => (kept.has("own") ? [record] : []),
    find: () => record,
    resolve: () => ({ id: "1", name: "own", driver: "bridge" }),
    remove: async () => void kept.delete("own"),
  };
  const deps = {
    clock: new VirtualClock(),
    log: { ...silentLog, warn: (_fields: unknown, text: string) => void warnings.push(text) },
    settings: { managerSocket: "/nonexistent/manager.sock" },
    toManager: new Agent(),
    node: () => ({ identity: { role: "manager" }, state: "active" }),
    networks,
    network: { list: async () => [] },
    engine: { list: async () => [] },
  } as unknown as FrontDoorDeps;
  return { deps, networks, kept, warnings };
}

t.test("without a manager that answers, a host lists its own networks", async (t) => {
  const { deps, warnings } = fixture();
  t.match(await listNetworks(deps, new URLSearchParams(), "/networks"), [{ Name: "own" }]);
  t.strictSame(warnings, ["an answer goes without the networks of the cluster"]);
});

t.test("a network with IPv6 is shown with both families, and so are its containers", async (t) => {
  const { deps, networks: own } = fixture();
  const block = { auxiliary: {}, ownSubnet: true };
  const record = {
    ...own.list()[0],
    ...block,
    subnet: "10.1.0.0/24",
    gateway: "10.1.0.1",
    ipv6: { ...block, subnet: "fd00:1::/64", gateway: "fd00:1::1", range: "fd00:1::/80" },
  };
  const address = {
    networkId: "1",
    bridge: "br-1",
    device: "eth0",
    address: "10.1.0.2/24",
    gateway: "10.1.0.1",
    mac: "02:42:0a:01:00:02",
    ipv6: { address: "fd00:1::2/64", gateway: "fd00:1::1" },
  };
  const networks = {
    ...own,
    find: () => record,
    users: async () => [{ containerId: "c", address }],
  };
  const shown = await inspectNetwork({ ...deps, networks } as unknown as FrontDoorDeps, "own");
  t.match(shown, {
    EnableIPv4: true,
    EnableIPv6: true,
    IPAM: {
      Config: [
        { Subnet: "10.1.0.0/24", Gateway: "10.1.0.1" },
        { Subnet: "fd00:1::/64", IPRange: "fd00:1::/80", Gateway: "fd00:1::1" },
      ],
    },
    Containers: { c: { IPv4Address: "10.1.0.2/24", IPv6Address: "fd00:1::2/64" } },
  });
  const request = { ...plainEndpoint, IPv6Address: "fd00:1::2" };
  const view = { name: "own", networkId: "1", request, names: [], address, internal: false };
  t.match(printEndpoints("c", [{ ...view, address: { ...address, networkId: "" } }], "1.50"), {
    own: {
      IPAMConfig: { IPv6Address: "fd00:1::2" },
      IPv6Gateway: "fd00:1::1",
      GlobalIPv6Address: "fd00:1::2",
      GlobalIPv6PrefixLen: 64,
    },
  });
});

t.test("and says which of them it has pruned", async (t) => {
  const { deps, kept, warnings } = fixture();
  const { signal } = new AbortController();
  const url = "/networks/prune";
  t.strictSame(await pruneNetworks(deps, () => undefined, new URLSearchParams(), url, signal), ["own"]);
  t.equal(kept.size, 0);
  t.equal(warnings.length, 1);
});

t.test("a network that nobody has is refused before a container is to join it", async (t) => {
  const { deps, networks: own, warnings } = fixture();
  const resolve = (term: string) => (term === "own" ? own.resolve() : undefined);
  const directory = await mkdtemp(join(tmpdir(), "shoal-networks-"));
  const managerSocket = join(directory, "manager.sock");
  const asked: string[] = [];
  const manager = createServer(({ url = "" }, response) => {
    asked.push(url);
    response.writeHead(url === "/networks/shared" ? 200 : 404).end("{}");
  }).listen(managerSocket);
  await once(manager, "listening");
  t.teardown(async () => {
    manager.closeAllConnections();
    manager.close();
    await rm(directory, { recursive: true });
  });
  const host = { ...deps, networks: { ...own, resolve } };
  const member = { ...host, settings: { managerSocket } } as unknown as FrontDoorDeps;
  await refuseUnknown(member, "own");
  await refuseUnknown(member, "shared");
  await t.rejects(refuseUnknown(member, "no/such"), {
    code: "not-found",
    message: "network no/such not found",
  });
  t.strictSame(asked, ["/networks/shared", "/networks/no%2Fsuch"]);
  await refuseUnknown(host as unknown as FrontDoorDeps, "other");
  t.strictSame(warnings, ["whether the cluster has a network cannot be told"]);
});
