import * as fc from "fast-check";
import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import type { OverlayEndpoint, OverlayNetwork } from "../../../worker/network/network.ts";
import { objectId, wantedObjects } from "../../../worker/network/objects.ts";
import type { HostState, KernelObject, Observed } from "../../../worker/network/objects.ts";
import { parseObserved } from "../../../worker/network/observe.ts";
import { OwnAddresses } from "../../../worker/network/own-addresses.ts";
import { plan } from "../../../worker/network/plan.ts";
import type { Step } from "../../../worker/network/plan.ts";

const network: OverlayNetwork = {
  id: "net" as NetworkId,
  name: "net",
  subnet: "10.0.1.0/24",
  gateway: "10.0.1.1",
  vni: 4097,
  internal: false,
  mtu: 0,
  ingress: false,
};

function endpoint(host: number, task: number): OverlayEndpoint {
  return {
    networkId: network.id,
    taskId: `task${task}` as TaskId,
    address: `10.0.1.${task}`,
    nodeId: `node${host}` as NodeId,
    nodeAddress: `192.168.0.${host}`,
    nodeIndex: host,
    serviceId: "s",
    serviceName: "s",
    taskName: `s.${task}`,
    aliases: [],
    serving: true,
  };
}

function state(
  endpoints: readonly OverlayEndpoint[],
  local: readonly number[] = [],
  underlayMtu = 1500,
): HostState {
  return {
    wanted: {
      self: { nodeId: "node1" as NodeId, address: "192.168.0.1" },
      networks: [network],
      endpoints,
      services: [],
      hosts: [],
    },
    ports: local.map((task) => ({
      taskId: `task${task}` as TaskId,
      networkId: network.id,
      bridge: "ov4097",
      device: "eth0",
      address: `10.0.1.${task}/24`,
      gateway: network.gateway,
      mac: `02:42:0a:00:01:${task.toString(16).padStart(2, "0")}`,
    })),
    bridges: [],
    underlayMtu,
  };
}

const nothing: Observed = { objects: new Map(), nexthopIds: new Set(), devices: new Map() };

function observed(objects: ReadonlyMap<string, KernelObject>): Observed {
  return { ...nothing, objects };
}

function lines(steps: readonly Step[]): string[] {
  return steps.map(({ tool, line }) => `${tool} ${line}`);
}

t.test(
  "a remote task on a fresh host: devices, hop, route, neighbour and forwarding entry, in that order",
  (t) => {
    t.strictSame(lines(plan(wantedObjects(state([endpoint(2, 12)]), nothing), new Map())), [
      "ip link add ov4097 address 02:42:0a:00:01:01 group 21320 up type bridge mcast_snooping 0 stp_state 0",
      "ip link add vx4097 address 02:4e:c0:a8:00:01 mtu 1450 group 21320 up type vxlan id 4097 local 192.168.0.1 dstport 4789 nolearning",
      "ip link set dev ov4097 mtu 1450",
      "ip address replace 10.0.1.1/24 dev ov4097 noprefixroute",
      "ip address replace 169.254.77.1/32 dev vx4097 noprefixroute scope link",
      "ip nexthop replace id 1397227520 via 192.168.0.2 dev vx4097 onlink proto 77",
      "ip route add unreachable 10.0.1.0/24 proto 77",
      "ip route add 10.0.1.12 nhid 1397227520 proto 77",
      "ip neighbour replace 192.168.0.2 lladdr 02:4e:c0:a8:00:02 dev vx4097 nud permanent",
      "bridge fdb replace 02:4e:c0:a8:00:02 dev vx4097 dst 192.168.0.2 self static",
    ]);
    t.end();
  },
);

