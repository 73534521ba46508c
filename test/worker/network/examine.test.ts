import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import {
  mayBeStopped,
  peerFindings,
  pingArgv,
  pingOutcome,
  probesOf,
} from "../../../worker/network/examine.ts";
import type { ExamineState, Finding } from "../../../worker/network/examine.ts";
import type { TaskRecord } from "../../../worker/network/journal.ts";
import type { OverlayNetwork } from "../../../worker/network/network.ts";

const red: OverlayNetwork = {
  id: "red" as NetworkId,
  name: "front",
  subnet: "10.0.1.0/24",
  gateway: "10.0.1.1",
  vni: 4097,
  internal: false,
  mtu: 0,
  ingress: false,
};
const ingress: OverlayNetwork = {
  ...red,
  id: "in" as NetworkId,
  name: "ingress",
  subnet: "10.0.0.0/24",
  gateway: "10.0.0.1",
  vni: 4096,
  ingress: true,
};
const peer = { nodeId: "n2" as NodeId, hostname: "two", address: "192.0.2.2" };
const record: TaskRecord = {
  state: "attached",
  request: {
    taskId: "t1" as TaskId,
    containerId: "c1",
    networks: [],
    host: false,
    none: false,
    ports: [],
    hostname: "t1",
    extraHosts: [],
  },
  attached: {
    kind: "namespace",
    path: "/run/netns/t1",
    addresses: [
      {
        networkId: red.id,
        bridge: "ov4097",
        device: "eth0",
        address: "10.0.1.5/24",
        gateway: "10.0.1.1",
        mac: "",
      },
    ],
    publishedPorts: [],
    files: { hosts: "", resolvConf: "", hostname: "" },
  },
  mtus: [1450],
};
const web = { serviceId: "w", serviceName: "web", aliases: [], localFirst: false, within: [] };
const state: ExamineState = {
  wanted: {
    self: { nodeId: "n1" as NodeId, nodeIndex: 1, address: "192.0.2.1" },
    networks: [ingress, red],
    endpoints: [ingress, red].map(({ id }, index) => ({
      networkId: id,
      taskId: "t2" as TaskId,
      address: `10.0.${index}.6`,
      nodeId: peer.nodeId,
      nodeAddress: peer.address,
      nodeIndex: 2,
      serviceId: "w",
      serviceName: "web",
      taskName: "web.1.t2",
      aliases: [],
      serving: true,
    })),
    services: [
      { ...web, networkId: red.id, address: "10.0.1.2", ports: [] },
      { ...web, networkId: red.id, serviceId: "i", serviceName: "idle", address: "10.0.1.3", ports: [] },
      {
        ...web,
        networkId: ingress.id,
        address: "10.0.0.2",
        ports: [80, 81].map(
          (publishedPort) => ({ protocol: "tcp", publishedPort, targetPort: 8080 }) as const,
        ),
      },
    ],
    hosts: [{ nodeId: peer.nodeId, address: peer.address, index: 2 }],
  },
  records: [record],
  underlayMtu: 1500,
  refusedPorts: new Map([["81/tcp", "port 81/tcp is already taken on this host by another program"]]),
};

t.test("every way to another host is tried, and everything that tasks here may use", (t) => {
  const probes = probesOf(state, [peer]);
  t.strictSame(
    probes.peers[0]?.vxlan.map(({ subject, large }) => [subject, pingArgv(large).join(" ")]),
    [
      ["network ingress", "ping -n -q -c 2 -i 0.2 -W 1 -M do -s 1422 -I 192.0.2.1 -m 131072 192.0.2.2"],
      ["network front", "nsenter --net=/run/netns/t1 ping -n -q -c 2 -i 0.2 -W 1 -M do -s 1422 10.0.1.6"],
    ],
  );
  t.strictSame(probes.virtualIps, [
    {
      subject: "web on network front",
      ping: { namespace: "/run/netns/t1", target: "10.0.1.2", packetBytes: 100 },
    },
  ]);
  t.strictSame(probes.names, [
    { namespace: "/run/netns/t1", gateway: "10.0.1.1", network: "front", names: ["web", "idle"] },
  ]);
  t.strictSame(probes.ports, [{ subject: "80/tcp of web", address: "192.0.2.1", port: 80 }]);
  t.strictSame(
    probes.findings.map(({ test, subject, state: seen }) => `${test} ${subject} ${seen}`),
    ["vip idle on network front unknown", "port 81/tcp of web broken"],
  );
  t.end();
});

t.test("on networks with IPv6, tasks and virtual IPs are tried by both families", (t) => {
  const { wanted } = state;
  if (wanted === undefined) throw new Error("it is given");
  const dual = {
    ...wanted,
    endpoints: wanted.endpoints.map((each) => ({ ...each, ipv6: "fd00:1::6" })),
    services: wanted.services.map((each) => ({ ...each, ipv6: "fd00:1::2" })),
  };
  const { peers, virtualIps } = probesOf({ ...state, wanted: dual }, [peer]);
  const [, , by6] = peers[0]?.vxlan ?? [];
  t.equal(by6?.subject, "network front by IPv6");
  t.match(by6 && pingArgv(by6.large).join(" "), /-M do -s 1402 fd00:1::6$/);
  t.strictSame(
    virtualIps.map(({ subject, ping }) => `${subject}: ${ping.target}`),
    ["web on network front: 10.0.1.2", "web on network front by IPv6: fd00:1::2"],
  );
  t.end();
});

