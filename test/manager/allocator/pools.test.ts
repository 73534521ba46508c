import * as fc from "fast-check";
import t from "tap";
import { parseCidr, printCidr, type CidrBlock } from "../../../model/address.ts";
import { AddressPool, NetworkPool } from "../../../manager/allocator/address.ts";
import {
  chooseSubnets,
  findOverlap,
  hostBlocks,
  ipv6PoolOf,
  pickSubnet,
} from "../../../manager/allocator/subnet.ts";
import { pickVni } from "../../../manager/allocator/vni.ts";
import type { SubnetConfig } from "../../../model/network.ts";
import type { Node } from "../../../model/node.ts";
import { networkObject, nodeObject } from "../../sim/objects.ts";

function blocks(...texts: string[]): CidrBlock[] {
  return texts.flatMap((text) => parseCidr(text) ?? []);
}

function host(name: string, subnets: readonly string[]): Pick<Node, "id" | "description"> {
  return nodeObject(name, { subnets });
}

const ipv6Pool = ipv6PoolOf("a-cluster");
const request = {
  pools: ["10.0.0.0/8"],
  bits: 24,
  taken: blocks("192.168.0.0/24"),
  ingress: false,
  ipv6Pool,
};

const subnets = [
  { name: "the first slice is kept for ingress", taken: [], ingress: false, want: "10.0.1.0/24" },
  { name: "ingress takes the first slice", taken: [], ingress: true, want: "10.0.0.0/24" },
  { name: "gaps are filled", taken: ["10.0.1.0/24", "10.0.3.0/24"], ingress: false, want: "10.0.2.0/24" },
  { name: "wide blocks are jumped over", taken: ["10.0.0.0/12"], ingress: false, want: "10.16.0.0/24" },
  { name: "small blocks fill their slice", taken: ["10.0.1.128/29"], ingress: false, want: "10.0.2.0/24" },
] as const;

for (const { name, taken, ingress, want } of subnets) {
  t.test(`subnet: ${name}`, (t) => {
    t.equal(
      printCidr(pickSubnet({ pools: ["10.0.0.0/8"], bits: 24, taken: blocks(...taken), ingress })),
      want,
    );
    t.end();
  });
}

t.test("subnet: the next pool is taken when one is full, and an error when all are", (t) => {
  const pools = ["10.0.0.0/23", "172.16.0.0/24"];
  const both = { pools, bits: 24, ingress: false };
  t.equal(printCidr(pickSubnet({ ...both, taken: blocks("10.0.1.0/24") })), "172.16.0.0/24");
  t.throws(() => pickSubnet({ ...both, taken: blocks("10.0.1.0/24", "172.16.0.0/16") }), {
    code: "resource-exhausted",
  });
  t.end();
});

t.test("subnet: none is where hosts have the addresses of their tunnels", (t) => {
  const first = { bits: 24, ingress: true, taken: [] };
  t.equal(printCidr(pickSubnet({ ...first, pools: ["198.16.0.0/14"] })), "198.16.0.0/24");
  const taken = blocks("198.16.0.0/15");
  t.throws(() => pickSubnet({ ...first, taken, pools: ["198.16.0.0/14"] }), { code: "resource-exhausted" });
  t.end();
});

const ofHosts = [
  { name: "a host's network is jumped over", hosts: ["10.0.1.0/24"], ingress: false, want: "10.0.2.0/24" },
  { name: "by the ingress network too", hosts: ["10.0.0.0/24"], ingress: true, want: "10.0.1.0/24" },
  { name: "also where it is wide", hosts: ["10.0.0.0/15"], ingress: true, want: "10.2.0.0/24" },
  { name: "or a single address", hosts: ["10.0.0.7/32"], ingress: true, want: "10.0.1.0/24" },
  { name: "beside what networks have", hosts: ["10.0.2.0/24"], ingress: false, want: "10.0.3.0/24" },
];

