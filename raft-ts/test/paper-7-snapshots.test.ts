import t from "tap";
import { MemoryStorage, RaftNode, type SnapshotMessage, compactionIndex } from "../src/index.ts";
import { Group, append, dataEntry, voteRequest } from "./group.ts";

/** The default, which the groups here have. */
const electionTicks = 8;

t.test("a follower whose next entry is compacted gets the snapshot, then the rest", (t) => {
  const group = lagging();
  group.get("c").restart();
  group.rounds(4);
  t.equal(group.sentOf("snapshot").length, 1);
  t.strictSame(group.get("c").applied, group.get("a").applied);
  group.propose("a", "more");
  group.settle();
  t.strictSame(group.get("c").applied, group.get("a").applied);
  t.end();
});

t.test("while a snapshot is on its way the peer gets no entries, and one that fails is sent again", (t) => {
  const group = lagging();
  group.get("c").restart();
  const { node } = group.get("a");
  const signOfLife = () => {
    group.say({ type: "heartbeat-reply", from: "c", to: "a", term: 2, round: 0 });
    const { prevIndex: index } = group.sentOf("append").findLast(({ to }) => to === "c") ?? { prevIndex: 0 };
    const reply = { type: "append-reply", from: "c", to: "a", term: 2, rejected: true } as const;
    group.say({ ...reply, index, hintIndex: 2, hintTerm: 2 });
    group.drop();
  };
  signOfLife();
  t.match(group.sentOf("snapshot"), [{ to: "c", snapshot: { index: 5 } }]);
  const [asked] = group.sentOf("snapshot");
  if (asked === undefined) throw new Error("no snapshot");
  group.sent.length = 0;
  group.propose("a", "more");
  group.tick("a", 4).settle();
  t.strictSame(
    group.sentOf("append").filter(({ to }) => to === "c"),
    [],
  );
  group.sent.length = 0;
  node.reportSnapshot(asked, "failed");
  group.work();
  t.equal(group.sentOf("snapshot").length, 0, "not before it gives a sign of life");
  signOfLife();
  t.match(group.sentOf("snapshot"), [{ to: "c", snapshot: { index: 5 } }]);
  t.end();
});

t.test(
  "a snapshot of a term that a crash kept from being stored: nothing is acknowledged in earlier terms",
  (t) => {
    const storage = new MemoryStorage();
    const configuration = { voters: ["a", "b", "c"], outgoing: [], learners: [], contexts: {} };
    storage.installSnapshot({ index: 100, term: 5, configuration });
    storage.setHardState({ term: 4, vote: "b", commit: 100 });
    const node = new RaftNode({ id: "a", storage, random: () => 0 });
    t.match(node.status(), { term: 5 });
    node.step(append({ from: "b", to: "a", term: 4 }, { index: 50, term: 4 }, [dataEntry(4, 51)], 50));
    const { write, messages } = node.ready();
    t.match(write?.hardState, { term: 5, vote: undefined, commit: 100 });
    t.strictSame(
      messages.filter(({ type }) => type === "append-reply"),
      [],
    );
    t.end();
  },
);

t.test("a snapshot takes the place of the log and of the configuration, and survives a restart", (t) => {
  const group = new Group("a b c");
  const configuration = { voters: ["b", "c"], outgoing: [], learners: ["a"], contexts: {} };
  const snapshot = { index: 8, term: 3, configuration };
  t.match(group.say({ type: "snapshot", from: "b", to: "a", term: 3, snapshot }), [
    { type: "append-reply", index: 8, rejected: false },
  ]);
  const a = group.get("a");
  t.match(a.node.status(), { commit: 8, applied: 8, firstIndex: 9, lastIndex: 8, configuration });
  a.crash();
  a.restart();
  t.match(a.node.status(), { commit: 8, applied: 8, firstIndex: 9, lastIndex: 8, configuration });
  t.match(group.say(append({ from: "b", to: "a", term: 3 }, { index: 8, term: 3 }, [dataEntry(3, 9)])), [
    { index: 9, rejected: false },
  ]);
  t.end();
});

