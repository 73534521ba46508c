import t from "tap";
import {
  type Entry,
  MemoryStorage,
  type Message,
  RaftNode,
  type RaftOptions,
  type Write,
  bootstrapEntry,
  encodeConfiguration,
} from "../src/index.ts";
import { bytes, group } from "./cluster.ts";

/** Member `a` of three, with `entries` (term by index, after the founding entry) on its disk. */
function member(terms: readonly number[]): { node: RaftNode; storage: MemoryStorage } {
  const storage = new MemoryStorage();
  storage.append([
    bootstrapEntry(group(["a", "b", "c"])),
    ...terms.map((term, at) => ({ term, index: at + 2, kind: "data" as const, data: bytes("x") })),
  ]);
  storage.setHardState({ term: terms.at(-1) ?? 1, vote: undefined, commit: 1 });
  return {
    storage,
    node: new RaftNode({ id: "a", storage, random: () => 0, maxUncommittedBytes: 100 }),
  };
}

/** Carries out all work; returns the messages. */
function settle({ node, storage }: { node: RaftNode; storage: MemoryStorage }): Message[] {
  const sent: Message[] = [];
  while (node.hasReady()) {
    const { messages, write, committed } = node.ready();
    sent.push(...messages);
    if (write !== undefined) persist({ node, storage }, write);
    const last = committed.at(-1);
    if (last !== undefined) node.applied(last.index);
  }
  return sent;
}

function persist({ node, storage }: { node: RaftNode; storage: MemoryStorage }, write: Write): void {
  storage.append(write.entries);
  storage.setHardState(write.hardState);
  node.persisted(write);
}

/** The write that is handed out now. */
function takeWrite({ node }: { node: RaftNode }): { write: Write; messages: readonly Message[] } {
  const { write, messages } = node.ready();
  if (write === undefined) throw new Error("nothing was to be written");
  return { write, messages };
}

function elect(subject: { node: RaftNode; storage: MemoryStorage }): number {
  for (let tick = 0; tick < 8; tick += 1) subject.node.tick();
  settle(subject);
  const term = subject.node.status().term + 1;
  subject.node.step({ type: "pre-vote-reply", from: "b", to: "a", term, granted: true });
  settle(subject);
  subject.node.step({ type: "vote-reply", from: "b", to: "a", term, granted: true });
  settle(subject);
  return term;
}

const accepted = { type: "append-reply", to: "a", rejected: false, hintIndex: 0, hintTerm: 0 } as const;

t.test(
  "an entry of an old term on a majority is not committed before one of the new term is (§5.4.2)",
  (t) => {
    const subject = member([2]);
    const term = elect(subject);
    subject.node.step({ ...accepted, from: "b", term, index: 2 });
    settle(subject);
    t.equal(subject.node.status().commit, 1, "counting replicas says nothing about an old term");
    subject.node.step({ ...accepted, from: "b", term, index: 3 });
    settle(subject);
    t.equal(subject.node.status().commit, 3);
    t.end();
  },
);

t.test("the leader's own copy counts only when it is on disk", (t) => {
  const subject = member([]);
  const term = elect(subject);
  subject.node.step({ ...accepted, from: "b", term, index: 2 });
  settle(subject);
  t.equal(subject.node.propose(bytes("x")).kind, "accepted");
  const { write, messages } = takeWrite(subject);
  t.match(messages, [{ type: "append", to: "b", entries: [{ index: 3 }] }], "sent before it is durable here");
  subject.node.step({ ...accepted, from: "b", term, index: 3 });
  t.equal(subject.node.status().commit, 2, "one durable copy of three");
  persist(subject, write);
  t.equal(subject.node.status().commit, 3, "two durable copies of three");
  t.end();
});

t.test("votes wait for the disk, appends of a leader do not", (t) => {
  const subject = member([]);
  subject.node.step({
    type: "vote",
    from: "b",
    to: "a",
    term: 2,
    lastIndex: 1,
    lastTerm: 1,
    transfer: false,
  });
  const { write, messages } = takeWrite(subject);
  t.strictSame(write.hardState, { term: 2, vote: "b", commit: 1 });
  t.strictSame(messages, []);
  persist(subject, write);
  t.match(subject.node.ready().messages, [{ type: "vote-reply", granted: true }]);
  t.end();
});

t.test("a lone voter tells its learners nothing of a term that is not on its disk yet", (t) => {
  const storage = new MemoryStorage();
  storage.append([bootstrapEntry({ ...group(["a"]), learners: ["l"] })]);
  storage.setHardState({ term: 1, vote: undefined, commit: 1 });
  const node = new RaftNode({ id: "a", storage, random: () => 0 });
  node.campaign();
  t.equal(node.propose(bytes("x")).kind, "accepted");
  const { write, messages } = takeWrite({ node });
  // After a crash here it would win the same term again, and fill the same indexes with other entries.
  t.strictSame(messages, []);
  persist({ node, storage }, write);
  t.match(node.ready().messages, [{ type: "append", to: "l", term: 2 }]);
  t.equal(node.propose(bytes("y")).kind, "accepted");
  for (let tick = 0; tick < 2; tick += 1) node.tick();
  t.match(node.ready().messages, [{ type: "heartbeat", to: "l" }], "once it is there, nothing waits");
  t.end();
});

