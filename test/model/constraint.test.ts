import t from "tap";
import { isKnownKey, nodeMeets, parseConstraint } from "../../model/constraint.ts";
import { nodeObject } from "../sim/objects.ts";

const parsed = [
  { text: "node.id==abc", want: "node.id==abc" },
  { text: "  node.labels.Zone  !=  east 1 ", want: "node.labels.Zone!=east 1" },
  { text: "node.ip==10.0.0.0/8", want: "node.ip==10.0.0.0/8" },
  { text: "engine.labels.a_b-c.d==x*y", want: "engine.labels.a_b-c.d==x*y" },
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
  { text: "node.unknown==x", want: false },
  { text: "node.unknown!=x", want: false },
] as const;

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