/** The same network, tasks and places with IPv6 beside IPv4. */
function dual(given: HostState): HostState {
  const further = [{ subnet: "fd00:1::/64", gateway: "fd00:1::1" }];
  const sixth = (address: string): string => `fd00:1::${address.split(/[./]/)[3]}`;
  const { wanted, ports } = given;
  return {
    ...given,
    wanted: wanted && {
      ...wanted,
      networks: wanted.networks.map((each) => ({ ...each, further })),
      endpoints: wanted.endpoints.map((each) => ({ ...each, ipv6: sixth(each.address) })),
    },
    ports: ports.map((port) => ({
      ...port,
      ipv6: { address: `${sixth(port.address)}/64`, gateway: "fd00:1::1" },
    })),
  };
}

t.test(
  "IPv6 beside IPv4: one bridge and one way to a host, by an address that follows from the host's own",
  (t) => {
    const given = dual(state([endpoint(1, 5), endpoint(2, 12)], [5]));
    const made = lines(plan(wantedObjects(given, nothing), new Map()));
    t.strictSame(
      made
        .filter((line) => /:1::|fe80|link .*(?:ov|vx)4097/.test(line))
        .map((line) => line.replace(/sv-\w+/, "sv-?")),
      [
        "ip link add ov4097 address 02:42:0a:00:01:01 group 21320 up type bridge mcast_snooping 0 stp_state 0",
        "ip link add vx4097 address 02:4e:c0:a8:00:01 mtu 1450 group 21320 up type vxlan id 4097 local 192.168.0.1 dstport 4789 nolearning",
        "ip link set dev ov4097 mtu 1450",
        "ip address replace fd00:1::1/64 dev ov4097 noprefixroute nodad",
        "ip link set dev sv-? master ov4097 up",
        "ip nexthop replace id 1397227521 via fe80::c0a8:2 dev vx4097 onlink proto 77",
        "ip route add fd00:1::5 dev ov4097 proto 77",
        "ip route add unreachable fd00:1::/64 proto 77",
        "ip route add fd00:1::c nhid 1397227521 proto 77",
        "ip neighbour replace fd00:1::5 lladdr 02:42:0a:00:01:05 dev ov4097 nud permanent",
        "ip neighbour replace fe80::c0a8:2 lladdr 02:4e:c0:a8:00:02 dev vx4097 nud permanent",
      ].map((line) => line.replace("fd00:1::c ", "fd00:1::12 ")),
    );
    t.equal(
      made.filter((line) => line.startsWith("bridge fdb replace 02:4e")).length,
      1,
      "one entry leads to the host",
    );
    t.end();
  },
);

/** The network as that of published ports, which others are ways into. */
function ingress(given: HostState, ...others: readonly number[]): HostState {
  const hosts = others.map((index) => ({
    nodeId: `node${index}` as NodeId,
    address: `192.168.0.${index}`,
    index,
  }));
  const { wanted } = given;
  const networks = wanted?.networks.map((each) => ({ ...each, ingress: true })) ?? [];
  return { ...given, wanted: wanted && { ...wanted, networks, hosts } };
}

