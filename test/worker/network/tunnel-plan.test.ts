import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import type { OverlayHost, OverlayNetwork, WantedNetworks } from "../../../worker/network/network.ts";
import {
  parseDevice,
  removalSteps,
  tunnelAddress,
  tunnelAddressOf,
  tunnelRules,
  tunnelTable,
  tunnelSteps,
  wantedTunnel,
} from "../../../worker/network/tunnel-plan.ts";
import type { ObservedDevice, TunnelPeer, WantedTunnel } from "../../../worker/network/tunnel-plan.ts";
import { rulesetText } from "../../../worker/network/ruleset.ts";

const green: OverlayNetwork = {
  id: "green" as NetworkId,
  name: "green",
  subnet: "10.0.1.0/24",
  gateway: "10.0.1.1",
  vni: 4097,
  internal: false,
  mtu: 0,
  ingress: false,
  encrypted: true,
};
const red: OverlayNetwork = { ...green, id: "red" as NetworkId, vni: 4098, encrypted: false };

function host(index: number, ...slots: readonly (0 | 1)[]): OverlayHost {
  const tunnelKeys = slots.map((slot) => ({ publicKey: `key${index}${slot}`, slot }));
  return { nodeId: `n${index}` as NodeId, address: `192.0.2.${index}`, index, tunnelKeys };
}

function wanted(
  hosts: readonly OverlayHost[],
  on: Readonly<Record<number, OverlayNetwork>>,
  networks: readonly OverlayNetwork[] = [green, red],
): WantedNetworks {
  return {
    self: { nodeId: "n1" as NodeId, nodeIndex: 1, address: "192.0.2.1" },
    networks,
    endpoints: Object.entries(on).map(([index, network]) => ({
      networkId: network.id,
      taskId: `t${index}` as TaskId,
      address: `10.0.1.${index}`,
      nodeId: `n${index}` as NodeId,
      nodeAddress: `192.0.2.${index}`,
      nodeIndex: Number(index),
      serviceId: "s",
      serviceName: "s",
      taskName: "s.1",
      aliases: [],
      serving: true,
    })),
    services: [],
    hosts,
  };
}

const own = [{ publicKey: "own", slot: 0 }] as const;

const cases = [
  {
    name: "hosts with a task on an encrypted network are peers, others are not",
    state: wanted([host(2, 0), host(3, 0), host(4, 0)], { 1: green, 2: green, 3: red }),
    want: ["key20 192.0.2.2:51822 198.18.0.2/32"],
  },
  {
    name: "both keys of a host, each with an address and a port of its own",
    state: wanted([host(2, 1, 0)], { 2: green }),
    want: ["key21 192.0.2.2:51823 198.19.0.2/32", "key20 192.0.2.2:51822 198.18.0.2/32"],
  },
  {
    name: "all hosts, where what is published goes encrypted",
    state: wanted([host(2, 0), host(3, 0)], {}, [{ ...green, ingress: true }]),
    want: ["key20 192.0.2.2:51822 198.18.0.2/32", "key30 192.0.2.3:51822 198.18.0.3/32"],
  },
  {
    name: "a host without a key is none",
    state: wanted([host(2)], { 2: green }),
    want: [],
  },
  {
    name: "nor is one without an IPv4 address",
    state: wanted([{ ...host(2, 0), address: "fd00::2" }], { 2: green }),
    want: [],
  },
  {
    name: "a node that joined again with its key is one peer under both numbers",
    state: wanted(
      [host(2, 0), { ...host(3, 0), address: "192.0.2.2", tunnelKeys: host(2, 0).tunnelKeys ?? [] }],
      {
        2: green,
        3: green,
      },
    ),
    want: ["key20 192.0.2.2:51822 198.18.0.2/32,198.18.0.3/32"],
  },
  {
    name: "a key that another host claims as well is the first one's",
    state: wanted([host(3, 0), { ...host(4, 0), tunnelKeys: host(3, 0).tunnelKeys ?? [] }], {
      3: green,
      4: green,
    }),
    want: ["key30 192.0.2.3:51822 198.18.0.3/32"],
  },
];

for (const { name, state, want } of cases) {
  t.test(`peers: ${name}`, (t) => {
    const { peers = [] } = wantedTunnel(state, own, 1500) ?? {};
    t.strictSame(
      peers.map(({ publicKey, endpoint, allowedIps }) => `${publicKey} ${endpoint} ${allowedIps}`),
      want,
    );
    t.end();
  });
}

