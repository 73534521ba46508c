import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import t from "tap";
import { HardStateRecord } from "../../../proto/gen/shoal/raft.ts";
import { encodeWith, readerOf } from "../../../manager/raft/wire.ts";

const numbers = [
  0,
  1,
  127,
  128,
  2 ** 28 - 1,
  2 ** 28,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 40 + 5,
  Number.MAX_SAFE_INTEGER,
];

for (const commit of numbers) {
  t.test(`${commit} has the form that the library gives it, and is read alike`, (t) => {
    const record = { term: 1, vote: "n1.ab", commit };
    const bytes = encodeWith((writer) => HardStateRecord.encode(record, writer));
    t.strictSame([...bytes], [...HardStateRecord.encode(record, new BinaryWriter()).finish()]);
    t.strictSame(HardStateRecord.decode(readerOf(bytes)), record);
    t.strictSame(HardStateRecord.decode(new BinaryReader(bytes)), record);
    t.end();
  });
}

t.test("a number that is cut off is refused, also where another one lies behind it in memory", (t) => {
  const record = { term: 0, vote: "", commit: 300 };
  const bytes = encodeWith((writer) => HardStateRecord.encode(record, writer));
  t.throws(() => HardStateRecord.decode(readerOf(bytes.subarray(0, bytes.byteLength - 1))), RangeError);
  t.end();
});

t.test("what failed half way leaves nothing for the next encoding", (t) => {
  const record = { term: 7, vote: "n1.ab", commit: 9 };
  const wrong = { ...record, commit: -1 };
  t.throws(() => encodeWith((writer) => HardStateRecord.encode(wrong, writer)));
  const bytes = encodeWith((writer) => HardStateRecord.encode(record, writer));
  t.strictSame(HardStateRecord.decode(readerOf(bytes)), record);
  t.end();
});
