import type { Entry } from "raft-ts";
import t from "tap";
import { DiskSpace } from "../../../manager/raft/disk-space.ts";
import { Keyring } from "../../../manager/raft/seal.ts";
import { Wal, type WalState } from "../../../manager/raft/wal.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { silentLog } from "../../../runtime/log.ts";
import { SimDisk, loseAll } from "../../sim/disk.ts";

const directory = "/raft/log";
const seal = await newSeal(1);
const first = `${directory}/0000000000000001.wal`;

function open(disk: SimDisk, segmentBytes = 64 * 1024): Promise<{ wal: Wal; state: WalState }> {
  return openWith(disk, seal, segmentBytes);
}

function openWith(
  disk: SimDisk,
  seal: Keyring,
  segmentBytes: number,
): Promise<{ wal: Wal; state: WalState }> {
  const space = new DiskSpace({ disk, log: silentLog }, { path: "/raft/reserve", bytes: segmentBytes });
  return Wal.open({ disk }, { directory, seal, space, segmentBytes });
}

function newSeal(seed: number): Promise<Keyring> {
  return Keyring.load({ disk: new SimDisk(), random: seededRandom(seed) }, "/key", "create");
}

function entry(index: number, term = 1, bytes = 100): Entry {
  return { index, term, kind: "data", data: new Uint8Array(bytes).fill(index) };
}

function write(wal: Wal, entries: readonly Entry[], term = 1): Promise<void> {
  return wal.append({ hardState: { term, vote: "a", commit: 0 }, entries, installed: undefined });
}

function print({ entries, hardState }: WalState): string {
  return `t${hardState.term} ${entries.map(({ index, term }) => `${index}/${term}`).join(" ")}`;
}

/** Three batches, as a crash would find them. */
async function written(): Promise<SimDisk> {
  const disk = new SimDisk();
  const { wal } = await open(disk);
  await write(wal, [entry(1), entry(2)]);
  await write(wal, [entry(3, 1, 2000)]);
  await write(wal, [entry(4, 1, 2000)]);
  disk.killProcess();
  return disk;
}

/** Where records begin in the first segment. */
async function recordStarts(disk: SimDisk): Promise<number[]> {
  const bytes = Buffer.from((await disk.read(first)) ?? []);
  const starts: number[] = [];
  for (let at = bytes.indexOf("SHWR"); at !== -1; at = bytes.indexOf("SHWR", at + 1)) starts.push(at);
  return starts;
}

t.test("what was appended is there after a crash that loses everything unsynced", async (t) => {
  const disk = await written();
  disk.losePower(loseAll);
  t.equal(print((await open(disk)).state), "t1 1/1 2/1 3/1 4/1");
});

t.test("a later batch takes the place of entries at its indexes and after", async (t) => {
  const disk = await written();
  const { wal } = await open(disk);
  await write(wal, [entry(3, 2)], 2);
  await wal.close();
  t.equal(print((await open(disk)).state), "t2 1/1 2/1 3/2");
});

const torn = [
  { name: "header only", cut: (start: number) => start + 32 },
  { name: "one sector", cut: (start: number) => Math.ceil((start + 32) / 512) * 512 },
  { name: "all but the last sector", cut: (_: number, end: number) => Math.floor((end - 520) / 512) * 512 },
] as const;

for (const { name, cut } of torn) {
  t.test(`a torn last record is dropped, the log goes on: ${name}`, async (t) => {
    const disk = await written();
    const start = (await recordStarts(disk)).at(-1) ?? 0;
    disk.damage(first, (bytes) => bytes.fill(0, cut(start, start + 2100)));
    const { wal, state } = await open(disk);
    t.equal(print(state), "t1 1/1 2/1 3/1");
    await write(wal, [entry(4, 2)], 2);
    await wal.close();
    t.equal(print((await open(disk)).state), "t2 1/1 2/1 3/1 4/2");
  });
}

t.test("a last record whose first sector did not arrive is dropped", async (t) => {
  const disk = await written();
  const start = (await recordStarts(disk)).at(-1) ?? 0;
  disk.damage(first, (bytes) => bytes.fill(0, start, Math.ceil((start + 1) / 512) * 512));
  const { wal, state } = await open(disk);
  t.equal(print(state), "t1 1/1 2/1 3/1");
  await write(wal, [entry(4, 2, 3000)], 2);
  await wal.close();
  t.equal(print((await open(disk)).state), "t2 1/1 2/1 3/1 4/2");
});

