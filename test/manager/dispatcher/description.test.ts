import t from "tap";

import { readDescription } from "../../../manager/dispatcher/description.ts";

const key = `${"A".repeat(43)}=`;

function read(tunnel: unknown) {
  return readWith({ tunnel }).tunnel;
}

function readWith(more: object) {
  const description = {
    hostname: "host1",
    platform: { architecture: "x86_64", os: "linux" },
    resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
    engineVersion: "1",
    engineLabels: {},
    plugins: [],
    ...more,
  };
  return readDescription({ json: Buffer.from(JSON.stringify(description)) });
}

t.test("what a node offers for encrypted networks", (t) => {
  const keys = [
    { publicKey: key, slot: 1 },
    { publicKey: key, slot: 0 },
  ];
  t.strictSame(read({ keys, more: "of a later version" }), { keys });
  t.strictSame(read({ keys: [], problem: "no WireGuard" }), { keys: [], problem: "no WireGuard" });
  t.equal(read(undefined), undefined, "it knows no tunnels");
  t.end();
});

t.test("addresses of IPv6 are what the kernel would print, and not too many", (t) => {
  const ipv6Addresses = ["2001:db8::1", "fd00::2"];
  t.strictSame(readWith({ ipv6Addresses }).ipv6Addresses, ipv6Addresses);
  t.equal(readWith({}).ipv6Addresses, undefined);
  for (const wrong of [
    ["10.0.0.1"],
    ["2001:DB8::1"],
    ["fd00::/64"],
    ["a:b"],
    ["::1 } ; flush ruleset"],
    [7],
    "fd00::2",
    Array.from({ length: 17 }, (_, index) => `fd00::${index + 1}`),
  ])
    t.throws(() => readWith({ ipv6Addresses: wrong }), {
      code: "invalid-argument",
      message: /ipv6Addresses/,
    });
  t.end();
});

t.test("the host's own subnets are canonical, none of them everything, and not too many", (t) => {
  const subnets = ["10.0.0.0/24", "192.0.2.7/32", "2001:db8::/64"];
  t.strictSame(readWith({ subnets }).subnets, subnets);
  t.equal(readWith({}).subnets, undefined);
  for (const wrong of [
    ["10.0.0.1/24"],
    ["10.0.0.0"],
    ["0.0.0.0/0"],
    ["::/0"],
    ["2001:DB8::/64"],
    ["10.0.0.0/24 } ; flush ruleset"],
    [7],
    "10.0.0.0/24",
    Array.from({ length: 257 }, (_, index) => `10.${index % 256}.${Math.floor(index / 256)}.0/24`),
  ])
    t.throws(() => readWith({ subnets: wrong }), { code: "invalid-argument", message: /subnets/ });
  t.end();
});

const refused = [
  { name: "an option of a command for a key", keys: [{ publicKey: "--help", slot: 0 }], want: /publicKey/ },
  { name: "a slot that there is not", keys: [{ publicKey: key, slot: 2 }], want: /slot/ },
  {
    name: "two keys for a slot",
    keys: [0, 0].map((slot) => ({ publicKey: key, slot })),
    want: /more than one/,
  },
  { name: "no list", keys: "none", want: /no list/ },
];

for (const { name, keys, want } of refused) {
  t.test(`refused: ${name}`, (t) => {
    t.throws(() => read({ keys }), { code: "invalid-argument", message: want });
    t.end();
  });
}
