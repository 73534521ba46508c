import t from "tap";
import { overlaps, parseCidr, parseIp, printCidr, printIp, type CidrBlock } from "../../model/address.ts";

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
  const v6 = parseIp("fd00::1:2");
  t.equal(v6 === undefined ? "" : printIp(v6), "fd00:0:0:0:0:0:1:2");
  t.end();
});

t.test("blocks overlap when one holds the other", (t) => {
  t.ok(overlaps(cidr("10.0.0.0/8"), cidr("10.3.0.0/24")));
  t.ok(overlaps(cidr("10.3.0.0/24"), cidr("10.0.0.0/8")));
  t.notOk(overlaps(cidr("10.0.0.0/24"), cidr("10.0.1.0/24")));
  t.notOk(overlaps(cidr("::/0"), cidr("10.0.1.0/24")));
  t.end();
});
