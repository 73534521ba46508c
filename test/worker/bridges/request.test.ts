import * as fc from "fast-check";
import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { bridgeOf } from "../../../worker/bridges/record.ts";
import { isShared, parseRequest } from "../../../worker/bridges/request.ts";

const ipam = (...Config: object[]) => ({ Name: "n", IPAM: { Config } });
const subnet = { Subnet: "10.9.0.0/24" };
const dual = (...Config: object[]) => ({ ...ipam(...Config), EnableIPv6: true });

const refusals: readonly (readonly [body: object, code: string, message: string | RegExp])[] = [
  [{}, "invalid-argument", "invalid name: name is empty"],
  [{ Name: "host" }, "permission-denied", "operation is not permitted on predefined host network"],
  [{ Name: "n", Driver: "null" }, "permission-denied", 'only one instance of "null" network is allowed'],
  [
    { Name: "n", Driver: "weave" },
    "not-found",
    "could not find plugin weave in v1 plugin registry: plugin not found",
  ],
  [{ Name: "n", Driver: "macvlan" }, "unimplemented", "network driver macvlan is not available yet"],
  [{ Name: "n", ConfigOnly: true }, "unimplemented", "configuration-only networks is not available yet"],
  [
    ipam({ Subnet: "nonsense" }),
    "invalid-argument",
    "invalid network config:\ninvalid subnet nonsense: invalid CIDR block notation",
  ],
  [ipam({ Subnet: "10.9.0.1/24" }), "invalid-argument", /it should be 10\.9\.0\.0\/24/],
  [ipam({ Subnet: "10.9.0.0/31" }), "invalid-argument", /a block of at least \/30 is accepted/],
  [
    ipam({ ...subnet, Gateway: "10.8.0.1" }),
    "invalid-argument",
    /invalid gateway 10\.8\.0\.1: parent subnet 10\.9\.0\.0\/24 doesn't contain this address/,
  ],
  [
    ipam({ ...subnet, IPRange: "10.9.0.0/16" }),
    "invalid-argument",
    /CIDR block is bigger than its parent subnet/,
  ],
  [
    ipam({ ...subnet, IPRange: "10.8.0.0/25" }),
    "invalid-argument",
    /parent subnet 10\.9\.0\.0\/24 doesn't contain ip-range/,
  ],
  [
    ipam({ ...subnet, AuxiliaryAddresses: { a: "10.8.0.1" } }),
    "invalid-argument",
    /invalid auxiliary address a: parent subnet/,
  ],
  [
    ipam({ ...subnet, Gateway: "x" }, { Subnet: "y" }),
    "invalid-argument",
    /\n\* invalid gateway x: invalid address\n\* invalid subnet y/,
  ],
  [
    ipam(subnet, { Subnet: "10.8.0.0/24" }),
    "invalid-argument",
    "bridge driver doesn't support multiple subnets",
  ],
  [
    { Name: "n", EnableIPv4: false, EnableIPv6: true },
    "unimplemented",
    "a network of IPv6 alone is not available for driver bridge: leave out --ipv4=false (EnableIPv4), and it has both families",
  ],
  [{ Name: "n", EnableIPv4: false }, "invalid-argument", "IPv4 or IPv6 must be enabled"],
  [
    { ...dual(), Options: { "com.docker.network.driver.mtu": "1279" } },
    "invalid-argument",
    'invalid MTU "1279": a number from 1280 to 65535 is accepted',
  ],
  [dual({ Subnet: "fd00:1::5/64" }), "invalid-argument", /it should be fd00:1::\/64/],
  [dual({ Subnet: "fd00:1::/127" }), "invalid-argument", /a block of at least \/126 is accepted/],
  [dual({ Subnet: "fe80::/64" }), "invalid-argument", /a block of unicast addresses such as/],
  [dual({ Subnet: "::/0" }), "invalid-argument", /a block of unicast addresses such as/],
  [
    dual({ Subnet: "fd00:1::/64", Gateway: "10.9.0.1" }),
    "invalid-argument",
    /invalid gateway 10\.9\.0\.1: parent subnet is an IPv6 block/,
  ],
  [
    dual({ Subnet: "fd00:1::/64", IPRange: "fd00:2::/80" }),
    "invalid-argument",
    /parent subnet fd00:1::\/64 doesn't contain ip-range/,
  ],
  [
    dual({ ...subnet, IPRange: "fd00:2::/80" }),
    "invalid-argument",
    /invalid ip-range fd00:2::\/80: parent subnet is an IPv4 block/,
  ],
  [
    dual({ Subnet: "fd00:1::/64" }, { Subnet: "fd00:2::/64" }),
    "invalid-argument",
    "bridge driver doesn't support multiple subnets",
  ],
  [{ Name: "n", IPAM: { Driver: "own" } }, "not-found", 'failed to get ipam driver: plugin "own" not found'],
  [{ Name: "n", Options: { "com.docker.network.driver.mtu": "10" } }, "invalid-argument", /invalid MTU "10"/],
  [
    { Name: "n", Options: { "com.docker.network.bridge.enable_icc": "maybe" } },
    "invalid-argument",
    /ParseBool: parsing "maybe"/,
  ],
  [
    { Name: "n", Options: { "com.docker.network.bridge.name": "a/b" } },
    "invalid-argument",
    /invalid bridge name/,
  ],
  [
    { Name: "n", Options: { "com.docker.network.bridge.gateway_mode_ipv4": "routed" } },
    "unimplemented",
    /routed is not available yet/,
  ],
];

