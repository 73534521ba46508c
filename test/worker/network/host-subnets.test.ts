import * as fc from "fast-check";
import t from "tap";

import { ownSubnetLimit } from "../../../model/node.ts";
import { ownBridge, overlap } from "../../../worker/network/bridges.ts";
import { type HostRoutes, HostSubnets, ownBlocks } from "../../../worker/network/host-subnets.ts";

const at = (device: string, ...blocks: readonly string[]) => blocks.map((block) => ({ block, device }));

t.test("what a host has of its own: neither ours, nor what every host has, and nothing twice", (t) => {
  const addresses = [
    ...at("lo", "127.0.0.1/8", "::1/128", "203.0.113.53/32"),
    ...at("eth0", "10.0.0.7/24", "fd00:7::7/64", "fe80::1/64", "169.254.3.4/16"),
    ...at("docker0", "172.17.0.1/16"),
    ...at("ov4097", "10.0.9.1/24"),
    ...at("br-own", "172.30.0.1/16"),
    ...at("shoal0", "172.29.0.1/16"),
    ...at("shoal-wg0", "198.18.0.1/32"),
  ];
  const routes = [
    ...at("eth0", "10.0.0.0/24", "10.0.0.0/16", "224.0.0.0/4", "169.254.169.254/32", "fd00:7::/64"),
    ...at("vx4097", "10.0.9.5/32"),
    ...at("*", "10.0.9.0/24"),
    ...at("tun0", "10.8.0.0/24", "fd00:8::9/128", "0.0.0.0/1", "128.0.0.0/1", "2000::/3"),
  ];
  t.strictSame(
    ownBlocks({ addresses, routes }, new Set(["br-own"])).map(({ text, device }) => `${text} ${device}`),
    [
      "10.0.0.0/16 eth0",
      "10.8.0.0/24 tun0",
      "172.17.0.0/16 docker0",
      "203.0.113.53/32 lo",
      "fd00:7::/64 eth0",
      "fd00:8::9/128 tun0",
    ],
  );
  t.end();
});

t.test("whatever routes there are, each is in one block that is told, and no two meet", (t) => {
  const byte = fc.integer({ min: 0, max: 255 });
  const block = fc
    .tuple(fc.integer({ min: 10, max: 12 }), byte, byte, fc.integer({ min: 1, max: 32 }))
    .map(([a, b, c, bits]) => `${a}.${b}.0.${c}/${bits}`);
  fc.assert(
    fc.property(fc.array(block), (given) => {
      const told = ownBlocks({ addresses: at("eth0", ...given), routes: [] }, new Set()).map(
        ({ text }) => text,
      );
      return (
        given
          // As good as default routes.
          .filter((each) => Number(each.split("/")[1]) >= 8)
          .every((each) => told.filter((one) => overlap(one, each)).length === 1) &&
        told.every((one, index) => told.every((other, at) => at === index || !overlap(one, other)))
      );
    }),
  );
  t.end();
});

t.test("of more than managers take, the widest are told; a change is said once", async (t) => {
  let found: HostRoutes = { addresses: at("eth0", "192.0.2.7/24"), routes: [] };
  const subnets = new HostSubnets(async () => found);
  let changes = 0;
  const end = subnets.watch(() => (changes += 1));
  await subnets.look([]);
  t.strictSame(subnets.told, ["192.0.2.0/24"]);
  const { blocks } = subnets;
  await subnets.look([]);
  t.equal(subnets.blocks, blocks);
  t.equal(changes, 1);
  const many = Array.from({ length: 400 }, (_, index) => `10.${index % 200}.${index < 200 ? 0 : 2}.0/32`);
  found = { ...found, routes: at("eth0", ...many) };
  await subnets.look([ownBridge("172.29.0.0/16")]);
  t.equal(subnets.told.length, ownSubnetLimit);
  t.ok(subnets.told.includes("192.0.2.0/24"));
  t.equal(subnets.blocks.length, 401);
  t.equal(changes, 2);
  end();
  found = { addresses: at("br-own", "172.30.0.1/16"), routes: [] };
  await subnets.look([{ ...ownBridge("172.30.0.0/16"), device: "br-own" }]);
  t.strictSame(subnets.told, []);
  t.equal(changes, 2);
});
