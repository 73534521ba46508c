import t from "tap";
import { Group, append, dataEntry } from "./group.ts";

t.test("an entry is committed once a majority stores it, applied, and the followers learn of it", (t) => {
  const group = new Group("a b c d e").elect("a").cut("a", "d e");
  t.match(group.propose("a", "x"), { kind: "accepted", index: 3, term: 2 });
  group.settle();
  t.equal(group.commit("a"), 3);
  t.strictSame(group.get("a").applied, ["1/1:config", "2/2:empty", "3/2:x"]);
  for (const id of ["b", "c"]) t.strictSame(group.get(id).applied, group.get("a").applied, id);
  t.equal(group.commit("d"), 2);
  t.end();
});

t.test("an entry on a minority is neither committed nor applied", (t) => {
  const group = new Group("a b c d e").elect("a").cut("a", "c d e");
  group.propose("a", "x");
  group.settle();
  t.equal(group.commit("a"), 2);
  t.end();
});

t.test("committing an entry commits all before it, those of earlier leaders too", (t) => {
  const group = new Group("a:1,2,2 b:1,2,2 c:1").elect("a");
  t.equal(group.commit("a"), 5);
  t.equal(group.get("c").applied.length, 5);
  t.end();
});

t.test("proposals made together travel together", (t) => {
  const group = new Group("a b c").elect("a");
  group.sent.length = 0;
  for (const text of ["x", "y", "z"]) group.propose("a", text);
  group.work();
  t.match(group.sentOf("append"), [
    { to: "b", entries: [{ index: 3 }, { index: 4 }, { index: 5 }] },
    { to: "c", entries: [{ index: 3 }, { index: 4 }, { index: 5 }] },
  ]);
  t.end();
});

t.test("a follower that is not there is caught up when it comes back, however often it was asked", (t) => {
  const group = new Group("a b c").elect("a");
  group.get("c").crash();
  for (const text of ["x", "y", "z"]) group.propose("a", text);
  group.settle().rounds(20);
  group.get("c").restart();
  group.rounds(5);
  t.strictSame(group.get("c").applied, group.get("a").applied);
  t.end();
});

const checks = [
  { name: "holds the entry before", after: { index: 2, term: 1 }, want: { rejected: false, index: 4 } },
  { name: "has another term there", after: { index: 2, term: 3 }, want: { rejected: true, index: 2 } },
  { name: "is too short", after: { index: 7, term: 4 }, want: { rejected: true, index: 7 } },
] as const;

for (const { name, after, want } of checks) {
  t.test(`the consistency check: a follower that ${name}`, (t) => {
    const group = new Group("a:1,2 b c");
    const entries = [dataEntry(4, after.index + 1), dataEntry(4, after.index + 2)];
    t.match(group.say(append({ from: "b", to: "a", term: 4 }, after, entries)), [want]);
    t.equal(group.terms("a"), want.rejected ? "1 1 2" : "1 1 4 4");
    t.end();
  });
}

t.test("an append that arrives twice, or late, takes nothing back", (t) => {
  const group = new Group("a b c");
  const head = { from: "b", to: "a", term: 2 };
  const first = append(head, { index: 1, term: 1 }, [dataEntry(2, 2)]);
  group.say(first);
  group.say(append(head, { index: 2, term: 2 }, [dataEntry(2, 3)]));
  t.match(group.say(first), [{ rejected: false, index: 2 }]);
  t.equal(group.terms("a"), "1 2 2");
  t.end();
});

t.test("the commit index follows the leader's, but never beyond what is known to match", (t) => {
  const group = new Group("a:1,1,1 b c");
  group.say(append({ from: "b", to: "a", term: 2 }, { index: 2, term: 1 }, [], 9));
  t.equal(group.commit("a"), 2, "what lies behind the message may be another leader's");
  group.say(append({ from: "b", to: "a", term: 2 }, { index: 2, term: 1 }, [dataEntry(2, 3)], 9));
  t.equal(group.commit("a"), 3);
  t.end();
});

/** Figure 7 of the paper, with the founding entry as its first. The leader of term 8 comes to power over each. */
const figure7 = [
  { name: "(a) one entry short", log: "1,1,4,4,5,5,6,6" },
  { name: "(b) six entries short", log: "1,1,4" },
  { name: "(c) an extra entry of the last term", log: "1,1,4,4,5,5,6,6,6,6" },
  { name: "(d) extra entries of a later term", log: "1,1,4,4,5,5,6,6,6,7,7" },
  { name: "(e) short, and extra entries", log: "1,1,4,4,4,4" },
  { name: "(f) other entries of two old terms", log: "1,1,2,2,2,3,3,3,3,3" },
] as const;

