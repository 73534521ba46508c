import t from "tap";
import { resolveAddresses } from "../../manager/addresses.ts";

const one = {
  lo: [{ address: "127.0.0.1", family: "IPv4", internal: true }],
  eth0: [
    { address: "fe80::1", family: "IPv6", internal: false },
    { address: "10.0.0.5", family: "IPv4", internal: false },
  ],
} as const;
const two = { ...one, eth1: [{ address: "192.168.1.5", family: "IPv4", internal: false }] } as const;

const cases = [
  {
    name: "nothing said, one address",
    listen: "",
    advertise: "",
    data: "",
    on: one,
    want: "0.0.0.0:2377 10.0.0.5:2377 10.0.0.5",
  },
  {
    name: "docker's default",
    listen: "0.0.0.0:2377",
    advertise: "",
    data: "",
    on: one,
    want: "0.0.0.0:2377 10.0.0.5:2377 10.0.0.5",
  },
  {
    name: "an address to listen on is advertised",
    listen: "192.168.1.5:4000",
    advertise: "",
    data: "",
    on: two,
    want: "192.168.1.5:4000 192.168.1.5:4000 192.168.1.5",
  },
  {
    name: "advertised address without port",
    listen: "0.0.0.0:4000",
    advertise: "10.0.0.5",
    data: "",
    on: two,
    want: "0.0.0.0:4000 10.0.0.5:4000 10.0.0.5",
  },
  {
    name: "advertised port of its own",
    listen: "",
    advertise: "1.2.3.4:5000",
    data: "",
    on: two,
    want: "0.0.0.0:2377 1.2.3.4:5000 1.2.3.4",
  },
  {
    name: "interfaces",
    listen: "eth0:2377",
    advertise: "eth1",
    data: "eth0",
    on: two,
    want: "10.0.0.5:2377 192.168.1.5:2377 10.0.0.5",
  },
] as const;

for (const { name, listen, advertise, data, on, want } of cases) {
  t.test(name, (t) => {
    const request = { listenAddress: listen, advertiseAddress: advertise, dataPathAddress: data };
    const { listenAddress, advertiseAddress, dataPathAddress } = resolveAddresses(request, on);
    t.equal(`${listenAddress} ${advertiseAddress} ${dataPathAddress}`, want);
    t.end();
  });
}

const refused = [
  {
    name: "several addresses",
    listen: "",
    advertise: "",
    on: two,
    text: /could not choose an IP address.*10\.0\.0\.5 on eth0 and 192\.168\.1\.5 on eth1/,
  },
  {
    name: "none at all",
    listen: "",
    advertise: "",
    on: { lo: one.lo },
    text: /could not find the system's IP address/,
  },
  { name: "no such interface", listen: "", advertise: "eth9", on: one, text: /eth9/ },
  { name: "the wildcard", listen: "", advertise: "0.0.0.0", on: one, text: /must be a non-zero IP address/ },
] as const;

for (const { name, listen, advertise, on, text } of refused) {
  t.test(`refused: ${name}`, (t) => {
    const request = { listenAddress: listen, advertiseAddress: advertise, dataPathAddress: "" };
    t.throws(() => resolveAddresses(request, on), { code: "invalid-argument", message: text });
    t.end();
  });
}