t.test("devices: one for each key, wide enough for the widest network; none without need", (t) => {
  const keys = [
    { publicKey: "new", slot: 1 },
    { publicKey: "old", slot: 0 },
  ] as const;
  t.strictSame(wantedTunnel(wanted([], { 1: green }), keys, 1500)?.devices, [
    { name: "shoal-wg1", address: "198.19.0.1", port: 51_823, publicKey: "new", mtu: 1440 },
    { name: "shoal-wg0", address: "198.18.0.1", port: 51_822, publicKey: "old", mtu: 1440 },
  ]);
  const wide = wanted([], {}, [green, { ...green, mtu: 8000 }]);
  t.equal(wantedTunnel(wide, own, 1500)?.devices[0]?.mtu, 8050);
  t.equal(wantedTunnel(wanted([], { 1: red }, [red]), own, 1500), undefined, "nothing is encrypted");
  const { nodeIndex: _index, ...self } = wide.self;
  t.equal(wantedTunnel({ ...wide, self }, own, 1500), undefined, "its number is not known");
  t.equal(wantedTunnel(undefined, own, 1500), undefined);
  t.equal(tunnelAddress(65_535, 1), "198.19.255.255");
  t.equal(tunnelAddressOf(host(9)), undefined);
  t.end();
});

const tunnel: WantedTunnel = {
  devices: [{ name: "shoal-wg0", address: "198.18.0.1", port: 51_822, publicKey: "own", mtu: 1440 }],
  peers: [{ publicKey: "key20", endpoint: "192.0.2.2:51822", allowedIps: "198.18.0.2/32" }],
};
const [device] = tunnel.devices;
const [peer] = tunnel.peers;
if (device === undefined || peer === undefined) throw new Error("there is one of each");
const whole: ObservedDevice = {
  ...device,
  isUp: true,
  isOurs: true,
  peers: new Map([["key20", { ...peer, handshakeAtSeconds: 990 }]]),
};
const at = {
  mode: "kernel",
  keyFile: (name: string) => `/keys/${name}`,
  nowSeconds: 1_000,
  before: [],
} as const;

function lines(observed: ObservedDevice | undefined, mode: "kernel" | "process" = "kernel"): string[] {
  const devices = new Map(observed === undefined ? [] : [[observed.name, observed]]);
  return tunnelSteps(tunnel, devices, { ...at, mode }).map(({ argv }) => argv.join(" "));
}

t.test("steps: a device from nothing", (t) => {
  const rest = [
    "wg set shoal-wg0 private-key /keys/shoal-wg0 listen-port 51822",
    "wg set shoal-wg0 peer key20 endpoint 192.0.2.2:51822 allowed-ips 198.18.0.2/32",
    "ip link set dev shoal-wg0 mtu 1440 group 21320 up",
    "ip address replace 198.18.0.1/32 dev shoal-wg0",
    "wg set shoal-wg0 peer key20 persistent-keepalive 25",
    "wg set shoal-wg0 peer key20 persistent-keepalive off",
  ];
  t.strictSame(lines(undefined), ["ip link add shoal-wg0 mtu 1440 group 21320 type wireguard", ...rest]);
  t.strictSame(lines(undefined, "process"), [
    "env -u LOG_LEVEL -u WG_PROCESS_FOREGROUND setsid --wait wireguard-go shoal-wg0",
    ...rest,
  ]);
  const findings = tunnelSteps(tunnel, new Map(), at).map(({ finding }) => finding);
  t.strictSame([...new Set(findings)], ["the device shoal-wg0 is gone"]);
  t.end();
});