const received = [
  { name: "of what is committed already is answered, and changes nothing", index: 2, term: 2, last: 5 },
  { name: "of a prefix of the log leaves what follows it", index: 4, term: 2, last: 5 },
  { name: "of something else replaces the log", index: 4, term: 3, last: 4 },
  { name: "beyond the log replaces it", index: 9, term: 3, last: 9 },
] as const;

for (const { name, index, term, last } of received) {
  t.test(`a snapshot ${name}`, (t) => {
    const group = new Group("a b c");
    const entries = [2, 3, 4, 5].map((at) => dataEntry(2, at));
    group.say(append({ from: "b", to: "a", term: 2 }, { index: 1, term: 1 }, entries, 2));
    const { configuration } = group.get("a").node.status();
    const snapshot = { index, term, configuration };
    t.match(group.say({ type: "snapshot", from: "b", to: "a", term: 3, snapshot }), [
      { type: "append-reply", index, rejected: false },
    ]);
    t.equal(group.get("a").node.status().lastIndex, last);
    t.equal(group.commit("a"), index);
    t.end();
  });
}

t.test(
  "entries that arrive while a snapshot is being written are written after it, and applied after it",
  (t) => {
    const group = new Group("a b c");
    const a = group.get("a");
    const { configuration } = a.node.status();
    const snapshot = { index: 8, term: 3, configuration };
    a.receive({ message: { type: "snapshot", from: "b", to: "a", term: 3, snapshot }, data: ["s"] });
    t.match(
      a.begin(() => {}),
      { write: { snapshot: { index: 8 } }, messages: [] },
    );
    const entry = append({ from: "b", to: "a", term: 3 }, { index: 8, term: 3 }, [dataEntry(3, 9)], 9);
    a.receive({ message: entry, data: undefined });
    t.strictSame(a.node.ready().committed, []);
    a.finish();
    t.match(
      a.begin(() => {}),
      { write: { snapshot: undefined, entries: [{ index: 9 }] }, committed: [] },
    );
    a.finish();
    t.match(
      a.begin(() => {}),
      { committed: [{ index: 9 }] },
    );
    t.strictSame(a.applied, ["s", "9/3:3"]);
    t.end();
  },
);

t.test(
  "while a durable snapshot is being loaded the member acknowledges and votes, and applies nothing",
  (t) => {
    const { storage, node } = loading();
    const { messages } = node.ready();
    t.match(messages, [{ type: "append-reply", index: 8, rejected: false }]);
    node.step(append({ from: "b", to: "a", term: 3 }, { index: 8, term: 3 }, [dataEntry(3, 9)], 9));
    persist(node, storage);
    const later = node.ready();
    t.match(later.messages, [{ type: "append-reply", index: 9, rejected: false }]);
    t.strictSame(later.committed, []);
    t.match(node.status(), { commit: 9, applied: 1 });
    node.step({ ...voteRequest({ from: "c", to: "a", term: 4 }, { index: 9, term: 3 }), transfer: true });
    persist(node, storage);
    t.match(node.ready().messages, [{ type: "vote-reply", to: "c", term: 4, granted: true }]);
    node.applied(8);
    t.match(node.ready().committed, [{ index: 9 }]);
    t.end();
  },
);

t.test("it stands for election only once it has the state, which it would have to serve", (t) => {
  for (const isAsked of [false, true]) {
    const { node } = loading();
    const stand = (): void => {
      if (isAsked) node.step({ type: "timeout-now", from: "b", to: "a", term: 3 });
      else for (let ticks = 0; ticks < 2 * electionTicks; ticks += 1) node.tick();
    };
    stand();
    t.equal(node.status().role, "follower");
    node.applied(8);
    stand();
    t.equal(node.status().role, isAsked ? "candidate" : "pre-candidate");
  }
  t.end();
});

