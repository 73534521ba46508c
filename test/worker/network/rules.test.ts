import t from "tap";

import { hostsText, resolvConfText } from "../../../worker/network/files.ts";
import { rulesText } from "../../../worker/network/rules.ts";
import { parseResolvConf } from "../../../worker/network/upstream.ts";

const overlay = { bridge: "ov4097", vxlan: "vx4097", subnet: "10.0.1.0/24", internal: false };
const bridge = { bridge: "shoal0", subnet: "172.20.0.0/16", internal: false };
const port = { protocol: "tcp", publishedPort: 8080, targetPort: 80, address: "10.0.1.5" } as const;

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
    rule: "a published port leads to its task",
    networks: [overlay],
    ports: [port],
    has: /8080 : 10\.0\.1\.5 \. 80/,
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
] as const;

for (const { rule, networks, ports, ...expected } of cases) {
  t.test(rule, (t) => {
    const text = rulesText({ networks, ports });
    if ("has" in expected) t.match(text, expected.has);
    else t.notMatch(text, expected.lacks);
    t.end();
  });
}

t.test("equal states give equal texts, whatever the order", (t) => {
  const other = { ...port, publishedPort: 8081 };
  t.equal(
    rulesText({ networks: [overlay, bridge], ports: [port, other] }),
    rulesText({ networks: [bridge, overlay], ports: [other, port] }),
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
  const text = hostsText({ hostname: "box", extraHosts: ["192.0.2.9  db database", "192.0.2.8"] }, [
    "10.0.1.5",
  ]);
  t.ok(text.endsWith("192.0.2.9\tdb database\n10.0.1.5\tbox\n"), text);
  t.notMatch(text, "192.0.2.8");
  t.end();
});
