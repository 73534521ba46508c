import t from "tap";
import { SimDisk, loseAll, loseNames, loseNothing, sectorBytes } from "./disk.ts";

const text = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();

t.test("a replaced file is old or new at every crash point, whatever was lost", async (t) => {
  const seen = new Set<string>();
  for (let stopAt = 1; stopAt <= 40; stopAt += 1) {
    for (const loss of [loseAll, loseNothing, loseNames]) {
      const disk = new SimDisk();
      await disk.makeDirectory("/a");
      await disk.replace("/a/file", Buffer.from("old"));
      const before = disk.callCount;
      disk.onCall = ({ number }) => (number === before + stopAt ? { kind: "stop" } : undefined);
      const done = await disk.replace("/a/file", Buffer.from("new")).then(
        () => true,
        () => false,
      );
      disk.onCall = () => undefined;
      disk.losePower(loss);
      const found = text(await disk.read("/a/file"));
      if (done) t.equal(found, "new");
      seen.add(`${done} ${found}`);
    }
  }
  t.strictSame([...seen].toSorted(), ["false new", "false old", "true new"]);
});

t.test("a name that was not synced may be gone, its directory with it", async (t) => {
  const disk = new SimDisk();
  disk.onCall = ({ kind }) => (kind === "sync-directory" ? { kind: "fail", code: "EIO" } : undefined);
  await t.rejects(disk.makeDirectory("/a/b"), { code: "EIO" });
  disk.onCall = () => undefined;
  const other = disk.clone();
  disk.losePower(loseAll);
  t.strictSame(await disk.list("/a"), []);
  await other.makeDirectory("/a/b");
  other.losePower(loseAll);
  t.strictSame(await other.list("/a"), ["b"], "made durable the second time, although it was there");
});

t.test("a torn write leaves the bytes before the tear; unsynced sectors are lost one by one", async (t) => {
  const disk = new SimDisk();
  const file = await disk.openBlocks("/f");
  disk.onCall = ({ kind }) => (kind === "write-synced" ? { kind: "stop", writtenBytes: 700 } : undefined);
  await t.rejects(file.commit(0, Buffer.alloc(2000, 1)), { name: "DiskStopped" });
  t.equal(disk.unsynced("/f").length, 2);
  const torn = disk.clone();
  torn.losePower(loseNothing);
  t.equal(torn.contents("/f").length, 700);
  disk.losePower({ keepsSector: (_, sector) => sector === 1, keepsName: () => true });
  const left = disk.contents("/f");
  t.ok(left.subarray(0, sectorBytes).every((byte) => byte === 0));
  t.ok(left.subarray(sectorBytes).every((byte) => byte === 1));
});

t.test("after a failed sync a second one succeeds and proves nothing", async (t) => {
  const disk = new SimDisk();
  const file = await disk.openBlocks("/f");
  await file.write(0, Buffer.from("data"));
  disk.onCall = ({ kind }) => (kind === "sync" ? { kind: "fail", code: "EIO" } : undefined);
  await t.rejects(file.sync(), { code: "EIO" });
  disk.onCall = () => undefined;
  await file.sync();
  t.equal(text(await disk.read("/f")), "data");
  disk.losePower(loseAll);
  t.not(text(await disk.read("/f")), "data");
});

t.test("a full disk takes what fits; handles of a dead process are dead", async (t) => {
  const disk = new SimDisk({ capacityBytes: 1000 });
  const file = await disk.openAppend("/f");
  await t.rejects(file.append(Buffer.alloc(1500)), { code: "ENOSPC" });
  t.equal(disk.usedBytes, 1000);
  disk.killProcess();
  await t.rejects(file.sync(), { name: "DiskStopped" });
  await file.close();
});