const harms = [
  { name: "nothing", harm: {}, want: [] },
  {
    name: "another key",
    harm: { publicKey: "other" },
    want: ["private-key /keys/shoal-wg0", "persistent-keepalive 25", "persistent-keepalive off"],
  },
  { name: "another port", harm: { port: 1 }, want: ["listen-port 51822"] },
  { name: "it is down", harm: { isUp: false }, want: ["ip link set dev shoal-wg0 mtu 1440 group 21320 up"] },
  { name: "no address", harm: { address: "" }, want: ["ip address replace"] },
  {
    name: "another address",
    harm: { address: "10.0.0.1" },
    want: ["ip address flush", "ip address replace"],
  },
  { name: "no peer", harm: { peers: new Map() }, want: ["peer key20 endpoint"] },
  {
    name: "a peer of nobody",
    harm: { peers: new Map([...whole.peers, ["odd", { ...peer, publicKey: "odd", handshakeAtSeconds: 0 }]]) },
    want: ["peer odd remove"],
  },
  {
    name: "a peer with other addresses",
    harm: { peers: new Map([["key20", { ...peer, allowedIps: "0.0.0.0/0", handshakeAtSeconds: 990 }]]) },
    want: ["allowed-ips 198.18.0.2/32"],
  },
  {
    name: "a peer elsewhere that is heard there",
    harm: { peers: new Map([["key20", { ...peer, endpoint: "192.0.2.9:1", handshakeAtSeconds: 990 }]]) },
    want: [],
  },
  {
    name: "a peer elsewhere that is not heard",
    harm: { peers: new Map([["key20", { ...peer, endpoint: "192.0.2.9:1", handshakeAtSeconds: 700 }]]) },
    want: ["endpoint 192.0.2.2:51822"],
  },
];

for (const { name, harm, want } of harms) {
  t.test(`steps: ${name}`, (t) => {
    const steps = lines({ ...whole, ...harm });
    t.equal(steps.length, want.length, steps.join("; "));
    for (const [index, text] of want.entries()) t.match(steps[index], text);
    t.end();
  });
}

t.test("steps: a peer whose host has another address is not waited for, however lately it was heard", (t) => {
  const stale = { ...peer, endpoint: "192.0.2.9:51822" };
  const observed = new Map([
    ["shoal-wg0", { ...whole, peers: new Map([["key20", { ...stale, handshakeAtSeconds: 990 }]]) }],
  ]);
  const steps = (before: readonly TunnelPeer[]): string[] =>
    tunnelSteps(tunnel, observed, { ...at, before }).map(({ argv }) => argv.join(" "));
  t.match(steps([stale]), ["wg set shoal-wg0 peer key20 endpoint 192.0.2.2:51822 allowed-ips 198.18.0.2/32"]);
  t.strictSame(steps(tunnel.peers), [], "it was put there, and answers from elsewhere");
  t.end();
});

t.test("devices that are wanted no more are removed, and only those", (t) => {
  const observed = new Map([
    ["shoal-wg0", whole],
    ["shoal-wg1", { ...whole, name: "shoal-wg1" }],
  ]);
  const argvs = (want: WantedTunnel | undefined) =>
    removalSteps(want, observed).map(({ argv }) => argv.at(-1));
  t.strictSame(argvs(tunnel), ["shoal-wg1"]);
  t.strictSame(argvs(undefined), ["shoal-wg0", "shoal-wg1"]);
  t.end();
});

t.test("what ip and wg print", (t) => {
  const link = JSON.stringify([
    {
      ifname: "shoal-wg0",
      flags: ["POINTOPOINT", "NOARP", "UP"],
      mtu: 1440,
      group: "21320",
      addr_info: [
        { family: "inet", local: "198.18.0.1" },
        { family: "inet6", local: "fe80::1" },
      ],
    },
  ]);
  const dump =
    "secret\town\t51822\toff\nkey20\t(none)\t192.0.2.2:51822\t198.18.0.3/32,198.18.0.2/32\t990\t1\t2\toff\n";
  const seen = parseDevice("shoal-wg0", link, dump);
  t.strictSame(seen, {
    ...whole,
    peers: new Map([
      ["key20", { ...peer, allowedIps: "198.18.0.2/32,198.18.0.3/32", handshakeAtSeconds: 990 }],
    ]),
  });
  t.notMatch(JSON.stringify(seen), "secret");
  t.match(parseDevice("shoal-wg0", link, ""), { publicKey: "", port: 0 }, "its process is gone");
  t.equal(parseDevice("shoal-wg0", "[]", ""), undefined);
  t.end();
});

t.test("rules keep encrypted networks in the tunnels", (t) => {
  const text = rulesetText(tunnelRules([4099, 4097]), tunnelTable);
  const inside = '{ "shoal-wg0", "shoal-wg1" }';
  for (const rule of [
    `iifname != ${inside} udp dport 4789 @th,96,24 { 4097, 4099 } drop`,
    `oifname != ${inside} udp dport 4789 @th,96,24 { 4097, 4099 } drop`,
    `iifname ${inside} udp dport != 4789 drop`,
    `oifname ${inside} drop`,
  ])
    t.ok(text.includes(rule), rule);
  t.notMatch(text, "shoal_net");
  t.end();
});