for (const { name, hosts, ingress, want } of ofHosts) {
  t.test(`subnet: ${name}`, (t) => {
    const taken = blocks("10.0.1.0/24").filter(() => name.includes("beside"));
    const own = hostBlocks([host("web1", hosts)]);
    t.equal(printCidr(pickSubnet({ pools: ["10.0.0.0/8"], bits: 24, taken, hosts: own, ingress })), want);
    t.end();
  });
}

t.test("subnet: where hosts leave none, the error names one of them and the way out", (t) => {
  const hosts = hostBlocks([
    host("web1", ["192.0.2.0/24", "10.0.0.0/8"]),
    host("web2", ["10.0.0.0/8", "10.1.0.0/16"]),
  ]);
  t.equal(hosts.length, 3, "what two hosts have counts once");
  const given = { pools: ["10.0.0.0/8"], bits: 24, taken: [], ingress: true };
  t.throws(() => pickSubnet({ ...given, hosts }), {
    code: "resource-exhausted",
    message:
      /^no subnet of size \/24 is left in the address pools 10\.0\.0\.0\/8: .*\(10\.0\.0\.0\/8 on node web1 and 1 more such blocks\).*--subnet.*--default-addr-pool/,
  });
  t.throws(() => pickSubnet({ ...given, taken: blocks("10.0.0.0/8"), hosts: hostBlocks([]) }), {
    message: /pools 10\.0\.0\.0\/8$/,
  });
  t.throws(() => pickSubnet({ ...given, taken: blocks("10.0.0.0/8"), hosts }), {
    message: /pools 10\.0\.0\.0\/8$/,
  });
  t.equal(
    printCidr(pickSubnet({ ...given, pools: ["10.0.0.0/8", "172.20.0.0/16"], hosts })),
    "172.20.0.0/24",
    "the next pool has some",
  );
  t.end();
});

t.test("subnet: whatever hosts and networks have, what is chosen meets none of it", (t) => {
  const byte = fc.integer({ min: 0, max: 255 });
  const block = fc
    .tuple(fc.constantFrom("10.0", "10.1", "192.168"), byte, byte, fc.integer({ min: 12, max: 32 }))
    .map(([start, third, last, bits]) => blocks(`${start}.${third}.${last}/${bits}`).map(printCidr).join());
  fc.assert(
    fc.property(fc.array(block), fc.array(block), fc.boolean(), (taken, own, ingress) => {
      const request = { pools: ["10.0.0.0/15"], bits: 24, taken: blocks(...taken), ingress };
      let chosen: CidrBlock;
      try {
        chosen = pickSubnet({ ...request, hosts: hostBlocks([host("web1", own)]) });
      } catch {
        return findOverlap("10.0.0.0/15", [...taken, ...own]) !== undefined;
      }
      return findOverlap(printCidr(chosen), [...taken, ...own]) === undefined;
    }),
  );
  t.end();
});

t.test("IPv6: a /64 that a host has is jumped over", (t) => {
  const chosen = chooseSubnets(networkObject("n", { ipv6: true }).spec, {
    ...request,
    ipv6Pool: "fd12:3456:789a::/48",
    hosts: hostBlocks([host("web1", ["10.0.1.0/25", "fd12:3456:789a::/63"])]),
  });
  t.strictSame(
    [chosen.subnet, chosen.further?.map(({ subnet }) => subnet)],
    ["10.0.2.0/24", ["fd12:3456:789a:2::/64"]],
  );
  t.end();
});

t.test("subnet: what the spec asks for is honoured or refused with a reason", (t) => {
  const choose = (subnet: string, gateway?: string): unknown =>
    chooseSubnets(
      networkObject("n", { ipam: [{ subnet, ...(gateway === undefined ? {} : { gateway }) }] }).spec,
      request,
    );
  t.strictSame(choose("192.168.1.0/24"), { subnet: "192.168.1.0/24", gateway: "192.168.1.1" });
  t.strictSame(choose("192.168.1.0/24", "192.168.1.254"), {
    subnet: "192.168.1.0/24",
    gateway: "192.168.1.254",
  });
  t.throws(() => choose("192.168.0.128/25"), { code: "conflict" });
  t.throws(() => choose("192.168.1.0/24", "10.0.0.1"), { code: "invalid-argument" });
  t.throws(() => choose("nonsense"), { code: "invalid-argument" });
  t.equal(findOverlap("10.0.1.128/25", ["10.0.0.0/24", "10.0.1.0/24"]), "10.0.1.0/24");
  t.equal(findOverlap("10.0.2.0/24", ["10.0.0.0/24", "10.0.1.0/24"]), undefined);
  t.end();
});

