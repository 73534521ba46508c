import { createServer } from "node:net";
import { once } from "node:events";
import t from "tap";

import type { NodeId } from "../../../model/ids.ts";
import type { Node } from "../../../model/node.ts";
import { diagnose, pairsOf } from "../../../manager/api/net-doctor.ts";
import { MeshPorts } from "../../../worker/network/mesh.ts";
import { PublishedPorts } from "../../../worker/network/ports.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { nodeObject } from "../../sim/objects.ts";
import { ask, makeHarness } from "./harness.ts";

const meta = { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 };
const node = (id: string, state: Node["status"]["state"] = "ready"): Node => {
  const made: Node = { meta, ...nodeObject(id) };
  return {
    ...made,
    id: id as NodeId,
    description: {
      hostname: `host-${id}`,
      platform: { os: "linux", architecture: "x86_64" },
      resources: { nanoCpus: 0, memoryBytes: 0, generic: {} },
      engineVersion: "",
      engineLabels: {},
      plugins: [],
    },
    status: { state, message: "", address: `192.0.2.${id.slice(1)}` },
  };
};
const [one, two, three] = [node("n1"), node("n2"), node("n3", "down")];
const finding = { test: "reach", peerNodeId: "", subject: "", state: "ok", text: "" };

t.test("a healthy cluster has nothing to say", (t) => {
  const report = diagnose(
    [one, two],
    [one, two].map(({ id }) => ({ nodeId: id, reply: { findings: [finding] }, problem: "" })),
  );
  t.equal(report.Healthy, true);
  t.strictSame(report.Findings, []);
  t.strictSame(
    report.Hosts.map(({ Hostname, Answered, Passed, Broken }) => [Hostname, Answered, Passed, Broken]),
    [
      ["host-n1", true, 1, 0],
      ["host-n2", true, 1, 0],
    ],
  );
  t.end();
});

t.test("what a host asks its owner to mend is said, whether it answers or not", (t) => {
  const moved = { ...one, description: { ...one.description, problem: "its address is gone" } } as Node;
  for (const reply of [{ findings: [] }, undefined]) {
    const checked = { nodeId: one.id, problem: "", ...(reply && { reply }) };
    t.match(diagnose([moved], [checked]).Findings, [
      {
        Host: "host-n1",
        Test: "address",
        State: "broken",
        Text: "its address is gone",
        Next: /ip -4 address/,
      },
    ]);
  }
  t.end();
});

t.test("hosts that are down or silent are named, with where to look", (t) => {
  const report = diagnose(
    [one, two, three],
    [
      { nodeId: one.id, reply: { findings: [] }, problem: "" },
      { nodeId: two.id, problem: "timeout" },
    ],
  );
  t.equal(report.Healthy, false);
  t.match(report.Findings, [
    { Host: "host-n2", Test: "answer", Text: /did not answer the check: timeout/, Next: /4222/ },
    { Host: "host-n3", Test: "answer", Text: /is down/, Next: "on host-n3: systemctl status shoald" },
  ]);
  t.end();
});

t.test(
  "a broken link is named with both ends, its address and the next command; what explains others comes first",
  (t) => {
    const broken = { ...finding, peerNodeId: two.id, state: "broken", text: "no answer" };
    const report = diagnose(
      [one, two],
      [
        {
          nodeId: one.id,
          reply: {
            findings: [
              {
                ...finding,
                test: "port",
                state: "broken",
                subject: "80/tcp of web",
                text: "port 80/tcp of the mesh is not published on this host: address already in use",
              },
              { ...broken, test: "vxlan", subject: "network front" },
              {
                ...finding,
                test: "vip",
                state: "unknown",
                subject: "idle on network front",
                text: "no task is healthy",
              },
              { ...broken, test: "mtu" },
              { ...broken, test: "tunnel", text: "no answer; the other end was never heard" },
            ],
          },
          problem: "",
        },
        { nodeId: two.id, reply: { findings: [] }, problem: "" },
      ],
    );
    t.match(report.Findings, [
      { Test: "mtu", Host: "host-n1", Peer: "host-n2", Next: /tracepath -n 192\.0\.2\.2/ },
      { Test: "tunnel", Text: /tunnel.* 192\.0\.2\.2 /, Next: /on host-n1 and host-n2: .*51822, 51823/ },
      { Test: "vxlan", Text: /VXLAN.* 192\.0\.2\.2 .*network front/, Next: /on host-n1 and host-n2: .*4789/ },
      { Test: "port", Peer: "", Next: "on host-n1: ss -lntup 'sport = :80'" },
      { Test: "vip", State: "unknown", Next: "" },
    ]);
    t.end();
  },
);

