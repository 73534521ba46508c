import { setImmediate } from "node:timers/promises";
import { decodeConfiguration, emptySnapshot, encodeConfiguration } from "raft-ts";
import t, { type Test } from "tap";
import { type Recovered, recover } from "../../../manager/raft/recover.ts";
import type { NodeId } from "../../../model/ids.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { SimDisk } from "../../sim/disk.ts";

const directory = "/state/raft";

function open(disk: SimDisk, start: Parameters<typeof recover>[1]["start"]): Promise<Recovered> {
  const deps = { disk, random: seededRandom(7), log: silentLog };
  const options = { directory, nodeId: "n1" as NodeId, raftAddress: "10.0.0.1:2378", start };
  return recover(deps, { ...options, segmentBytes: 16 * 1024 });
}

/** As it was just before the log would have gone on in a new segment. */
async function usedUp(): Promise<SimDisk> {
  const disk = await used();
  const { storage, wal, memberId } = await open(disk, "restart");
  let isBegun = false;
  disk.onCall = ({ kind, path }) => {
    isBegun ||= kind === "write-synced" && path.endsWith("2.wal");
    return undefined;
  };
  for (let index = storage.lastIndex() + 1; ; index += 1) {
    const before = disk.clone();
    const entries = [{ index, term: 1, kind: "data" as const, data: new Uint8Array() }];
    const hardState = { term: 1, vote: memberId, commit: index - 1 };
    await wal.append({ hardState, entries, installed: undefined });
    if (isBegun) return before;
  }
}

/** Counts what is open. */
function countHeld(disk: SimDisk): () => number {
  let held = 0;
  disk.onCall = ({ kind, path }) => {
    if (kind === "create" || (kind === "open" && disk.paths().includes(path))) held += 1;
    if (kind === "close") held -= 1;
    return undefined;
  };
  return () => held;
}

/** The disk of a member that has a log of `entries` and a snapshot in the middle of it. */
async function used(): Promise<SimDisk> {
  const disk = new SimDisk();
  const member = await open(disk, "bootstrap");
  const { storage, wal, snapshots } = member;
  for (let index = 2; index <= 10; index += 1) {
    const entries = [{ index, term: 1, kind: "data" as const, data: Buffer.from(`entry ${index}`) }];
    const hardState = { term: 1, vote: member.memberId, commit: index - 1 };
    await wal.append({ hardState, entries, installed: undefined });
    storage.append(entries);
  }
  const configuration = { voters: [member.memberId], outgoing: [], learners: [], contexts: {} };
  const writer = await snapshots.begin({ index: 5, term: 1, configuration });
  await writer.append(Buffer.from("state"));
  await writer.finish();
  await snapshots.keep(writer);
  await wal.close();
  return disk;
}

async function refuses(t: Test, missing: string, message: RegExp): Promise<void> {
  const disk = await used();
  await disk.remove(missing);
  const before = disk.paths();
  for (const start of ["restart", "join", "bootstrap"] as const) {
    await t.rejects(open(disk, start), { code: "data-loss", message });
    await t.rejects(open(disk, start), { message: /Remove this manager .* let it join again|backup/s });
  }
  t.strictSame(disk.paths(), before, "nothing was made in its place");
}

t.test("all that a member wrote is there again", async (t) => {
  const disk = await used();
  const { storage, snapshot } = await open(disk, "restart");
  t.equal(storage.lastIndex(), 10);
  t.equal(snapshot?.meta.index, 5);
});

t.test("a snapshot without the log beside it is refused: term and vote went with the log", (t) =>
  refuses(t, `${directory}/log`, /there is none, but a snapshot is there/),
);

t.test("a log without the member's name is refused: under a new one it would be nobody", (t) =>
  refuses(t, `${directory}/member`, /\/member, which says whose it is, is not there/),
);

t.test("a log without its keys is refused", (t) =>
  refuses(t, `${directory}/key`, /it is not there, but a log is/),
);

t.test("the state of another node is refused", async (t) => {
  const disk = await used();
  await disk.replace(`${directory}/member`, Buffer.from("n2.aa"));
  await t.rejects(open(disk, "restart"), {
    code: "failed-precondition",
    message: /belongs to member n2.aa, this node is n1/,
  });
});

