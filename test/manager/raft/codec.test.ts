import t from "tap";
import type { Entry, Message, SnapshotMeta } from "raft-ts";
import {
  type WalBatch,
  decodeBatch,
  decodeMessages,
  encodeBatch,
  encodeMessages,
} from "../../../manager/raft/codec.ts";
import { readerOf } from "../../../manager/raft/wire.ts";

const installed: SnapshotMeta = {
  index: 70_000,
  term: 3,
  configuration: { voters: ["n1.ab"], outgoing: [], learners: ["n2.cd"], contexts: { "n1.ab": "x" } },
};
const entries: readonly Entry[] = [
  { index: 2 ** 40 + 5, term: 2 ** 32, kind: "data", data: new Uint8Array(300).fill(7) },
  { index: 2 ** 40 + 6, term: 2 ** 32, kind: "config", data: Uint8Array.of(1) },
  { index: 2 ** 40 + 7, term: 2 ** 32 + 1, kind: "empty", data: new Uint8Array() },
];
const hardState = { term: 4, vote: "n1.ab", commit: 2 ** 33 };

const batches: Readonly<Record<string, WalBatch>> = {
  nothing: { hardState: undefined, entries: [], installed: undefined },
  "a hard state without a vote": {
    hardState: { ...hardState, vote: undefined },
    entries: [],
    installed: undefined,
  },
  "entries of all kinds": { hardState: undefined, entries, installed: undefined },
  everything: { hardState, entries, installed },
};

for (const [what, batch] of Object.entries(batches)) {
  t.test(`${what} is read as it was written, wherever it lies`, (t) => {
    const bytes = encodeBatch(batch);
    const among = Buffer.concat([Buffer.alloc(5, 0xff), bytes, Buffer.alloc(5, 0xff)]);
    const reader = readerOf(among);
    reader.pos = 5;
    const read = decodeBatch(reader, bytes.byteLength);
    t.equal(reader.pos, 5 + bytes.byteLength);
    t.strictSame(plain(read), plain(batch));
    t.end();
  });
}

t.test("a field of a later version is passed over", (t) => {
  const later = Buffer.from([0x7a, 2, 1, 2]); // Field 15, two bytes.
  const bytes = Buffer.concat([later, encodeBatch({ hardState, entries, installed: undefined }), later]);
  t.strictSame(plain(decodeBatch(readerOf(bytes), bytes.byteLength)).hardState, hardState);
  t.end();
});

t.test("a batch that is cut off anywhere is refused, or is one with less in it that ends there", (t) => {
  const whole = encodeBatch({ hardState, entries, installed });
  for (let length = 1; length < whole.byteLength; length += 1) {
    let read: WalBatch;
    try {
      read = decodeBatch(readerOf(whole), length); // What follows is in memory, as it is in a log.
    } catch {
      continue;
    }
    t.strictSame(encodeBatch(read).byteLength, length);
  }
  t.end();
});

t.test("an entry of an unknown kind is refused", (t) => {
  const bytes = Buffer.from([18, 4, 24, 9, 16, 1]);
  t.throws(() => decodeBatch(readerOf(bytes), bytes.byteLength), { code: "invalid-argument" });
  t.end();
});

function plain(batch: WalBatch): WalBatch {
  return {
    ...batch,
    entries: batch.entries.map((entry) => ({ ...entry, data: new Uint8Array(entry.data) })),
  };
}

t.test("a pre-vote and its answer keep their round; one without stays without", (t) => {
  const words = { from: "n1.ab", to: "n2.cd", term: 4 };
  const messages: readonly Message[] = [
    { ...words, type: "pre-vote", lastIndex: 3, lastTerm: 2, transfer: false, round: 9 },
    { ...words, type: "pre-vote", lastIndex: 3, lastTerm: 2, transfer: false },
    { ...words, type: "pre-vote-reply", granted: false, round: 9 },
    { ...words, type: "pre-vote-reply", granted: true },
  ];
  t.strictSame(decodeMessages(encodeMessages(messages)), messages);
  t.end();
});
