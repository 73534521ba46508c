import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import type { OverlayEndpoint, OverlayNetwork, OverlayService } from "../../../worker/network/network.ts";
import { answerQuestion, buildNames } from "../../../worker/network/records.ts";
import { ToldAddresses } from "../../../worker/network/told.ts";
import type { Asker } from "../../../worker/network/records.ts";

const [red, blue, mesh] = [network("red", 1), network("blue", 2), network("mesh", 3)];

function network(name: string, index: number): OverlayNetwork {
  const id = name as NetworkId;
  const subnet = `10.0.${index}.0/24`;
  const gateway = `10.0.${index}.1`;
  return { id, name, subnet, gateway, vni: 4096 + index, internal: false, mtu: 0, ingress: name === "mesh" };
}

function endpoint(on: OverlayNetwork, service: string, address: string, serving = true): OverlayEndpoint {
  return {
    networkId: on.id,
    taskId: `t${address}` as TaskId,
    address,
    nodeId: "n" as NodeId,
    nodeAddress: "192.168.0.1",
    nodeIndex: 1,
    serviceId: service,
    serviceName: service,
    taskName: `${service}.1.t${address.split(".").at(-1)}`,
    aliases: [service.replace("st_", "")],
    serving,
  };
}

function service(on: OverlayNetwork, name: string, address: string): OverlayService {
  const aliases = [name.replace("st_", "")];
  const names = { serviceId: name, serviceName: name, aliases };
  return { networkId: on.id, ...names, address, ports: [], localFirst: false, within: [] };
}

const table = buildNames(
  {
    networks: [red, blue, mesh],
    endpoints: [
      endpoint(red, "st_web", "10.0.1.10"),
      endpoint(red, "st_web", "10.0.1.11"),
      endpoint(red, "st_web", "10.0.1.12", false),
      endpoint(red, "st_idle", "10.0.1.20", false),
      endpoint(blue, "st_web", "10.0.2.10"),
      endpoint(blue, "st_db", "10.0.2.20"),
      endpoint(red, "st_api", "10.0.1.30"),
      endpoint(mesh, "st_api", "10.0.3.30"),
    ],
    services: [
      service(red, "st_api", "10.0.1.3"),
      service(red, "st_asleep", "10.0.1.4"),
      service(mesh, "st_api", "10.0.3.3"),
    ],
  },
  [{ networkId: red.id, name: "Myself", address: "10.0.1.10" }],
);

const onRed: Asker = { networks: [red.id], nameservers: [], outside: true, links: new Map() };
const askers: Record<string, Asker> = {
  red: onRed,
  both: { ...onRed, networks: [red.id, blue.id] },
  inside: { ...onRed, outside: false },
  bridge: { ...onRed, networks: [] },
  linked: { ...onRed, links: new Map([["db", ["10.9.0.5", "fd00:9::5"]]]) },
  published: { ...onRed, networks: [red.id, mesh.id] },
};