t.test("entries replaced while they were being written are written again", (t) => {
  const subject = member([]);
  const append = { type: "append", to: "a", commit: 1 } as const;
  const entry = (term: number, index: number) => ({
    term,
    index,
    kind: "data" as const,
    data: bytes(`${term}`),
  });
  const from1 = { ...append, from: "b", term: 2, prevIndex: 1, prevTerm: 1 };
  subject.node.step({ ...from1, entries: [entry(2, 2), entry(2, 3)] });
  const first = takeWrite(subject);
  subject.node.step({ ...from1, from: "c", term: 3, entries: [entry(3, 2), entry(3, 3)] });
  persist(subject, first.write);
  const second = takeWrite(subject);
  t.strictSame(
    second.write.entries.map(({ term, index }) => ({ term, index })),
    [
      { term: 3, index: 2 },
      { term: 3, index: 3 },
    ],
  );
  t.end();
});

t.test("proposals beyond the uncommitted limit are refused, a single large one is not", (t) => {
  const subject = member([]);
  const term = elect(subject);
  t.equal(subject.node.propose(new Uint8Array(200)).kind, "accepted", "nothing else waits");
  t.match(subject.node.propose(new Uint8Array(1)), { kind: "refused", reason: "too-much-uncommitted" });
  settle(subject);
  subject.node.step({ ...accepted, from: "b", term, index: 3 });
  settle(subject);
  t.equal(subject.node.propose(new Uint8Array(1)).kind, "accepted", "committed and applied makes room");
  t.end();
});

t.test("while a disk stands still, nothing gathers that would be said twice", (t) => {
  const subject = member([]);
  const { node } = subject;
  const append = { type: "append", from: "b", to: "a", term: 2, commit: 1 } as const;
  const entry = (index: number): Entry => ({ term: 2, index, kind: "data", data: bytes("x") });
  const heartbeat: Message = { type: "heartbeat", from: "b", to: "a", term: 2, commit: 1, round: 0 };
  node.step(heartbeat);
  const first = takeWrite(subject); // Of the term.
  for (let round = 1; round <= 1000; round += 1) {
    node.step({ ...heartbeat, round });
    t.strictSame(node.ready().messages, []);
  }
  node.step({ ...append, prevIndex: 1, prevTerm: 1, entries: [entry(2)] });
  persist(subject, first.write);
  const second = node.ready();
  t.match(second.messages, [{ type: "heartbeat-reply", term: 2, round: 1000 }]);
  t.equal(second.messages.length, 1);
  // Its leader hears that it is there, and asks again and again how far it is.
  for (let times = 0; times < 1000; times += 1) {
    node.step({ ...append, prevIndex: 2, prevTerm: 2, entries: [] });
  }
  node.step({ ...append, prevIndex: 2, prevTerm: 2, entries: [entry(3)] });
  for (let times = 0; times < 1000; times += 1) {
    node.step({ ...append, prevIndex: 3, prevTerm: 2, entries: [] });
  }
  if (second.write === undefined) throw new Error("nothing was to be written");
  persist(subject, second.write);
  t.match(settle(subject), [
    { type: "append-reply", index: 2, rejected: false },
    { type: "append-reply", index: 3, rejected: false },
  ]);
  t.end();
});

t.test("a candidate whose disk stands still asks for one vote only once it goes on", (t) => {
  const subject = member([]);
  const { node } = subject;
  const writes: Write[] = [];
  for (let turn = 0; turn < 50; turn += 1) {
    for (let tick = 0; tick < 8; tick += 1) node.tick();
    const { term } = node.status();
    node.step({ type: "pre-vote-reply", from: "b", to: "a", term: term + 1, granted: true });
    const { write } = node.ready();
    if (write !== undefined) writes.push(write);
  }
  t.equal(writes.length, 1);
  t.ok(node.status().term > 40);
  for (const write of writes) persist(subject, write);
  const votes = settle(subject).filter(({ type }) => type === "vote");
  t.ok(votes.length <= 4, `${votes.length} votes`); // Of the term that was being written, and of the last.
  t.end();
});

t.test("a member that lost entries it acknowledged stops with advice", (t) => {
  const subject = member([]);
  const heartbeat: Message = { type: "heartbeat", from: "b", to: "a", term: 2, commit: 9, round: 0 };
  t.throws(() => subject.node.step(heartbeat), {
    name: "RaftInvariantError",
    message: /join as a new member/,
  });
  t.end();
});

