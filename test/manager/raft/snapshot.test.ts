import type { SnapshotMeta } from "raft-ts";
import t from "tap";
import { crc32c } from "../../../manager/raft/crc32c.ts";
import { Keyring } from "../../../manager/raft/seal.ts";
import { SnapshotStore } from "../../../manager/raft/snapshot.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { SimDisk } from "../../sim/disk.ts";

const directory = "/raft/snapshots";

const seal = await Keyring.load({ disk: new SimDisk(), random: seededRandom(1) }, "/key", "create");

function store(disk: SimDisk): SnapshotStore {
  return new SnapshotStore({ disk }, { directory, seal });
}

function meta(index: number): SnapshotMeta {
  const configuration = { voters: ["a"], outgoing: [], learners: [], contexts: { a: "" } };
  return { index, term: 3, configuration };
}

async function threeSaved(): Promise<SimDisk> {
  const disk = new SimDisk();
  for (const index of [10, 20, 30]) {
    await store(disk).save({ meta: meta(index), data: Buffer.from(`state ${index}`) });
  }
  return disk;
}

t.test("the newest is loaded, the one before is kept, older ones go", async (t) => {
  const disk = await threeSaved();
  const loaded = await store(disk).load();
  t.strictSame(loaded?.meta, meta(30));
  t.equal(Buffer.from(loaded?.data ?? []).toString(), "state 30");
  t.equal((await disk.list(directory)).length, 2);
  t.equal(await store(disk).oldestIndex(), 20);
});

t.test("without any there is nothing to load", async (t) => {
  t.equal(await store(new SimDisk()).load(), undefined);
});

t.test("a damaged newest falls back to the one before; two damaged ones are refused", async (t) => {
  const disk = await threeSaved();
  const names = (await disk.list(directory)).toSorted();
  for (const offset of [0, 5, 9, 13, 17, 40, 80, -3]) {
    const copy = await threeSaved();
    copy.damage(`${directory}/${names[1] ?? ""}`, (bytes) => {
      const at = offset < 0 ? bytes.length + offset : offset;
      bytes[at] = (bytes[at] ?? 0) ^ 1;
    });
    t.equal((await store(copy).load())?.meta.index, 20, `byte ${offset}`);
  }
  for (const name of names) {
    disk.damage(`${directory}/${name}`, (bytes) => {
      bytes[30] = (bytes[30] ?? 0) ^ 1;
    });
  }
  await t.rejects(store(disk).load(), { code: "data-loss", message: /cannot read any snapshot/ });
});

t.test("a state never lies in the clear on the disk", async (t) => {
  const disk = await threeSaved();
  for (const name of await disk.list(directory)) {
    t.notMatch(Buffer.from((await disk.read(`${directory}/${name}`)) ?? []).toString("latin1"), /state/);
  }
});

t.test("a state of several parts comes back whole, and not when a part is missing", async (t) => {
  const disk = new SimDisk();
  const data = new Uint8Array(2_500_000).map((_, at) => at % 251);
  await store(disk).save({ meta: meta(7), data });
  t.ok(Buffer.from((await store(disk).load())?.data ?? []).equals(data));
  const [name = ""] = await disk.list(directory);
  const bytes = (await disk.read(`${directory}/${name}`)) ?? new Uint8Array();
  await disk.replace(`${directory}/${name}`, bytes.subarray(0, bytes.length - 500_100));
  await t.rejects(store(disk).load(), { code: "data-loss" });
});

t.test("CRC-32C gives the values of RFC 3720", (t) => {
  t.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  t.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  t.equal(crc32c(Buffer.from("6789"), crc32c(Buffer.from("12345"))), crc32c(Buffer.from("123456789")));
  t.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
  t.end();
});
