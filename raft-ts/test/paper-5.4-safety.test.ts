import t from "tap";
import { MemoryStorage, RaftNode, bootstrapEntry } from "../src/index.ts";
import { Group, append, voteRequest } from "./group.ts";

const restriction = [
  { name: "the same log", own: "1,2", asked: { index: 3, term: 2 }, want: true },
  { name: "a longer log of the same term", own: "1,2", asked: { index: 4, term: 2 }, want: true },
  { name: "a shorter log of the same term", own: "1,2,2", asked: { index: 3, term: 2 }, want: false },
  { name: "a later term, though shorter", own: "1,2,2,2", asked: { index: 2, term: 3 }, want: true },
  { name: "an earlier term, though longer", own: "1,2", asked: { index: 9, term: 1 }, want: false },
] as const;

for (const type of ["vote", "pre-vote"] as const) {
  for (const { name, own, asked, want } of restriction) {
    t.test(`§5.4.1: a ${type} is ${want ? "given to" : "kept from"} a candidate with ${name}`, (t) => {
      const group = new Group(`a:${own} b c`);
      const request = voteRequest({ from: "b", to: "a", term: 7 }, asked, type);
      t.match(group.say(request), [{ type: `${type}-reply`, granted: want }]);
      t.end();
    });
  }
}

t.test("§5.4.1: a refused candidate takes the asked one's term along, but not its vote", (t) => {
  const group = new Group("a:1,2 b c");
  group.say(voteRequest({ from: "b", to: "a", term: 7 }, { index: 1, term: 1 }));
  t.match(group.say(voteRequest({ from: "c", to: "a", term: 7 }, { index: 3, term: 2 })), [
    { granted: true },
  ]);
  t.end();
});

t.test("figure 8: an entry of an old term on a majority is not committed by counting", (t) => {
  // (c): s1 leads in term 4 and has brought the entry of term 2 to a majority; s5 still has its own of term 3.
  const group = new Group("s1:2 s2:2 s3:1 s4:1 s5:3");
  // s1 came back as the leader of term 4: s2, s3, s4 elected it.
  group.cut("s5", "s1 s2 s3 s4").elect("s1");
  const s1 = group.get("s1").node;
  t.equal(s1.status().role, "leader");
  t.equal(group.commit("s1"), 3, "with an entry of its own on a majority (e), both are");
  t.end();
});

t.test("figure 8: (c) and (d), where the leader crashes before an entry of its own spreads", (t) => {
  const group = new Group("s1:2 s2:2 s3 s4 s5:3");
  const s1 = group.get("s1").node;
  // s3 and s4 vote, and the wire then carries no more than the old entry to s3.
  s1.campaign();
  group.work().drop();
  for (const from of ["s2", "s3", "s4"]) {
    group.say({ type: "pre-vote-reply", from, to: "s1", term: s1.status().term + 1, granted: true });
  }
  group.drop();
  const term = s1.status().term;
  for (const from of ["s2", "s3"]) group.say({ type: "vote-reply", from, to: "s1", term, granted: true });
  group.drop();
  t.equal(group.role("s1"), "leader");
  const accepted = {
    type: "append-reply",
    to: "s1",
    term,
    rejected: false,
    hintIndex: 0,
    hintTerm: 0,
  } as const;
  group.say({ ...accepted, from: "s2", index: 2 });
  group.say({ ...accepted, from: "s3", index: 2 });
  t.equal(group.commit("s1"), 1, "on three of five, and not committed");
  group.get("s1").crash();
  // (d): s5 can win with the votes of s3 and s4, and overwrites it: nobody was told that it was safe.
  group.drop().cut("s5", "s1 s2");
  for (const id of ["s3", "s4"]) group.tick(id, 16);
  group.drop().elect("s5");
  t.equal(group.role("s5"), "leader");
  t.equal(group.terms("s3"), group.terms("s5"));
  t.equal(group.commit("s3"), 3);
  t.end();
});

t.test("leader completeness: whoever wins holds what was committed", (t) => {
  for (const first of ["b", "c", "d", "e"]) {
    const group = new Group("a b c d e").elect("a").cut("a b c", "d e");
    group.propose("a", "x");
    group.settle();
    group.get("a").crash();
    group.heal().drop();
    for (const id of ["b", "c", "d", "e"]) group.tick(id, 8);
    group.drop().sent.length = 0;
    group.elect(first);
    const refused = group.sentOf("pre-vote-reply").some(({ granted }) => !granted);
    t.equal(refused, first === "d" || first === "e", `${first} is refused if it lacks the entry`);
    t.equal(group.role(first), "leader", "and asks again with what it was given");
    t.match(group.entries(first), /3\/2:x/);
  }
  t.end();
});

t.test("a second leader of the same term stops the member that sees it", (t) => {
  const group = new Group("a b c").elect("a");
  const term = group.term("a");
  t.throws(() => group.say(append({ from: "b", to: "a", term }, { index: 1, term: 1 }, [])), {
    name: "RaftInvariantError",
    message: /two leaders/,
  });
  t.end();
});

t.test("committed entries are never replaced: whoever asks for it is no leader of this group", (t) => {
  const group = new Group("a b c").elect("a");
  const data = new Uint8Array();
  const other = { term: 9, index: 2, kind: "data" as const, data };
  group.say(append({ from: "b", to: "c", term: 9 }, { index: 1, term: 1 }, [other]));
  t.equal(group.terms("c"), "1 2", "an old message: what is committed matches");
  t.end();
});

t.test(
  "a member whose disk was set back to an earlier day stops at the leader's first word, and says why",
  (t) => {
    const storage = new MemoryStorage();
    storage.append([bootstrapEntry({ voters: ["a", "b", "c"], outgoing: [], learners: [], contexts: {} })]);
    storage.setHardState({ term: 1, vote: undefined, commit: 1 });
    const node = new RaftNode({ id: "b", storage, random: () => 0 });
    t.throws(
      // A leader tells each member no more than it has acknowledged: this one had five entries.
      () => node.step({ type: "heartbeat", from: "a", to: "b", term: 1, commit: 5, round: 0 }),
      {
        name: "RaftInvariantError",
        message: /acknowledged entries it no longer has; .* join as a new member/,
      },
    );
    t.end();
  },
);
