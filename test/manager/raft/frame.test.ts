import t from "tap";
import { FrameReader, encodeFrame, type FrameKind } from "../../../manager/raft/frame.ts";

const frames = [
  { kind: "hello", text: "who speaks" },
  { kind: "ping", text: "" },
  { kind: "messages", text: "x".repeat(300) },
  { kind: "notice", text: "y" },
] as const;
const bytes = Buffer.concat(frames.map(({ kind, text }) => encodeFrame(kind, Buffer.from(text))));

function readAll(reader: FrameReader, chunk: Buffer): { kind: FrameKind; text: string }[] {
  return [...reader.push(chunk)].map(({ kind, payload }) => ({
    kind,
    text: Buffer.from(payload).toString(),
  }));
}

for (const chunkBytes of [1, 4, 5, 7, 64, 310, bytes.byteLength]) {
  t.test(`frames come out as they went in, in chunks of ${chunkBytes} bytes`, (t) => {
    const reader = new FrameReader(300);
    const read = [];
    for (let at = 0; at < bytes.byteLength; at += chunkBytes) {
      read.push(...readAll(reader, bytes.subarray(at, at + chunkBytes)));
    }
    t.strictSame(read, frames);
    t.end();
  });
}

t.test("a frame above the limit is refused by its header alone", (t) => {
  const reader = new FrameReader(299);
  t.throws(
    () => readAll(reader, encodeFrame("messages", Buffer.alloc(300)).subarray(0, 5)),
    /300 bytes arrived, at most 299/,
  );
  t.end();
});

t.test("a frame of a kind that nobody knows is refused", (t) => {
  const frame = encodeFrame("ping", Buffer.alloc(0));
  frame[4] = 99;
  t.throws(() => readAll(new FrameReader(300), frame), /kind 99/);
  t.end();
});
