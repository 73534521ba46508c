import * as fc from "fast-check";
import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import { ownBridge, overlap } from "../../../worker/network/bridges.ts";
import { ownBlocks } from "../../../worker/network/host-subnets.ts";
import type { TaskRecord } from "../../../worker/network/journal.ts";
import type { BridgeNetwork, OverlayNetwork } from "../../../worker/network/network.ts";
import {
  bridgesProblem,
  overlapFindings,
  overlapRefusal,
  overlapsOf,
  recordsWithout,
  withoutOverlaps,
} from "../../../worker/network/overlaps.ts";

function network(name: string, subnet: string, more: Partial<OverlayNetwork> = {}): OverlayNetwork {
  const id = name as NetworkId;
  const gateway = subnet.replace(/0\/\d+$/, "1");
  return { id, name, subnet, gateway, vni: 4096, internal: false, mtu: 0, ingress: false, ...more };
}

const bridge = (name: string, subnet: string): BridgeNetwork => ({
  ...ownBridge(subnet),
  id: name as NetworkId,
  name,
  device: `br-${name}`,
});

const own = (...blocks: readonly string[]) =>
  ownBlocks({ addresses: [], routes: blocks.map((block) => ({ block, device: "eth0" })) }, new Set());

const cases = [
  {
    name: "the host's network is the overlay's",
    blocks: ["10.0.1.0/24"],
    want: "network web is not set up on this host: its subnet 10.0.1.0/24 overlaps 10.0.1.0/24, which this host has of its own by eth0",
  },
  { name: "is around it", blocks: ["10.0.0.0/8"], want: /overlaps 10\.0\.0\.0\/8, which/ },
  { name: "is inside it", blocks: ["10.0.1.77/32"], want: /overlaps 10\.0\.1\.77\/32, which/ },
  { name: "is beside it", blocks: ["10.0.0.0/24", "10.0.2.0/24", "fd00::/8"], want: undefined },
  { name: "is among many", blocks: ["10.0.0.0/24", "10.0.1.8/29", "10.0.2.0/24"], want: /10\.0\.1\.8\/29/ },
  {
    name: "meets its IPv6",
    blocks: ["fd00:1::/48"],
    more: { further: [{ subnet: "fd00:1::/64", gateway: "fd00:1::1" }] },
    want: /its subnet fd00:1::\/64 overlaps fd00:1::\/48/,
  },
  {
    name: "a bridge network of the host",
    blocks: ["192.0.2.0/24"],
    bridges: [bridge("local", "10.0.0.0/16")],
    want: /overlaps 10\.0\.0\.0\/16 of this host's own network local$/,
  },
  {
    name: "is that of published ports",
    blocks: ["10.0.0.0/8"],
    more: { ingress: true },
    want: /ports that the swarm publishes are not open here/,
  },
] as const;

for (const given of cases) {
  t.test(`an overlay where ${given.name}`, (t) => {
    const more = "more" in given ? given.more : {};
    const bridges = "bridges" in given ? given.bridges : [];
    const web = network("web", "10.0.1.0/24", more);
    const said = overlapsOf([web], own(...given.blocks), bridges).get(web.id);
    if (given.want === undefined) t.equal(said, undefined);
    else t.match(said, given.want);
    t.end();
  });
}

t.test("found are those, and only those, that meet something of the host", (t) => {
  const byte = fc.integer({ min: 0, max: 255 });
  const block = fc
    .tuple(byte, byte, fc.integer({ min: 9, max: 30 }))
    .map(([b, c, bits]) => `10.${b}.${c}.0/${bits}`);
  fc.assert(
    fc.property(fc.array(block), fc.array(block), fc.array(block), (overlays, blocks, bridges) => {
      const networks = overlays.map((subnet, index) => network(`n${index}`, subnet));
      const found = overlapsOf(
        networks,
        own(...blocks),
        bridges.map((subnet, index) => bridge(`b${index}`, subnet)),
      );
      return networks.every(
        ({ id, subnet }) => found.has(id) === [...blocks, ...bridges].some((each) => overlap(each, subnet)),
      );
    }),
  );
  t.end();
});

const [web, db] = [network("web", "10.0.1.0/24"), network("db", "10.0.2.0/24")];
const wanted = {
  self: { nodeId: "node1" as NodeId, address: "192.0.2.1" },
  networks: [web, db],
  endpoints: [],
  services: [web, db].map(({ id }) => ({
    networkId: id,
    serviceId: "s",
    serviceName: "s",
    address: "10.0.1.2",
    aliases: [],
    ports: [],
    localFirst: false,
    within: [],
  })),
  hosts: [],
};

t.test("what is left out takes its services and its tasks' places along, and is told", (t) => {
  const overlaps = overlapsOf(wanted.networks, own("10.0.1.0/24"), []);
  const left = withoutOverlaps(wanted, overlaps);
  t.strictSame(left.networks, [db]);
  t.strictSame(
    left.services.map(({ networkId }) => networkId),
    [db.id],
  );
  const taskId = "task" as TaskId;
  const place = (networkId: NetworkId) => ({ networkId, address: "10.0.1.5/24" });
  const attached = { kind: "namespace", addresses: [place(web.id), place(db.id)] };
  const records = new Map([[taskId, { attached } as unknown as TaskRecord]]);
  t.match(recordsWithout(records, overlaps).get(taskId), { attached: { addresses: [{ networkId: db.id }] } });
  t.match(overlapFindings(wanted, overlaps), [
    { test: "kernel", subject: "network web", state: "broken", text: /10\.0\.1\.0\/24, which this host has/ },
  ]);
  t.match(overlapRefusal(overlaps, web.id), {
    code: "failed-precondition",
    message: /network web is not set up/,
  });
  t.equal(overlapRefusal(overlaps, db.id), undefined);
  t.equal(withoutOverlaps(wanted, new Map()), wanted);
  t.equal(recordsWithout(records, new Map()), records);
  t.end();
});

t.test("a network of the host comes second to an overlay that is there, not one that stays", (t) => {
  const local = bridge("local", "10.0.1.128/25");
  t.match(bridgesProblem(new Map(), [], [local], [web, db]), {
    code: "permission-denied",
    message:
      "invalid pool request: Pool overlaps with other one on this address space: 10.0.1.128/25 with network web (10.0.1.0/24)",
  });
  t.equal(bridgesProblem(new Map(), [local], [local], [web, db]), undefined);
  t.equal(bridgesProblem(new Map(), [], [local], [db]), undefined);
  t.end();
});