for (const [body, code, message] of refusals) {
  t.test(`refused: ${JSON.stringify(body)}`, (t) => {
    t.throws(() => parseRequest(body), { code, message });
    t.end();
  });
}

t.test("options become what the bridge is", (t) => {
  const { ipv6: _, ...request } = parseRequest({
    Name: "n",
    Internal: true,
    Options: {
      "com.docker.network.bridge.name": "mine0",
      "com.docker.network.bridge.enable_icc": "false",
      "com.docker.network.bridge.enable_ip_masquerade": "0",
      "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
      "com.docker.network.driver.mtu": "1400",
    },
    IPAM: { Config: [{ ...subnet, IPRange: "10.9.0.128/25", AuxiliaryAddresses: { r: "10.9.0.130" } }] },
  });
  const network = {
    ...request,
    id: "f".repeat(64),
    createdAtMs: 0,
    subnet: "10.9.0.0/24",
    gateway: "10.9.0.1",
    ownSubnet: true,
  };
  t.match(bridgeOf(network), {
    device: "mine0",
    internal: true,
    mutual: false,
    masquerade: false,
    hostAddress: "127.0.0.1",
    mtu: 1400,
    range: "10.9.0.128/25",
    reserved: ["10.9.0.130"],
  });
  t.match(bridgeOf({ ...network, options: {} }), {
    device: "br-ffffffffffff",
    mutual: true,
    masquerade: true,
    mtu: 1500,
  });
  t.end();
});

t.test("IPv6 is a second subnet, in whatever order and form they come, and nothing where it is off", (t) => {
  const six = {
    Subnet: "FD00:1:0::/64",
    Gateway: "fd00:1::00FE",
    IPRange: "fd00:1::8:0/112",
    AuxiliaryAddresses: { r: "fd00:1::0:9" },
  };
  for (const configs of [
    [six, subnet],
    [subnet, six],
  ]) {
    t.match(parseRequest(dual(...configs)), {
      subnet: "10.9.0.0/24",
      ipv6: {
        subnet: "fd00:1::/64",
        gateway: "fd00:1::fe",
        range: "fd00:1::8:0/112",
        auxiliary: { r: "fd00:1::9" },
      },
    });
  }
  t.strictSame(parseRequest(dual(subnet)).ipv6, { auxiliary: {} }, "the host chooses");
  const only = parseRequest(dual(six));
  t.equal(only.subnet, undefined, "of IPv4 too");
  t.equal(parseRequest(ipam(subnet, { ...six, Gateway: "nonsense" })).ipv6, undefined, "as with Docker");
  const made = {
    subnet: "fd00:1::/64",
    gateway: "fd00:1::1",
    ownSubnet: true,
    auxiliary: { r: "fd00:1::9" },
  };
  const network = { ...only, id: "f".repeat(64), createdAtMs: 0, subnet: "10.9.0.0/24", gateway: "10.9.0.1" };
  t.strictSame(bridgeOf({ ...network, ownSubnet: true, ipv6: made }).ipv6, {
    subnet: "fd00:1::/64",
    gateway: "fd00:1::1",
    reserved: ["fd00:1::9"],
  });
  t.end();
});

t.test("what is the cluster's", (t) => {
  t.ok(isShared({ Driver: "overlay" }) && isShared({ Scope: "swarm" }) && isShared({ Ingress: true }));
  t.notOk(isShared({ Driver: "bridge" }));
  t.end();
});

t.test("any body is taken or refused as wrong, never more", (t) => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom(
      "10.9.0.0/24",
      "10.9.0.1",
      "0.0.0.0/0",
      "255.255.255.255/32",
      "fd00::/64",
      "fd00::1",
      "::/0",
      "bridge",
      "1.2.3.4/99",
    ),
  );
  const body = fc.record(
    {
      Name: text,
      Driver: fc.constantFrom("", "bridge"),
      Internal: fc.boolean(),
      EnableIPv6: fc.boolean(),
      Options: fc.dictionary(
        fc.constantFrom("com.docker.network.driver.mtu", "com.docker.network.bridge.name", "x"),
        text,
      ),
      IPAM: fc.record({
        Config: fc.array(
          fc.record(
            {
              Subnet: text,
              Gateway: text,
              IPRange: text,
              AuxiliaryAddresses: fc.dictionary(fc.string(), text),
            },
            { requiredKeys: [] },
          ),
          { maxLength: 3 },
        ),
      }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(fc.oneof(body, fc.jsonValue()), (given) => {
      try {
        const { subnet: chosen = "10.0.0.0/8", ipv6 } = parseRequest(given);
        return /^[\d.]+\/\d+$/.test(chosen) && /^[\da-f:]+\/\d+$/.test(ipv6?.subnet ?? "fd00::/8");
      } catch (error) {
        return error instanceof ClusterError && error.code !== "internal";
      }
    }),
    { numRuns: 20_000 },
  );
  t.end();
});
