import type { Message } from "raft-ts";
import t from "tap";
import { Outbox } from "../../../manager/raft/outbox.ts";

function append(index: number, bytes: number | undefined, commit = 0): Message {
  const entries =
    bytes === undefined
      ? []
      : [{ index: index + 1, term: 1, kind: "data" as const, data: new Uint8Array(bytes) }];
  return { type: "append", from: "a", to: "b", term: 1, prevIndex: index, prevTerm: 1, entries, commit };
}

const heartbeat: Message = { type: "heartbeat", from: "a", to: "b", term: 1, commit: 1, round: 0 };

t.test("an append takes the place of news that waits right before it, and of nothing else", (t) => {
  const outbox = new Outbox();
  const [first, second] = [append(1, 10), append(3, 10, 3)];
  for (const message of [append(1, undefined, 1), first, append(2, undefined, 2), heartbeat])
    outbox.put(message, "connected");
  for (const message of [append(2, undefined, 2), append(3, undefined, 3), second])
    outbox.put(message, "connected");
  t.strictSame(outbox.take(), [first, append(2, undefined, 2), heartbeat, second]);
  t.ok(outbox.isEmpty);
  t.end();
});

t.test("a frame takes what fits, and one message whatever its size", (t) => {
  const outbox = new Outbox();
  const mib = 1024 * 1024;
  for (const [at, bytes] of [3 * mib, mib, mib, 1].entries()) outbox.put(append(at, bytes), "connected");
  t.strictSame([outbox.take().length, outbox.take().length, outbox.take().length], [1, 2, 1]);
  t.strictSame(outbox.take(), []);
  t.end();
});

t.test("the oldest go where there is no room, most of them while the peer is away", (t) => {
  const outbox = new Outbox();
  let gone = 0;
  for (let at = 0; at < 4096; at += 1) if (outbox.put(append(at, 1), "connected")) gone += 1;
  t.equal(gone, 0);
  t.ok(outbox.put(heartbeat, "connected"));
  outbox.shorten();
  t.ok(outbox.put(heartbeat, "away"));
  t.match(outbox.take(), { length: 64 });
  t.end();
});
