import * as fc from "fast-check";
import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import type {
  AttachNetwork,
  BridgeNetwork,
  HostPort,
  OverlayEndpoint,
  OverlayHost,
  OverlayNetwork,
  WantedNetworks,
} from "../../../worker/network/network.ts";
import { otherHosts } from "../../../worker/network/objects.ts";
import { ownBridge } from "../../../worker/network/bridges.ts";
import type { TaskRecord } from "../../../worker/network/journal.ts";
import { rulesText } from "../../../worker/network/rules.ts";
import {
  askersOf,
  drainOf,
  flowsTo,
  gatewaysOf,
  ipv6RulesOf,
  meshPorts,
  localNames,
  namedNetworks,
  publishedTarget,
  rulesOf,
  usedOf,
  withdrawnAddresses,
  withoutIngressIpv6,
} from "../../../worker/network/views.ts";

const [ingress, net] = [network("ingress", 0), network("net", 1)];

function network(name: string, index: number): OverlayNetwork {
  return {
    id: name as NetworkId,
    name,
    subnet: `10.0.${index}.0/24`,
    gateway: `10.0.${index}.1`,
    vni: 4096 + index,
    internal: false,
    mtu: 0,
    ingress: name === "ingress",
  };
}

function host(index: number, address: string): OverlayHost {
  return { nodeId: `n${index}` as NodeId, address, index };
}

function wanted(more: Partial<WantedNetworks>): WantedNetworks {
  const self = { nodeId: "n1" as NodeId, address: "192.0.2.1" };
  return { self, networks: [ingress, net], endpoints: [], services: [], hosts: [], ...more };
}

t.test(
  "hosts are told apart by their address: of two nodes with one, and of those without one of IPv4",
  (t) => {
    const hosts = [
      host(7, "192.0.2.2"),
      host(2, "192.0.2.2"),
      host(3, "2001:db8::3"),
      host(4, ""),
      host(5, "192.0.2.1"),
      host(6, "192.0.2.6"),
    ];
    t.strictSame(otherHosts(wanted({ hosts })), [host(2, "192.0.2.2"), host(6, "192.0.2.6")]);
    t.end();
  },
);

t.test(
  "a virtual IP on the ingress network leads nowhere, as tasks there have nothing to say to each other",
  (t) => {
    const services = [ingress, net].map(({ id }, index) => ({
      networkId: id,
      serviceId: "s",
      serviceName: "s",
      address: `10.0.${index}.2`,
      aliases: [],
      localFirst: false,
      within: [],
      ports: index === 0 ? [{ protocol: "tcp" as const, publishedPort: 80, targetPort: 8080 }] : [],
    }));
    const state = { wanted: wanted({ services }), ports: [], bridges: [], underlayMtu: 1500 };
    const rules = rulesOf(state, new Map(), [{ protocol: "tcp", publishedPort: 80, targetPort: 8080 }]);
    t.strictSame(
      rules.services.map(({ address }) => address),
      ["10.0.1.2"],
    );
    t.equal(rules.mesh.length, 1);
    t.end();
  },
);

