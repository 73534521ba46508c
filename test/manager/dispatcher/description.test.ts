import t from "tap";

import { readDescription } from "../../../manager/dispatcher/description.ts";

const key = `${"A".repeat(43)}=`;

function read(tunnel: unknown) {
  const description = {
    hostname: "host1",
    platform: { architecture: "x86_64", os: "linux" },
    resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
    engineVersion: "1",
    engineLabels: {},
    plugins: [],
    tunnel,
  };
  return readDescription({ json: Buffer.from(JSON.stringify(description)) }).tunnel;
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