for (const { name, log } of figure7) {
  t.test(`figure 7: the leader makes the follower's log its own: ${name}`, (t) => {
    const leaderLog = "1,1,4,4,5,5,6,6,6@7";
    const group = new Group(`a:${leaderLog} b:${leaderLog} c:${log}`, { maxMessageBytes: 10_000 });
    // Only b, whose log is the leader's, can elect it in every case; (d) could otherwise win itself.
    group.cut("a b", "c").elect("a").heal().rounds(4);
    t.equal(group.role("a"), "leader");
    t.equal(group.terms("c"), group.terms("a"));
    t.equal(group.commit("c"), group.commit("a"));
    const rejections = group.sentOf("append-reply").filter(({ from, rejected }) => from === "c" && rejected);
    t.ok(rejections.length <= 4, `${rejections.length} questions, not one for each entry (§5.3)`);
    t.end();
  });
}

t.test("nothing reaches the state machine before it is durable here", (t) => {
  const group = new Group("a b c").elect("b");
  const a = group.get("a");
  a.receive({
    message: append({ from: "b", to: "a", term: 2 }, { index: 2, term: 2 }, [dataEntry(2, 3)], 3),
    data: undefined,
  });
  const { committed, messages, write } = a.begin(() => {});
  t.strictSame({ committed, messages }, { committed: [], messages: [] }, "neither applied nor acknowledged");
  t.match(write, { entries: [{ index: 3 }] });
  t.equal(a.node.status().commit, 3, "though it is committed");
  a.finish();
  t.match(a.node.ready(), { committed: [{ index: 3 }], messages: [{ type: "append-reply", index: 3 }] });
  t.end();
});

t.test("heartbeats are answered while a write is under way", (t) => {
  const group = new Group("a b c").elect("b");
  const a = group.get("a");
  const message = append({ from: "b", to: "a", term: 2 }, { index: 2, term: 2 }, [dataEntry(2, 3)]);
  a.receive({ message, data: undefined });
  a.begin(() => {});
  a.receive({
    message: { type: "heartbeat", from: "b", to: "a", term: 2, commit: 2, round: 7 },
    data: undefined,
  });
  t.match(a.node.ready().messages, [{ type: "heartbeat-reply", round: 7 }]);
  t.end();
});

for (const depth of [1, 2, 3]) {
  t.test(`at most ${depth} writes are under way, and they are reported in order`, (t) => {
    const group = new Group("a b c", { maxWritesUnderWay: depth }).elect("a");
    const { node, storage } = group.get("a");
    const writes = [];
    for (let at = 0; at < 5; at += 1) {
      group.propose("a", `x${at}`);
      const { write } = node.ready();
      if (write !== undefined) writes.push(write);
    }
    t.equal(writes.length, depth);
    const [first, second] = writes;
    if (second !== undefined) t.throws(() => node.persisted(second), { name: "RaftInvariantError" });
    if (first !== undefined) {
      storage.append(first.entries);
      node.persisted(first);
    }
    const next = node.ready().write;
    t.equal(next?.number, (writes.at(-1)?.number ?? 0) + 1);
    t.equal(next?.entries.length, 5 - depth, "what came meanwhile is written together");
    t.end();
  });
}

t.test("a write that was overtaken by another leader's entries proves nothing about those", (t) => {
  const group = new Group("a b c", { maxWritesUnderWay: 3 }).elect("b");
  const { node, storage } = group.get("a");
  const takeWrite = () => {
    const { write } = node.ready();
    if (write === undefined) throw new Error("nothing to write");
    return write;
  };
  const after = { index: 2, term: 2 };
  node.step(append({ from: "b", to: "a", term: 2 }, after, [dataEntry(2, 3), dataEntry(2, 4)]));
  const first = takeWrite();
  node.step(append({ from: "c", to: "a", term: 3 }, after, [dataEntry(3, 3)]));
  const second = takeWrite();
  node.step(append({ from: "b", to: "a", term: 4 }, after, [dataEntry(2, 3), dataEntry(2, 4)], 4));
  const third = takeWrite();
  storage.append(first.entries);
  node.persisted(first);
  t.strictSame(
    node.ready().committed,
    [],
    "the same entries, but the write under way will remove them first",
  );
  storage.append(second.entries);
  node.persisted(second);
  t.strictSame(node.ready().committed, []);
  storage.append(third.entries);
  node.persisted(third);
  t.match(node.ready().committed, [{ index: 3 }, { index: 4 }]);
  t.end();
});