t.test("a port of the mesh leads to those who serve in its family, where the ingress network has it", (t) => {
  const port = { protocol: "tcp", publishedPort: 80, targetPort: 8080 } as const;
  const services = [[], ["192.0.2.0/24"], ["2001:db8::/32"]].map((within, index) => ({
    networkId: ingress.id,
    serviceId: `s${index}`,
    serviceName: `s${index}`,
    address: "10.0.0.2",
    ipv6: "fd00::2",
    aliases: [],
    localFirst: index === 0,
    within,
    ports: [{ ...port, publishedPort: 80 + index }],
  }));
  const endpoints = [5, 6, 7].map((number) => ({
    networkId: ingress.id,
    taskId: `t${number}` as TaskId,
    address: `10.0.0.${number}`,
    ipv6: `fd00::${number}`,
    nodeId: (number === 5 ? "n1" : "n2") as NodeId,
    nodeAddress: number === 5 ? "192.0.2.1" : "192.0.2.2",
    nodeIndex: number === 5 ? 1 : 2,
    serviceId: number === 7 ? "s1" : "s0",
    serviceName: "s",
    taskName: `s.${number}`,
    aliases: [],
    serving: true,
  }));
  const further = [{ subnet: "fd00::/64", gateway: "fd00::1" }];
  const rulesFor = (network: OverlayNetwork) => {
    const all = wanted({ networks: [network], services, endpoints, hosts: [host(2, "192.0.2.2")] });
    const state = { wanted: all, ports: [], bridges: [], underlayMtu: 1500 };
    const mesh = meshPorts(all);
    t.strictSame(
      mesh.map(({ ipv6 }) => ipv6),
      [true, undefined, true],
      "held at the addresses where it is published",
    );
    return { ip: rulesOf(state, new Map(), mesh), ip6: ipv6RulesOf(state, new Map(), mesh) };
  };
  const { ip, ip6 } = rulesFor({ ...ingress, further });
  t.strictSame(
    ip.mesh.map(({ publishedPort, backends }) => [publishedPort, backends]),
    [
      [80, ["10.0.0.5"]],
      [81, ["10.0.0.7"]],
      [82, []],
    ],
  );
  t.strictSame(
    ip6.mesh.map(({ publishedPort, backends }) => [publishedPort, backends]),
    [
      [80, ["fd00::5"]],
      [81, ["fd00::7"]],
      [82, []],
    ],
  );
  t.strictSame(ip6.hosts, [host(2, "192.0.2.2")]);
  t.notMatch(rulesText(ip6, "ip6"), "goto mesh_tcp_81", "published at addresses of IPv4 alone");
  t.match(rulesText(ip, "ip"), "goto mesh_tcp_81");
  const given = wanted({
    networks: [
      { ...ingress, further },
      { ...net, further },
    ],
    services,
    endpoints,
  });
  const fitted = withoutIngressIpv6(given);
  t.strictSame(fitted.networks, [ingress, { ...net, further }], "a kernel without IPv6");
  t.notOk([...fitted.services, ...fitted.endpoints].some((each) => "ipv6" in each));
  const elsewhere = {
    networks: [net],
    services: [],
    endpoints: endpoints.slice(0, 1).map((each) => ({ ...each, networkId: net.id })),
  };
  t.strictSame(withoutIngressIpv6(wanted(elsewhere)), wanted(elsewhere), "nothing of other networks");
  const single = rulesFor(ingress);
  t.strictSame([single.ip6.mesh, single.ip6.hosts], [[], []], "relays have it then");
  t.strictSame(single.ip.mesh, ip.mesh);
  t.end();
});

t.test("a virtual IP of each family leads to those who serve in that family", (t) => {
  const service = {
    networkId: net.id,
    serviceId: "s",
    serviceName: "s",
    aliases: [],
    localFirst: false,
    within: [],
  };
  const services = [
    { ...service, address: "10.0.1.2", ipv6: "fd00:1::2", ports: [] },
    { ...service, serviceId: "old", address: "10.0.1.3", ports: [] },
  ];
  const endpoints = [5, 6, 7].map((number) => ({
    networkId: net.id,
    taskId: `t${number}` as TaskId,
    address: `10.0.1.${number}`,
    ...(number < 7 && { ipv6: `fd00:1::${number}` }),
    nodeId: "n2" as NodeId,
    nodeAddress: "192.0.2.2",
    nodeIndex: 2,
    serviceId: "s",
    serviceName: "s",
    taskName: `s.${number}`,
    aliases: [],
    serving: number !== 6,
  }));
  const further = [{ subnet: "fd00:1::/64", gateway: "fd00:1::1" }];
  const all = wanted({ networks: [ingress, { ...net, further }], services, endpoints });
  const state = { wanted: all, ports: [], bridges: [], underlayMtu: 1500 };
  t.match(rulesOf(state, new Map(), []).services, [
    { address: "10.0.1.2", backends: ["10.0.1.5", "10.0.1.7"] },
    { address: "10.0.1.3", backends: [] },
  ]);
  const rules = ipv6RulesOf(state, new Map(), []);
  t.strictSame(rules.services, [{ bridge: "ov4097", address: "fd00:1::2", backends: ["fd00:1::5"] }]);
  const text = rulesText(rules, "ip6");
  t.match(text, /table ip6 shoal_net/);
  t.match(text, '"ov4097" . fd00:1::2 : goto');
  t.match(text, "dnat to numgen random mod 1 map { 0 : fd00:1::5 }");
  t.notMatch(text, "ov4096", "networks without IPv6 have no part in it");
  t.strictSame([...gatewaysOf(state)], ["10.0.0.1", "10.0.1.1"], "names are asked for by IPv4");
  t.strictSame(drainOf(all, "t5" as TaskId), {
    addresses: ["10.0.1.5", "fd00:1::5"],
    leaving: new Set(["10.0.1.6", "fd00:1::6"]),
  });
  t.strictSame(
    drainOf(wanted({ networks: [net], services, endpoints: all.endpoints.slice(0, 1) }), "t5" as TaskId),
    {
      addresses: ["10.0.1.5", "fd00:1::5"],
      leaving: new Set(),
    },
  );
  const [first, ...others] = all.endpoints;
  if (first === undefined) throw new Error("it is given");
  const silent = { ...first, serving: false };
  const second = { ...first, taskId: "t6" as TaskId, address: "10.0.1.6", ipv6: "fd00:1::6" };
  const withdrawn = (before: readonly OverlayEndpoint[], now: readonly OverlayEndpoint[]) =>
    withdrawnAddresses({ ...all, endpoints: before }, { ...all, endpoints: now });
  t.strictSame(withdrawn([first, second, ...others], [silent, second, ...others]), ["10.0.1.5", "fd00:1::5"]);
  t.strictSame(withdrawn([first, second], [second]), ["10.0.1.5", "fd00:1::5"], "one that is gone");
  t.strictSame(withdrawn([first], [silent]), [], "nobody else serves");
  t.strictSame(withdrawn([silent, second], [first, second]), []);
  t.strictSame(withdrawnAddresses(undefined, all), []);
  t.end();
});

