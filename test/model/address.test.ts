import t from "tap";
import {
  canonicalIp,
  hostOf,
  joinHostPort,
  overlaps,
  parseCidr,
  parseIp,
  printCidr,
  printIp,
  splitHostPort,
  withPort,
  type CidrBlock,
} from "../../model/address.ts";

function cidr(text: string): CidrBlock {
  const block = parseCidr(text);
  if (block === undefined) throw new Error(`not a block: ${text}`);
  return block;
}

t.test("addresses and blocks read and print", (t) => {
  for (const bad of [
    "",
    "1.2.3",
    "1.2.3.256",
    "01.2.3.4",
    "1.2.3.4.5",
    ":::",
    "1::2::3",
    "12345::",
    "1:2:3:4:5:6:7",
  ]) {
    t.equal(parseIp(bad), undefined, bad);
  }
  for (const bad of ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/8/8", "x/8", "10.0.0.0/-1"])
    t.equal(parseCidr(bad), undefined, bad);
  t.equal(printCidr(cidr("10.1.2.3/16")), "10.1.0.0/16", "host bits go");
  t.end();
});

t.test("IPv6 is printed as RFC 5952 says", (t) => {
  for (const [text, wanted] of [
    ["fd00:0:0:0:0:0:1:2", "fd00::1:2"],
    ["FD00::00AB", "fd00::ab"],
    ["0:0:0:0:0:0:0:0", "::"],
    ["::1", "::1"],
    ["1::", "1::"],
    ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["0:0:3:4:5:6:0:0", "::3:4:5:6:0:0"],
  ] as const) {
    const address = parseIp(text);
    t.equal(address && printIp(address), wanted, text);
  }
  t.equal(printCidr(cidr("fd00:1::5/64")), "fd00:1::/64");
  t.equal(canonicalIp("0::1/64"), "::1/64");
  t.equal(canonicalIp("10.0.0.1"), "10.0.0.1");
  t.equal(canonicalIp("what"), "what");
  t.end();
});

t.test("blocks overlap when one holds the other", (t) => {
  t.ok(overlaps(cidr("10.0.0.0/8"), cidr("10.3.0.0/24")));
  t.ok(overlaps(cidr("10.3.0.0/24"), cidr("10.0.0.0/8")));
  t.notOk(overlaps(cidr("10.0.0.0/24"), cidr("10.0.1.0/24")));
  t.notOk(overlaps(cidr("::/0"), cidr("10.0.1.0/24")));
  t.end();
});

const hostPorts = [
  { text: "10.0.0.1:2377", want: { host: "10.0.0.1", port: 2377 } },
  { text: "manager.example:2377", want: { host: "manager.example", port: 2377 } },
  { text: "[fd00::1]:2377", want: { host: "fd00::1", port: 2377 } },
  { text: "[fd00::1]", want: { host: "fd00::1", port: Number.NaN } },
  { text: "fd00::1", want: { host: "fd00::1", port: Number.NaN } },
  { text: "::1", want: { host: "::1", port: Number.NaN } },
  { text: "10.0.0.1", want: { host: "10.0.0.1", port: Number.NaN } },
  { text: "", want: { host: "", port: Number.NaN } },
] as const;

t.test("a port is added only where there is none", (t) => {
  for (const [text, want] of [
    ["10.0.0.1", "10.0.0.1:2377"],
    ["10.0.0.1:4000", "10.0.0.1:4000"],
    ["fd00::1", "[fd00::1]:2377"],
    ["[fd00::1]", "[fd00::1]:2377"],
    ["[fd00::1]:4000", "[fd00::1]:4000"],
    ["manager.example", "manager.example:2377"],
  ] as const)
    t.equal(withPort(text, 2377), want, text);
  t.end();
});

t.test("host and port part; brackets belong to neither", (t) => {
  for (const { text, want } of hostPorts) {
    t.strictSame(splitHostPort(text), want, text);
    t.equal(hostOf(text), want.host, text);
    if (!Number.isNaN(want.port)) t.equal(joinHostPort(want.host, want.port), text);
  }
  t.end();
});
