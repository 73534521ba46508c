import t from "tap";
import { Group, append, voteRequest } from "./group.ts";

const ids = ["a", "b", "c", "d", "e", "f", "g"];

t.test("a member starts as a follower, and stays one while it hears a leader", (t) => {
  const group = new Group("a b c");
  t.equal(group.role("a"), "follower");
  for (let at = 0; at < 20; at += 1) {
    group.tick("a", 7);
    group.say({ type: "heartbeat", from: "b", to: "a", term: 2, commit: 0, round: 0 });
  }
  t.equal(group.role("a"), "follower");
  t.equal(group.term("a"), 2);
  t.end();
});

t.test("a follower that hears nothing for an election timeout asks for pre-votes, then for votes", (t) => {
  const group = new Group("a b c");
  t.equal(group.tick("a", 7).role("a"), "follower");
  t.equal(group.tick("a").role("a"), "pre-candidate");
  t.equal(group.term("a"), 1);
  group.say({ type: "pre-vote-reply", from: "b", to: "a", term: 2, granted: true });
  t.equal(group.role("a"), "candidate");
  t.equal(group.term("a"), 2);
  t.match(group.sentOf("vote"), [{ to: "b" }, { to: "c" }]);
  t.equal(group.get("a").storage.initialState().vote, "a");
  t.end();
});

for (let jitter = 0; jitter < 8; jitter += 1) {
  t.test(`the wait is between one and two election timeouts: chance ${jitter} of 8`, (t) => {
    const group = new Group("a b c", { random: () => jitter });
    group.tick("a", 8 + jitter - 1);
    t.equal(group.role("a"), "follower");
    t.equal(group.tick("a").role("a"), "pre-candidate");
    t.end();
  });
}

const outcomes = [
  { size: 1, granted: 0, refused: 0, want: "leader" },
  { size: 2, granted: 0, refused: 0, want: "candidate" },
  { size: 2, granted: 1, refused: 0, want: "leader" },
  { size: 3, granted: 1, refused: 0, want: "leader" },
  { size: 3, granted: 0, refused: 1, want: "candidate" },
  { size: 3, granted: 0, refused: 2, want: "follower" },
  { size: 4, granted: 1, refused: 1, want: "candidate" },
  { size: 4, granted: 2, refused: 0, want: "leader" },
  { size: 4, granted: 1, refused: 2, want: "follower" },
  { size: 5, granted: 1, refused: 2, want: "candidate" },
  { size: 5, granted: 2, refused: 2, want: "leader" },
  { size: 5, granted: 1, refused: 3, want: "follower" },
  { size: 7, granted: 2, refused: 3, want: "candidate" },
  { size: 7, granted: 3, refused: 0, want: "leader" },
  { size: 7, granted: 2, refused: 4, want: "follower" },
] as const;

for (const { size, granted, refused, want } of outcomes) {
  t.test(`${granted} votes for and ${refused} against, of ${size} with its own, make a ${want}`, (t) => {
    const group = new Group(ids.slice(0, size).join(" "));
    group.get("a").node.campaign();
    group.work();
    const others = ids.slice(1, size);
    for (const from of others) group.say({ type: "pre-vote-reply", from, to: "a", term: 2, granted: true });
    const term = group.term("a");
    for (const [at, from] of others.slice(0, granted + refused).entries()) {
      group.say({ type: "vote-reply", from, to: "a", term, granted: at < granted });
    }
    t.equal(group.role("a"), want);
    t.end();
  });
}

t.test("the same vote counts once", (t) => {
  const group = new Group("a b c d e");
  group.get("a").node.campaign();
  group.work();
  for (const from of ["b", "c"]) {
    group.say({ type: "pre-vote-reply", from, to: "a", term: 2, granted: true });
  }
  for (let at = 0; at < 4; at += 1) {
    group.say({ type: "vote-reply", from: "b", to: "a", term: 2, granted: true });
  }
  t.equal(group.role("a"), "candidate");
  t.end();
});

const votes = [
  { name: "the first who asks gets it", before: undefined, from: "b", want: true },
  { name: "the same one gets it again: its request may be a repeat", before: "b", from: "b", want: true },
  { name: "nobody else does", before: "c", from: "b", want: false },
] as const;

for (const { name, before, from, want } of votes) {
  t.test(`one vote a term: ${name}`, (t) => {
    const group = new Group("a b c");
    const last = { index: 1, term: 1 };
    if (before !== undefined) group.say(voteRequest({ from: before, to: "a", term: 2 }, last));
    t.match(group.say(voteRequest({ from, to: "a", term: 2 }, last)), [
      { type: "vote-reply", granted: want },
    ]);
    t.end();
  });
}

