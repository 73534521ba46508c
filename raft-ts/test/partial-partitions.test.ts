import t from "tap";
import { bytes, seededRandom } from "./cluster.ts";
import { Group } from "./group.ts";

/** Rounds are ticks; at the usual 50 ms a tick, 60 of them are three seconds. */
const bound = 60;

/** Links that are left, as pairs; everything else between the five is cut. */
function only(group: Group, links: string): void {
  group.heal();
  const kept = new Set(links.split(" "));
  const ids = [...group.members.keys()];
  for (const a of ids) {
    for (const b of ids) {
      if (a < b && !kept.has(`${a}${b}`)) group.cut(a, b);
    }
  }
}

/** Rounds until a proposal made at whoever leads is committed; `undefined` when none is within the bound. */
function roundsToWrite(group: Group): number | undefined {
  const start = Math.max(...[...group.members.values()].map(({ node }) => node.status().commit));
  for (let round = 1; round <= bound; round += 1) {
    group.rounds(1);
    for (const { node } of group.members.values()) {
      const { role, commit, term } = node.status();
      if (role !== "leader") continue;
      node.propose(bytes(`r${round}`));
      group.settle();
      if (node.status().commit > Math.max(start, commit) && node.status().term === term) return round;
    }
  }
  return undefined;
}

const shapes = [
  {
    name: "quorum loss: everyone reaches only the bridge c, and the leader is not it",
    leader: "a",
    before: "",
    links: "ac bc cd ce",
  },
  {
    name: "constrained election: the leader is gone, and the only one that reaches a majority is behind",
    leader: "a",
    before: "c",
    links: "bc cd ce",
  },
  {
    name: "constrained election where the only one that reaches a majority is not behind",
    leader: "a",
    before: "",
    links: "bc cd ce",
  },
  {
    name: "chained: a ring that lost one link, the leader at its end",
    leader: "a",
    before: "",
    links: "ab bc cd de",
  },
] as const;

for (const { name, leader, before, links } of shapes) {
  for (let seed = 1; seed <= 10; seed += 1) {
    t.test(`${name}: writes resume within ${bound} ticks, seed ${seed}`, (t) => {
      const group = new Group("a b c d e", { random: seededRandom(seed) }).elect(leader);
      if (before !== "") {
        // The bridge misses a few entries that the others commit.
        group.cut(before, "a b d e");
        for (const text of ["x", "y", "z"]) group.propose(leader, text);
        group.settle();
      }
      only(group, links);
      const rounds = roundsToWrite(group);
      t.ok(rounds !== undefined, `${rounds} rounds`);
      t.end();
    });
  }
}

t.test("what a refused candidate is given counts for nothing until a leader has checked it", (t) => {
  const group = new Group("a:2,2 b:2,2 c").cut("a", "b");
  group.get("c").node.campaign();
  group.work().settle();
  t.match(group.sentOf("catch-up"), [{ to: "c", prevIndex: 1, entries: [{ index: 2 }, { index: 3 }] }, {}]);
  t.match(group.entries("c"), /^1\/1:config 2\/2:2 3\/2:2/);
  const replies = group.sentOf("append-reply").filter(({ from, term }) => from === "c" && term <= 2);
  t.strictSame(replies, []);
  t.equal(group.role("c"), "leader", "and now it can be elected");
  t.end();
});

t.test("nobody who hears a leader takes entries from anybody else", (t) => {
  const group = new Group("a b c").elect("a");
  const entries = [{ term: 7, index: 3, kind: "data" as const, data: bytes("z") }];
  group.say({ type: "catch-up", from: "c", to: "b", term: 7, prevIndex: 2, prevTerm: 2, entries });
  t.equal(group.entries("b"), group.entries("a"));
  t.equal(group.term("b"), 2);
  t.end();
});

t.test("a catch-up replaces nothing: the leader of the term may count what is here", (t) => {
  const group = new Group("a:2,2 b:3 c");
  const before = { entries: group.entries("a"), term: group.term("a") };
  const entries = [
    { term: 3, index: 2, kind: "data" as const, data: bytes("y") },
    { term: 3, index: 3, kind: "data" as const, data: bytes("z") },
  ];
  group.say({ type: "catch-up", from: "b", to: "a", term: before.term, prevIndex: 1, prevTerm: 1, entries });
  t.strictSame({ entries: group.entries("a"), term: group.term("a") }, before);
  t.end();
});
