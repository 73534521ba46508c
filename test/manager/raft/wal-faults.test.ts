import { Worker } from "node:worker_threads";
import t from "tap";
import { crc32c } from "../../../manager/raft/crc32c.ts";
import { VirtualClock, settle } from "../../sim/clock.ts";
import { SimDisk } from "../../sim/disk.ts";
import type { EnumerationName, Found } from "./wal-enumerations.ts";
import { logDirectory, newDisk, newSeal, openWal, reopen } from "./wal-work.ts";

const rules: readonly { readonly rule: string; readonly name: EnumerationName; readonly atLeast: number }[] =
  [
    {
      rule: "a crash in any call, each unsynced sector and name lost or kept, loses nothing acknowledged",
      name: "crashes",
      atLeast: 2000,
    },
    { rule: "a write of the log that is torn at any byte is dropped whole", name: "tears", atLeast: 500 },
    {
      rule: "a crash during recovery changes nothing that a next one finds",
      name: "recoveryCrashes",
      atLeast: 300,
    },
    {
      rule: "after an error of the disk in any call nothing is taken in, and a restart finds what was acknowledged",
      name: "errors",
      atLeast: 500,
    },
    {
      rule: "a disk that is full in any call, for one call or for many, is waited for",
      name: "fullCalls",
      atLeast: 200,
    },
    {
      rule: "one flipped bit anywhere is refused with its place, or changes nothing",
      name: "flips",
      atLeast: 3000,
    },
    {
      rule: "sectors that turn into zeros are refused wherever they are, also the last ones, also whole segments",
      name: "zeros",
      atLeast: 20,
    },
  ];

for (const { rule, name, atLeast } of rules) {
  t.test(rule, async (t) => {
    const { count, wrong } = await enumerate(name);
    t.strictSame(wrong.slice(0, 5), []);
    t.ok(count >= atLeast, `${count} cases`);
  });
}

function enumerate(name: EnumerationName): Promise<Found> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("wal-enumerations.js", import.meta.url), { workerData: name });
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}

t.test("batches that come during a slow write share the next one", async (t) => {
  const clock = new VirtualClock();
  const disk = new SimDisk({ clock });
  const { wal } = await openWal(disk, await newSeal(1), 64 * 1024);
  await settle();
  let writes = 0;
  disk.onCall = ({ kind, path }) => {
    if (kind !== "write-synced" || !path.endsWith(".wal")) return undefined;
    writes += 1;
    return { kind: "delay", ms: 10 };
  };
  const settled: number[] = [];
  for (let index = 1; index <= 50; index += 1) {
    const entries = [{ index, term: 1, kind: "data" as const, data: new Uint8Array(100) }];
    void wal.append({ hardState: undefined, entries, installed: undefined }).then(() => settled.push(index));
  }
  await clock.advance(11);
  t.strictSame(settled, [1], "the first one waited for nobody");
  await clock.advance(11);
  t.equal(writes, 2);
  t.strictSame(
    settled,
    Array.from({ length: 50 }, (_, at) => at + 1),
  );
});

t.test("an append is one synced write into a segment filled ahead of time, and no other call", async (t) => {
  const disk = new SimDisk();
  const { wal } = await openWal(disk, await newSeal(1), 64 * 1024);
  await settle();
  const segment = `${logDirectory}/0000000000000001.wal`;
  t.equal(disk.contents(segment).length, 64 * 1024);
  t.ok(disk.paths().includes(`${logDirectory}/0000000000000002.wal`), "the next one waits already");
  const calls: string[] = [];
  disk.onCall = ({ kind, path }) => void calls.push(`${kind} ${path}`);
  for (let index = 1; index <= 5; index += 1) {
    const entries = [{ index, term: 1, kind: "data" as const, data: new Uint8Array(100) }];
    await wal.append({ hardState: undefined, entries, installed: undefined });
  }
  t.strictSame(
    calls,
    Array.from({ length: 5 }, () => `write-synced ${segment}`),
  );
  t.equal(disk.contents(segment).length, 64 * 1024);
});

t.test(
  "a full disk makes appends wait until segments go, and never more than the reserve is lost",
  async (t) => {
    const disk = new SimDisk();
    const { wal, space } = await openWal(disk, await newSeal(1));
    let index = 0;
    const append = (): Promise<void> => {
      index += 1;
      const entries = [{ index, term: 1, kind: "data" as const, data: new Uint8Array(600) }];
      return wal.append({ hardState: undefined, entries, installed: undefined });
    };
    for (let count = 0; count < 10; count += 1) await append();
    await settle();
    disk.capacityBytes = disk.usedBytes;
    t.equal(space.state, "ample");
    while (space.state === "ample") await append();
    t.notOk(disk.paths().includes("/raft/reserve"), "the reserve was given up");
    let waiting = 0;
    for (let count = 0; count < 20; count += 1) {
      waiting += 1;
      void append().then(() => (waiting -= 1));
    }
    await settle();
    t.ok(waiting > 0 && waiting < 20, `${20 - waiting} more fitted`);
    await wal.maintain();
    await settle();
    t.ok(waiting > 0, "still full");
    await wal.release(9);
    for (let round = 0; round < 10; round += 1) {
      await wal.maintain();
      await settle();
      await wal.release(index - 1);
    }
    t.equal(waiting, 0);
    await wal.maintain();
    t.equal(space.state, "ample");
    t.ok(disk.paths().includes("/raft/reserve"));
    await wal.close();
  },
);

t.test("a log of the first format is refused as such", async (t) => {
  const disk = await newDisk();
  const { wal } = await reopen(disk);
  await wal.close();
  const path = `${logDirectory}/0000000000000001.wal`;
  disk.damage(path, (bytes) => {
    bytes.fill(0, 25, 28);
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(28, crc32c(bytes.subarray(0, 28)), true);
  });
  await t.rejects(reopen(disk), {
    code: "failed-precondition",
    message: /has format 1, this version reads 2/,
  });
});
