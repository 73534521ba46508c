import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { NetworkId } from "../../../model/ids.ts";
import { AssignedNetwork } from "../../../proto/gen/shoal/dispatcher.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { Attachments } from "../../../worker/agent/attachments.ts";
import type { LocalNetworks } from "../../../worker/bridges/networks.ts";
import { parseCreate } from "../../../worker/containers/config.ts";
import { type ConnectionEvent, Connections } from "../../../worker/containers/connections.ts";
import { plainEndpoint } from "../../../worker/containers/endpoints.ts";
import type { LocalRecord } from "../../../worker/containers/store.ts";
import type { Engine } from "../../../worker/engine/engine.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { FakeNetwork } from "../../sim/network.ts";

const id = "c".repeat(64);
const { signal } = new AbortController();
const running = { isRunning: true, signal };
const overlay = { id: "n1" as NetworkId, name: "front", subnet: "10.0.1.0/24", gateway: "10.0.1.1" };
const names = new Map([["n1", AssignedNetwork.fromPartial(overlay)]]);

/** A host whose managers give every wish the next address. */
async function world() {
  const clock = new VirtualClock();
  const attachments = new Attachments({ clock, random: seededRandom(1) });
  const network = new FakeNetwork();
  const self = { nodeId: "node" as never, address: "192.0.2.1" };
  const networks = [{ ...overlay, vni: 4096, internal: false, mtu: 0, ingress: false }];
  await network.apply({ self, networks, endpoints: [], services: [], hosts: [] }, signal);
  const log: string[] = [];
  let next = 2;
  attachments.join((list) => {
    log.push(`list ${list.map((each) => each.address || each.network).join(" ")}`);
    const given = list
      .filter((each) => each.network === "front")
      .map(({ attempt }) => ({
        id: attempt,
        networkId: "n1",
        attempt,
        address: `10.0.1.${next++}/24`,
        ipv6: "",
      }));
    queueMicrotask(() => attachments.assigned(given, names));
  });
  const detach = network.detach.bind(network);
  network.detach = async (taskId, abort) => {
    await detach(taskId, abort);
    log.push("detached");
  };
  const events: ConnectionEvent[] = [];
  const own = { id: "b".repeat(64), name: "bridge", driver: "bridge" };
  const connections = new Connections({
    engine: { list: async () => [] } as unknown as Engine,
    network,
    networks: {
      resolve: (term: string) => (term === "bridge" ? own : undefined),
      find: () => undefined,
    } as unknown as LocalNetworks,
    cluster: attachments,
    emit: (event) => void events.push(event),
  });
  const addresses = async (): Promise<readonly string[]> => {
    const [found] = await network.list();
    return found?.attached.kind === "namespace" ? found.attached.addresses.map(({ address }) => address) : [];
  };
  return { attachments, connections, network, log, events, addresses };
}

function container(mode: string): LocalRecord {
  const { config, hostConfig, endpoints } = parseCreate({ Image: "x", HostConfig: { NetworkMode: mode } });
  return {
    id,
    name: "one",
    config,
    hostConfig,
    endpoints,
    wantsToRun: true,
    restartCount: 0,
    restartDelayMs: 0,
  };
}

t.test("its address is asked for before it is attached, and given back after it is detached", async (t) => {
  const { connections, addresses, log, events } = await world();
  const record = container("front");
  await connections.attach(record, signal);
  t.strictSame(await addresses(), ["10.0.1.2/24"]);
  await connections.detach(record, signal);
  t.strictSame(log, ["list front", "detached", "list "]);
  t.match(events, [
    { action: "connect", network: { id: "n1", name: "front", driver: "overlay" } },
    { action: "disconnect", network: { name: "front" } },
  ]);
});

t.test("it joins a network of the cluster beside its bridge, by id, and leaves it by name", async (t) => {
  const { attachments, connections, addresses } = await world();
  const record = container("bridge");
  await connections.attach(record, signal);
  const joined = await connections.connect(record, "front", plainEndpoint, running);
  t.strictSame(Object.keys(joined), ["bridge", "front"]);
  t.strictSame(await addresses(), ["172.20.0.2/16", "10.0.1.2/24"]);
  const after = { ...record, endpoints: joined };
  await t.rejects(
    connections.connect(after, "n1", plainEndpoint, running),
    /already exists in network front/,
  );
  t.strictSame(Object.keys(await connections.disconnect(after, "n1", running)), ["bridge"]);
  t.strictSame(await addresses(), ["172.20.0.2/16"]);
  t.strictSame(attachments.list(), []);
});

t.test("what the host cannot carry out leaves it where it was, and asks for nothing more", async (t) => {
  const { attachments, connections, network, addresses } = await world();
  const record = container("bridge");
  await connections.attach(record, signal);
  network.refuse = ({ networks }) => (networks.length > 1 ? new ClusterError("internal", "no") : undefined);
  await t.rejects(connections.connect(record, "front", plainEndpoint, running), { message: "no" });
  t.strictSame(await addresses(), ["172.20.0.2/16"]);
  t.strictSame(attachments.list(), []);
});

t.test("one that does not run joins at its next start", async (t) => {
  const { attachments, connections } = await world();
  const stopped = { isRunning: false, signal };
  const joined = await connections.connect(container("bridge"), "front", plainEndpoint, stopped);
  t.strictSame(Object.keys(joined), ["bridge", "front"]);
  t.strictSame(attachments.list(), []);
});

t.test("a place that is lost is left, and the rest stays", async (t) => {
  const { attachments, connections, addresses, events } = await world();
  const record = container("bridge");
  await connections.attach(record, signal);
  const endpoints = await connections.connect(record, "front", plainEndpoint, running);
  const both = { ...record, endpoints };
  await connections.leave(both, new Set(["another"]), signal);
  t.equal((await addresses()).length, 2);
  await connections.leave(both, "all", signal);
  t.strictSame(await addresses(), ["172.20.0.2/16"]);
  t.strictSame(attachments.list(), []);
  t.match(events.at(-1), { action: "disconnect", network: { id: "n1", name: "front" } });
});

t.test("a container that ran on while its worker was away keeps its place", async (t) => {
  const { connections, network } = await world();
  const record = container("front");
  await connections.attach(record, signal);
  const [found] = await network.list();
  const later = await world();
  later.connections.adopt(record, found?.networks ?? []);
  t.match(later.attachments.list(), [
    { containerId: id, network: "n1", address: "10.0.1.2", names: ["one", id.slice(0, 12)] },
  ]);
  t.match(later.connections.find(id, "front"), { id: "n1" });
});