t.test("where published ports have IPv6, answers of each family go back to where the client came in", (t) => {
  const given = ingress(dual(state([endpoint(2, 12)])), 2, 3);
  const objects = wantedObjects(given, nothing);
  const made = lines(plan(objects, new Map()));
  t.strictSame(
    made.filter((line) => /nexthop|table|rule/.test(line)),
    [
      "ip nexthop replace id 1397227520 via 192.168.0.2 dev vx4097 onlink proto 77",
      "ip nexthop replace id 1397227521 via fe80::c0a8:2 dev vx4097 onlink proto 77",
      "ip nexthop replace id 1397227522 via 192.168.0.3 dev vx4097 onlink proto 77",
      "ip nexthop replace id 1397227523 via fe80::c0a8:3 dev vx4097 onlink proto 77",
      "ip route replace default nhid 1397227520 table 1397227522 proto 77",
      "ip route replace ::/0 nhid 1397227521 table 1397293058 proto 77",
      "ip route replace default nhid 1397227522 table 1397227523 proto 77",
      "ip route replace ::/0 nhid 1397227523 table 1397293059 proto 77",
      "ip rule add pref 31000 fwmark 0x20000/0xffff0000 lookup 1397227522 protocol 77",
      "ip -6 rule add pref 31000 fwmark 0x20000/0xffff0000 lookup 1397293058 protocol 77",
      "ip rule add pref 31000 fwmark 0x30000/0xffff0000 lookup 1397227523 protocol 77",
      "ip -6 rule add pref 31000 fwmark 0x30000/0xffff0000 lookup 1397293059 protocol 77",
    ],
  );
  const without = plan(wantedObjects(ingress(state([endpoint(2, 12)]), 2, 3), observed(objects)), objects);
  t.strictSame(
    lines(without).filter((line) => /table|rule/.test(line)),
    [
      "ip rule delete pref 31000 fwmark 0x20000/0xffff0000 lookup 1397293058 protocol 77",
      "ip rule delete pref 31000 fwmark 0x30000/0xffff0000 lookup 1397293059 protocol 77",
    ]
      .map((line) => line.replace("ip ", "ip -6 "))
      .concat([
        "ip route delete ::/0 table 1397293058 proto 77",
        "ip route delete ::/0 table 1397293059 proto 77",
      ]),
    "and those of the other stay",
  );
  t.end();
});

t.test("what the kernel lists of ways back is what was wanted, in both families", (t) => {
  const rule = (table: string) => ({
    priority: 31000,
    fwmark: "0x20000",
    fwmask: "0xffff0000",
    table,
    protocol: "77",
  });
  const outputs: readonly unknown[][] = [
    [
      {
        ifname: "vx4097",
        group: "21320",
        mtu: 1450,
        flags: ["UP"],
        address: "02:4e:c0:a8:00:01",
        linkinfo: { info_kind: "vxlan", info_data: { id: 4097, local: "192.168.0.1", port: 4789 } },
        addr_info: [],
      },
    ],
    [
      { id: 1397227520, gateway: "192.168.0.2", dev: "vx4097", protocol: "77" },
      { id: 1397227521, gateway: "fe80::c0a8:2", dev: "vx4097", protocol: "77" },
    ],
    [],
    [
      { dst: "default", nhid: 1397227520, dev: "vx4097", table: "1397227522" },
      { dst: "default", nhid: 1397227521, dev: "vx4097", table: "1397293058" },
    ],
    [rule("1397227522"), { ...rule("7"), protocol: "kernel" }],
    [],
    [rule("1397293058"), { ...rule("7"), fwmask: "0xff" }],
  ];
  const seen = parseObserved(outputs.map((output) => JSON.stringify(output)));
  const wanted = wantedObjects(ingress(dual(state([])), 2), nothing);
  const of = (objects: ReadonlyMap<string, KernelObject>): unknown =>
    sorted(
      new Map(
        [...objects]
          .filter(([, { kind }]) => ["nexthop", "return", "rule"].includes(kind))
          .map(([id, object]) => [id, { ...object, networkIds: [] }]),
      ),
    );
  t.strictSame(of(seen.objects), of(wanted));
  t.end();
});

t.test("others are told the host's own addresses of IPv6, and when they change", (t) => {
  const link = (ifname: string, ...locals: readonly (string | object)[]) => ({
    ifname,
    mtu: 1500,
    addr_info: locals.map((each) => (typeof each === "string" ? { local: each, prefixlen: 64 } : each)),
  });
  const told: (readonly string[])[] = [];
  const addresses = new OwnAddresses();
  const end = addresses.watch(() => told.push(addresses.ipv6));
  const see = (...links: readonly object[]): void => addresses.note(parseObserved([JSON.stringify(links)]));
  const ours = {
    ...link("ov4097", "fd00:1::1"),
    group: "21320",
    linkinfo: { info_kind: "bridge" },
    flags: ["UP"],
  };
  const passing = { local: "2001:db8::f00", prefixlen: 64, temporary: true };
  see(link("lo", "::1"), ours, link("eth0", "10.0.0.1", "2001:db8::2", passing, "fe80::1", "2001:db8::1"));
  see(link("eth0", "2001:db8::1", "2001:db8::2"));
  see(link("eth0", ...Array.from({ length: 20 }, (_, index) => `2001:db8::${10 + index}`)));
  end();
  see();
  t.strictSame(told[0], ["2001:db8::1", "2001:db8::2"]);
  t.strictSame([told.length, told[1]?.length, addresses.ipv6], [2, 16, []]);
  t.end();
});