t.test("addresses are given in turn, so that a freed one rests", (t) => {
  const pool = new AddressPool({ subnet: "10.0.1.0/29", gateway: "10.0.1.1" });
  t.equal(pool.allocate(), "10.0.1.2/29");
  t.equal(pool.allocate(), "10.0.1.3/29");
  pool.release("10.0.1.2/29");
  t.strictSame(
    [pool.allocate(), pool.allocate(), pool.allocate()],
    ["10.0.1.4/29", "10.0.1.5/29", "10.0.1.6/29"],
  );
  t.equal(pool.allocate(), "10.0.1.2/29");
  t.equal(pool.allocate(), undefined);
  t.end();
});

t.test("claimed addresses are never given again, and a second claim is told", (t) => {
  const pool = new AddressPool({ subnet: "10.0.1.0/29", gateway: "10.0.1.1", range: "10.0.1.4/30" });
  t.equal(pool.claim("10.0.1.4/29"), true);
  t.equal(pool.claim("10.0.1.4/29"), false);
  t.strictSame(
    [pool.allocate(), pool.allocate(), pool.allocate()],
    ["10.0.1.5/29", "10.0.1.6/29", undefined],
  );
  t.end();
});

t.test("IPv6: a cluster's networks are in one /48 of its own, which follows from its id", (t) => {
  const one = ipv6PoolOf("7wk3jhp0v6l4hz5jvr2k0vk8m");
  t.match(one, /^fd[0-9a-f]{2}:[0-9a-f]{1,4}:[0-9a-f]{1,4}::\/48$/);
  t.equal(ipv6PoolOf("7wk3jhp0v6l4hz5jvr2k0vk8m"), one);
  t.not(ipv6PoolOf("7wk3jhp0v6l4hz5jvr2k0vk8n"), one);
  t.end();
});

t.test(
  "IPv6: a /64 of the cluster's block for a network that asks for it, and what it asks for itself",
  (t) => {
    const taken: CidrBlock[] = [];
    const request = {
      pools: ["10.0.0.0/8"],
      bits: 24,
      taken,
      ingress: false,
      ipv6Pool: "fd12:3456:789a::/48",
    };
    const choose = (ipv6: boolean, ...ipam: readonly SubnetConfig[]) => {
      const {
        subnet,
        gateway,
        further = [],
      } = chooseSubnets(networkObject("n", { ipam, ipv6 }).spec, request);
      return [{ subnet, gateway }, ...further].map((each) => `${each.subnet} ${each.gateway}`);
    };
    t.strictSame(choose(false), ["10.0.1.0/24 10.0.1.1"]);
    t.strictSame(choose(true), ["10.0.1.0/24 10.0.1.1", "fd12:3456:789a::/64 fd12:3456:789a::1"]);
    taken.push(...blocks("fd12:3456:789a::/64"));
    t.strictSame(choose(true, { subnet: "10.9.0.0/24" }), [
      "10.9.0.0/24 10.9.0.1",
      "fd12:3456:789a:1::/64 fd12:3456:789a:1::1",
    ]);
    t.strictSame(choose(true, { subnet: "fd00:0:0:1::9/64", gateway: "FD00::1:0:0:0:FE" }), [
      "10.0.1.0/24 10.0.1.1",
      "fd00:0:0:1::/64 fd00:0:0:1::fe",
    ]);
    t.strictSame(
      choose(false, { subnet: "fd00::/64" }),
      ["10.0.1.0/24 10.0.1.1"],
      "without IPv6 it counts for nothing",
    );
    t.throws(() => choose(true, { subnet: "fd12:3456:789a::/56" }), { code: "conflict" });
    t.throws(() => choose(true, { subnet: "fd00::/127" }), { code: "invalid-argument" });
    t.throws(() => choose(true, { subnet: "fd00::/64", gateway: "10.0.0.1" }), { code: "invalid-argument" });
    t.end();
  },
);