t.test("a host without overlays tests whether others can be reached", (t) => {
  const probes = probesOf({ ...state, wanted: undefined }, [peer]);
  t.equal(probes.peers.length, 1);
  t.strictSame(probes.peers[0]?.vxlan, []);
  t.end();
});

const answered = { answered: true, text: "0.05 ms" };
const silent = { answered: false, text: "no answer" };
const cases = [
  {
    rule: "all is well",
    outcomes: { reach: answered, mtu: answered, vxlan: [{ small: answered, large: answered }] },
    want: ["reach ok", "mtu ok", "vxlan ok"],
  },
  {
    rule: "a host that cannot be reached",
    outcomes: { reach: silent, mtu: undefined, vxlan: [{ small: silent, large: undefined }] },
    want: ["reach broken", "vxlan broken"],
  },
  {
    rule: "a firewall that lets ping through, and no VXLAN",
    outcomes: { reach: answered, mtu: answered, vxlan: [{ small: silent, large: undefined }] },
    want: ["reach ok", "mtu ok", "vxlan broken"],
  },
  {
    rule: "a firewall that stops ping alone",
    outcomes: { reach: silent, mtu: undefined, vxlan: [{ small: answered, large: answered }] },
    want: ["reach ok", "vxlan ok"],
  },
  {
    rule: "a link that takes no full packets",
    outcomes: { reach: answered, mtu: silent, vxlan: [{ small: answered, large: silent }] },
    want: ["reach ok", "mtu broken", "mtu broken"],
  },
];

for (const { rule, outcomes, want } of cases) {
  t.test(`findings: ${rule}`, (t) => {
    const [probes] = probesOf({ ...state, records: [] }, [peer]).peers;
    if (probes === undefined) throw new Error("no probes");
    t.strictSame(
      peerFindings(probes, outcomes).map(({ test, state: seen }) => `${test} ${seen}`),
      want,
    );
    t.end();
  });
}

t.test("what ping prints, in words", (t) => {
  t.strictSame(pingOutcome(0, "rtt min/avg/max/mdev = 0.041/0.053/0.066/0.012 ms\n"), {
    answered: true,
    text: "0.053 ms",
  });
  t.equal(pingOutcome(1, "2 packets transmitted, 0 received, 100% packet loss").text, "no answer");
  t.match(pingOutcome(1, "ping: local error: message too long, mtu=1400\n").text, "1400");
  t.equal(
    pingOutcome(2, "ping: connect: Network is unreachable\n").text,
    "ping: connect: Network is unreachable",
  );
  t.end();
});

t.test("tunnels are tried where both hosts are on an encrypted network", (t) => {
  if (state.wanted === undefined) throw new Error("it is given");
  const key = { publicKey: "key", slot: 0 } as const;
  const host = { nodeId: peer.nodeId, address: peer.address, index: 2, tunnelKeys: [key] };
  const tunnel = { device: "shoal-wg0", mtu: 1440, heard: new Map([["key", 7]]) };
  const networks = [{ ...red, encrypted: true }];
  const of = (hosts: readonly (typeof host)[]) =>
    probesOf({ ...state, wanted: { ...state.wanted!, networks, hosts }, tunnel }, [peer]).peers[0]!;
  const probes = of([host]);
  t.strictSame(probes.tunnel, {
    ping: { target: "198.18.0.2", source: "shoal-wg0", packetBytes: 1440 },
    heard: "the other end was last heard 7 s ago",
  });
  const answered = { answered: true, text: "1 ms" };
  const found = (outcome: typeof answered | undefined, each = probes) =>
    peerFindings(each, { reach: answered, mtu: answered, tunnel: outcome, vxlan: [] }).filter(
      ({ test }) => test === "tunnel",
    );
  t.match(found(answered), [{ state: "ok", peer: peer.nodeId, text: "1440 bytes pass in 1 ms" }]);
  t.match(found({ answered: false, text: "no answer" }), [
    { state: "broken", text: "no answer; the other end was last heard 7 s ago" },
  ]);
  t.match(found(undefined, of([{ ...host, tunnelKeys: [] as never }])), [
    { state: "broken", text: "the managers know no key of it" },
  ]);
  t.equal(probesOf(state, [peer]).peers[0]?.tunnel, undefined, "nothing is encrypted");
  t.end();
});

t.test(
  "a task that began on a smaller link is asked for no larger packets than its own device takes",
  (t) => {
    const sizes = (underlayMtu: number) =>
      probesOf({ ...state, underlayMtu }, [peer]).peers.flatMap(({ vxlan }) =>
        vxlan.flatMap(({ large }) => (large.namespace === undefined ? [] : [large.packetBytes])),
      );
    t.strictSame(sizes(9_000), [1450]);
    t.strictSame(sizes(1_400), [1350]);
    t.end();
  },
);

t.test("a firewall of the host's is named where a ping passes, not where the link itself is cut", (t) => {
  const finding = (test: Finding["test"], peer: string, state: Finding["state"]): Finding => ({
    test,
    peer: peer as NodeId,
    subject: "",
    state,
    text: "",
  });
  const stopped = mayBeStopped([
    finding("reach", "cut", "broken"),
    finding("vxlan", "cut", "broken"),
    finding("reach", "near", "ok"),
    finding("vxlan", "near", "broken"),
    finding("vip", "", "broken"),
    finding("dns", "", "ok"),
    finding("port", "", "broken"),
  ]);
  t.strictSame(
    [...stopped].map(({ test, peer }) => `${test} ${peer}`),
    ["vxlan near", "vip "],
  );
  t.end();
});