t.test("of two snapshots that are loaded one after the other, the second is waited for", (t) => {
  const { storage, node } = loading();
  const { configuration } = node.status();
  const snapshot = { index: 20, term: 3, configuration };
  node.step({ type: "snapshot", from: "b", to: "a", term: 3, snapshot });
  node.step(append({ from: "b", to: "a", term: 3 }, { index: 20, term: 3 }, [dataEntry(3, 21)], 21));
  persist(node, storage);
  node.applied(8);
  t.strictSame(node.ready().committed, []);
  node.applied(20);
  t.match(node.ready().committed, [{ index: 21 }]);
  t.end();
});

t.test("a transfer that broke off is resumed where the peer got to, while the log continues it", (t) => {
  const { node, reportBroken, asked, nextSnapshot, compactTo } = transferring();
  node.reportSnapshotProgress(asked(), 1_000_000);
  t.strictSame(node.snapshotTransfer("b"), { index: 4, ackedBytes: 1_000_000 });
  reportBroken();
  t.strictSame(node.snapshotTransfer("b"), { index: 4, ackedBytes: 1_000_000 }, "kept for the next try");
  t.equal(nextSnapshot(), 4, "although there is a newer one");
  reportBroken();
  compactTo(6);
  t.equal(nextSnapshot(), 6, "nothing follows the old one any more");
  t.strictSame(node.snapshotTransfer("b"), { index: 6, ackedBytes: 0 });
  t.end();
});

t.test("what broke off is resumed for as long as the peer is awaited, and given up then", (t) => {
  const { node, reportBroken, asked, nextSnapshot, others } = transferring();
  node.reportSnapshotProgress(asked(), 1_000_000);
  reportBroken();
  const isAwaited = () => node.status().peers.find(({ id }) => id === "b")?.awaited;
  const wait = (elections: number): void => {
    for (let ticks = 0; ticks < elections * electionTicks; ticks += 1) {
      node.tick();
      others();
    }
  };
  wait(2_048);
  t.equal(isAwaited(), true);
  t.strictSame(node.snapshotTransfer("b"), { index: 4, ackedBytes: 1_000_000 });
  wait(1);
  t.equal(isAwaited(), false);
  t.equal(node.snapshotTransfer("b"), undefined);
  t.equal(nextSnapshot(), 6, "and it gets the newest one");
  t.equal(isAwaited(), true);
  t.end();
});

t.test("a transfer that got nowhere is begun again with the newest snapshot", (t) => {
  const { node, reportBroken, asked, nextSnapshot } = transferring();
  const first = asked();
  reportBroken();
  t.equal(nextSnapshot(), 6);
  node.reportSnapshotProgress(first, 500);
  t.strictSame(node.snapshotTransfer("b"), { index: 6, ackedBytes: 0 }, "news of another one is too late");
  t.end();
});

t.test("the end of an earlier transfer, told late, does not end the one under way", (t) => {
  const { node, reportBroken, asked, nextSnapshot } = transferring();
  const first = asked();
  reportBroken();
  nextSnapshot();
  const stateOf = () => node.status().peers.find(({ id }) => id === "b")?.state;
  for (const outcome of ["failed", "sent"] as const) {
    node.reportSnapshot(first, outcome);
    t.equal(stateOf(), "snapshot", outcome);
    t.strictSame(node.snapshotTransfer("b"), { index: 6, ackedBytes: 0 });
  }
  reportBroken();
  t.equal(stateOf(), "probe", "its own report does");
  t.end();
});

t.test("a snapshot that a peer keeps refusing is offered more and more seldom", (t) => {
  const { reportBroken, nextSnapshot, ticksUntilNext } = transferring();
  reportBroken();
  t.equal(nextSnapshot(), 6, "another one than what failed: at once");
  reportBroken();
  t.equal(nextSnapshot(), 6, "once more: it may have been bad luck");
  reportBroken();
  const waited: number[] = [];
  for (let tries = 0; tries < 7; tries += 1) {
    waited.push(ticksUntilNext() / electionTicks);
    reportBroken();
  }
  t.strictSame(waited, [1, 2, 4, 8, 16, 16, 16]);
  t.end();
});