t.test("IPv6: addresses come from the subnet of their family, its last one too, never the first", (t) => {
  const pool = new NetworkPool([
    { subnet: "10.1.0.0/30", gateway: "10.1.0.1" },
    { subnet: "fd00::/126", gateway: "fd00::1" },
  ]);
  t.equal(pool.allocate(), "10.1.0.2/30");
  t.equal(pool.allocate(), undefined);
  t.strictSame(
    [pool.allocate(128), pool.allocate(128), pool.allocate(128)],
    ["fd00::2/126", "fd00::3/126", undefined],
  );
  t.equal(pool.take("fd00::"), undefined);
  pool.release("fd00::3/126");
  t.equal(pool.take("fd00::3"), "fd00::3/126");
  const wide = new NetworkPool([
    { subnet: "fd00:1::/64", gateway: "fd00:1::1", range: "fd00:1::8000:0:0/96" },
  ]);
  t.equal(wide.has(32), false);
  t.equal(wide.allocate(128), "fd00:1::8000:0:0/64");
  t.equal(wide.claim("fd00:1::8000:0:1/64"), true);
  t.equal(wide.allocate(128), "fd00:1::8000:0:2/64");
  t.equal(wide.take("fd00:1::ffff:ffff:ffff:ffff"), "fd00:1::ffff:ffff:ffff:ffff/64");
  t.end();
});

t.test("network identifiers start at 4096 and honour the option", (t) => {
  t.equal(pickVni({}, new Set([4096, 4098])), 4097);
  const option = "com.docker.network.driver.overlay.vxlanid_list";
  t.equal(pickVni({ [option]: "5000,5001" }, new Set()), 5000);
  t.throws(() => pickVni({ [option]: "5000" }, new Set([5000])), { code: "conflict" });
  t.throws(() => pickVni({ [option]: "x" }, new Set()), { code: "invalid-argument" });
  t.end();
});

t.test("subnet: of several asked for, each has its gateway, and none overlaps another", (t) => {
  const choose = (...ipam: readonly SubnetConfig[]): unknown =>
    chooseSubnets(networkObject("n", { ipam }).spec, request);
  t.strictSame(choose({ subnet: "10.1.0.0/24" }, { subnet: "10.2.0.9/24", gateway: "10.2.0.254" }), {
    subnet: "10.1.0.0/24",
    gateway: "10.1.0.1",
    further: [{ subnet: "10.2.0.0/24", gateway: "10.2.0.254" }],
  });
  t.throws(() => choose({ subnet: "10.1.0.0/16" }, { subnet: "10.1.2.0/24" }), { code: "conflict" });
  t.throws(() => choose({ subnet: "10.1.0.0/24" }, { subnet: "192.168.0.0/25" }), { code: "conflict" });
  t.end();
});

t.test("a further subnet gives addresses once those before it are full, from its range", (t) => {
  const pool = new NetworkPool([
    { subnet: "10.1.0.0/30", gateway: "10.1.0.1" },
    { subnet: "10.2.0.0/24", gateway: "10.2.0.1", range: "10.2.0.128/31" },
  ]);
  const given = Array.from({ length: 4 }, () => pool.allocate());
  t.strictSame(given, ["10.1.0.2/30", "10.2.0.128/24", "10.2.0.129/24", undefined]);
  pool.release("10.1.0.2/30");
  t.equal(pool.allocate(), "10.1.0.2/30");
  t.equal(pool.take("10.2.0.7"), "10.2.0.7/24", "a choice may lie outside the range");
  t.equal(pool.take("10.2.0.7"), undefined);
  t.strictSame(
    [pool.take("10.3.0.7"), pool.holds("10.3.0.7"), pool.holds("10.2.0.7")],
    [undefined, false, true],
  );
  t.equal(pool.claim("10.2.0.7/24"), false);
  t.equal(pool.claim("10.3.0.7/24"), false);
  t.equal(pool.claim("10.2.0.8/24"), true);
  t.end();
});
