import t from "tap";

import { parseCreate } from "../../../worker/containers/config.ts";
import { endpointsOf, ranksOf } from "../../../worker/containers/connections.ts";
import { checkEndpoint, namesOn, parseLink, plainEndpoint } from "../../../worker/containers/endpoints.ts";
import { portBindings } from "../../../worker/containers/ports.ts";
import { validate } from "../../../worker/containers/validate.ts";

const facts = {
  cpuCount: 2,
  lastCapability: 40,
  swapLimit: true,
  cgroupVersion: 2 as const,
  blockWeight: true,
  memoryNodes: 1,
};

function create(body: object) {
  return parseCreate({ Image: "i", ...body });
}

t.test("the network of its mode comes first, whatever the client calls it", (t) => {
  const config = { default: { GwPriority: 1 }, other: null };
  const plain = create({ NetworkingConfig: { EndpointsConfig: config }, MacAddress: "02:00:00:00:00:01" });
  t.strictSame(Object.keys(plain.endpoints), ["bridge", "other"]);
  t.match(plain.endpoints["bridge"], { GwPriority: 1, MacAddress: "02:00:00:00:00:01" });
  const own = create({
    HostConfig: { NetworkMode: "net" },
    NetworkingConfig: { EndpointsConfig: { a: {}, net: {} } },
  });
  t.strictSame(Object.keys(own.endpoints), ["net", "a"]);
  for (const mode of ["host", "none", "container:x"]) {
    t.strictSame(create({ HostConfig: { NetworkMode: mode } }).endpoints, {}, mode);
  }
  t.end();
});

t.test("who names networks is on these alone, whatever the mode", (t) => {
  const MacAddress = "02:00:00:00:00:01";
  const named = create({
    NetworkingConfig: { EndpointsConfig: { a: { Aliases: ["x"] }, b: {} } },
    MacAddress,
  });
  t.strictSame(Object.keys(named.endpoints), ["a", "b"]);
  t.match(named.endpoints["a"], { Aliases: ["x"], MacAddress });
  t.match(named.endpoints["b"], { MacAddress: "" });
  const other = create({
    HostConfig: { NetworkMode: "bridge" },
    NetworkingConfig: { EndpointsConfig: { a: {} } },
  });
  t.strictSame(Object.keys(other.endpoints), ["a"]);
  t.strictSame(Object.keys(create({ NetworkingConfig: { EndpointsConfig: {} } }).endpoints), ["bridge"]);
  t.end();
});

t.test("a network that is called by its id and by its name is one", (t) => {
  const nameOf = (term: string): string => (term === "1d" ? "net" : term);
  const MacAddress = "02:00:00:00:00:01";
  for (const [mode, key] of [
    ["1d", "net"],
    ["net", "1d"],
  ] as const) {
    const NetworkingConfig = { EndpointsConfig: { a: {}, [key]: { Aliases: ["x"] } } };
    const body = { Image: "i", HostConfig: { NetworkMode: mode }, NetworkingConfig, MacAddress };
    const { endpoints } = parseCreate(body, nameOf);
    t.strictSame(Object.keys(endpoints), ["net", "a"], mode);
    t.match(endpoints["net"], { Aliases: ["x"], MacAddress });
  }
  t.end();
});

t.test("records from before there were networks are on that of their mode", (t) => {
  const { config, hostConfig } = create({});
  const record = {
    id: "c",
    name: "n",
    config,
    hostConfig,
    wantsToRun: true,
    restartCount: 0,
    restartDelayMs: 0,
  };
  t.strictSame(endpointsOf(record), { bridge: plainEndpoint });
  t.strictSame(endpointsOf({ ...record, hostConfig: { ...hostConfig, NetworkMode: "host" } }), {});
  t.end();
});

const own = { subnet: "10.1.0.0/24", ownSubnet: true };
const sixth = { subnet: "fd00:1::/64", gateway: "fd00:1::1", ownSubnet: true, auxiliary: {} };
const refusals = [
  [
    "bridge",
    { IPv4Address: "172.17.0.9" },
    undefined,
    "user specified IP address is supported on user defined networks only",
  ],
  [
    "bridge",
    { Aliases: ["a"] },
    undefined,
    "network-scoped alias is supported only for containers in user defined networks",
  ],
  ["net", { IPv4Address: "nine" }, undefined, "invalid IPv4 address: nine"],
  ["net", { IPv4Address: "0.0.0.0" }, own, "invalid IPv4 address: 0.0.0.0"],
  ["net", { IPv6Address: "1.2.3.4" }, undefined, "invalid IPv6 address: 1.2.3.4"],
  [
    "net",
    { IPv6Address: "fd00:1::9" },
    own,
    "user specified IP address is supported only when connecting to networks with user configured subnets",
  ],
  [
    "net",
    { IPv6Address: "fd00:2::9" },
    { ...own, ipv6: sixth },
    "no configured subnet or ip-range contain the IP address fd00:2::9",
  ],
  [
    "net",
    { IPv6Address: "fd00:1::9" },
    { ...own, ipv6: { ...sixth, ownSubnet: false } },
    "user specified IP address is supported only when connecting to networks with user configured subnets",
  ],
  ["net", { LinkLocalIPs: ["x"] }, undefined, "invalid link-local IP address: x"],
  [
    "net",
    { IPv4Address: "10.2.0.9" },
    own,
    "no configured subnet or ip-range contain the IP address 10.2.0.9",
  ],
  [
    "net",
    { IPv4Address: "10.1.0.9" },
    { ...own, ownSubnet: false },
    "user specified IP address is supported only when connecting to networks with user configured subnets",
  ],
] as const;