const cases = [
  { rule: "a service is its serving tasks", who: "red", ask: "st_web A", want: "10.0.1.10 10.0.1.11" },
  { rule: "so is its alias", who: "red", ask: "web A", want: "10.0.1.10 10.0.1.11" },
  { rule: "a link is known", who: "linked", ask: "DB A", want: "10.9.0.5" },
  { rule: "in both families", who: "linked", ask: "db AAAA", want: "fd00:9::5" },
  { rule: "so is tasks.<service>", who: "red", ask: "tasks.st_web A", want: "10.0.1.10 10.0.1.11" },
  { rule: "a service with a virtual IP is that", who: "red", ask: "st_api A", want: "10.0.1.3" },
  { rule: "so is its alias", who: "red", ask: "api A", want: "10.0.1.3" },
  { rule: "tasks.<service> is its tasks all the same", who: "red", ask: "tasks.st_api A", want: "10.0.1.30" },
  { rule: "and so is tasks.<alias>", who: "red", ask: "tasks.api A", want: "10.0.1.30" },
  { rule: "also of a service without one", who: "red", ask: "tasks.web A", want: "10.0.1.10 10.0.1.11" },
  { rule: "a virtual IP is known while nothing serves", who: "red", ask: "asleep A", want: "10.0.1.4" },
  { rule: "the ingress network has no names", who: "published", ask: "st_api A", want: "10.0.1.3" },
  { rule: "case and final dot do not matter", who: "red", ask: "WEB. A", want: "10.0.1.10 10.0.1.11" },
  { rule: "a name may end in its network", who: "red", ask: "web.red A", want: "10.0.1.10 10.0.1.11" },
  { rule: "but not in another's", who: "red", ask: "web.blue A", want: "elsewhere" },
  {
    rule: "a task on two networks hears of both",
    who: "both",
    ask: "web A",
    want: "10.0.1.10 10.0.1.11 10.0.2.10",
  },
  { rule: "or of the one it names", who: "both", ask: "web.blue A", want: "10.0.2.10" },
  {
    rule: "a task's name is that task, serving or not",
    who: "red",
    ask: "st_web.1.t12 A",
    want: "10.0.1.12",
  },
  { rule: "a host name of this host's task", who: "red", ask: "myself A", want: "10.0.1.10" },
  { rule: "no IPv6: the name exists without such a record", who: "red", ask: "web AAAA", want: "empty" },
  { rule: "nothing serving: the name exists without a record", who: "red", ask: "st_idle A", want: "empty" },
  {
    rule: "a name of another network is unknown here",
    who: "red",
    ask: "st_db A",
    want: "elsewhere, single label",
  },
  { rule: "other names are asked for outside", who: "red", ask: "example.org A", want: "elsewhere" },
  { rule: "on internal networks nothing is", who: "inside", ask: "example.org A", want: "unknown" },
  {
    rule: "the host's bridge knows no services",
    who: "bridge",
    ask: "web A",
    want: "elsewhere, single label",
  },
  { rule: "an address is its task", who: "red", ask: "10.1.0.10.in-addr.arpa PTR", want: "st_web.1.t10.red" },
  {
    rule: "an address of ours that nobody has",
    who: "red",
    ask: "99.1.0.10.in-addr.arpa PTR",
    want: "unknown",
  },
  { rule: "an address of another network", who: "red", ask: "10.2.0.10.in-addr.arpa PTR", want: "elsewhere" },
] as const;

for (const { rule, who, ask, want } of cases) {
  t.test(`${rule}: ${who} asks ${ask}`, (t) => {
    const [name = "", type = ""] = ask.split(" ");
    const answer = answerQuestion(table, askers[who] ?? onRed, { name, type });
    const printed =
      answer.kind === "addresses"
        ? answer.addresses.join(" ")
        : answer.kind === "name"
          ? answer.name
          : answer.kind === "elsewhere" && answer.singleLabel
            ? "elsewhere, single label"
            : answer.kind;
    t.equal(printed, want);
    t.end();
  });
}

t.test("on a network with IPv6 names have both families, and addresses of both have names", (t) => {
  const dual = { ...red, ipv6: { subnet: "fd00:1::/64" } };
  const local = (name: string, ...addresses: string[]) =>
    addresses.map((address) => ({ networkId: red.id, name, address }));
  const names = buildNames({ networks: [dual], endpoints: [], services: [] }, [
    ...local("web", "10.0.1.5", "fd00:1::5"),
    ...local("www", "10.0.1.5", "fd00:1::5"),
    ...local("old", "10.0.1.6"),
  ]);
  const ask = (name: string, type: string) => answerQuestion(names, onRed, { name, type });
  t.strictSame(ask("www", "AAAA"), { kind: "addresses", addresses: ["fd00:1::5"] });
  t.strictSame(ask("web", "A"), { kind: "addresses", addresses: ["10.0.1.5"] });
  t.strictSame(ask("old", "AAAA"), { kind: "empty" });
  const reversed = (last: string) => `${last}.0.0.0.${"0.".repeat(20)}1.0.0.0.0.0.d.f.ip6.arpa`;
  t.strictSame(ask(reversed("5"), "PTR"), { kind: "name", name: "web.red" });
  t.strictSame(ask(reversed("6"), "PTR"), { kind: "unknown" });
  t.match(ask(reversed("5").replace("d.f.", "e.f."), "PTR"), { kind: "elsewhere" });
  t.match(ask(`0.${reversed("5")}`, "PTR"), { kind: "elsewhere" }, "33 digits are no address");
  t.end();
});

