import t from "tap";

import { hostsText, resolvConfText, sharedHostsText } from "../../../worker/network/files.ts";
import { hasNetworks, rulesetOf, rulesText } from "../../../worker/network/rules.ts";
import { parseResolvConf } from "../../../worker/network/upstream.ts";

const plain = { internal: false, ingress: false, masquerade: true, mutual: true } as const;
const overlay = { ...plain, bridge: "ov4097", vxlan: "vx4097", subnet: "10.0.1.0/24" };
const bridge = { ...plain, bridge: "shoal0", subnet: "172.20.0.0/16" };
const port = { protocol: "tcp", publishedPort: 8080, targetPort: 80, address: "10.0.1.5" } as const;

const ingress = { ...overlay, bridge: "ov4096", vxlan: "vx4096", subnet: "10.0.0.0/24", ingress: true };
const none = {
  networks: [],
  ports: [],
  services: [],
  mesh: [],
  hosts: [],
  tasks: [],
  ownAddress: "192.0.2.1",
} as const;
const virtual = { bridge: "ov4097", address: "10.0.1.2", backends: ["10.0.1.6", "10.0.1.5"] } as const;
const meshPort = {
  protocol: "tcp",
  publishedPort: 80,
  targetPort: 8080,
  backends: ["10.0.0.5"],
  within: [],
} as const;