t.test("a bridge network with IPv6 has a gateway in both families", (t) => {
  const bridge = {
    id: "b" as NetworkId,
    name: "b",
    device: "br-b",
    subnet: "10.7.0.0/24",
    gateway: "10.7.0.1",
    reserved: [],
    internal: false,
    masquerade: true,
    mutual: true,
    hostAddress: "",
    mtu: 1500,
    ipv6: { subnet: "fd00:7::/64", gateway: "fd00:7::1", reserved: [] },
  };
  const objects = wantedObjects({ ...state([]), wanted: undefined, bridges: [bridge] }, nothing);
  t.match(
    [...objects.keys()],
    [
      "link br-b",
      "mtu br-b",
      "address br-b 10.7.0.1/24",
      "route 10.7.0.0/24",
      "address br-b fd00:7::1/64",
      "route fd00:7::/64",
    ],
  );
  t.equal(objects.get("link br-b")?.ipv6, true);
  t.end();
});

t.test("a network has what the host's link leaves of its MTU, unless it asks for one", (t) => {
  const at = (underlayMtu: number, more: Partial<OverlayNetwork> = {}): HostState => {
    const { wanted, ...rest } = state([endpoint(2, 12)], [5], underlayMtu);
    if (wanted === undefined) throw new Error("it is given");
    return { ...rest, wanted: { ...wanted, networks: [{ ...network, ...more }] } };
  };
  const mtuOf = (given: HostState) => wantedObjects(given, nothing).get("mtu ov4097")?.value;
  t.equal(mtuOf(at(1400, { mtu: 1200 })), "1200");
  t.equal(mtuOf(at(1400, { encrypted: true })), "1290");
  t.equal(mtuOf(at(1300)), "1250");
  t.equal(mtuOf(dual(at(1300))), "1280", "the least that IPv6 needs");
  t.end();
});

t.test(
  "an encrypted network: from tunnel to tunnel, by the tunnel's device alone; not to hosts without one",
  (t) => {
    const { wanted, ...rest } = state([endpoint(2, 12), endpoint(3, 13)]);
    if (wanted === undefined) throw new Error("it is given");
    const networks = [{ ...network, encrypted: true }];
    const remotes = new Map([["node2", "198.18.0.2"]]);
    const sealed = { ...rest, wanted: { ...wanted, networks }, tunnel: { device: "shoal-wg0", remotes } };
    const made = lines(plan(wantedObjects(sealed, nothing), new Map()));
    t.strictSame(
      made.filter((line) => /vx4097.*type|fdb|198\.18\.|10\.0\.1\.1[23]/.test(line)),
      [
        "ip link add vx4097 address 02:4e:c0:a8:00:01 mtu 1390 group 21320 up type vxlan id 4097 dstport 4789 nolearning",
        "ip route add 198.18.0.0/15 dev shoal-wg0 proto 77",
        "ip route add 10.0.1.12 nhid 1397227520 proto 77",
        "bridge fdb replace 02:4e:c0:a8:00:02 dev vx4097 dst 198.18.0.2 via shoal-wg0 self static",
      ],
    );
    const seen = observed(wantedObjects(sealed, nothing));
    const turned = {
      ...sealed,
      tunnel: { device: "shoal-wg1", remotes: new Map([["node2", "198.19.0.2"]]) },
    };
    t.strictSame(
      lines(plan(wantedObjects(turned, seen), seen.objects)),
      [
        "ip route replace 198.18.0.0/15 dev shoal-wg1 proto 77",
        "bridge fdb replace 02:4e:c0:a8:00:02 dev vx4097 dst 198.19.0.2 via shoal-wg1 self static",
      ],
      "other keys change two entries in place",
    );
    t.end();
  },
);

