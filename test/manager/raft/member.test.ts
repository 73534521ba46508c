import {
  type Configuration,
  type Entry,
  type Message,
  type SnapshotMessage,
  bootstrapEntry,
  MemoryStorage,
} from "raft-ts";
import t, { type Test } from "tap";
import type { RaftGroupOptions } from "../../../manager/raft/group.ts";
import { Member } from "../../../manager/raft/member.ts";
import { encodeContext } from "../../../manager/raft/membership.ts";
import { pack } from "../../../manager/raft/pack.ts";
import type { ThreadOutput } from "../../../manager/raft/port.ts";
import { DiskSpace } from "../../../manager/raft/disk-space.ts";
import { Keyring } from "../../../manager/raft/seal.ts";
import type { SnapshotFile } from "../../../manager/raft/snapshot-file.ts";
import { SnapshotStore } from "../../../manager/raft/snapshot.ts";
import { Wal } from "../../../manager/raft/wal.ts";
import type { ClusterId, NodeId } from "../../../model/ids.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { SimDisk } from "../../sim/disk.ts";

const self = "n1.aa";
const peers = ["n2.bb", "n3.cc"] as const;
const tickMs = 50;

t.test("a leader that may be one in its own eyes only tells no stranger that it was removed", async (t) => {
  const { member, toPeer, answer, clock } = await leader(t);
  t.equal(member.isRemoved("n4.dd"), false, "not being in this leader's configuration proves nothing");
  await settle();
  t.equal(member.isRemoved("n4.dd"), false, "nobody confirmed its leadership since");
  for (let turn = 0; turn < 4; turn += 1) {
    answer();
    await clock.advance(2 * tickMs);
  }
  t.equal(member.isRemoved("n4.dd"), true, "a confirmed leader knows everyone");
  t.equal(member.isRemoved(peers[0]), false);
  t.ok(toPeer.length > 0);
});

t.test("a member that was seen to leave is known to have left, also to a follower", async (t) => {
  const { member, answer, clock, sent } = await leader(t);
  member.command({ kind: "change", id: 1, change: { kind: "remove", nodeId: "n3" as NodeId } });
  for (let turn = 0; turn < 4; turn += 1) {
    answer();
    await clock.advance(2 * tickMs);
  }
  t.ok(sent.some((output) => output.kind === "reply" && output.id === 1));
  await clock.advance(20 * tickMs); // Nobody answers, so it steps down.
  t.equal(member.isRemoved(peers[1]), true);
  t.equal(member.isRemoved("n4.dd"), false);
});

t.test("new limits of the log hold from the next entry on", async (t) => {
  const { member, answer, clock, sent } = await leader(t);
  const wanted = (): number => sent.filter((output) => output.kind === "snapshot-wanted").length;
  const write = async (id: number): Promise<void> => {
    member.command({ kind: "propose", ids: [id], ...pack([new Uint8Array(8)]) });
    for (let turn = 0; turn < 4; turn += 1) {
      await settle();
      answer();
      await clock.advance(2 * tickMs);
    }
  };
  for (let id = 1; id <= 4; id += 1) await write(id);
  t.equal(wanted(), 0, "far from the default of 10,000");
  member.command({ kind: "log-limits", limits: { snapshotEntries: 3, keepEntries: 1 } });
  await write(5);
  t.equal(wanted(), 1);
});

t.test(
  "a main thread that takes nothing in is handed a bounded number of bytes, and the rest once it goes on",
  async (t) => {
    const maxHandedBytes = 2048;
    const { member, answer, clock, sent } = await leader(t, { maxHandedBytes });
    const data = new Uint8Array(100);
    const count = 100;
    const ids = Array.from({ length: count }, (_, at) => at + 1);
    member.command({ kind: "propose", ids, ...pack(ids.map(() => data)) });
    const turn = async (): Promise<void> => {
      answer();
      await clock.advance(2 * tickMs);
    };
    const handed = () => sent.filter((output) => output.kind === "committed");
    const handedCount = (): number => handed().reduce((sum, { indexes }) => sum + indexes.length, 0);
    for (let turns = 0; turns < 10; turns += 1) await turn();
    t.ok(handedCount() > 0);
    t.ok(handedCount() * data.byteLength < 2 * maxHandedBytes, `${handedCount()} entries of ${count}`);

    for (let turns = 0; turns < 20 && handedCount() < count; turns += 1) {
      const asked = handed().findLast(({ acknowledge }) => acknowledge);
      if (asked === undefined) throw new Error("nobody waits for an answer");
      member.command({ kind: "applied", index: asked.index });
      await turn();
    }
    t.equal(handedCount(), count);
  },
);

t.test("a member that waits for room on a full disk stops when it is told to", async (t) => {
  const { member, disk, space } = await leader(t);
  disk.capacityBytes = 0;
  const data = new Uint8Array(48 * 1024); // The third of them needs another segment.
  member.command({ kind: "propose", ids: [1, 2, 3], ...pack([data, data, data]) });
  await settle();
  t.equal(space.state, "short", "it waits");
  const stopped = { is: false };
  void member.stop().then(() => (stopped.is = true));
  await settle();
  t.equal(stopped.is, true);
});

