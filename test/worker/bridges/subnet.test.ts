import * as fc from "fast-check";
import t from "tap";

import { addressNumber, contains, parseCidr } from "../../../worker/network/addresses.ts";
import { overlap } from "../../../worker/network/bridges.ts";
import {
  checkFree,
  chooseSubnet,
  defaultPools,
  freeGateway,
  ipv6Pools,
  takenByRoute,
} from "../../../worker/bridges/subnet.ts";
import { parseIpv6Routes, parseRoutes } from "../../../worker/network/routes.ts";

const number = fc.integer({ min: 0, max: 255 });
const block = fc
  .tuple(fc.constantFrom("10", "172", "192"), number, number, fc.integer({ min: 8, max: 30 }))
  .map(([first, second, third, bits]) => `${first}.${second}.${third}.0/${bits}`);

t.test("a subnet that is chosen meets nothing that is taken, whatever is", (t) => {
  fc.assert(
    fc.property(fc.array(block, { maxLength: 40 }), (blocks) => {
      const taken = blocks.map((each) => ({ block: each, by: "test" }));
      let chosen: string;
      try {
        chosen = chooseSubnet(taken);
      } catch {
        return [...defaultPools()].every((pool) => blocks.some((each) => overlap(each, pool)));
      }
      checkFree(chosen, taken);
      return !blocks.some((each) => overlap(each, chosen));
    }),
  );
  t.equal([...defaultPools()].length, 31);
  t.end();
});

t.test("the gateway is the first address that is not left out", (t) => {
  t.equal(freeGateway("10.0.0.0/24", undefined, []), "10.0.0.1");
  t.equal(freeGateway("10.0.0.0/24", "10.0.0.128/25", ["10.0.0.128"]), "10.0.0.129");
  t.throws(() => freeGateway("10.0.0.0/30", undefined, ["10.0.0.1", "10.0.0.2"]), {
    code: "resource-exhausted",
  });
  fc.assert(
    fc.property(block, (subnet) => {
      const number = addressNumber(freeGateway(subnet, undefined, [])) ?? -1;
      const { first, last } = parseCidr(subnet);
      return contains(parseCidr(subnet), number) && number !== first && number !== last;
    }),
  );
  t.end();
});

t.test("of IPv6 the host gives out parts of a block of its own", (t) => {
  const pools = [...ipv6Pools(0x12_3456_789an)];
  t.strictSame(pools.slice(0, 2), ["fd12:3456:789a::/64", "fd12:3456:789a:1::/64"]);
  const taken = [
    { block: "10.0.0.0/8", by: "test" },
    { block: "fd12:3456:789a::/63", by: "test" },
  ];
  t.equal(chooseSubnet(taken, ipv6Pools(0x12_3456_789an)), "fd12:3456:789a:2::/64");
  t.ok(pools.length > 1_000, "more than a host has networks");
  t.equal(freeGateway("fd00:1::/64", undefined, []), "fd00:1::1");
  t.equal(freeGateway("fd00:1::/64", "fd00:1::8:0/112", ["fd00:1::8:0"]), "fd00:1::8:1");
  t.throws(() => freeGateway("fd00:1::/126", undefined, ["fd00:1::1", "fd00:1::2", "fd00:1::3"]), {
    code: "resource-exhausted",
  });
  t.end();
});

t.test("routes of IPv6: not the default one, nor those that every link or the host itself has", (t) => {
  const route = (destination: string, bits: string, device: string) =>
    `${destination.padEnd(32, "0")} ${bits} ${"0".repeat(32)} 00 ${"0".repeat(32)} 00000400 1 0 00000001 ${device}`;
  const text = [
    route("20010db8", "20", "eth0"),
    route("", "00", "eth0"),
    route("fe80", "40", "eth0"),
    route("ff00", "08", "eth0"),
    route("00000000000000000000000000000001", "80", "lo"),
    route("fd000001", "40", "lo"),
    route("fd0000020000000000000000000000ab", "80", "tun0"),
    "",
  ].join("\n");
  t.strictSame(parseIpv6Routes(text).map(takenByRoute), [
    { block: "2001:db8::/32", by: "a route of the host by eth0" },
    { block: "fd00:2::ab/128", by: "a route of the host by tun0" },
  ]);
  t.throws(() => checkFree("2001:db8:1::/64", parseIpv6Routes(text).map(takenByRoute)), {
    code: "permission-denied",
  });
  checkFree("10.0.0.0/8", parseIpv6Routes(text).map(takenByRoute));
  t.end();
});

t.test("routes of the host, the default one left out", (t) => {
  const text = [
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
    "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
    "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
    "tun0\t0501640A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0",
    "",
  ].join("\n");
  t.strictSame(parseRoutes(text).map(takenByRoute), [
    { block: "192.168.0.0/24", by: "a route of the host by eth0" },
    { block: "10.100.1.5/32", by: "a route of the host by tun0" },
  ]);
  t.strictSame(
    parseRoutes(text, (device) => device !== "eth0").map(({ device }) => device),
    ["tun0"],
  );
  t.throws(() => checkFree("192.168.0.128/25", parseRoutes(text).map(takenByRoute)), {
    code: "permission-denied",
    message:
      "invalid pool request: Pool overlaps with other one on this address space: 192.168.0.128/25 with a route of the host by eth0 (192.168.0.0/24)",
  });
  t.end();
});
