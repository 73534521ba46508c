import * as fc from "fast-check";
import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import { addressNumber, contains, parseCidr } from "../../../worker/network/addresses.ts";
import { ownBridge } from "../../../worker/network/bridges.ts";
import { changeIpv6, changeLines, relinkIpv6 } from "../../../worker/network/namespace.ts";
import { outwardAddress, outwardIpv6 } from "../../../worker/network/network.ts";
import type {
  AttachNetwork,
  AttachRequest,
  BridgeBlock,
  BridgeNetwork,
  OverlayNetwork,
} from "../../../worker/network/network.ts";
import { prepareLinks, type PreparedLink, usesBridge } from "../../../worker/network/prepare.ts";

const own = ownBridge("172.20.0.0/16");

function bridge(number: number, more: Partial<BridgeNetwork> = {}): BridgeNetwork {
  return {
    ...own,
    id: `net${number}` as NetworkId,
    name: `net${number}`,
    device: `br-${number}`,
    subnet: `10.${number}.0.0/28`,
    gateway: `10.${number}.0.1`,
    ...more,
  };
}

const bridges = [
  own,
  bridge(1),
  bridge(2, { range: "10.2.0.8/29", reserved: ["10.2.0.9"] }),
  bridge(3, { internal: true }),
];

function on(number: number, more: Partial<AttachNetwork> = {}): AttachNetwork {
  return { networkId: `net${number}` as NetworkId, address: "", aliases: [], ...more };
}

function request(networks: readonly AttachNetwork[]): AttachRequest {
  return {
    taskId: "t" as TaskId,
    containerId: "c",
    networks,
    host: false,
    none: false,
    ports: [],
    hostname: "h",
    extraHosts: [],
  };
}

/** A host that remembers what it gave. */
class Host {
  readonly tasks = new Map<number, readonly PreparedLink[]>();
  readonly #last = new Map<string, number>();

  set(task: number, networks: readonly AttachNetwork[]): readonly PreparedLink[] {
    const links = prepareLinks(
      request(networks),
      {
        wanted: undefined,
        underlayMtu: 1500,
        bridges,
        taken: (device) => new Set(this.addresses(device)),
        lastPicked: (device) => this.#last.get(device) ?? 0,
      },
      this.tasks.get(task),
    );
    for (const { address } of links) {
      this.#last.set(address.bridge, addressNumber(parseCidr(address.address).address) ?? 0);
    }
    this.tasks.set(task, links);
    return links;
  }

  addresses(device: string): number[] {
    return [...this.tasks.values()].flat().flatMap(({ address }) => {
      return address.bridge === device ? [addressNumber(parseCidr(address.address).address) ?? 0] : [];
    });
  }
}