const changes = [
  {
    name: "the same again needs nothing",
    from: state([endpoint(2, 12)]),
    to: state([endpoint(2, 12)]),
    want: [],
  },
  {
    name: "a task that moved is replaced in place",
    from: state([endpoint(2, 12), endpoint(3, 13)]),
    to: state([endpoint(3, 12), endpoint(3, 13), endpoint(2, 14)]),
    want: [
      "ip route replace 10.0.1.12 nhid 1397227521 proto 77",
      "ip route add 10.0.1.14 nhid 1397227520 proto 77",
    ],
  },
  {
    name: "the last task of a host takes the hop with it, the route first",
    from: state([endpoint(2, 12)]),
    to: state([]),
    want: [
      "bridge fdb delete 02:4e:c0:a8:00:02 dev vx4097 dst 192.168.0.2 self",
      "ip route delete 10.0.1.12 proto 77",
      "ip nexthop delete id 1397227520",
      "ip neighbour delete 192.168.0.2 dev vx4097",
    ],
  },
  {
    name: "a local task: its end of the link joins the bridge and is known there",
    from: state([]),
    to: state([endpoint(1, 5)], [5]),
    want: [
      "ip link set dev sv-? master ov4097 up",
      "ip link set dev sv-? type bridge_slave hairpin on",
      "ip route add 10.0.1.5 dev ov4097 proto 77",
      "ip neighbour replace 10.0.1.5 lladdr 02:42:0a:00:01:05 dev ov4097 nud permanent",
      "bridge fdb replace 02:42:0a:00:01:05 dev sv-? master static",
    ],
  },
  {
    name: "a local task that ended: what is on its device goes with the device",
    from: state([], [5]),
    to: state([]),
    want: [
      "ip route delete 10.0.1.5 proto 77",
      "ip link delete dev sv-?",
      "ip neighbour delete 10.0.1.5 dev ov4097",
    ],
  },
  {
    name: "another MTU: the bridge keeps its ports, the VXLAN device all that hangs on it",
    from: state([endpoint(2, 12)]),
    to: state([endpoint(2, 12)], [], 9000),
    want: ["ip link set dev vx4097 mtu 8950", "ip link set dev ov4097 mtu 8950"],
  },
] as const;

for (const { name, from, to, want } of changes) {
  t.test(name, (t) => {
    const before = wantedObjects(from, nothing);
    const steps = plan(wantedObjects(to, observed(before)), before);
    t.strictSame(
      lines(steps).map((line) => line.replaceAll(/sv-\w+/g, "sv-?")),
      want,
    );
    t.end();
  });
}

t.test(
  "no route is put in the place of one that is not ours: where one is there, the kernel refuses ours",
  (t) => {
    const before = wantedObjects(state([endpoint(2, 12)]), nothing);
    const made = lines(plan(before, nothing.objects)).filter((line) => line.includes(" route "));
    t.strictSame(made, [
      "ip route add unreachable 10.0.1.0/24 proto 77",
      "ip route add 10.0.1.12 nhid 1397227520 proto 77",
    ]);
    t.end();
  },
);

t.test("device names fit the kernel's 15 characters, whatever the id", (t) => {
  for (const { kind, device } of wantedObjects(state([], [5, 6]), nothing).values()) {
    if (kind === "port" || kind === "link") t.ok(device.length <= 15, device);
  }
  t.end();
});

t.test("a number that somebody else gave a next hop is never used", (t) => {
  const taken: Observed = { ...nothing, nexthopIds: new Set([1_397_227_520]) };
  const hops = [...wantedObjects(state([endpoint(2, 12)]), taken).values()].filter(
    ({ kind }) => kind === "nexthop",
  );
  t.strictSame(
    hops.map(({ value }) => value),
    ["1397227521"],
  );
  t.end();
});