t.test("damage is refused with its place and what to do, and nothing is changed", async (t) => {
  for (const record of [1, 2, 3]) {
    for (const offset of [0, 5, 9, 21, 30, 40, 90]) {
      const disk = await written();
      const start = (await recordStarts(disk))[record] ?? 0;
      disk.damage(first, (bytes) => {
        bytes[start + offset] = (bytes[start + offset] ?? 0) ^ 0x10;
      });
      const before = disk.contents(first);
      await t.rejects(
        open(disk),
        {
          name: "ClusterError",
          code: "data-loss",
          message: new RegExp(`${first} is damaged at offset ${start} .*let it join again`),
        },
        `record ${record}, byte ${offset}`,
      );
      t.ok(disk.contents(first).equals(before), "the file is as it was");
    }
  }
});

t.test("a record wiped out in the middle is damage, not an end", async (t) => {
  const disk = await written();
  const [, , start = 0, end = 0] = await recordStarts(disk);
  disk.damage(first, (bytes) => bytes.fill(0, start, end));
  await t.rejects(open(disk), { code: "data-loss", message: /later record stands at offset/ });
});

t.test("segments roll over, are released when covered, and stay readable", async (t) => {
  const disk = new SimDisk();
  const { wal } = await open(disk, 4096);
  for (let index = 1; index <= 40; index += 1) await write(wal, [entry(index, 1, 600)]);
  const count = (await disk.list(directory)).length;
  t.ok(count > 6, `${count} segments`);
  await wal.release(30);
  await wal.close();
  t.ok((await disk.list(directory)).length < count - 4);
  const { state } = await open(disk, 4096);
  t.equal(state.entries.at(-1)?.index, 40);
  t.ok((state.entries[0]?.index ?? 99) <= 31, "nothing above the released index went");
  t.equal(state.hardState.vote, "a");
});

t.test("a missing segment is damage", async (t) => {
  const disk = new SimDisk();
  const { wal } = await open(disk, 4096);
  for (let index = 1; index <= 20; index += 1) await write(wal, [entry(index, 1, 600)]);
  await wal.close();
  await disk.remove(`${directory}/0000000000000002.wal`);
  await t.rejects(open(disk, 4096), { code: "data-loss", message: /missing|stands where/ });
});

t.test("after a failed sync nothing is written any more", async (t) => {
  const disk = new SimDisk();
  const { wal } = await open(disk);
  await write(wal, [entry(1)]);
  disk.onCall = ({ kind }) => (kind === "write-synced" ? { kind: "fail", code: "EIO" } : undefined);
  await t.rejects(write(wal, [entry(2)]), { code: "data-loss", message: /has stopped/ });
  disk.onCall = () => undefined;
  await t.rejects(write(wal, [entry(2)]), { code: "data-loss" }, "a later success would prove nothing");
});

t.test(
  "a process without descriptors left stops, and is to be started again: the disk did nothing wrong",
  async (t) => {
    const disk = new SimDisk();
    const { wal } = await open(disk, 4096);
    disk.onCall = ({ kind }) => (kind === "open" ? { kind: "fail", code: "EMFILE" } : undefined);
    let acknowledged = 0;
    await t.rejects(
      async () => {
        for (; acknowledged < 1_000; acknowledged += 1) await write(wal, [entry(acknowledged + 1)]);
      },
      { code: "unavailable", message: /EMFILE.*nothing is wrong with the disk.*LimitNOFILE/ },
    );
    t.ok(acknowledged > 0);
    disk.onCall = () => undefined;
    const { state } = await open(disk, 4096);
    t.equal(state.entries.length, acknowledged, "what was acknowledged is there");
  },
);

t.test("a disk that cannot be read or written while the log is opened is tried again", async (t) => {
  const disk = await written();
  for (const failing of ["read", "write-synced"] as const) {
    disk.onCall = ({ kind }) => (kind === failing ? { kind: "fail", code: "EIO" } : undefined);
    await t.rejects(open(disk, 4096), { code: "unavailable", message: /cannot open the log .*EIO/ });
  }
  disk.onCall = () => undefined;
  const { wal } = await open(disk, 4096);
  await wal.close();
});

t.test("another key cannot read the log", async (t) => {
  const disk = await written();
  await t.rejects(openWith(disk, await newSeal(2), 4096), {
    code: "data-loss",
    message: /another key/,
  });
});