t.test("no address is given twice, none that is left out, whatever joins, leaves and ends", (t) => {
  const change = fc.record({
    task: fc.integer({ min: 0, max: 5 }),
    networks: fc.uniqueArray(fc.integer({ min: 1, max: 3 }), { maxLength: 3 }),
    fixed: fc.option(fc.integer({ min: 0, max: 15 })),
    ends: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const host = new Host();
      for (const { task, networks, fixed, ends } of changes) {
        if (ends) host.tasks.delete(task);
        const before = host.tasks.get(task) ?? [];
        try {
          const links = host.set(
            task,
            networks.map((each) => on(each, fixed === null ? {} : { address: `10.${each}.0.${fixed}` })),
          );
          for (const { address } of before) {
            const after = links.find((link) => link.address.networkId === address.networkId);
            if (after !== undefined && after.address.address !== address.address) return false;
          }
          if (new Set(links.map(({ address }) => address.device)).size !== links.length) return false;
          if (links.filter(({ address }) => address.outward === true).length !== Math.min(1, links.length))
            return false;
        } catch (error) {
          if (!/Address already in use|no address is left/.test(String(error))) throw error;
        }
        for (const { device, subnet, gateway, reserved } of bridges) {
          const given = host.addresses(device);
          const block = parseCidr(subnet);
          const never = [gateway, ...reserved].map((each) => addressNumber(each));
          if (new Set(given).size !== given.length) return false;
          if (given.some((each) => !contains(block, each) || each === block.first || each === block.last))
            return false;
          if (given.some((each) => never.includes(each))) return false;
        }
      }
      return true;
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test("addresses come from the range, and all of it", (t) => {
  const host = new Host();
  const given = [1, 2, 3, 4, 5, 6].map((task) => host.set(task, [on(2)])[0]?.address.address);
  t.strictSame(
    given,
    [8, 10, 11, 12, 13, 14].map((last) => `10.2.0.${last}/28`),
  );
  t.throws(() => host.set(7, [on(2)]), {
    code: "resource-exhausted",
    message: /no address is left on network net2/,
  });
  t.equal(
    host.set(8, [on(2, { address: "10.2.0.5" })])[0]?.address.address,
    "10.2.0.5/28",
    "one that is asked for may be outside of it",
  );
  t.end();
});

t.test(
  "what is for nowhere else goes by a network that leads outside, and of these by the highest priority",
  (t) => {
    const outward = (...networks: AttachNetwork[]) =>
      new Host().set(1, networks).find(({ address }) => address.outward === true)?.address.networkId;
    t.equal(outward(on(3), on(1)), "net1");
    t.equal(outward(on(1), on(2)), "net1");
    t.equal(outward(on(1), on(2, { priority: 1 })), "net2");
    t.equal(outward(on(3)), "net3", "there is no other");
    t.end();
  },
);

t.test("a device's name is not used again while it goes, and tables follow the devices", (t) => {
  const host = new Host();
  const lines = (before: readonly PreparedLink[], after: readonly PreparedLink[]) =>
    changeLines(
      "t" as TaskId,
      before.map(({ address, mtu }) => ({ ...address, mtu })),
      after.map(({ address, mtu }) => ({ ...address, mtu })),
      "/ns",
    ).split("\n");
  const one = host.set(1, [on(1)]);
  const two = host.set(1, [on(1), on(2)]);
  t.match(
    lines(one, two).join("\n"),
    /link add eth1[^]*table 100\nrule add from 10\.1\.0\.2 lookup 100\n[^]*table 101\nrule add from 10\.2\.0\.8 lookup 101/,
  );
  const other = host.set(1, [on(2)]);
  t.strictSame(lines(two, other), [
    "rule delete from 10.1.0.2 lookup 100",
    "rule delete from 10.2.0.8 lookup 101",
    "route replace default via 10.2.0.1 dev eth1",
    "",
  ]);
  const third = host.set(1, [on(2), on(3)]);
  t.match(lines(other, third).join("\n"), /link add eth0/, "it is gone by then");
  const swapped = host.set(1, [on(1)]);
  t.match(lines(third, swapped).join("\n"), /link add eth2/, "both others are still there");
  t.strictSame(lines(swapped, swapped), [""]);
  t.end();
});

const dual = (number: number, more: Partial<BridgeBlock> = {}, rest: Partial<BridgeNetwork> = {}) =>
  bridge(number, {
    ...rest,
    ipv6: { subnet: `fd00:${number}::/64`, gateway: `fd00:${number}::1`, reserved: [], ...more },
  });

function dualHost(networks: readonly BridgeNetwork[], taken: readonly bigint[] = [], last = 0n) {
  return {
    wanted: undefined,
    underlayMtu: 1500,
    bridges: [own, ...networks],
    taken: () => new Set<number | bigint>(taken),
    lastPicked: (_: string, family: string) => (family === "ipv6" ? last : 0),
  };
}

t.test(
  "on a network with IPv6 a container gets an address of it too: a free one, or the one asked for",
  (t) => {
    const base = 0xfd00_0001n << 96n;
    const place = (host: ReturnType<typeof dualHost>, more: Partial<AttachNetwork> = {}) =>
      prepareLinks(request([on(1, more)]), host)[0]?.address.ipv6?.address;
    t.equal(
      place(dualHost([dual(1)])),
      "fd00:1::2/64",
      "the first that is neither the network's nor the gateway's",
    );
    t.equal(place(dualHost([dual(1, { reserved: ["fd00:1::2"] })], [base + 3n])), "fd00:1::4/64");
    t.equal(place(dualHost([dual(1)], [], base + 7n)), "fd00:1::8/64", "one after another");
    const ranged = dual(1, { range: "fd00:1::8:0/127" });
    t.equal(place(dualHost([ranged])), "fd00:1::8:0/64", "the ends of a range too");
    t.equal(place(dualHost([ranged], [], base + 0x80001n)), "fd00:1::8:0/64", "in a circle");
    t.throws(() => place(dualHost([ranged], [base + 0x80000n, base + 0x80001n])), {
      code: "resource-exhausted",
      message: /no address is left on network net1 \(fd00:1::8:0\/127\)/,
    });
    t.equal(place(dualHost([dual(1)]), { ipv6: "fd00:1:0::AB" }), "fd00:1::ab/64");
    for (const taken of ["fd00:1::1", "fd00:1::", "fd00:1::9"]) {
      t.throws(() => place(dualHost([dual(1)], [base + 9n]), { ipv6: taken }), {
        code: "conflict",
        message: "Address already in use",
      });
    }
    t.throws(() => place(dualHost([dual(1)]), { ipv6: "fd00:2::5" }), {
      code: "invalid-argument",
      message: /no configured subnet or ip-range contain the IP address fd00:2::5/,
    });
    t.end();
  },
);

t.test(
  "each family goes out by the first open network that has it, and both have routes, rules and tables",
  (t) => {
    const host = dualHost([bridge(1), dual(2), dual(3), dual(4, {}, { internal: true })]);
    const links = (...numbers: number[]) =>
      prepareLinks(request(numbers.map((number, index) => on(number, { priority: -index }))), host).map(
        ({ address, mtu }) => ({ ...address, mtu }),
      );
    const out = (...numbers: number[]) => {
      const places = links(...numbers);
      return [outwardAddress(places)?.networkId, outwardIpv6(places)?.networkId];
    };
    t.strictSame(out(1, 2, 3), ["net1", "net2"]);
    t.strictSame(out(3, 2), ["net3", "net3"]);
    t.strictSame(out(1, 4), ["net1", undefined], "what is published must not lead into an internal network");
    const first = changeIpv6([], links(2));
    t.strictSame(first, {
      devices: ["eth0"],
      ipv6: [
        "address add fd00:2::2/64 dev eth0 noprefixroute nodad",
        "neighbour add fd00:2::1 lladdr 02:42:0a:02:00:01 dev eth0 nud permanent",
        "route add fd00:2::1/128 dev eth0",
        "route add fd00:2::/64 via fd00:2::1 dev eth0 src fd00:2::2",
        "route replace default via fd00:2::1 dev eth0",
        "",
      ].join("\n"),
    });
    const joined = changeIpv6(links(2), links(2, 3));
    t.strictSame(joined.devices, ["eth1"], "what is on stays as it is");
    t.match(
      joined.ipv6,
      /onlink table 100\nrule add from fd00:2::2 lookup 100\n[^]*onlink table 101\nrule add from fd00:3::2 lookup 101/,
    );
    t.notMatch(joined.ipv6, "route replace default via fd00:3::1 dev eth1\n");
    t.strictSame(changeIpv6(links(1), links(1)), { devices: [], ipv6: "" }, "nothing without IPv6");
    const lost = relinkIpv6(links(2, 3), "br-3");
    t.strictSame(lost.devices, ["eth1"]);
    t.match(lost.ipv6, /address add fd00:3::2[^]*onlink table 101\n$/);
    t.notMatch(lost.ipv6, "rule", "rules do not go with a link");
    t.end();
  },
);

t.test("of a network that is gone, a container gets none, a task that of the host", (t) => {
  const host = {
    wanted: undefined,
    underlayMtu: 1500,
    bridges,
    taken: () => new Set<number>(),
    lastPicked: () => 0,
  };
  const asked = request([on(9)]);
  t.throws(() => prepareLinks({ ...asked, containerId: asked.taskId }, host), {
    code: "failed-precondition",
    message: /net9/,
  });
  t.match(prepareLinks(asked, host), [{ address: { networkId: "", bridge: own.device } }]);
  t.match(prepareLinks({ ...request([]), containerId: asked.taskId }, host), [
    { address: { networkId: "" } },
  ]);
  t.end();
});

t.test(
  "on an overlay of several subnets a task has the gateway of its own, and routes to the others",
  (t) => {
    const overlay: OverlayNetwork = {
      id: "net9" as NetworkId,
      name: "net9",
      subnet: "10.9.0.0/29",
      gateway: "10.9.0.1",
      further: [{ subnet: "10.8.0.0/24", gateway: "10.8.0.254" }],
      vni: 4099,
      internal: false,
      mtu: 0,
      ingress: false,
    };
    const self = { nodeId: "n" as NodeId, address: "192.168.0.1" };
    const wanted = { self, networks: [overlay], endpoints: [], services: [], hosts: [] };
    const host = { wanted, underlayMtu: 1500, bridges, taken: () => new Set<number>(), lastPicked: () => 0 };
    const place = (address: string): readonly PreparedLink[] =>
      prepareLinks(request([on(9, { address })]), host);
    t.match(place("10.9.0.2/29"), [
      { address: { address: "10.9.0.2/29", gateway: "10.9.0.1", further: ["10.8.0.0/24"] } },
    ]);
    const [second] = place("10.8.0.7/24");
    t.match(second?.address, {
      address: "10.8.0.7/24",
      gateway: "10.8.0.254",
      further: ["10.9.0.0/29"],
      gatewayMac: "02:42:0a:09:00:01",
    });
    t.throws(
      () => place("10.8.0.254/24"),
      /cannot be a task's on network net9: accepted is any of 10.9.0.0\/29 but/,
    );
    t.throws(() => place("10.7.0.1/24"), { code: "invalid-argument" });
    const lines = changeLines(
      "t" as TaskId,
      [],
      second === undefined ? [] : [{ ...second.address, mtu: 1450 }],
      "host",
    );
    t.match(lines, /neighbour add 10\.8\.0\.254 lladdr 02:42:0a:09:00:01 dev eth0/);
    t.match(
      lines,
      /route add 10\.8\.0\.0\/24 via 10\.8\.0\.254 .*\nroute add 10\.9\.0\.0\/29 via 10\.8\.0\.254 dev eth0 src 10\.8\.0\.7/,
    );
    t.end();
  },
);

t.test("on an overlay with IPv6 a place is of both families, with the bridge's one MAC as gateway", (t) => {
  const network: OverlayNetwork = {
    id: "dual" as NetworkId,
    name: "dual",
    subnet: "10.9.0.0/24",
    gateway: "10.9.0.1",
    further: [
      { subnet: "fd00:9::/64", gateway: "fd00:9::1" },
      { subnet: "fd00:a::/64", gateway: "fd00:a::1" },
    ],
    vni: 4097,
    internal: false,
    mtu: 0,
    ingress: false,
  };
  const self = { nodeId: "n" as NodeId, address: "" };
  const host = {
    wanted: { self, networks: [network], endpoints: [], services: [], hosts: [] },
    underlayMtu: 1500,
    bridges,
    taken: () => new Set<number>(),
    lastPicked: () => 0,
  };
  const place = { networkId: network.id, address: "10.9.0.5/24", aliases: [] };
  t.match(prepareLinks(request([{ ...place, ipv6: "fd00:a::5/64" }]), host)[0]?.address, {
    address: "10.9.0.5/24",
    gateway: "10.9.0.1",
    ipv6: { address: "fd00:a::5/64", gateway: "fd00:a::1", outward: true },
    further: ["fd00:9::/64"],
    gatewayMac: "02:42:0a:09:00:01",
  });
  for (const ipv6 of ["fd00:b::5/64", "fd00:9::1/64"]) {
    t.throws(() => prepareLinks(request([{ ...place, ipv6 }]), host), {
      code: "invalid-argument",
      message: /cannot be a task's on network dual/,
    });
  }
  const onIngress = (ingress: OverlayNetwork) =>
    prepareLinks(request([{ ...place, ipv6: "fd00:a::5/64" }]), {
      ...host,
      wanted: { ...host.wanted, networks: [ingress] },
    })[0]?.address.ipv6;
  t.match(onIngress({ ...network, ingress: true }), { address: "fd00:a::5/64" });
  t.equal(onIngress({ ...network, ingress: true, further: [] }), undefined, "on a host that has none");
  t.end();
});

t.test("a host without tunnels is on no encrypted network, and says why", (t) => {
  const network = {
    id: "green" as NetworkId,
    name: "green",
    subnet: "10.9.0.0/24",
    gateway: "10.9.0.1",
    vni: 4097,
    internal: false,
    mtu: 0,
    ingress: false,
    encrypted: true,
  };
  const host = {
    wanted: {
      self: { nodeId: "n" as never, address: "" },
      networks: [network],
      endpoints: [],
      services: [],
      hosts: [],
    },
    underlayMtu: 1500,
    bridges,
    taken: () => new Set<number>(),
    lastPicked: () => 0,
  };
  const asked = request([{ networkId: network.id, address: "10.9.0.5/24", aliases: [] }]);
  t.match(prepareLinks(asked, host), [{ mtu: 1390 }]);
  t.throws(() => prepareLinks(asked, { ...host, tunnelProblem: "there is no WireGuard" }), {
    code: "failed-precondition",
    message: "network green is encrypted, which this host cannot do: there is no WireGuard",
  });
  t.end();
});

t.test("the host's own bridge is used by who joins it, and by who finds the host there", (t) => {
  const named = { extraHosts: ["host-gateway host.docker.internal"] };
  const cases = [
    [request([]), true],
    [request([on(1)]), false],
    [{ ...request([on(1)]), ...named }, true],
    [{ ...request([]), host: true }, false],
    [{ ...request([]), host: true, ...named }, true],
    [{ ...request([]), none: true }, false],
  ] as const;
  for (const [asked, want] of cases) t.equal(usesBridge(asked, bridges), want, JSON.stringify(asked));
  t.end();
});