for (const [name, more, network, text] of refusals) {
  t.test(`refused on ${name}: ${text}`, (t) => {
    t.throws(() => checkEndpoint(name, { ...plainEndpoint, ...more }, network), {
      code: "invalid-argument",
      message: `invalid endpoint settings:\n${text}`,
    });
    t.end();
  });
}

t.test("several problems are a list; a create says which network", (t) => {
  const endpoint = { ...plainEndpoint, IPv4Address: "10.1.0.9", Aliases: ["a"] };
  t.throws(() => checkEndpoint("bridge", endpoint, undefined), {
    message: /\n\* user specified.*\n\* network-scoped/,
  });
  for (const mac of ["01:00:00:00:00:01", "nonsense", "02:00:00:00:00"]) {
    t.throws(() => checkEndpoint("net", { ...plainEndpoint, MacAddress: mac }, undefined), {
      message: `invalid MAC address ${mac}`,
    });
  }
  const asked = create({
    NetworkingConfig: { EndpointsConfig: { bridge: { IPAMConfig: { IPv4Address: "10.1.0.9" } } } },
  });
  t.throws(() => validate(asked, facts), {
    message:
      "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
  });
  checkEndpoint("net", { ...plainEndpoint, IPv4Address: "10.1.0.9" }, own);
  checkEndpoint("net", { ...plainEndpoint, IPv6Address: "fd00:1:0::9" }, { ...own, ipv6: sixth });
  t.end();
});

t.test("names, links, and which network takes what is for nowhere else", (t) => {
  const identity = { id: "0123456789abcdef", name: "web", hostname: "0123456789ab" };
  t.strictSame(namesOn(identity, { Aliases: ["www", "web"] }), ["web", "www", "0123456789ab"]);
  t.strictSame(parseLink("/db:data"), { name: "db", alias: "data" });
  t.strictSame(parseLink("db"), { name: "db", alias: "db" });
  t.throws(() => parseLink("a:b:c"), { message: "bad format for links: a:b:c" });
  const ranks = ranksOf({ b: plainEndpoint, a: plainEndpoint, c: { ...plainEndpoint, GwPriority: 5 } });
  t.strictSame(
    ["a", "b", "c"].toSorted((one, other) => (ranks.get(other) ?? 0) - (ranks.get(one) ?? 0)),
    ["c", "a", "b"],
  );
  t.end();
});

t.test("ports: addresses of either family, ranges, and what is exposed", (t) => {
  const { config, hostConfig } = create({
    ExposedPorts: { "53/udp": {}, "80/tcp": {} },
    HostConfig: {
      PublishAllPorts: true,
      PortBindings: {
        "80/tcp": [
          { HostPort: "8080" },
          { HostIp: "127.0.0.1", HostPort: "81-90" },
          { HostIp: "::1", HostPort: "" },
        ],
      },
    },
  });
  const common = { protocol: "tcp", targetPort: 80, publishMode: "host" } as const;
  t.strictSame(portBindings(config, hostConfig), [
    { ...common, publishedPort: 8080, ipv6: true },
    { ...common, publishedPort: 81, publishedEnd: 90, hostAddress: "127.0.0.1" },
    { ...common, publishedPort: 0, hostAddress: "::1" },
    { ...common, protocol: "udp", targetPort: 53, publishedPort: 0, ipv6: true },
  ]);
  const refused = (HostIp: string, HostPort: string) =>
    portBindings(config, { ...hostConfig, PortBindings: { "80/tcp": [{ HostIp, HostPort }] } });
  t.throws(() => refused("nowhere", "1"), { message: "invalid IP address: nowhere" });
  t.throws(() => refused("", "9-1"), { message: 'invalid port specification: "9-1"' });
  t.throws(() => refused("", "70000"), { code: "invalid-argument" });
  t.end();
});