t.test("services, their tasks and aliases are answered in the families that they have", (t) => {
  const further = [{ subnet: "fd00:1::/64", gateway: "fd00:1::1" }];
  const web = { ...endpoint(red, "st_web", "10.0.1.10"), ipv6: "fd00:1::10" };
  const idle = { ...endpoint(red, "st_web", "10.0.1.11"), ipv6: "fd00:1::11", serving: false };
  const service = { networkId: red.id, serviceId: "v", serviceName: "shop", aliases: ["till"] };
  const names = buildNames(
    {
      networks: [{ ...red, further }],
      endpoints: [web, idle],
      services: [
        { ...service, address: "10.0.1.3", ipv6: "fd00:1::3", ports: [], localFirst: false, within: [] },
      ],
    },
    [],
  );
  const ask = (name: string, type: string) => answerQuestion(names, onRed, { name, type });
  for (const [name, type, addresses] of [
    ["web", "AAAA", ["fd00:1::10"]],
    ["tasks.st_web", "AAAA", ["fd00:1::10"]],
    ["tasks.st_web", "A", ["10.0.1.10"]],
    ["shop", "AAAA", ["fd00:1::3"]],
    ["till.red", "AAAA", ["fd00:1::3"]],
    ["till", "A", ["10.0.1.3"]],
  ] as const)
    t.strictSame(ask(name, type), { kind: "addresses", addresses }, `${name} ${type}`);
  const reversed = `0.1.0.0.${"0.".repeat(20)}1.0.0.0.0.0.d.f.ip6.arpa`;
  t.match(ask(reversed, "PTR"), { kind: "name", name: /\.red$/ });
  t.end();
});

t.test("addresses of every subnet of a network have their names", (t) => {
  const wide = { ...red, further: [{ subnet: "10.9.0.0/16", gateway: "10.9.0.1" }] };
  const far = endpoint(wide, "far", "10.9.3.5");
  const names = buildNames({ networks: [wide], endpoints: [far], services: [] }, []);
  const asker: Asker = { networks: [red.id], nameservers: [], outside: true, links: new Map() };
  t.match(answerQuestion(names, asker, { name: "5.3.9.10.in-addr.arpa", type: "PTR" }), { kind: "name" });
  t.match(answerQuestion(names, asker, { name: "6.3.9.10.in-addr.arpa", type: "PTR" }), { kind: "unknown" });
  t.match(answerQuestion(names, asker, { name: "6.3.8.10.in-addr.arpa", type: "PTR" }), {
    kind: "elsewhere",
  });
  t.end();
});

t.test(
  "what was told and is withdrawn may be used until the answer is too old; what nobody asked for, not at all",
  (t) => {
    const told = new ToldAddresses(2_000);
    told.note(["10.0.1.5", "10.0.1.6"], 1_000);
    told.withdraw(["10.0.1.7"], 1_500);
    t.equal(told.heldMs(1_500), 0);
    told.note(["10.0.1.5"], 2_000);
    told.withdraw(["10.0.1.5"], 2_500);
    t.equal(told.heldMs(2_500), 1_500);
    told.withdraw(["10.0.1.6"], 2_600);
    t.equal(told.heldMs(2_600), 1_400, "the longest counts");
    t.equal(told.heldMs(4_000), 0);
    told.withdraw(["10.0.1.6"], 3_001);
    t.equal(told.heldMs(4_000), 0, "too old by then");
    t.end();
  },
);