t.test(
  "a forced new cluster keeps all that is in the log, committed or not, and lets go of the others",
  async (t) => {
    const disk = await used();
    const { storage, wal, memberId } = await open(disk, "restart");
    const joint = {
      voters: [memberId, "n2.aa"],
      outgoing: ["n3.bb"],
      learners: ["n4.cc"],
      contexts: {},
      departed: ["n0.00"],
    };
    const entries = [{ index: 11, term: 3, kind: "config" as const, data: encodeConfiguration(joint) }];
    await wal.append({ hardState: { term: 4, vote: "n2.aa", commit: 10 }, entries, installed: undefined });
    storage.append(entries);
    await wal.close();

    const forced = await open(disk, "force-new-cluster");
    const [config] = forced.storage.entries(12, 13, 1e6);
    t.match(config, { index: 12, term: 5, kind: "config" });
    t.match(decodeConfiguration(config?.data ?? new Uint8Array()), {
      voters: [memberId],
      outgoing: [],
      learners: [],
      contexts: { [memberId]: /10\.0\.0\.1:2378/ },
      departed: ["n0.00", "n2.aa", "n3.bb", "n4.cc"],
    });
    t.strictSame(forced.storage.initialState(), { term: 5, vote: memberId, commit: 10 });
    await forced.wal.close();
    t.equal((await open(disk, "restart")).storage.lastIndex(), 12, "and it is on the disk");
  },
);

t.test("no new cluster is forced without a log, nor by whoever the group removed", async (t) => {
  await t.rejects(open(new SimDisk(), "force-new-cluster"), {
    code: "failed-precondition",
    message: /no log/,
  });
  const disk = await used();
  const { wal, memberId } = await open(disk, "restart");
  const without = { voters: ["n2.aa"], outgoing: [], learners: [], contexts: {}, departed: [memberId] };
  const entries = [{ index: 11, term: 3, kind: "config" as const, data: encodeConfiguration(without) }];
  await wal.append({ hardState: { term: 3, vote: undefined, commit: 10 }, entries, installed: undefined });
  await wal.close();
  await t.rejects(open(disk, "force-new-cluster"), {
    code: "failed-precondition",
    message: /the group removed this manager/,
  });
});

t.test(
  "what is refused is let go of: nothing is left open or goes on when another one may have it",
  async (t) => {
    for (const what of ["the log is damaged", "the log is not the snapshot's"] as const) {
      const disk = await used();
      if (what === "the log is damaged") {
        await disk.replace(`${directory}/log/0000000000000001.wal`, Buffer.alloc(16 * 1024, 1));
      } else {
        const { wal, snapshot } = await open(disk, "restart");
        const installed = { index: 20, term: 1, configuration: emptySnapshot.configuration };
        await wal.append({ hardState: undefined, entries: [], installed });
        await wal.close();
        await snapshot?.close();
      }
      const held = countHeld(disk);
      await t.rejects(open(disk, "restart"), { code: "data-loss" });
      const calls = disk.callCount;
      t.equal(held(), 0, `${what}: all files are closed`);
      await setImmediate();
      t.equal(disk.callCount, calls, `${what}: nothing goes on`);
    }
  },
);

t.test(
  "a start that has to add to the log is refused by a full disk, and goes on once there is room",
  async (t) => {
    const disk = await usedUp();
    disk.capacityBytes = 0;
    const held = countHeld(disk);
    for (let attempt = 0; attempt < 2; attempt += 1) {
      await t.rejects(open(disk, "force-new-cluster"), {
        code: "resource-exhausted",
        message: /the disk is full; free some space\. It is tried again/,
      });
      t.equal(held(), 0, "all files are closed");
    }
    disk.capacityBytes = Number.MAX_SAFE_INTEGER;
    const { storage, wal, memberId } = await open(disk, "force-new-cluster");
    const [config] = storage.entries(storage.lastIndex(), storage.lastIndex() + 1, 1e6);
    t.match(decodeConfiguration(config?.data ?? new Uint8Array()), { voters: [memberId] });
    await wal.close();
  },
);

t.test("once it has started, a member waits for room on a full disk", async (t) => {
  const disk = await usedUp();
  disk.capacityBytes = 0;
  const { storage, wal } = await open(disk, "restart");
  const entries = [
    { index: storage.lastIndex() + 1, term: 1, kind: "data" as const, data: new Uint8Array(100) },
  ];
  let isDone = false;
  const appending = wal
    .append({ hardState: undefined, entries, installed: undefined })
    .then(() => (isDone = true));
  await setImmediate();
  t.notOk(isDone);
  disk.capacityBytes = Number.MAX_SAFE_INTEGER;
  await wal.maintain();
  await appending;
  await wal.close();
});

t.test("what keeps the disk from being read at the start costs no snapshot, and may pass", async (t) => {
  for (const code of ["EMFILE", "EIO"] as const) {
    const disk = await used();
    const held = countHeld(disk);
    const count = disk.onCall;
    disk.onCall = (call) => {
      const isRead = call.kind === (code === "EIO" ? "read" : "open") && call.path.endsWith(".snap");
      return isRead ? { kind: "fail", code } : count(call);
    };
    await t.rejects(open(disk, "restart"), {
      code: "unavailable",
      message: new RegExp(`${code}.*tried again`),
    });
    t.equal(held(), 0, "all files are closed");
    disk.onCall = count;
    const { wal, snapshot } = await open(disk, "restart");
    t.equal(snapshot?.meta.index, 5);
    await snapshot?.close();
    await wal.close();
  }
});
