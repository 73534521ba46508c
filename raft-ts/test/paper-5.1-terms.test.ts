import t from "tap";
import type { Message } from "../src/index.ts";
import { Group, append, voteRequest } from "./group.ts";

const newer = 9;

/** Messages that carry the sender's own term; a pre-vote speaks of a term that nobody has entered. */
const messages: readonly Message[] = [
  append({ from: "b", to: "a", term: newer }, { index: 1, term: 1 }, []),
  voteRequest({ from: "b", to: "a", term: newer }, { index: 1, term: 1 }),
  { type: "heartbeat", from: "b", to: "a", term: newer, commit: 0, round: 0 },
  { type: "vote-reply", from: "b", to: "a", term: newer, granted: false },
  { type: "pre-vote-reply", from: "b", to: "a", term: newer, granted: false },
  { type: "heartbeat-reply", from: "b", to: "a", term: newer, round: 0 },
];

for (const role of ["follower", "pre-candidate", "candidate", "leader"] as const) {
  for (const message of messages) {
    if (role === "leader" && message.type === "vote") continue; // It does not listen: see §4.2.3.
    t.test(`a ${role} that meets a larger term in ${message.type} enters it as a follower`, (t) => {
      const group = inRole(role);
      t.equal(group.role("a"), role);
      group.say(message);
      t.equal(group.term("a"), newer);
      t.equal(group.role("a"), "follower");
      t.end();
    });
  }
}

t.test("a leader of an older term is refused, and told the newer one", (t) => {
  const group = new Group("a b c").elect("b").handOver("c");
  const term = group.term("a");
  const old = { from: "b", to: "a", term: term - 1 };
  t.match(group.say(append(old, { index: 1, term: 1 }, [])), [
    { type: "append-reply", rejected: true, term },
  ]);
  t.match(group.say({ type: "heartbeat", ...old, commit: 0, round: 0 }), [{ rejected: true, term }]);
  t.equal(group.get("a").node.status().leader, "c");
  t.end();
});

t.test("a vote asked for in an older term is not given", (t) => {
  const group = new Group("a b c").elect("b");
  t.strictSame(group.say(voteRequest({ from: "c", to: "a", term: 1 }, { index: 9, term: 9 })), []);
  t.end();
});

t.test("a pre-vote never raises anybody's term, and neither does the consent to one", (t) => {
  const group = new Group("a b c");
  group.say(voteRequest({ from: "b", to: "a", term: newer }, { index: 1, term: 1 }, "pre-vote"));
  t.equal(group.term("a"), 1);
  group.say({ type: "pre-vote-reply", from: "b", to: "a", term: newer, granted: true });
  t.equal(group.term("a"), 1);
  t.end();
});

t.test("term and vote outlive a crash", (t) => {
  const group = new Group("a b c");
  group.say(voteRequest({ from: "b", to: "a", term: 4 }, { index: 1, term: 1 }));
  const a = group.get("a");
  a.crash();
  a.restart();
  t.equal(group.term("a"), 4);
  t.match(group.say(voteRequest({ from: "c", to: "a", term: 4 }, { index: 5, term: 3 })), [
    { granted: false },
  ]);
  t.match(group.say(voteRequest({ from: "b", to: "a", term: 4 }, { index: 1, term: 1 })), [
    { granted: true },
  ]);
  t.end();
});

function inRole(role: "follower" | "pre-candidate" | "candidate" | "leader"): Group {
  const group = new Group("a b c");
  if (role === "follower") return group;
  if (role === "leader") return group.elect("a");
  group.get("a").node.campaign();
  group.work().drop();
  if (role === "candidate") {
    group.say({ type: "pre-vote-reply", from: "b", to: "a", term: 2, granted: true });
    group.drop();
  }
  return group;
}