const cases = [
  {
    rule: "tables of others are never named",
    networks: [overlay],
    ports: [port],
    lacks: /flush|table ip (?!shoal_net)/,
  },
  {
    rule: "a network reaches itself, by its own devices only",
    networks: [overlay, bridge],
    ports: [],
    has: /elements = \{ "ov4097" \. "ov4097", "ov4097" \. "vx4097", "vx4097" \. "ov4097", "shoal0" \. "shoal0" \}/,
  },
  {
    rule: "of several subnets none is foreign to its network, and all lead outside",
    networks: [{ ...overlay, further: [{ subnet: "10.9.0.0/16", gateway: "10.9.0.1" }] }],
    ports: [],
    has: /elements = \{ 10\.0\.1\.0\/24, 10\.9\.0\.0\/16 \}[^]*iifname "ov4097" ip saddr != \{ 10\.0\.1\.0\/24, 10\.9\.0\.0\/16, 0\.0\.0\.0 \} drop/,
  },
  {
    rule: "a published port leads to its task",
    networks: [overlay],
    ports: [port],
    has: /8080 : 10\.0\.1\.5 \. 80/,
  },
  {
    rule: "what tasks ask gateways for names is not for who publishes that port",
    networks: [overlay],
    ports: [{ ...port, publishedPort: 53, protocol: "udp" }],
    gateways: ["172.20.0.1", "10.0.1.1"],
    has: /gateways \{ type ipv4_addr; elements = \{ 10\.0\.1\.1, 172\.20\.0\.1 \}[^]*ip daddr @gateways meta l4proto \{ tcp, udp \} th dport 53 accept\s+fib daddr type local dnat/,
  },
  {
    rule: "without such a port, gateways are as other addresses of the host",
    networks: [overlay],
    ports: [port, { ...port, publishedPort: 53, hostAddress: "192.0.2.1" }],
    gateways: ["10.0.1.1"],
    lacks: /@gateways/,
  },
  {
    rule: "tcp and udp are apart",
    networks: [],
    ports: [{ ...port, protocol: "udp" }],
    has: /map ports_udp .* 8080/,
  },
  {
    rule: "an internal network does not lead outside",
    networks: [{ ...overlay, internal: true }],
    ports: [],
    lacks: /outward_subnets.*10\.0\.1/,
  },
  {
    rule: "a virtual IP leads to one of the serving tasks, from its own network alone",
    networks: [overlay],
    services: [virtual],
    has: /"ov4097" \. 10\.0\.1\.2 : goto (vip_\w+)[^]*chain \1 \{\s+dnat to numgen random mod 2 map \{ 0 : 10\.0\.1\.5, 1 : 10\.0\.1\.6 \}/,
  },
  {
    rule: "a virtual IP that nobody serves leads nowhere",
    networks: [overlay],
    services: [{ ...virtual, backends: [] }],
    lacks: /10\.0\.1\.2/,
  },
  {
    rule: "a port of the mesh leads to serving tasks",
    networks: [ingress],
    mesh: [meshPort],
    has: /tcp \. 80 : goto mesh_tcp_80[^]*dnat ip to numgen random mod 1 map \{ 0 : 10\.0\.0\.5 \. 8080 \}/,
  },
  {
    rule: "a port of SCTP leads to serving tasks, too",
    networks: [ingress],
    mesh: [{ ...meshPort, protocol: "sctp" }],
    has: /sctp \. 80 : goto mesh_sctp_80[^]*meta l4proto sctp dnat ip to numgen random mod 1 map \{ 0 : 10\.0\.0\.5 \. 8080 \}/,
  },
  {
    rule: "a port of SCTP on a host leads to its task",
    networks: [overlay],
    ports: [{ ...port, protocol: "sctp" }],
    has: /map ports_sctp .* 8080 : 10\.0\.1\.5 \. 80[^]*dnat ip to sctp dport map @ports_sctp/,
  },
  {
    rule: "a port of the mesh that is published at addresses of IPv6 alone is refused",
    networks: [ingress],
    mesh: [{ ...meshPort, within: ["2001:db8::/32"] }],
    has: /mesh_held .* tcp \. 80/,
    lacks: /mesh_tcp_80/,
  },
  {
    rule: "a port of the mesh that nobody serves is refused",
    networks: [ingress],
    mesh: [{ ...meshPort, backends: [] }],
    has: /set mesh_held .* tcp \. 80/,
  },
  {
    rule: "answers go back to the host where the client came in",
    networks: [ingress],
    hosts: [{ address: "192.0.2.9", index: 3 }],
    has: /iifname "vx4096" ip saddr != 10\.0\.0\.0\/24 ct direction original ct mark set ether saddr map \{ 02:4e:c0:00:02:09 : 0x30000 \}/,
  },
  {
    rule: "tasks on the ingress network do not reach each other by it",
    networks: [ingress],
    has: /set task_links .* elements = \{ "vx4096" \. "ov4096" \}/,
  },
] as const;

for (const { rule, ...given } of cases) {
  t.test(rule, (t) => {
    const { has: _, lacks: __, ...state } = { has: undefined, lacks: undefined, ...given };
    const text = rulesText({ ...none, ...state });
    const expected = given;
    if ("has" in expected) t.match(text, expected.has);
    if ("lacks" in expected) t.notMatch(text, expected.lacks);
    t.end();
  });
}

const dual = { ...bridge, bridge: "br-d", further: [{ subnet: "fd00:1::/64" }] };
const dualIngress = { ...ingress, further: [{ subnet: "fd00::/64" }] };
const ipv6Cases = [
  {
    rule: "networks without IPv6 are not in its table, nor is anything of IPv4",
    state: { networks: [overlay, dual] },
    has: /^table ip6 shoal_net\ndelete table ip6 shoal_net\ntable ip6 shoal_net/,
    lacks: /ov4097|172\.20|ipv4_addr|\bip (?:saddr|daddr)|127\.0\.0/,
  },
  {
    rule: "a task speaks under addresses of its network alone, or none",
    state: { networks: [dual] },
    has: /iifname "br-d" ip6 saddr != \{ fd00:1::\/64, :: \} drop/,
  },
  {
    rule: "tasks reach the outside under the host's address",
    state: { networks: [dual] },
    has: /set outward_subnets \{ type ipv6_addr; flags interval; elements = \{ fd00:1::\/64 \}[^]*ip6 saddr @outward_subnets oifname != @task_devices masquerade/,
  },
  {
    rule: "unless they are not to",
    state: { networks: [{ ...dual, internal: true }] },
    has: /set internal_devices .*"br-d"[^]*iifname @internal_devices reject with icmpv6 type admin-prohibited/,
    lacks: /outward_subnets \{ type ipv6_addr; flags interval; elements/,
  },
  {
    rule: "a published port leads to its task, but by addresses that only a relay can answer",
    state: { networks: [dual], ports: [{ ...port, address: "fd00:1::5" }] },
    has: /map ports_tcp \{ .*8080 : fd00:1::5 \. 80[^]*ip6 daddr != \{ ::1, fe80::\/10 \} fib daddr type local dnat ip6 to tcp dport map @ports_tcp\n/,
  },
  {
    rule: "a port of the mesh leads to serving tasks, but by addresses that only a relay can answer",
    state: { networks: [dualIngress], mesh: [{ ...meshPort, backends: ["fd00::5"] }] },
    has: /chain mesh_tcp_80 \{\s+meta l4proto tcp dnat ip6 to numgen random mod 1 map \{ 0 : fd00::5 \. 8080 \}[^]*ip6 daddr != \{ ::1, fe80::\/10 \} fib daddr type local meta l4proto \. th dport vmap @mesh/,
  },
  {
    rule: "so does one of SCTP",
    state: {
      networks: [dualIngress],
      mesh: [{ ...meshPort, protocol: "sctp" as const, backends: ["fd00::5"] }],
    },
    has: /chain mesh_sctp_80 \{\s+meta l4proto sctp dnat ip6 to .* fd00::5 \. 8080/,
  },
  {
    rule: "one that nobody serves is refused, but where a relay says so",
    state: { networks: [dualIngress], mesh: [{ ...meshPort, backends: [] }] },
    has: /mesh_held .* tcp \. 80[^]*chain idle \{[^}]*ip6 daddr != \{ ::1, fe80::\/10 \} ct state new meta l4proto \. th dport @mesh_held/,
  },
  {
    rule: "one that is published at some addresses is at those of the family alone",
    state: {
      networks: [dualIngress],
      mesh: [
        { ...meshPort, backends: ["fd00::5"], within: ["192.0.2.0/24", "2001:db8::/32"] },
        { ...meshPort, publishedPort: 81, backends: ["fd00::5"], within: ["192.0.2.0/24"] },
      ],
    },
    has: /chain mesh_tcp_80 \{\s+ip6 daddr \{ 2001:db8::\/32 \} meta/,
    lacks: /chain mesh_tcp_81|192\.0\.2\.0/,
  },
  {
    rule: "answers go back to the host where the client came in, known by the address that VXLAN has",
    state: { networks: [dualIngress], hosts: [{ address: "192.0.2.9", index: 3 }] },
    has: /iifname "vx4096" ip6 saddr != fd00::\/64 ct direction original ct mark set ether saddr map \{ 02:4e:c0:00:02:09 : 0x30000 \}/,
    lacks: /other_hosts \{ type ipv6_addr; elements/,
  },
  {
    rule: "what a host or a task asks of another host's port enters the mesh here",
    state: {
      networks: [dualIngress],
      hosts: [{ address: "192.0.2.9", index: 3, ipv6Addresses: ["2001:db8::9", "fd99::9"] }],
    },
    has: /set other_hosts \{ type ipv6_addr; elements = \{ 2001:db8::9, fd99::9 \}[^]*ip6 daddr @other_hosts meta l4proto \. th dport vmap @mesh/,
  },
  {
    rule: "at one address of the host, at that alone",
    state: { networks: [dual], ports: [{ ...port, hostAddress: "2001:db8::1", address: "fd00:1::5" }] },
    has: /map ports_tcp_at \{ .*2001:db8::1 \. 8080 : fd00:1::5 \. 80/,
    lacks: /ports_tcp \{[^}]*elements/,
  },
];

for (const { rule, state, has, lacks } of ipv6Cases) {
  t.test(`IPv6: ${rule}`, (t) => {
    const text = rulesText({ ...none, ...state }, "ip6");
    t.match(text, has);
    if (lacks !== undefined) t.notMatch(text, lacks);
    t.end();
  });
}

t.test("IPv4 rules do not change with IPv6 beside it, and without any there is no other table", (t) => {
  t.equal(
    rulesText({ ...none, networks: [dual] }),
    rulesText({ ...none, networks: [{ ...bridge, bridge: "br-d" }] }),
  );
  t.notOk(hasNetworks(rulesetOf({ ...none, networks: [overlay, bridge] }, "ip6")));
  t.ok(hasNetworks(rulesetOf({ ...none, networks: [overlay, dual] }, "ip6")));
  t.end();
});

t.test("equal states give equal texts, whatever the order", (t) => {
  const other = { ...port, publishedPort: 8081 };
  t.equal(
    rulesText({ ...none, networks: [overlay, bridge], ports: [port, other] }),
    rulesText({ ...none, networks: [bridge, overlay], ports: [other, port] }),
  );
  t.end();
});

const host = parseResolvConf(
  "# made by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2 ; second\nsearch a.test b.test\n",
);

const resolvers = [
  {
    rule: "our resolver, the host's search list, the bare name first",
    want: "nameserver 10.0.1.1\nsearch a.test b.test\noptions ndots:0\n",
  },
  {
    rule: "a user's own options",
    dns: { nameservers: ["9.9.9.9"], search: ["c.test"], options: ["ndots:2"] },
    want: "nameserver 10.0.1.1\nsearch c.test\noptions ndots:2\n",
  },
  {
    rule: "a dot for no search list",
    dns: { nameservers: [], search: ["."], options: [] },
    want: "nameserver 10.0.1.1\noptions ndots:0\n",
  },
  {
    rule: "no resolver of ours: the host's",
    none: true,
    want: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.test b.test\n",
  },
] as const;

for (const { rule, want, ...request } of resolvers) {
  t.test(`resolv.conf: ${rule}`, (t) => {
    const dns = "dns" in request ? { dns: request.dns } : {};
    t.equal(resolvConfText(dns, host, "none" in request ? undefined : "10.0.1.1"), want);
    t.end();
  });
}

t.test("a hosts file has the extra lines and the task's own name; a line without a name is left out", (t) => {
  const extraHosts = ["192.0.2.9  db database", "192.0.2.8"];
  const text = hostsText({ hostname: "box", extraHosts }, ["10.0.1.5"], "172.20.0.1");
  t.ok(text.endsWith("192.0.2.9\tdb database\n10.0.1.5\tbox\n"), text);
  t.notMatch(text, "192.0.2.8");
  t.end();
});

t.test("a hosts file has the host's address on its own bridge for host-gateway", (t) => {
  const request = { hostname: "box", extraHosts: ["host-gateway host.docker.internal"] };
  t.match(hostsText(request, [], "172.20.0.1"), "\n172.20.0.1\thost.docker.internal\n");
  const shared = sharedHostsText("127.0.0.1 localhost", request, "172.20.0.1");
  t.equal(shared, "127.0.0.1 localhost\n172.20.0.1\thost.docker.internal\n");
  t.end();
});
