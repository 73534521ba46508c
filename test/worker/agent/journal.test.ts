import t from "tap";
import type { TaskId } from "../../../model/ids.ts";
import type { TaskState } from "../../../model/task.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { silentLog } from "../../../runtime/log.ts";
import { Journal } from "../../../worker/agent/journal.ts";
import { assignment, revision } from "./fixtures.ts";

/** A disk in memory that can fail or lose power: `power` bytes more are written, then nothing. */
class MemoryDisk implements Disk {
  readonly files = new Map<string, Buffer>();
  failNext = "";
  syncCount = 0;
  async read(path: string) {
    return this.files.get(path);
  }
  async list() {
    return [...this.files.keys()];
  }
  async makeDirectory() {}
  async replace(path: string, data: Uint8Array) {
    this.#fail();
    this.files.set(path, Buffer.from(data));
  }
  async remove(path: string) {
    this.files.delete(path);
  }
  async openAppend(path: string) {
    if (!this.files.has(path)) this.files.set(path, Buffer.alloc(0));
    return {
      append: async (data: Uint8Array) => {
        const before = this.files.get(path) ?? Buffer.alloc(0);
        if (this.failNext === "torn") {
          this.failNext = "";
          this.files.set(path, Buffer.concat([before, data.subarray(0, data.length / 2)]));
          throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
        }
        this.files.set(path, Buffer.concat([before, data]));
      },
      sync: async () => {
        this.syncCount += 1;
      },
      close: async () => undefined,
    };
  }
  #fail() {
    if (this.failNext !== "replace") return;
    this.failNext = "";
    throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
  }
}

const path = "/state/tasks.journal";
const status = (state: TaskState) => ({ state, atMs: 1, message: "", error: "", appliedAtMs: 0 });
const id = (text: string) => text as TaskId;
const open = (disk: Disk) => Journal.open({ disk, log: silentLog }, "/state");
const printed = (journal: Journal) =>
  [...journal.tasks.values()].map((task) => `${task.assignment.taskId}=${task.status.state}`).join(" ");

async function filled(disk: Disk): Promise<Journal> {
  const journal = await open(disk);
  await Promise.all(
    ["a", "b", "c"].map((name) =>
      journal.put({ assignment: assignment(name), containerId: `c-${name}`, status: status("accepted") }),
    ),
  );
  await journal.setStatus(id("a"), status("running"));
  await journal.forget(id("b"));
  return journal;
}

t.test("tasks, their last status and what was forgotten survive", async (t) => {
  const disk = new MemoryDisk();
  await filled(disk);
  const again = await open(disk);
  t.equal(printed(again), "a=running c=accepted");
  t.equal(again.tasks.get(id("a"))?.containerId, "c-a");
});

t.test("a power cut at any byte loses only what was not acknowledged", async (t) => {
  const disk = new MemoryDisk();
  await filled(disk);
  const whole = disk.files.get(path) ?? Buffer.alloc(0);
  const seen = new Set<string>();
  for (let length = 0; length <= whole.length; length += 1) {
    const cut = new MemoryDisk();
    cut.files.set(path, whole.subarray(0, length));
    seen.add(printed(await open(cut)));
  }
  t.strictSame(
    [...seen],
    [
      "",
      "a=accepted",
      "a=accepted b=accepted",
      "a=accepted b=accepted c=accepted",
      "a=running b=accepted c=accepted",
      "a=running c=accepted",
    ],
  );
});

t.test("a damaged line costs that task only", async (t) => {
  const disk = new MemoryDisk();
  await filled(disk);
  const data = Buffer.from(disk.files.get(path) ?? "");
  data[100] = (data[100] ?? 0) ^ 0xff;
  disk.files.set(path, data);
  t.equal(printed(await open(disk)), "c=accepted");
});

t.test("a full disk is told, and the next write puts everything right", async (t) => {
  const disk = new MemoryDisk();
  const journal = await filled(disk);
  disk.failNext = "torn";
  await t.rejects(journal.put({ assignment: assignment("d"), status: status("accepted") }), {
    code: "internal",
    message: /ENOSPC/,
  });
  disk.failNext = "replace";
  await t.rejects(journal.setStatus(id("c"), status("ready")), { message: /ENOSPC/ });
  await journal.setStatus(id("c"), status("starting"));
  t.equal(printed(await open(disk)), "a=running c=starting d=accepted");
});

t.test("what comes together is written with one sync", async (t) => {
  const disk = new MemoryDisk();
  const journal = await filled(disk);
  const before = disk.syncCount;
  const many = Array.from({ length: 50 }, (_, index) =>
    journal.put({ assignment: assignment(`t${index}`), status: status("accepted") }),
  );
  await Promise.all(many);
  t.equal(disk.syncCount - before, 1);
});

t.test("registry credentials never reach the disk", async (t) => {
  const disk = new MemoryDisk();
  const journal = await open(disk);
  const secret = { ...revision(), registryAuth: { username: "u", password: "hush" } };
  await journal.put({ assignment: assignment("a", { revision: secret }), status: status("accepted") });
  t.notMatch(disk.files.get(path)?.toString(), /hush/);
});