t.test("overlays without an address of the data path are refused with what was seen", (t) => {
  const { wanted, ...rest } = state([]);
  const blind = { ...rest, wanted: wanted && { ...wanted, self: { ...wanted.self, address: "" } } };
  t.throws(() => wantedObjects(blind, nothing), { code: "failed-precondition", message: /it is ""/ });
  t.end();
});

t.test("from any state to any other: the plan leads there, and no step refers to what is not there", (t) => {
  const places = fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 2, max: 9 })), {
    selector: ([, task]) => task,
  });
  const hosts = fc.option(fc.subarray([2, 3, 4]));
  const choices = fc.tuple(places, fc.constantFrom(1500, 9000), fc.boolean(), hosts);
  const states = choices.map(([list, mtu, ipv6, others]) => {
    const given = state(
      list.map(([host, task]) => endpoint(host, task)),
      list.filter(([host]) => host === 1).map(([, task]) => task),
      mtu,
    );
    const both = ipv6 ? dual(given) : given;
    return others === null ? both : ingress(both, ...others);
  });
  fc.assert(
    fc.property(states, states, (from, to) => {
      const before = wantedObjects(from, nothing);
      const wanted = wantedObjects(to, observed(before));
      const after = carryOut(before, plan(wanted, before));
      t.strictSame(sorted(after), sorted(wanted));
    }),
    { numRuns: 300 },
  );
  t.end();
});

/** What the kernel has of it: whether a device carries IPv6 is among its settings. */
function held(object: KernelObject): KernelObject {
  const { ipv6: _, ...rest } = object;
  return rest;
}

/** As the kernel would: what belongs to a device goes with it, and a hop takes its routes along. */
function carryOut(
  before: ReadonlyMap<string, KernelObject>,
  steps: readonly Step[],
): Map<string, KernelObject> {
  const objects = new Map(before);
  for (const { action, object } of steps) {
    const id = objectId(object);
    if (action === "add") {
      if (object.value.startsWith("nhid ")) {
        const hop = [...objects.values()].some(
          ({ kind, value }) => kind === "nexthop" && object.value === `nhid ${value}`,
        );
        if (!hop) throw new Error(`${id} before its hop`);
      }
      objects.set(id, object);
      continue;
    }
    if (!objects.delete(id)) throw new Error(`${id} is removed and was not there`);
    for (const [other, { device, kind, value }] of objects) {
      const onDevice = (object.kind === "link" || object.kind === "port") && device === object.device;
      const byHop = object.kind === "nexthop" && kind === "route" && value === `nhid ${object.value}`;
      if (onDevice || byHop) objects.delete(other);
    }
  }
  return objects;
}

function sorted(objects: ReadonlyMap<string, KernelObject>): [string, KernelObject][] {
  return [...objects]
    .map(([id, object]) => [id, held(object)] as [string, KernelObject])
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
}

t.test("a network of several subnets has a gateway in each, and routes to tasks in all of them", (t) => {
  const wide = { ...network, further: [{ subnet: "10.9.0.0/16", gateway: "10.9.0.1" }] };
  const away = { ...endpoint(2, 5), address: "10.9.3.5" };
  const nowhere = { ...endpoint(2, 6), address: "10.8.3.5" };
  const given = state([endpoint(2, 4), away, nowhere]);
  const wanted = { ...given, wanted: given.wanted && { ...given.wanted, networks: [wide] } };
  const ids = [...wantedObjects(wanted, nothing).keys()];
  for (const id of [
    "address ov4097 10.0.1.1/24",
    "address ov4097 10.9.0.1/16",
    "route 10.0.1.0/24",
    "route 10.9.0.0/16",
    "route 10.0.1.4",
    "route 10.9.3.5",
  ])
    t.ok(ids.includes(id), id);
  t.notOk(ids.includes("route 10.8.3.5"));
  t.equal(ids.filter((id) => id.startsWith("link ")).length, 2, "and one bridge");
  t.end();
});
