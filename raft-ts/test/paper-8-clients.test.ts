import t from "tap";
import { Group } from "./group.ts";

t.test("§8: a new leader appends an empty entry, which commits all that came before", (t) => {
  const group = new Group("a:1,1 b:1,1 c:1,1").elect("a");
  t.match(group.entries("a"), /4\/2:empty$/);
  t.equal(group.commit("a"), 4);
  t.end();
});

t.test(
  "thesis §6.4: a read is confirmed by one round of heartbeats, at the commit index of its asking",
  (t) => {
    const group = new Group("a b c").elect("a");
    group.propose("a", "x");
    group.settle();
    group.sent.length = 0;
    const { node } = group.get("a");
    t.equal(node.readIndex(7).kind, "accepted");
    const { messages, readStates } = node.ready();
    t.strictSame(readStates, [], "not before a quorum has answered");
    t.match(messages, [
      { type: "heartbeat", to: "b", round: 1 },
      { type: "heartbeat", to: "c", round: 1 },
    ]);
    group.say({ type: "heartbeat-reply", from: "b", to: "a", term: 2, round: 1 });
    t.strictSame([...group.get("a").reads], [[7, 3]]);
    t.end();
  },
);

t.test("reads that come together share a round, and a later round confirms an earlier one", (t) => {
  const group = new Group("a b c").elect("a");
  group.sent.length = 0;
  const { node } = group.get("a");
  for (const ctx of [1, 2, 3]) node.readIndex(ctx);
  group.work();
  t.equal(group.sentOf("heartbeat").length, 2);
  node.readIndex(4);
  group.work().drop();
  group.say({ type: "heartbeat-reply", from: "c", to: "a", term: 2, round: 2 });
  t.strictSame([...group.get("a").reads.keys()], [1, 2, 3, 4]);
  t.end();
});

t.test("an answer to an earlier round, or from a learner, confirms nothing", (t) => {
  const group = new Group("a b c").elect("a");
  group.add("l");
  group.get("a").node.proposeConfChange({ kind: "add-learner", id: "l", context: "" });
  group.settle();
  group.get("a").node.readIndex(1);
  group.work().drop();
  group.say({ type: "heartbeat-reply", from: "b", to: "a", term: 2, round: 0 });
  group.say({ type: "heartbeat-reply", from: "l", to: "a", term: 2, round: 1 });
  t.equal(group.get("a").reads.size, 0);
  t.end();
});

t.test("a read waits for the first commit of the term: before, the commit index may be behind", (t) => {
  const group = new Group("a b c");
  const a = group.get("a");
  a.node.campaign();
  group.work().drop();
  for (const type of ["pre-vote-reply", "vote-reply"] as const) {
    group.say({ type, from: "b", to: "a", term: 2, granted: true });
    group.drop();
  }
  a.node.readIndex(1);
  group.work();
  group.say({ type: "heartbeat-reply", from: "b", to: "a", term: 2, round: 9 });
  t.equal(a.reads.size, 0);
  const accepted = { type: "append-reply", from: "b", to: "a", term: 2, rejected: false } as const;
  group.say({ ...accepted, index: 2, hintIndex: 0, hintTerm: 0 });
  group.settle();
  t.strictSame([...a.reads], [[1, 2]]);
  t.end();
});

t.test("a follower asks its leader, and gets an index that includes every acknowledged write", (t) => {
  const group = new Group("a b c").elect("a");
  group.propose("a", "x");
  group.settle();
  group.get("b").node.readIndex(5);
  group.settle();
  t.strictSame([...group.get("b").reads], [[5, 3]]);
  t.end();
});

t.test("a leader that was replaced unawares confirms no read", (t) => {
  const group = new Group("a b c").elect("a").cut("a", "b c");
  for (const id of ["b", "c"]) group.tick(id, 8);
  group.drop().elect("b");
  t.equal(group.role("b"), "leader");
  group.propose("b", "new");
  group.settle();
  t.equal(group.role("a"), "leader", "in its own eyes");
  group.get("a").node.readIndex(1);
  group.settle().heal().rounds(6);
  t.equal(group.get("a").reads.size, 0);
  t.end();
});

t.test("reads beyond the limit are refused with the reason", (t) => {
  const group = new Group("a b c", { maxPendingReads: 2 }).elect("a");
  const { node } = group.get("a");
  node.readIndex(1);
  node.readIndex(2);
  t.match(node.readIndex(3), {
    kind: "refused",
    reason: "too-many-reads",
    text: "2 reads wait for confirmation already",
  });
  t.end();
});

t.test("who does not lead says who does", (t) => {
  const group = new Group("a b c").elect("a");
  t.match(group.propose("b", "x"), { reason: "not-leader", text: "b does not lead, a does" });
  t.match(new Group("a b c").propose("a", "x"), { reason: "not-leader", text: "no leader is known" });
  t.end();
});

t.test("proposals beyond the uncommitted limit are refused with both sizes, and let in again later", (t) => {
  const group = new Group("a b c", { maxUncommittedBytes: 74 }).elect("a"); // Each counts with 32 bytes more.
  t.equal(group.propose("a", "123456").kind, "accepted");
  t.match(group.propose("a", "12345"), {
    reason: "too-much-uncommitted",
    text: "38 bytes wait to be committed, and 37 more would be over the limit of 74",
  });
  t.equal(group.propose("a", "1234").kind, "accepted");
  group.settle();
  t.equal(group.propose("a", "12345").kind, "accepted");
  t.end();
});

t.test("proposals without data count too, so that any number of them cannot wait", (t) => {
  const group = new Group("a b c", { maxUncommittedBytes: 320 }).elect("a");
  const results = Array.from({ length: 11 }, () => group.propose("a", "").kind);
  t.strictSame(results, [...Array.from({ length: 10 }, () => "accepted"), "refused"]);
  t.end();
});
