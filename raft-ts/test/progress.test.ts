import * as fc from "fast-check";
import t from "tap";
import { type Entry, type Message, compactionIndex } from "../src/index.ts";
import { Inflights, Progress } from "../src/progress.ts";
import { Group } from "./group.ts";

const limits = { maxCount: 4, maxBytes: 100 };

t.test("a window frees what was acknowledged, in order, and knows its count and bytes", (t) => {
  const steps = fc.array(
    fc.oneof(
      fc.record({ kind: fc.constant("add" as const), value: fc.integer({ min: 1, max: 50 }) }),
      fc.record({ kind: fc.constant("free" as const), value: fc.nat(300) }),
    ),
    { maxLength: 300 },
  );
  fc.assert(
    fc.property(steps, (list) => {
      const window = new Inflights(limits);
      let model: { lastIndex: number; bytes: number }[] = [];
      let index = 0;
      for (const { kind, value } of list) {
        if (kind === "add") {
          index += 1;
          window.add(index, value);
          model.push({ lastIndex: index, bytes: value });
        } else {
          window.freeTo(value);
          model = model.filter(({ lastIndex }) => lastIndex > value);
        }
        const bytes = model.reduce((sum, sent) => sum + sent.bytes, 0);
        if (window.count !== model.length || window.bytes !== bytes) return false;
        if (window.full !== (model.length >= limits.maxCount || bytes >= limits.maxBytes)) return false;
      }
      return true;
    }),
  );
  t.end();
});

t.test("whatever a peer answers, match never falls and next stays beyond it", (t) => {
  const steps = fc.array(
    fc.oneof(
      fc.record({ kind: fc.constant("accepted" as const), at: fc.nat(20), hint: fc.nat(20) }),
      fc.record({ kind: fc.constant("rejected" as const), at: fc.nat(20), hint: fc.nat(20) }),
      fc.record({ kind: fc.constant("sent" as const), at: fc.nat(3), hint: fc.nat(3) }),
      fc.record({
        kind: fc.constantFrom("probe" as const, "replicate" as const),
        at: fc.nat(),
        hint: fc.nat(),
      }),
      fc.record({ kind: fc.constantFrom("snapshot" as const), at: fc.nat(20), hint: fc.nat(20) }),
      fc.record({ kind: fc.constantFrom("ended" as const, "failed" as const), at: fc.nat(), hint: fc.nat() }),
    ),
  );
  const configuration = { voters: [], outgoing: [], learners: [], contexts: {} };
  fc.assert(
    fc.property(steps, (list) => {
      const progress = new Progress(21, limits);
      let match = 0;
      for (const { kind, at, hint } of list) {
        switch (kind) {
          case "accepted":
            progress.accepted(at);
            break;
          case "rejected":
            progress.rejected(at, hint);
            break;
          case "sent":
            if (!progress.paused) progress.sent(entries(progress.next, at));
            break;
          case "probe":
            progress.becomeProbe();
            break;
          case "replicate":
            progress.becomeReplicate();
            break;
          case "snapshot":
            progress.becomeSnapshot({ id: 1, meta: { index: at, term: 1, configuration }, ackedBytes: 0 });
            break;
          case "ended":
            progress.snapshotEnded(1, "sent", 10);
            break;
          case "failed":
            progress.snapshotEnded(1, "failed", 10);
            break;
        }
        if (progress.match < match || progress.next <= progress.match) return false;
        if ((progress.state === "snapshot") !== (progress.paused && progress.state === "snapshot"))
          return false;
        match = progress.match;
      }
      return true;
    }),
  );
  t.end();
});

t.test("appends in flight stay within count and bytes, and one larger than the bytes goes alone", (t) => {
  const sizes = fc.array(fc.integer({ min: 0, max: 700 }), { minLength: 1, maxLength: 30 });
  fc.assert(
    fc.property(sizes, (list) => {
      const options = {
        maxInflightCount: 3,
        maxInflightBytes: 1000,
        maxMessageBytes: 400,
        maxUncommittedBytes: 1e6,
      };
      const group = new Group("a b c", options).elect("a").cut("a", "c");
      for (const size of list) {
        group.get("a").node.propose(new Uint8Array(size));
        group.work();
      }
      const toB = group.sentOf("append").filter(({ to, entries: sent }) => to === "b" && sent.length > 0);
      const fresh = toB.slice(1); // All since the first of its leadership are unanswered.
      const bytes = fresh.map(messageBytes);
      const total = bytes.reduce((sum, size) => sum + size, 0);
      const oversize = Math.max(0, ...bytes);
      group.settle();
      const arrived = group.get("b").node.status().lastIndex === list.length + 2;
      return fresh.length <= 3 && total <= 1000 + oversize && arrived;
    }),
    { numRuns: 40 },
  );
  t.end();
});

t.test(
  "compaction never goes beyond the snapshot, never back, and never holds on to more than its bounds",
  (t) => {
    const inputs = fc.record({
      snapshotIndex: fc.nat(2000),
      firstIndex: fc.integer({ min: 1, max: 2000 }),
      peers: fc.array(
        fc.record({
          match: fc.nat(3000),
          snapshot: fc.option(fc.record({ index: fc.nat(2000) })),
          awaited: fc.boolean(),
        }),
      ),
      keepEntries: fc.nat(300),
      maxEntries: fc.nat(1000),
      floorIndex: fc.nat(3000),
      awaitedFloorIndex: fc.nat(3000),
    });
    fc.assert(
      fc.property(inputs, (generated) => {
        const peers = generated.peers.map(({ match, snapshot, awaited }) => ({
          match,
          snapshot: snapshot ?? undefined,
          awaited,
        }));
        const input = { ...generated, peers };
        const { snapshotIndex, firstIndex, maxEntries, floorIndex, keepEntries } = input;
        fc.pre(firstIndex <= snapshotIndex + 1);
        const index = compactionIndex(input);
        const usual = Math.max(snapshotIndex - maxEntries, floorIndex);
        const boundFor = (awaited: boolean): number =>
          awaited ? Math.min(usual, input.awaitedFloorIndex) : usual;
        const isAnyAwaited = peers.some(({ awaited }) => awaited);
        const bounded = index >= Math.min(snapshotIndex, boundFor(isAnyAwaited));
        const served = peers.every(({ match, snapshot, awaited }) => {
          const needs = Math.max(match, snapshot?.index ?? 0);
          return index <= needs || index <= Math.max(boundFor(awaited), firstIndex - 1);
        });
        const kept =
          index <= Math.max(snapshotIndex - Math.min(keepEntries, maxEntries), floorIndex, firstIndex - 1);
        return index <= snapshotIndex && index >= firstIndex - 1 && bounded && served && kept;
      }),
    );
    t.end();
  },
);

function entries(from: number, count: number): Entry[] {
  return Array.from({ length: count }, (_, at) => ({
    term: 1,
    index: from + at,
    kind: "data" as const,
    data: new Uint8Array(10),
  }));
}

function messageBytes(message: Message & { type: "append" }): number {
  return message.entries.reduce((sum, { data }) => sum + data.byteLength + 32, 0);
}
