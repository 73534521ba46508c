import t from "tap";
import { decodeSnapshotPart, encodeSnapshotPart } from "../../../manager/raft/snapshot-codec.ts";
import { RaftHello, RaftMessage, SnapshotPart } from "../../../proto/gen/shoal/raft.ts";

const none = { hello: undefined, message: undefined, data: Buffer.alloc(0), offset: 0 };
const cases: readonly { readonly name: string; readonly part: SnapshotPart }[] = [
  { name: "empty", part: none },
  {
    name: "the first",
    part: { ...none, hello: RaftHello.create({ from: "n1.1" }), message: RaftMessage.create() },
  },
  { name: "small", part: { ...none, data: Buffer.from("some"), offset: 7 } },
  { name: "large, far behind", part: { ...none, data: Buffer.alloc(300_000, 3), offset: 2 ** 36 - 1 } },
];

for (const { name, part } of cases) {
  t.test(`a part is written and read as the generated code does: ${name}`, (t) => {
    t.strictSame(SnapshotPart.decode(encodeSnapshotPart(part)), part);
    t.strictSame(decodeSnapshotPart(Buffer.from(SnapshotPart.encode(part).finish())), part);
    t.strictSame(decodeSnapshotPart(encodeSnapshotPart(part)), part);
    t.end();
  });
}

t.test("what is cut off is refused", (t) => {
  const bytes = encodeSnapshotPart({ ...none, data: Buffer.from("some"), offset: 7 });
  t.throws(() => decodeSnapshotPart(bytes.subarray(0, 4)));
  t.end();
});
