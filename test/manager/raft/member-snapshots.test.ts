import { RaftNode, type SnapshotMessage } from "raft-ts";
import t, { type Test } from "tap";
import type { RaftGroupOptions } from "../../../manager/raft/group.ts";
import { MemberSnapshots, type SnapshotDeps } from "../../../manager/raft/member-snapshots.ts";
import type { ThreadOutput } from "../../../manager/raft/port.ts";
import { recover } from "../../../manager/raft/recover.ts";
import { type SnapshotFile, snapshotPartBytes } from "../../../manager/raft/snapshot-file.ts";
import type { ClusterId, NodeId } from "../../../model/ids.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle } from "../../sim/clock.ts";
import { SimDisk } from "../../sim/disk.ts";

const directory = "/raft";
const entryCount = 200;
const minEntries = 10;

t.test("what was applied while a snapshot was taken counts for the next one", async (t) => {
  const { snapshots, take, wanted } = await begun(t);
  snapshots.applied(minEntries, 400);
  snapshots.want(20);
  t.equal(wanted(), 1);
  snapshots.applied(minEntries - 3, 400);
  await take(20, 50);
  snapshots.applied(2, 80);
  snapshots.want(40);
  t.equal(wanted(), 1);
  snapshots.applied(1, 40);
  snapshots.want(41);
  t.equal(wanted(), 2);
});

t.test("no other one is asked for while one is being kept", async (t) => {
  const { disk, snapshots, take, wanted } = await begun(t);
  snapshots.applied(minEntries, 400);
  snapshots.want(20);
  disk.onCall = ({ kind }) => void (kind === "rename" && snapshots.want(20));
  await take(20, 50);
  t.equal(wanted(), 1);
});

for (const code of ["ENOSPC", "EDQUOT"] as const) {
  t.test(`a snapshot that cannot be renamed for want of room leaves nothing behind: ${code}`, async (t) => {
    const { disk, snapshots, failures, take, names } = await begun(t);
    disk.onCall = ({ kind }) => (kind === "rename" ? { kind: "fail", code } : undefined);
    for (const index of [20, 30]) {
      snapshots.applied(minEntries, 400);
      await snapshots.maintain(() => index);
      await take(index, 50);
    }
    t.strictSame(await names(), []);
    t.strictSame(failures, []);
    disk.onCall = () => undefined;
    await snapshots.maintain(() => 40);
    await take(40, 50);
    t.match(await names(), [/\.snap$/]);
  });
}

t.test(
  "a large state is compared with what changed since, also by a member that has just started",
  async (t) => {
    const { disk, snapshots, take, stop } = await begun(t, { smallSnapshotBytes: 1_000 });
    snapshots.applied(minEntries, 400);
    snapshots.want(20);
    await take(20, 3_000);
    snapshots.applied(minEntries, 2_999);
    await stop();
    const again = await begun(t, { smallSnapshotBytes: 1_000 }, disk);
    again.snapshots.applied(minEntries, 2_999);
    again.snapshots.want(40);
    t.equal(again.wanted(), 0);
    again.snapshots.applied(1, 1);
    again.snapshots.want(41);
    t.equal(again.wanted(), 1);
  },
);

t.test("a snapshot that came from the leader is what the next one is compared with", async (t) => {
  const file = await leadersSnapshot(t);

  const { state, snapshots, sent, wanted } = await begun(t, { smallSnapshotBytes: 1_000 }, undefined, 1);
  snapshots.applied(minEntries - 1, 2_900);
  const { meta, identity } = file;
  const message: SnapshotMessage = {
    type: "snapshot",
    from: "n2.bb",
    to: state.memberId,
    term: 5,
    snapshot: meta,
  };
  const intake = await snapshots.offer(message, identity);
  for await (const part of file.parts()) await intake.add(part);
  await intake.finish();
  await snapshots.install(meta);
  state.storage.installSnapshot(meta);
  await snapshots.installed(meta);
  t.ok(sent.some((output) => output.kind === "snapshot" && output.isLast));
  snapshots.applied(minEntries, 2_999);
  snapshots.want(entryCount + minEntries);
  t.equal(wanted(), 0);
  snapshots.applied(0, 1);
  snapshots.want(entryCount + minEntries);
  t.equal(wanted(), 1);
});