t.test("a configuration counts from its append and goes away with its entry", (t) => {
  const subject = member([]);
  const append = { type: "append", to: "a", prevIndex: 1, prevTerm: 1, commit: 1 } as const;
  const data = encodeConfiguration(group(["a", "b", "c", "d"]));
  const config = { term: 2, index: 2, kind: "config", data } as const;
  subject.node.step({ ...append, from: "b", term: 2, entries: [config] });
  t.strictSame(subject.node.status().configuration.voters, ["a", "b", "c", "d"]);
  t.equal(subject.node.status().settled, false);
  settle(subject);
  const other = { term: 3, index: 2, kind: "empty", data: new Uint8Array() } as const;
  subject.node.step({ ...append, from: "c", term: 3, entries: [other] });
  t.strictSame(subject.node.status().configuration.voters, ["a", "b", "c"]);
  t.end();
});

t.test("a member that was never told of a group stays quiet", (t) => {
  const storage = new MemoryStorage();
  const node = new RaftNode({ id: "n", storage, random: () => 0 });
  for (let tick = 0; tick < 100; tick += 1) node.tick();
  t.equal(node.hasReady(), false);
  t.equal(node.status().role, "follower");
  t.end();
});

t.test("consent to an earlier pre-vote does not count for a later one", (t) => {
  const subject = member([]);
  const { node } = subject;
  for (let tick = 0; tick < 8; tick += 1) node.tick();
  t.match(settle(subject), [
    { type: "pre-vote", term: 2 },
    { type: "pre-vote", term: 2 },
  ]);
  // Somebody else gets the term, and loses it again, before the answers are in.
  node.step({ type: "vote", from: "c", to: "a", term: 2, lastIndex: 1, lastTerm: 1, transfer: true });
  settle(subject);
  for (let tick = 0; tick < 8; tick += 1) node.tick();
  t.match(settle(subject), [
    { type: "pre-vote", term: 3 },
    { type: "pre-vote", term: 3 },
  ]);
  node.step({ type: "pre-vote-reply", from: "b", to: "a", term: 2, granted: true });
  settle(subject);
  t.match(node.status(), { role: "pre-candidate", term: 2 });
  node.step({ type: "pre-vote-reply", from: "b", to: "a", term: 3, granted: true });
  settle(subject);
  t.match(node.status(), { role: "candidate", term: 3 });
  t.end();
});

t.test("an acknowledgement is not sent once a later leader has replaced what it speaks of", (t) => {
  const subject = member([]);
  const { node } = subject;
  const entry = (index: number, term: number): Entry => ({ index, term, kind: "data", data: bytes("x") });
  const append = (from: string, term: number, entries: readonly Entry[]): Message => ({
    type: "append",
    from,
    to: "a",
    term,
    prevIndex: 1,
    prevTerm: 1,
    entries,
    commit: 1,
  });
  node.step(append("b", 2, [entry(2, 2)]));
  const { write } = takeWrite(subject);
  node.step(append("b", 2, [entry(2, 2), entry(3, 2)])); // Waits for the next write,
  node.step(append("c", 3, [entry(2, 3)])); // ... which then has this in its place.
  persist(subject, write);
  const acknowledged = settle(subject).filter((message) => message.type === "append-reply");
  t.match(acknowledged, [{ to: "c", term: 3, index: 2, rejected: false }]);
  t.equal(acknowledged.length, 1);
  t.end();
});

t.test("an option given as undefined is one that was not given", (t) => {
  const options = { electionTicks: undefined, maxInflightBytes: undefined, maxWritesUnderWay: undefined };
  // Callers in JavaScript, and compilers that do not tell the two apart, may pass this.
  const given = {
    id: "a",
    storage: new MemoryStorage(),
    random: () => 0,
    ...options,
  } as unknown as RaftOptions;
  const node = new RaftNode(given);
  for (let tick = 0; tick < 7; tick += 1) node.tick();
  t.equal(node.status().role, "follower");
  t.end();
});

for (const [name, value] of [
  ["electionTicks", 2],
  ["electionTicks", 8.5],
  ["heartbeatTicks", 0],
  ["maxWritesUnderWay", 0],
  ["maxInflightBytes", -1],
  ["maxPendingReads", Number.NaN],
] as const) {
  t.test(`an option that makes no sense is refused by name: ${name} ${value}`, (t) => {
    const options = { id: "a", storage: new MemoryStorage(), random: () => 0, [name]: value };
    const text = new RegExp(`${name} is ${value}`);
    t.throws(() => new RaftNode(options), { name: "RangeError", message: text });
    t.end();
  });
}

t.test("a proposal that is no bytes is refused at the call, and none of it gets into the log", (t) => {
  const subject = member([]);
  elect(subject);
  const { lastIndex } = subject.node.status();
  t.throws(() => subject.node.propose("text" as unknown as Uint8Array), { name: "TypeError" });
  t.equal(subject.node.status().lastIndex, lastIndex);
  t.end();
});
