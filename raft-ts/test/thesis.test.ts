import t from "tap";
import { Group, voteRequest } from "./group.ts";

t.test("§3.10: leadership goes to a target that is caught up, without a wait and despite the lease", (t) => {
  const group = new Group("a b c").elect("a");
  group.sent.length = 0;
  t.equal(group.get("a").node.transferLeadership("b").kind, "accepted");
  group.settle();
  t.equal(group.role("b"), "leader");
  t.equal(group.role("a"), "follower");
  t.match(group.sentOf("vote"), [{ transfer: true }, { transfer: true }]);
  t.equal(group.sentOf("pre-vote").length, 0);
  t.end();
});

t.test("§3.10: a target that is behind is caught up first, and told only then", (t) => {
  const group = new Group("a b c").elect("a").cut("a", "c");
  for (const text of ["x", "y"]) group.propose("a", text);
  group.settle();
  group.get("a").node.transferLeadership("c");
  group.settle();
  t.equal(group.sentOf("timeout-now").length, 0);
  group.heal();
  for (let at = 0; at < 4; at += 1) group.tick("a").settle();
  t.equal(group.role("c"), "leader");
  t.match(group.entries("c"), /4\/2:y 5\/3:empty$/);
  t.end();
});

t.test("§3.10: meanwhile nothing is taken on, and after an election timeout the leader goes on", (t) => {
  const group = new Group("a b c").elect("a").cut("a", "c");
  group.propose("a", "x");
  group.settle();
  const { node } = group.get("a");
  node.transferLeadership("c");
  t.match(group.propose("a", "y"), { reason: "transferring", text: "leadership is being handed to c" });
  t.match(node.proposeConfChange({ kind: "remove", id: "b" }), { reason: "transferring" });
  for (let at = 0; at < 7; at += 1) group.tick("a").settle();
  t.equal(node.status().transferTo, "c");
  group.tick("a").settle();
  t.equal(node.status().transferTo, undefined);
  t.equal(group.propose("a", "y").kind, "accepted");
  t.end();
});

const targets = [
  { name: "itself", to: "a", want: "accepted" },
  { name: "a stranger", to: "z", want: "invalid-change" },
  { name: "a learner", to: "l", want: "invalid-change" },
] as const;

for (const { name, to, want } of targets) {
  t.test(`§3.10: handing over to ${name}: ${want}`, (t) => {
    const group = new Group("a b").elect("a");
    group.add("l");
    group.get("a").node.proposeConfChange({ kind: "add-learner", id: "l", context: "" });
    group.settle();
    const result = group.get("a").node.transferLeadership(to);
    t.equal(result.kind === "refused" ? result.reason : result.kind, want);
    group.settle();
    t.equal(group.role("a"), "leader");
    t.end();
  });
}

t.test("§4.2.1: a learner counts neither for commits nor for votes, and never stands", (t) => {
  const group = new Group("a b c").elect("a");
  for (const id of ["d", "e"]) {
    group.add(id);
    group.get("a").node.proposeConfChange({ kind: "add-learner", id, context: "" });
    group.settle();
  }
  group.cut("a d e", "b c");
  const before = group.commit("a");
  group.propose("a", "x");
  group.settle();
  t.equal(group.commit("a"), before, "one voter of three has it");
  group.tick("d", 40);
  t.equal(group.role("d"), "follower");
  t.equal(group.sentOf("pre-vote").filter(({ from }) => from === "d").length, 0);
  group.sent.length = 0;
  t.equal(group.get("d").node.status().configuration.learners.includes("d"), true);
  t.end();
});

t.test("§4.2.1: whoever is no voter in its own eyes votes all the same: the asker may know better", (t) => {
  const group = new Group("a b").elect("a");
  group.add("l");
  group.get("a").node.proposeConfChange({ kind: "add-learner", id: "l", context: "" });
  group.settle();
  group.tick("l", 20);
  const request = voteRequest({ from: "b", to: "l", term: 5 }, { index: 9, term: 4 });
  t.match(group.say(request), [{ type: "vote-reply", granted: true }]);
  t.end();
});

for (const [elapsed, answered] of [
  [7, false],
  [8, true],
] as const) {
  t.test(
    `§4.2.3: ${elapsed} of 8 ticks after the leader was heard, votes are ${answered ? "given" : "not"}`,
    (t) => {
      const group = new Group("a b c", { random: () => 7 }).elect("a");
      group.tick("b", elapsed);
      const request = voteRequest({ from: "c", to: "b", term: 3 }, { index: 9, term: 2 });
      t.equal(group.say(request).length, answered ? 1 : 0);
      t.equal(group.term("b"), answered ? 3 : 2);
      t.end();
    },
  );
}

t.test("§4.2.3: a leader that hears its quorum does not listen to candidates either", (t) => {
  const group = new Group("a b c").elect("a");
  group.say(voteRequest({ from: "c", to: "a", term: 30 }, { index: 9, term: 2 }));
  t.equal(group.term("a"), 2);
  t.equal(group.role("a"), "leader");
  t.end();
});

t.test(
  "§9.6: a member that was cut off does not raise its term, and disturbs nobody when it is back",
  (t) => {
    const group = new Group("a b c").elect("a").cut("c", "a b");
    for (let at = 0; at < 100; at += 1) group.rounds(1);
    t.equal(group.term("c"), 2);
    t.equal(group.role("c"), "pre-candidate");
    group.heal();
    for (let at = 0; at < 10; at += 1) group.rounds(1);
    t.equal(group.role("a"), "leader");
    t.equal(group.term("a"), 2);
    t.equal(group.role("c"), "follower");
    t.end();
  },
);

t.test("§9.6: a pre-vote is no vote: one may be given to several, and again after a vote", (t) => {
  const group = new Group("a b c");
  const last = { index: 1, term: 1 };
  for (const from of ["b", "c", "b"]) {
    const request = voteRequest({ from, to: "a", term: 2 }, last, "pre-vote");
    t.match(group.say(request), [{ type: "pre-vote-reply", term: 2, granted: true }]);
  }
  t.strictSame(group.get("a").storage.initialState(), { term: 1, vote: undefined, commit: 1 });
  t.end();
});

t.test("§10.2.1: the leader's own disk is one of the quorum, not a step before it", (t) => {
  const group = new Group("a b c").elect("a");
  const { node } = group.get("a");
  group.propose("a", "x");
  const { write, messages } = node.ready();
  t.match(messages, [
    { type: "append", to: "b" },
    { type: "append", to: "c" },
  ]);
  const accepted = { type: "append-reply", to: "a", term: 2, index: 3, rejected: false } as const;
  node.step({ ...accepted, from: "b", hintIndex: 0, hintTerm: 0 });
  t.equal(node.status().commit, 2, "one durable copy of three");
  node.step({ ...accepted, from: "c", hintIndex: 0, hintTerm: 0 });
  t.equal(node.status().commit, 3, "two, without its own");
  t.strictSame(node.ready().committed, [], "and yet it applies only what is durable here");
  t.ok(write);
  t.end();
});