const ends = [
  { name: "a newer snapshot", end: ({ snapshotAgain }) => snapshotAgain(), next: 8 },
  {
    name: "a broken connection, and perhaps another process",
    end: ({ node }) => node.reportUnreachable("b"),
    next: 6,
  },
  { name: "an end of the process", end: ({ node }) => node.reportGone("b"), next: 6 },
] as const satisfies readonly {
  end: (group: ReturnType<typeof transferring>) => void;
  name: string;
  next: number;
}[];

for (const { name, end, next } of ends) {
  t.test(`the wait after refusals ends with ${name}`, (t) => {
    const group = transferring();
    for (let tries = 0; tries < 3; tries += 1) {
      group.reportBroken();
      if (tries < 2) t.equal(group.nextSnapshot(), 6);
    }
    t.equal(group.nextSnapshot(), undefined, "it waits");
    end(group);
    t.equal(group.nextSnapshot(), next);
    t.end();
  });
}

t.test("a transfer that gets further each time is resumed at once, however often it breaks off", (t) => {
  const { node, reportBroken, asked, nextSnapshot } = transferring();
  for (let tries = 1; tries <= 5; tries += 1) {
    node.reportSnapshotProgress(asked(), tries * 1_000);
    reportBroken();
    t.equal(nextSnapshot(), 4);
  }
  reportBroken();
  t.equal(nextSnapshot(), undefined, "until it gets no further");
  t.end();
});

const compactions = [
  { name: "nobody is behind: the usual tail stays", snapshot: 1000, first: 1, peers: [1000, 999], want: 900 },
  { name: "a slow peer keeps what it needs", snapshot: 1000, first: 1, peers: [1000, 700], want: 700 },
  { name: "no slow peer keeps more than the bound", snapshot: 1000, first: 1, peers: [1000, 2], want: 500 },
  { name: "a follower knows of nobody", snapshot: 1000, first: 1, peers: [], want: 900 },
  { name: "the size bound comes first", snapshot: 1000, first: 1, peers: [700], floor: 950, want: 950 },
  { name: "never beyond the snapshot", snapshot: 1000, first: 1, peers: [2000], floor: 2000, want: 1000 },
  { name: "a short log stays", snapshot: 50, first: 1, peers: [50], want: 0 },
  { name: "what is gone is gone", snapshot: 1000, first: 960, peers: [700], want: 959 },
  {
    name: "what a snapshot on its way needs stays",
    snapshot: 1000,
    first: 1,
    peers: [1],
    sent: 800,
    want: 800,
  },
  {
    name: "... but not beyond the bound, though it may be sent another one then",
    snapshot: 1000,
    first: 1,
    peers: [1],
    sent: 300,
    want: 500,
  },
  {
    name: "... unless it is awaited, which has a bound of its own",
    snapshot: 1000,
    first: 1,
    peers: [1],
    sent: 300,
    awaited: 200,
    want: 300,
  },
  {
    name: "... that holds as well",
    snapshot: 1000,
    first: 1,
    peers: [1],
    sent: 300,
    awaited: 400,
    want: 400,
  },
  {
    name: "who has installed one and catches up is awaited too",
    snapshot: 1000,
    first: 1,
    peers: [310],
    awaited: 200,
    want: 310,
  },
  {
    name: "the bound for who is awaited is never the tighter one",
    snapshot: 1000,
    first: 1,
    peers: [700],
    awaited: 950,
    want: 700,
  },
] as const;

for (const { name, snapshot, first, peers, want, ...more } of compactions) {
  t.test(`compaction: ${name}`, (t) => {
    const sent = "sent" in more ? { index: more.sent } : undefined;
    const index = compactionIndex({
      snapshotIndex: snapshot,
      firstIndex: first,
      peers: peers.map((match) => ({ match, snapshot: sent, awaited: "awaited" in more })),
      keepEntries: 100,
      maxEntries: 500,
      floorIndex: "floor" in more ? more.floor : 0,
      ...("awaited" in more && { awaitedFloorIndex: more.awaited }),
    });
    t.equal(index, want);
    t.end();
  });
}

