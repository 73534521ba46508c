import t from "tap";
import { isKnownKey, nodeMeets, parseConstraint } from "../../model/constraint.ts";
import { nodeObject } from "../sim/objects.ts";

const parsed = [
  { text: "node.id==abc", want: "node.id==abc" },
  { text: "  node.labels.Zone  !=  east 1 ", want: "node.labels.Zone!=east 1" },
  { text: "node.ip==10.0.0.0/8", want: "node.ip==10.0.0.0/8" },
  { text: "engine.labels.a_b-c.d==x*y", want: "engine.labels.a_b-c.d==x*y" },
  { text: "node.labels.A.b-c_d==Up/Down 1.2", want: "node.labels.A.b-c_d==Up/Down 1.2" },
  { text: "_private==x", want: "_private==x" },
  { text: "node.id== a b ", want: "node.id==a b" },
  { text: "node.id!=a==b", want: "key 'node.id!=a' is invalid" },
  { text: "n==a", want: "key 'n' is invalid" },
  { text: "node.id==#1", want: "value '#1' is invalid" },
  { text: "=", want: "constraint expected one operator from ==, !=" },
  { text: "", want: "constraint expected one operator from ==, !=" },
  { text: "node.id=abc", want: "constraint expected one operator from ==, !=" },
  { text: "node.id~abc", want: "constraint expected one operator from ==, !=" },
  { text: "==abc", want: "key '' is invalid" },
  { text: "1node==abc", want: "key '1node' is invalid" },
  { text: "no de==abc", want: "key 'no de' is invalid" },
  { text: "node.id==", want: "value '' is invalid" },
  { text: "node.id==a,b", want: "value 'a,b' is invalid" },
] as const;

for (const { text, want } of parsed) {
  t.test(`"${text}" reads as ${want}`, (t) => {
    let got: string;
    try {
      const { key, operator, value } = parseConstraint(text);
      got = `${key}${operator}${value}`;
    } catch (error) {
      got = (error as Error).message;
    }
    t.equal(got, want);
    t.end();
  });
}

const node = {
  ...nodeObject("host1", { spec: { labels: { Zone: "East" } } }),
  status: { state: "ready", message: "", address: "10.1.2.3" },
} as const;

const matched = [
  { text: "node.hostname==HOST1", want: true },
  { text: "node.hostname!=host2", want: true },
  { text: "node.role==worker", want: true },
  { text: "NODE.ROLE==manager", want: false },
  { text: "node.platform.os==linux", want: true },
  { text: "node.platform.arch==amd64", want: false },
  { text: "node.labels.Zone==east", want: true },
  { text: "node.labels.zone==east", want: false },
  { text: "node.labels.none==x", want: false },
  { text: "node.labels.none!=x", want: true },
  { text: "engine.labels.none!=x", want: true },
  { text: "node.ip==10.1.2.3", want: true },
  { text: "node.ip==10.1.0.0/16", want: true },
  { text: "node.ip!=10.1.0.0/16", want: false },
  { text: "node.ip==fd00::/8", want: false },
  { text: "node.ip!=nonsense", want: false },
  { text: "node.ip==10.1.2.300", want: false },
  { text: "node.ip!=10.1.2.0/33", want: false },
  { text: "node.ip!=10.1.2.4", want: true },
  { text: "node.id==HOST100000000000000000000", want: true },
  { text: "node.id!=host2", want: true },
  { text: "node.unknown==x", want: false },
  { text: "node.unknown!=x", want: false },
] as const;

const overSix = { ...node, status: { ...node.status, address: "fd00::12" } } as const;
const matchedOverSix = [
  { text: "node.ip==fd00::12", want: true },
  { text: "node.ip==FD00:0:0::0012", want: true },
  { text: "node.ip==fd00::/8", want: true },
  { text: "node.ip!=fd00::/8", want: false },
  { text: "node.ip==10.0.0.0/8", want: false },
] as const;
for (const { text, want } of matchedOverSix) {
  t.test(`${text} is ${want ? "met" : "not met"} by a node with an IPv6 address`, (t) => {
    t.equal(nodeMeets([text], overSix), want);
    t.end();
  });
}

t.test("a node that has not described itself has empty values", (t) => {
  const { description: _unknown, ...silent } = node;
  t.equal(nodeMeets(["node.hostname!=x", "node.platform.os!=linux", "engine.labels.a!=b"], silent), true);
  t.equal(nodeMeets(["node.platform.os==linux"], silent), false);
  t.end();
});

for (const { text, want } of matched) {
  t.test(`${text} is ${want ? "met" : "not met"}`, (t) => {
    t.equal(nodeMeets([text], node), want);
    t.end();
  });
}

t.test("all of several must be met; unknown keys can be told", (t) => {
  t.equal(nodeMeets(["node.role==worker", "node.labels.Zone==west"], node), false);
  t.equal(nodeMeets([], node), true);
  t.strictSame(["node.id", "node.labels.a", "node.labels.", "node.cpu"].map(isKnownKey), [
    true,
    true,
    false,
    false,
  ]);
  t.end();
});

t.test("a label that no node has is none, whatever every object of the language has by that name", (t) => {
  for (const name of ["constructor", "toString", "hasOwnProperty"]) {
    for (const key of [`node.labels.${name}`, `engine.labels.${name}`]) {
      t.equal(nodeMeets([`${key}==x`], nodeObject("host1")), false, key);
      t.equal(nodeMeets([`${key}!=x`], nodeObject("host1")), true, key);
    }
  }
  t.end();
});