t.test(
  "a member whose main thread takes a state in slowly goes on voting, and hands over nothing behind it",
  async (t) => {
    const { member, clock, sent, toPeer } = await leader(t, {}, 1024);
    const file = await snapshotAt(50, 10 * 1024);
    const [from, other] = peers;
    const term = 20;
    const message: SnapshotMessage = { type: "snapshot", from, to: self, term, snapshot: file.meta };
    const intake = await member.onSnapshotOffer(message, file.identity);
    for await (const part of file.parts()) await intake.add(part);
    await intake.finish();
    await settle();
    const parts = () => sent.filter((output) => output.kind === "snapshot");
    t.ok(parts().length > 0 && parts().every(({ isLast }) => !isLast), "the rest waits for the main thread");
    t.ok(toPeer.some((reply) => reply.type === "append-reply" && reply.index === 50 && !reply.rejected));

    const entry: Entry = { index: 51, term, kind: "data", data: Buffer.from("behind it") };
    const after = { prevIndex: 50, prevTerm: file.meta.term, entries: [entry], commit: 51 };
    member.onMessages([{ type: "append", from, to: self, term, ...after }]);
    const asked = { lastIndex: 51, lastTerm: term, transfer: true };
    await settle();
    member.onMessages([{ type: "vote", from: other, to: self, term: term + 1, ...asked }]);
    await settle();
    t.match(toPeer.at(-1), { type: "vote-reply", to: other, term: term + 1, granted: true });

    const mark = sent.length;
    for (let turns = 0; turns < 40 && !parts().some(({ isLast }) => isLast); turns += 1) {
      t.notOk(sent.slice(mark).some(({ kind }) => kind === "committed"));
      member.command({ kind: "snapshot-taken" });
      await settle();
    }
    await clock.advance(tickMs);
    const kinds = sent.slice(mark).map(({ kind }) => kind);
    t.ok(kinds.lastIndexOf("snapshot") < kinds.indexOf("committed"), kinds.join(" "));
    t.match(
      sent.findLast((output) => output.kind === "committed"),
      { index: 51 },
    );
  },
);

/** On the disk of another member. */
async function snapshotAt(index: number, bytes: number): Promise<SnapshotFile> {
  const disk = new SimDisk();
  const seal = await Keyring.load({ disk, random: seededRandom(4) }, "/key", "create");
  const snapshots = new SnapshotStore({ disk }, { directory: "/snapshots", seal });
  await snapshots.prepare();
  const writer = await snapshots.begin({ index, term: 19, configuration: configuration() });
  await writer.append(new Uint8Array(bytes).fill(7));
  await writer.finish();
  await snapshots.keep(writer);
  const file = await snapshots.open();
  if (file === undefined) throw new Error("no snapshot");
  return file;
}

/** A member that has just won its election against two peers that do nothing of their own. */
async function leader(t: Test, limits: Pick<RaftGroupOptions, "maxHandedBytes"> = {}, partBytes?: number) {
  const clock = new VirtualClock();
  const random = seededRandom(3);
  const disk = new SimDisk();
  const seal = await Keyring.load({ disk, random }, "/key", "create");
  const space = new DiskSpace({ disk, log: silentLog }, { path: "/reserve", bytes: 64 * 1024 });
  const log = { directory: "/raft/log", seal, space, segmentBytes: 64 * 1024 };
  const { wal } = await Wal.open({ disk }, log);
  const snapshots = new SnapshotStore(
    { disk },
    {
      directory: "/raft/snapshots",
      seal,
      ...(partBytes !== undefined && { partBytes }),
    },
  );
  const storage = new MemoryStorage();
  storage.append([bootstrapEntry(configuration())]);
  storage.setHardState({ term: 1, vote: undefined, commit: 1 });
  const sent: ThreadOutput[] = [];
  const toPeer: Message[] = [];
  const wire = () => ({
    send: (messages: readonly Message[]) => void toPeer.push(...messages),
    sendSnapshot: () => Promise.reject(new Error("not in this test")),
    setPeers: () => {},
    isConnected: () => true,
  });
  const deps = {
    clock,
    random,
    log: silentLog,
    wire,
    emit: (output: ThreadOutput) => void sent.push(output),
  };
  await snapshots.prepare();
  const state = { memberId: self, wal, snapshots, storage, space, seal, snapshot: undefined };
  const member = new Member(deps, { ...options, ...limits }, state);
  member.start();
  t.teardown(() => member.stop());

  /** The peers agree to everything they were sent. */
  function answer(): void {
    for (const message of toPeer.splice(0)) {
      const head = { from: message.to, to: self, term: message.term };
      if (message.type === "pre-vote" || message.type === "vote") {
        member.onMessages([{ ...head, type: `${message.type}-reply`, granted: true }]);
      }
      if (message.type === "append") {
        const index = message.prevIndex + message.entries.length;
        const accepted = { rejected: false, hintIndex: 0, hintTerm: 0 };
        member.onMessages([{ ...head, type: "append-reply", index, ...accepted }]);
      }
      if (message.type === "heartbeat") {
        member.onMessages([{ ...head, type: "heartbeat-reply", round: message.round }]);
      }
    }
  }

  for (let turn = 0; turn < 30 && !sent.some((out) => out.kind === "leader" && out.isSelf); turn += 1) {
    await clock.advance(tickMs);
    answer();
    await settle();
  }
  toPeer.length = 0;
  return { member, clock, disk, space, sent, toPeer, answer };
}

function configuration(): Configuration {
  const voters = [self, ...peers];
  const context = encodeContext({ raftAddress: "10.0.0.1:2378", promote: true });
  return {
    voters,
    outgoing: [],
    learners: [],
    contexts: Object.fromEntries(voters.map((id) => [id, context])),
  };
}

const options: RaftGroupOptions = {
  directory: "/raft",
  nodeId: "n1" as NodeId,
  clusterId: "c1" as ClusterId,
  identity: { certificatePem: "", keyPem: "", rootPem: "" },
  listenHost: "127.0.0.1",
  listenPort: 0,
  raftAddress: "10.0.0.1:2378",
  start: "restart",
  tickMs,
};