t.test("indexWithin() says where a tail of some size begins", (t) => {
  const storage = new MemoryStorage();
  storage.append([1, 2, 3, 4].map((index) => ({ ...dataEntry(1, index), data: new Uint8Array(68) })));
  t.equal(storage.indexWithin(1000), 0);
  t.equal(storage.indexWithin(200), 2, "100 bytes each, with the envelope");
  t.equal(storage.indexWithin(199), 3);
  t.equal(storage.indexWithin(0), 4);
  t.end();
});

/** c is down, and what it lacks is compacted. */
function lagging(): Group {
  const group = new Group("a b c").elect("a");
  group.get("c").crash();
  for (const text of ["x", "y", "z"]) {
    group.propose("a", text);
    group.settle();
  }
  group.get("a").compact(0);
  return group;
}

/** a, which holds a snapshot at 8 of term 3 durably and has not loaded it. */
function loading() {
  const { node, storage } = new Group("a b c").get("a");
  const { configuration } = node.status();
  const snapshot = { index: 8, term: 3, configuration };
  node.step({ type: "snapshot", from: "b", to: "a", term: 3, snapshot });
  persist(node, storage);
  return { node, storage };
}

function persist(node: RaftNode, storage: MemoryStorage): void {
  const { write } = node.ready();
  if (write === undefined) throw new Error("nothing is to be written");
  if (write.snapshot !== undefined) storage.installSnapshot(write.snapshot);
  storage.append(write.entries);
  storage.setHardState(write.hardState);
  node.persisted(write, "loading");
}

/** a leads, b is being sent the snapshot at 4, and meanwhile a has made one at 6. */
function transferring() {
  const group = new Group("a b c").elect("a");
  const a = group.get("a");
  group.get("b").crash();
  const compactTo = (index: number): void => {
    const { applied } = a.node.status();
    const term = a.storage.term(applied) ?? 0;
    a.storage.setSnapshot({ index: applied, term, configuration: a.node.configurationAt(applied) });
    a.storage.compact(index);
  };
  const proposeTwo = (): void => {
    for (const text of ["x", "y"]) group.propose("a", text);
    group.settle();
  };
  /** b gives a sign of life, and refuses what it cannot place. */
  const nextSnapshot = (): number | undefined => {
    const term = a.node.status().term;
    group.sent.length = 0;
    group.say({ type: "heartbeat-reply", from: "b", to: "a", term, round: 0 });
    for (const { to, prevIndex } of group.sentOf("append")) {
      if (to !== "b") continue;
      const reply = { type: "append-reply", from: "b", to: "a", term, rejected: true } as const;
      group.say({ ...reply, index: prevIndex, hintIndex: 0, hintTerm: 0 });
    }
    group.drop();
    latest = group.sentOf("snapshot").at(-1);
    return latest?.snapshot.index;
  };
  let latest: SnapshotMessage | undefined; // Of what was asked for last, if anything was since.
  const asked = (): SnapshotMessage => {
    if (latest === undefined) throw new Error("no snapshot was asked for");
    return latest;
  };
  /** b answers all the while. */
  const ticksUntilNext = (): number => {
    for (let ticks = 0; ticks < 1_000; ticks += 1) {
      if (nextSnapshot() !== undefined) return ticks;
      group.tick("a");
      latest = group.sentOf("snapshot").at(-1);
      if (latest !== undefined) return ticks + 1;
    }
    return Infinity;
  };
  proposeTwo();
  compactTo(4);
  nextSnapshot();
  const { node } = a;
  proposeTwo();
  compactTo(4);
  return {
    node,
    reportBroken: () => node.reportSnapshot(asked(), "failed"),
    asked,
    nextSnapshot,
    compactTo,
    /** c answers, so that a goes on leading. */
    others: () => {
      group.say({ type: "heartbeat-reply", from: "c", to: "a", term: node.status().term, round: 0 });
      group.drop().sent.length = 0;
    },
    ticksUntilNext,
    snapshotAgain: () => {
      proposeTwo();
      compactTo(4);
    },
  };
}
