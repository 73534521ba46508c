import t from "tap";
import { pack, unpack } from "../../../manager/raft/pack.ts";

const cases = [
  { name: "nothing", pieces: [] },
  { name: "one piece", pieces: ["a"] },
  { name: "empty pieces keep their place", pieces: ["", "ab", "", "", "c", ""] },
] as const;

for (const { name, pieces } of cases) {
  t.test(`what was packed comes out again: ${name}`, (t) => {
    const packed = pack(pieces.map((piece) => Buffer.from(piece)));
    const found = unpack(packed).map((piece) => Buffer.from(piece).toString());
    t.strictSame(found, [...pieces]);
    t.end();
  });
}

t.test("a piece is copied, so that its own buffer stays when the pack is transferred", (t) => {
  const piece = new Uint8Array([1, 2, 3]);
  const { data } = pack([piece]);
  t.not(data.buffer, piece.buffer);
  t.equal(data.buffer.byteLength, 3);
  t.end();
});