const own = ownBridge("172.20.0.0/16");
const red: BridgeNetwork = {
  ...own,
  id: "red" as NetworkId,
  name: "red",
  device: "br-red",
  subnet: "10.7.0.0/24",
  gateway: "10.7.0.1",
};
const cell: BridgeNetwork = {
  ...red,
  id: "cell" as NetworkId,
  name: "cell",
  device: "br-cell",
  subnet: "10.8.0.0/24",
  gateway: "10.8.0.1",
  internal: true,
};
const bridges = [own, red, cell];

/** A container with the last byte of its address on each of its networks. */
function record(
  name: string,
  on: readonly (readonly [BridgeNetwork, number])[],
  more: { readonly ports?: readonly HostPort[]; readonly networks?: readonly Partial<AttachNetwork>[] } = {},
): TaskRecord {
  return {
    state: "attached",
    request: {
      taskId: name as TaskId,
      containerId: name,
      networks: on.map(([{ id }], index) => ({
        networkId: id as NetworkId,
        address: "",
        aliases: id === "" ? [] : [name, `${name}-alias`],
        ...more.networks?.[index],
      })),
      host: false,
      none: false,
      ports: [],
      hostname: name,
      name,
      extraHosts: [],
    },
    attached: {
      kind: "namespace",
      path: `/netns/${name}`,
      addresses: on.map(([{ id, device, subnet, gateway, ipv6 }, last], index) => ({
        networkId: id,
        bridge: device,
        device: `eth${index}`,
        address: subnet.replace(/\.0\//, `.${last}/`),
        gateway,
        mac: "02:42:00:00:00:01",
        ...(index === on.length - 1 && { outward: true as const }),
        ...(ipv6 !== undefined && {
          ipv6: {
            address: ipv6.subnet.replace("/", `${last}/`),
            gateway: ipv6.gateway,
            ...(index === on.length - 1 && { outward: true as const }),
          },
        }),
      })),
      publishedPorts: more.ports ?? [],
      files: { hosts: "", resolvConf: "", hostname: "" },
    },
    mtus: on.map(() => 1500),
  };
}

function recordsOf(...records: readonly TaskRecord[]): Map<TaskId, TaskRecord> {
  return new Map(records.map((each) => [each.request.taskId, each]));
}

t.test("names are known on the networks of users, links to those who have them, the rest nowhere", (t) => {
  const link = {
    links: [
      { alias: "Data", containerId: "db" },
      { alias: "gone", containerId: "x" },
    ],
  };
  const records = recordsOf(
    record("db", [
      [own, 2],
      [red, 2],
    ]),
    record("web", [[own, 3]], { networks: [link] }),
    record("app", [[red, 3]], { networks: [link] }),
    record("in", [[cell, 4]]),
  );
  t.strictSame(
    namedNetworks({ wanted: undefined, bridges }).map(({ name }) => name),
    ["red", "cell"],
  );
  t.strictSame(
    localNames(records, bridges).map(({ networkId, name, address }) => `${networkId} ${name} ${address}`),
    [
      "red db 10.7.0.2",
      "red db-alias 10.7.0.2",
      "red app 10.7.0.3",
      "red app-alias 10.7.0.3",
      "cell in 10.8.0.4",
      "cell in-alias 10.8.0.4",
    ],
  );
  const askers = askersOf({ wanted: undefined, bridges }, records);
  t.strictSame([...(askers.get("172.20.0.1 172.20.0.3")?.links ?? [])], [["data", ["172.20.0.2"]]]);
  t.strictSame([...(askers.get("10.7.0.1 10.7.0.3")?.links ?? [])], [["data", ["10.7.0.2"]]]);
  t.match(askers.get("10.8.0.1 10.8.0.4"), { networks: ["cell"], outside: false });
  t.match(askers.get("10.7.0.1 10.7.0.2"), { networks: ["red"], outside: true });
  t.end();
});

t.test("with IPv6 there are names, rules and flows of both families", (t) => {
  const dual = { ...red, ipv6: { subnet: "fd00:7::/64", gateway: "fd00:7::1", reserved: [] } };
  const port = { protocol: "udp", publishedPort: 53, targetPort: 5353 } as const;
  const ports = [
    { ...port, ipv6: true as const },
    { ...port, publishedPort: 54 },
    { ...port, publishedPort: 55, hostAddress: "192.0.2.1" },
    { ...port, publishedPort: 56, hostAddress: "2001:db8::1" },
    { ...port, publishedPort: 57, hostAddress: "::" },
  ];
  const records = recordsOf(record("web", [[dual, 2]], { ports }), record("old", [[cell, 3]], { ports }));
  const state = { wanted: undefined, ports: [], bridges: [own, dual, cell], underlayMtu: 1500 };
  t.match(localNames(records, [own, dual, cell]), [
    { name: "web", address: "10.7.0.2" },
    { name: "web-alias", address: "10.7.0.2" },
    { name: "web", address: "fd00:7::2" },
  ]);
  const rules = ipv6RulesOf(state, records, []);
  t.strictSame(
    rules.ports.map(({ publishedPort, hostAddress, address }) => [publishedPort, hostAddress, address]),
    [
      [53, undefined, "fd00:7::2"],
      [56, "2001:db8::1", "fd00:7::2"],
      [57, undefined, "fd00:7::2"],
    ],
  );
  t.strictSame(rules.tasks, ["fd00:7::2"]);
  t.match(rulesText(rules, "ip6"), /ifname; elements = \{ "br-red" \}/);
  t.strictSame(
    rulesOf(state, records, [])
      .ports.filter(({ address }) => address === "10.7.0.2")
      .map(({ publishedPort }) => publishedPort),
    [53, 54, 55],
  );
  const flows = [...records.values()].map(({ attached }) =>
    flowsTo(attached).map((argv) => argv.slice(5).join(" ")),
  );
  t.strictSame(flows, [
    ["53", "53 -f ipv6", "54", "55", "56 -f ipv6", "57 -f ipv6"],
    ["53", "54", "55"],
  ]);
  t.end();
});

t.test(
  "rules follow records: every port that is published leads to its container, and to nowhere else",
  (t) => {
    const port = fc.record({
      protocol: fc.constantFrom("tcp" as const, "udp" as const),
      targetPort: fc.integer({ min: 1, max: 65_535 }),
      publishedPort: fc.integer({ min: 1, max: 65_535 }),
      at: fc.constantFrom(undefined, "127.0.0.1", "::1"),
    });
    const containers = fc.uniqueArray(
      fc.record({
        number: fc.integer({ min: 2, max: 250 }),
        on: fc.subarray([own, red], { minLength: 1 }),
        ports: fc.array(port, { maxLength: 4 }),
      }),
      { maxLength: 12, selector: ({ number }) => number },
    );
    fc.assert(
      fc.property(containers, (all) => {
        const taken = new Set<string>();
        const records = all.map(({ number, on, ports }) => {
          const free = ports.filter(({ protocol, publishedPort }) => {
            const key = `${publishedPort}/${protocol}`;
            return !taken.has(key) && taken.add(key);
          });
          return record(
            `c${number}`,
            on.map((bridge) => [bridge, number] as const),
            {
              ports: free.map(({ protocol, targetPort, publishedPort, at }) => {
                return { protocol, targetPort, publishedPort, ...(at !== undefined && { hostAddress: at }) };
              }),
            },
          );
        });
        const map = recordsOf(...records);
        const state = { wanted: undefined, ports: [], bridges, underlayMtu: 1500 };
        const text = rulesText(rulesOf(state, map, []));
        const elements = text.match(/map ports_[^]*?;? \}/g)?.join("\n") ?? "";
        let expected = 0;
        for (const { request, attached } of records) {
          const target = publishedTarget(map, request.taskId);
          for (const { targetPort, publishedPort, hostAddress } of attached.publishedPorts) {
            if (hostAddress === "::1") continue; // By the relay.
            expected += 1;
            const key = hostAddress === undefined ? `${publishedPort}` : `${hostAddress} . ${publishedPort}`;
            if (!elements.includes(`${key} : ${target} . ${targetPort}`)) return false;
          }
        }
        return (elements.match(/ : 1[07][\d.]+ \. \d+/g) ?? []).length === expected;
      }),
      { numRuns: 300 },
    );
    t.end();
  },
);

t.test("a bridge that would go while somebody is on it is named", (t) => {
  const starting: TaskRecord = { ...record("web", [[red, 2]]), state: "making" };
  t.equal(usedOf(recordsOf(starting), [red, cell], [cell])?.name, "red");
  t.equal(usedOf(recordsOf(starting), [red, cell], [red]), undefined);
  t.end();
});
