import t from "tap";
import { DiskSpace } from "../../../manager/raft/disk-space.ts";
import { SimDisk } from "../../sim/disk.ts";

const bytes = 64 * 1024;

t.test("a full disk is told once, and once again when there is room", async (t) => {
  const disk = new SimDisk({ capacityBytes: bytes / 2 });
  await disk.makeDirectory("/raft");
  const told: string[] = [];
  const tell = (_fields: object, text: string): void => void told.push(text);
  const space = new DiskSpace({ disk, log: { info: tell, warn: tell } }, { path: "/raft/reserve", bytes });
  t.equal(await space.restore(), "short");
  t.equal(await space.restore(), "short");
  await space.spend();
  t.strictSame(told, ["the disk is full: this manager waits for room; free some space"]);
  disk.capacityBytes = 2 * bytes;
  t.equal(await space.restore(), "ample");
  t.equal(await space.restore(), "ample");
  t.strictSame(told.slice(1), ["the disk has room again"]);
});