t.test("who leads no more does not end what the leader is sending", async (t) => {
  const file = await leadersSnapshot(t);
  const { node, state, snapshots } = await begun(t, {}, undefined, 1);
  const { meta, identity } = file;
  const message = (sender: string, term: number): SnapshotMessage => {
    return { type: "snapshot", from: sender, to: state.memberId, term, snapshot: meta };
  };
  node.step({ type: "heartbeat", from: "n2.bb", to: state.memberId, term: 6, commit: 0, round: 0 });
  const intake = await snapshots.offer(message("n2.bb", 6), identity);
  const other = { ...identity, digest: "00" };
  const refusal = { code: "failed-precondition", message: /leader of term 5: this member is in term 6/ };
  await t.rejects(snapshots.offer(message("n3.cc", 5), other), refusal);
  for await (const part of file.parts()) await intake.add(part);
  await intake.finish();
});

t.test("a member that stops and starts in the middle of a transfer goes on where it was", async (t) => {
  const file = await leadersSnapshot(t, 3 * snapshotPartBytes);
  const { meta, identity } = file;
  const first = await begun(t, {}, undefined, 1);
  const to = first.state.memberId;
  const message: SnapshotMessage = { type: "snapshot", from: "n2.bb", to, term: 5, snapshot: meta };
  const intake = await first.snapshots.offer(message, identity);
  for await (const part of file.parts()) if (part.offset < 2 * snapshotPartBytes) await intake.add(part);
  await first.stop();
  const again = await begun(t, {}, first.disk, 1);
  t.equal((await again.snapshots.offer(message, identity)).offset, 2 * snapshotPartBytes);
  again.node.step({ type: "heartbeat", from: "n2.bb", to, term: 5, commit: 1, round: 0 });
  await again.snapshots.maintain(() => 1);
  t.match(await again.names(), [/^incoming-/], "it is wanted as long as the log does not have it all");
});

t.test(
  "a snapshot that a peer holds a part of is sent to its end, with the log behind it, though newer ones come",
  async (t) => {
    const { asked, begin, breakOff, sentAt, more, names, state } = await sending(t);
    begin();
    t.equal(asked()?.snapshot.index, 100);
    breakOff(1_000);
    for (const index of [130, 160, 190, 220]) await more(index);
    t.equal((await names()).length, 3);
    t.ok(state.storage.firstIndex() <= 101, `the log begins at ${state.storage.firstIndex()}`);
    begin();
    t.equal(asked()?.snapshot.index, 100);
    t.equal(await sentAt(), 100);
  },
);

t.test("... and goes once the peer has it", async (t) => {
  const { begin, breakOff, accept, more, names, snapshots } = await sending(t);
  begin();
  breakOff(1_000);
  for (const index of [130, 160, 190]) await more(index);
  t.equal((await names()).length, 3);
  accept(190);
  await snapshots.maintain(() => 190);
  t.equal((await names()).length, 2);
});

const givenUp = [
  { name: "once the log behind it is more than twice the state", bytes: 1_000, refusing: false },
  { name: "when nothing of it arrived", bytes: 10_000, refusing: true },
] as const;

for (const { name, bytes, refusing } of givenUp) {
  t.test(`... but goes ${name}`, async (t) => {
    const { asked, begin, breakOff, sentAt, more, names, snapshots } = await sending(t, bytes);
    begin();
    breakOff(refusing ? 0 : 1);
    for (const index of [130, 160, 190, 220]) await more(index);
    await snapshots.maintain(() => 220);
    t.equal((await names()).length, 2);
    begin();
    t.equal(asked()?.snapshot.index, 220);
    t.equal(await sentAt(), 220);
  });
}

t.test("small entries in front of a large state are bounded by what a restart can take in", async (t) => {
  const { snapshots, take, wanted } = await begun(t, { smallSnapshotBytes: 10 });
  snapshots.applied(minEntries, 400);
  snapshots.want(20);
  await take(20, 9 * 1024 * 1024);
  let entries = 0;
  while (wanted() < 2 && entries < 1_000_000) {
    entries += 1_000;
    snapshots.applied(1_000, 1_000 * (32 + 1));
    snapshots.want(21);
  }
  t.equal(entries, 250_000);
});