t.test(
  "a network that a host cannot have, as its subnet is the host's, is named with the reason and two ways out",
  (t) => {
    const text = "network web is not set up on this host: its subnet 10.0.1.0/24 overlaps 10.0.0.0/8";
    const missing = { ...finding, test: "kernel", subject: "network web", state: "broken", text };
    const report = diagnose([one], [{ nodeId: one.id, reply: { findings: [missing] }, problem: "" }]);
    t.match(report.Findings, [{ Host: "host-n1", Text: text, Next: /on host-n1: ip route; .*--subnet/ }]);
    t.equal(report.Healthy, false);
    t.end();
  },
);

const [host1, host2, host10] = [node("n1"), node("n2"), node("n10")];

/** "test from>to subject", one end for those without a peer; what the named hosts found broken. */
function broken(...texts: string[]): Parameters<typeof diagnose>[1] {
  return [host1, host2, host10].map(({ id }) => ({
    nodeId: id,
    problem: "",
    reply: {
      findings: texts.flatMap((text) => {
        const [, test = "", from, to, subject = ""] = /^(\w+) (n\d+)>?(n\d+)? ?(.*)$/.exec(text) ?? [];
        return from === id
          ? [{ test, peerNodeId: to ?? "", subject, state: "broken", text: "no answer" }]
          : [];
      }),
    },
  }));
}

const following = [
  {
    name: "a cut wire is one cause: overlay packets and virtual IPs across it follow, in either direction",
    found: [
      "vip n10 web on network front",
      "vip n2 web on network front",
      "vxlan n10>n2 network ingress",
      "vxlan n10>n2 network front",
      "reach n10>n2",
    ],
    want: [
      "reach host-n10>host-n2 on host-n10: ip route get 192.0.2.2",
      "- vxlan host-n10>host-n2",
      "- vxlan host-n10>host-n2",
      "- vip host-n2",
      "- vip host-n10",
    ],
  },
  {
    name: "where ping passes, a firewall's advice is given once for all overlay packets of a pair",
    found: ["vxlan n1>n2 network ingress", "vxlan n1>n2 network front", "vip n2 web on network front"],
    want: [
      "vxlan host-n1>host-n2 on host-n1 and host-n2: nft insert rule inet filter input udp dport 4789 accept (or open 4789/udp in the firewall between them)",
      "- vxlan host-n1>host-n2",
      "vip host-n2 shoal service ps web",
    ],
  },
  {
    name: "another pair, and a service without tasks at the other end, have causes of their own",
    found: ["reach n1>n2", "vxlan n1>n10 network front", "vip n1 db on network front"],
    want: [
      "reach host-n1>host-n2 on host-n1: ip route get 192.0.2.2",
      "vxlan host-n1>host-n10 on host-n1 and host-n10: nft insert rule inet filter input udp dport 4789 accept (or open 4789/udp in the firewall between them)",
      "vip host-n1 shoal service ps db",
    ],
  },
  {
    name: "small links: the networks over them follow",
    found: ["mtu n1>n2 network front", "mtu n1>n2"],
    want: [
      "mtu host-n1>host-n2 on host-n1: tracepath -n 192.0.2.2; lower the MTU of the hosts' link to what passes",
      "- mtu host-n1>host-n2",
    ],
  },
] as const;