for (const kind of ["pre-candidate", "candidate"] as const) {
  for (const [term, follows] of [
    [1, kind === "pre-candidate"],
    [2, true],
    [3, true],
  ] as const) {
    t.test(`a ${kind} ${follows ? "follows" : "does not follow"} a leader of term ${term}`, (t) => {
      const group = new Group("a b c");
      group.get("a").node.campaign();
      group.work();
      if (kind === "candidate") {
        group.say({ type: "pre-vote-reply", from: "b", to: "a", term: 2, granted: true });
      }
      group.say(append({ from: "c", to: "a", term }, { index: 1, term: 1 }, []));
      t.equal(group.role("a"), follows ? "follower" : kind);
      t.end();
    });
  }
}

t.test("a split vote is decided in a later term", (t) => {
  const group = new Group("a b c d");
  for (const id of ["a", "b"]) group.get(id).node.campaign();
  group.settle();
  // Whoever was first may have won; nobody leads in a term with anyone else.
  for (let round = 0; round < 40; round += 1) {
    group.rounds(1);
    const leaders = [...group.members.values()].filter(({ node }) => node.status().role === "leader");
    t.ok(new Set(leaders.map(({ node }) => node.status().term)).size === leaders.length);
  }
  t.equal([...group.members.values()].filter(({ node }) => node.status().role === "leader").length, 1);
  t.end();
});

t.test("a new leader speaks up at once, and at every heartbeat", (t) => {
  const group = new Group("a b c").elect("a");
  t.match(group.sentOf("append").slice(0, 2), [
    { to: "b", entries: [{ kind: "empty" }] },
    { to: "c", entries: [{ kind: "empty" }] },
  ]);
  group.sent.length = 0;
  group.tick("a");
  t.strictSame(group.sent, []);
  group.tick("a");
  t.match(group.sent, [
    { type: "heartbeat", to: "b" },
    { type: "heartbeat", to: "c" },
  ]);
  t.end();
});

for (const { silent, want } of [
  { silent: "b c d", want: "follower" },
  { silent: "b c", want: "leader" },
] as const) {
  t.test(
    `a leader of five that ${silent} do not answer is a ${want} after an election timeout (§6.2)`,
    (t) => {
      const group = new Group("a b c d e").elect("a").cut("a", silent);
      for (let round = 0; round < 12; round += 1) group.tick("a").settle();
      t.equal(group.role("a"), want);
      t.end();
    },
  );
}

const lateAnswers = [
  { name: "refusals of the round before end nothing", answers: ["b-1", "c-1"], want: "pre-candidate" },
  {
    name: "nor do they keep the same voters from consenting",
    answers: ["b-1", "c-1", "b+2"],
    want: "candidate",
  },
  { name: "one of each round is no majority", answers: ["b-1", "c-2"], want: "pre-candidate" },
  { name: "refusals of this round end it", answers: ["b-2", "c-2"], want: "follower" },
  { name: "consent of the round before is for the same term", answers: ["b+1"], want: "candidate" },
  { name: "members that know of no rounds are counted", answers: ["b-", "c-"], want: "follower" },
] as const;

for (const { name, answers, want } of lateAnswers) {
  t.test(`the second round of pre-votes: ${name}`, (t) => {
    const group = new Group("a b c");
    for (let round = 0; round < 2; round += 1) {
      group.get("a").node.campaign();
      group.work();
    }
    const rounds = group.sentOf("pre-vote").flatMap(({ to, round }) => (to === "b" ? [round] : []));
    for (const answer of answers) {
      const [from = "", sign, asked] = answer;
      const round = asked === undefined ? undefined : rounds[Number(asked) - 1];
      const granted = sign === "+";
      const reply = { type: "pre-vote-reply", from, to: "a", term: granted ? 2 : 1, granted } as const;
      group.say(round === undefined ? reply : { ...reply, round });
    }
    t.equal(group.role("a"), want);
    t.end();
  });
}

t.test("an answer names the round of its question, whichever way it goes", (t) => {
  const group = new Group("a:1,1@3 b c");
  const ask = (from: string, term: number, index: number) => {
    const request = voteRequest({ from, to: "a", term }, { index, term: 1 }, "pre-vote");
    return group.say({ ...request, round: 7 }).filter(({ type }) => type === "pre-vote-reply");
  };
  t.match(ask("b", 4, 3), [{ granted: true, term: 4, round: 7 }]);
  t.match(ask("b", 4, 1), [{ granted: false, term: 3, round: 7 }], "its log is behind");
  t.match(ask("b", 2, 3), [{ granted: false, term: 3, round: 7 }], "its term is");
  const request = voteRequest({ from: "b", to: "a", term: 4 }, { index: 3, term: 1 }, "pre-vote");
  t.notOk("round" in (group.say(request)[0] ?? {}), "a question without one is answered without one");
  t.end();
});