/** A leader, and a peer that lacks what its snapshot at 100 covers; each snapshot has so many bytes. */
async function sending(t: Test, bytes = 10_000) {
  let sentIndex: number | undefined;
  const limits = { keepEntries: 0, maxKeepEntries: 0 };
  const begunHere = await begun(t, limits, undefined, 100, async (_, file) => {
    sentIndex = file.meta.index;
    throw new Error("the stream broke");
  });
  const { node, state, snapshots, take } = begunHere;
  const id = "n2.bb";
  const noHint = { hintIndex: 0, hintTerm: 0 };
  let asked: SnapshotMessage | undefined;
  const work = (): void => {
    while (node.hasReady()) {
      const { write, messages, committed } = node.ready();
      if (write !== undefined) {
        state.storage.append(write.entries);
        state.storage.setHardState(write.hardState);
        node.persisted(write);
      }
      const last = committed.at(-1);
      if (last !== undefined) node.applied(last.index);
      for (const message of messages) {
        if (message.type === "snapshot") asked = message;
        else if (message.type === "append") probed = message.prevIndex;
      }
    }
  };
  let probed = 0;
  const head = () => ({ from: id, to: state.memberId, term: node.status().term });
  node.campaign();
  work();
  await take(100, bytes);
  node.proposeConfChange({ kind: "add-learner", id, context: "" });
  work();

  /** It gives a sign of life, and has nothing. */
  function begin(): void {
    asked = undefined;
    node.step({ ...head(), type: "heartbeat-reply", round: 0 });
    work();
    node.step({ ...head(), type: "append-reply", index: probed, rejected: true, ...noHint });
    work();
  }

  function breakOff(ackedBytes: number): void {
    if (asked === undefined) throw new Error("no snapshot was asked for");
    node.reportSnapshotProgress(asked, ackedBytes);
    node.reportSnapshot(asked, "failed");
  }

  function accept(index: number): void {
    node.step({ ...head(), type: "append-reply", index, rejected: false, ...noHint });
    work();
  }

  async function sentAt(): Promise<number | undefined> {
    if (asked !== undefined) await snapshots.send(asked);
    return sentIndex;
  }

  async function more(index: number): Promise<void> {
    while (node.status().lastIndex < index) node.propose(Buffer.from("another entry"));
    work();
    await take(index, bytes);
  }

  return { ...begunHere, asked: () => asked, begin, breakOff, accept, sentAt, more };
}

/** Of all entries, on the leader's disk. */
async function leadersSnapshot(t: Test, bytes = 3_000): Promise<SnapshotFile> {
  const { state, snapshots, take } = await begun(t);
  snapshots.applied(minEntries, 400);
  snapshots.want(entryCount);
  await take(entryCount, bytes);
  const file = await state.snapshots.open();
  if (file === undefined) throw new Error("no snapshot");
  return file;
}

/** The snapshots of a member with a log of some entries, all of them applied. */
async function begun(
  t: Test,
  limits: Pick<RaftGroupOptions, "smallSnapshotBytes" | "keepEntries" | "maxKeepEntries"> = {},
  disk = new SimDisk(),
  entries = entryCount,
  send: SnapshotDeps["send"] = () => Promise.reject(new Error("not in this test")),
) {
  const options: RaftGroupOptions = {
    directory,
    nodeId: "n1" as NodeId,
    clusterId: "c1" as ClusterId,
    identity: { certificatePem: "", keyPem: "", rootPem: "" },
    listenHost: "",
    listenPort: 0,
    raftAddress: "10.0.0.1:2378",
    start: "bootstrap",
    snapshotEntries: minEntries,
    ...limits,
  };
  const deps = { disk, random: seededRandom(7), log: silentLog };
  const state = await recover(deps, { ...options, segmentBytes: 16 * 1024 });
  const { storage, memberId } = state;
  for (let index = storage.lastIndex() + 1; index <= entries; index += 1) {
    storage.append([{ index, term: 1, kind: "data", data: Buffer.from(`entry ${index}`) }]);
  }
  storage.setHardState({ term: 1, vote: memberId, commit: storage.lastIndex() });
  const node = new RaftNode({ id: memberId, storage, random: () => 0 });
  const sent: ThreadOutput[] = [];
  const failures: unknown[] = [];
  const snapshots = new MemberSnapshots(
    {
      log: silentLog,
      node,
      emit: (output) => void sent.push(output),
      send,
      guarded: (action) => action(),
      fail: (error) => void failures.push(error),
    },
    options,
    state,
  );
  const stop = async (): Promise<void> => {
    await snapshots.stop();
    await state.wal.close();
  };
  t.teardown(stop);

  /** The store gives its state. */
  async function take(index: number, bytes: number): Promise<void> {
    const before = sent.filter(({ kind }) => kind === "snapshot-more").length;
    snapshots.part({ kind: "snapshot", id: 0, index, data: new Uint8Array(bytes), isLast: true });
    while (sent.filter(({ kind }) => kind === "snapshot-more").length === before) await settle();
  }

  return {
    disk,
    node,
    state,
    snapshots,
    sent,
    failures,
    take,
    stop,
    wanted: () => sent.filter(({ kind }) => kind === "snapshot-wanted").length,
    names: () => disk.list(`${directory}/snapshots`),
  };
}