for (const { name, found, want } of following) {
  t.test(name, (t) => {
    const hostsOf = (service: string): Set<string> =>
      new Set(service === "web" ? ["host-n2", "host-n10"] : []);
    const { Findings } = diagnose([host10, host1, host2], broken(...found), hostsOf);
    t.strictSame(
      Findings.map(({ Test, Host, Peer, Next, Follows }) =>
        [Follows ? "-" : "", Test, Peer === "" ? Host : `${Host}>${Peer}`, Next].filter(Boolean).join(" "),
      ),
      want,
    );
    t.end();
  });
}

t.test(
  "a port that a host could not take, in its worker's own words, has a cause of its own there",
  async (t) => {
    const ports = new PublishedPorts();
    const other = createServer().listen(0, "0.0.0.0");
    await once(other, "listening");
    t.teardown(() => {
      ports.close();
      other.close();
    });
    const address = other.address();
    const publishedPort = typeof address === "object" && address !== null ? address.port : 0;
    const mesh = new MeshPorts({ ports, warn: () => undefined });
    await mesh.hold([{ protocol: "tcp", publishedPort, targetPort: 80 }]);
    const findings = [...mesh.refused].map(([key, text]) => ({
      test: "port",
      peerNodeId: "",
      subject: `${key} of web`,
      state: "broken",
      text,
    }));
    const cut = { ...finding, peerNodeId: two.id, state: "broken", text: "no answer" };
    const report = diagnose(
      [one, two],
      [
        { nodeId: one.id, reply: { findings: [cut, ...findings] }, problem: "" },
        { nodeId: two.id, reply: { findings: [] }, problem: "" },
      ],
      () => new Set(["host-n2"]),
    );
    t.match(report.Findings, [
      { Test: "reach", Follows: false },
      { Test: "port", Follows: false, Next: `on host-n1: ss -lntup 'sport = :${publishedPort}'` },
    ]);
    t.equal(report.Findings.length, 2);
  },
);

t.test("a host that does not answer explains why nothing reaches it", (t) => {
  const checked = broken("reach n1>n2", "vxlan n1>n2 network front").map((each) =>
    each.nodeId === host2.id ? { nodeId: each.nodeId, problem: "timeout" } : each,
  );
  t.match(diagnose([host1, host2, host10], checked).Findings, [
    { Test: "answer", Host: "host-n2", Follows: false },
    { Test: "reach", Follows: true, Next: "" },
    { Test: "vxlan", Follows: true, Next: "" },
  ]);
  t.end();
});

t.test("hosts stand in the order of their names", (t) => {
  const { Hosts } = diagnose([host10, host2, host1], broken());
  t.strictSame(
    Hosts.map(({ Hostname }) => Hostname),
    ["host-n1", "host-n2", "host-n10"],
  );
  t.end();
});

for (const count of [0, 1, 2, 3, 8, 9, 129]) {
  t.test(`every pair of ${count} hosts is tested once`, (t) => {
    const nodes = Array.from({ length: count }, (_, index) => node(`n${index + 1}`));
    const pairs = [...pairsOf(nodes)].flatMap(([from, peers]) =>
      peers.map(({ nodeId: to }) => [from, to].toSorted((a, b) => (a < b ? -1 : 1)).join(" ")),
    );
    t.equal(new Set(pairs).size, pairs.length);
    t.equal(pairs.length, (count * (count - 1)) / 2);
    t.end();
  });
}

t.test("among very many hosts each tests as many as it can in its time", (t) => {
  const pairs = pairsOf(Array.from({ length: 1_000 }, (_, index) => node(`n${index + 1}`)));
  t.ok([...pairs.values()].every((peers) => peers.length === 64));
  t.end();
});

t.test("a cluster that does not answer is an answer too", async (t) => {
  const { json, status } = await ask(
    await makeHarness({ clock: new VirtualClock() }),
    "GET /shoal/v1/net/doctor",
  );
  t.equal(status, 200);
  t.match(json, { Healthy: false, Hosts: [{ Answered: false }, { Answered: false }] });
});
