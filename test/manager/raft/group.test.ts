import { once } from "node:events";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";
import type { NodeId } from "../../../model/ids.ts";
import { TestCluster, type TestNode } from "./cluster.ts";

function line(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text));
}

async function propose(node: TestNode, texts: readonly string[]): Promise<void> {
  await Promise.all(texts.map((text) => node.group.propose(line(text))));
}

function numbers(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, at) => `x${from + at}`);
}

async function withCluster(
  t: { teardown(run: () => Promise<void>): void },
  settings: Parameters<typeof TestCluster.create>[0],
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.create(settings);
  t.teardown(() => cluster.close());
  await run(cluster);
}

t.test("one manager founds a group, and has everything back after a restart", (t) =>
  withCluster(t, {}, async (cluster) => {
    const first = await cluster.start("n1", "bootstrap");
    await cluster.until("it leads", () => first.leader.isSelf);
    await propose(first, numbers(1, 50));
    t.strictSame(first.applied, numbers(1, 50), "in the order proposed");
    t.ok((await first.group.readIndex()) >= first.appliedIndex);
    await cluster.kill("n1");
    const again = await cluster.start("n1", "restart");
    await cluster.until("all is applied", () => again.applied.length === 50 && again.leader.isSelf);
    t.equal(again.group.memberId, first.group.memberId);
  }),
);

t.test("three managers agree, lose their leader, and take it back as a follower", (t) =>
  withCluster(t, {}, async (cluster) => {
    const nodes = await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    await propose(leader, numbers(1, 100));
    await cluster.until("all have it", () => nodes.every(({ applied }) => applied.length === 100));

    const follower = nodes.find((node) => node !== leader);
    if (follower === undefined) throw new Error("no follower");
    const read = await follower.group.readIndex();
    t.ok(read >= leader.appliedIndex, "a follower's read includes what the leader acknowledged");
    await t.rejects(follower.group.propose(line("no")), { code: "no-leader" });

    const before = performance.now();
    await cluster.kill(leader.nodeId);
    const next = await cluster.leader();
    await propose(next, ["after"]);
    t.comment(`next write ${Math.round(performance.now() - before)} ms after the leader began to stop`);
    const back = await cluster.start(leader.nodeId, "restart");
    await cluster.until("it has caught up", () => back.applied.at(-1) === "after");
    t.strictSame(back.applied, [...numbers(1, 100), "after"]);
  }),
);

t.test("what is proposed at a leader that goes away fails once, with the outcome said to be unknown", (t) =>
  withCluster(t, {}, async (cluster) => {
    await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    for (const name of cluster.nodes.keys()) if (name !== leader.nodeId) await cluster.kill(name);
    await t.rejects(leader.group.propose(line("lost")), {
      code: "no-leader",
      message: /took effect is not known|does not have a leader/,
    });
    await t.rejects(leader.group.readIndex(), { code: "no-leader" });
    await t.rejects(leader.group.readIndex(AbortSignal.abort()), { name: "AbortError" });
  }),
);

/** Flips a bit in the data of the newest. @returns its name. */
async function damageNewestSnapshot(directory: string): Promise<string> {
  const names = (await readdir(directory)).filter((name) => name.endsWith(".snap"));
  const name = names.toSorted().at(-1) ?? "";
  const bytes = await readFile(join(directory, name));
  const offset = bytes.byteLength - 150; // Before the end, which has a seal of its own.
  bytes[offset] = (bytes[offset] ?? 0) ^ 1;
  await writeFile(join(directory, name), bytes);
  return name;
}

t.test("a follower that missed the log gets a snapshot, and a new member too", (t) =>
  withCluster(t, { snapshotEntries: 50, keepEntries: 5, maxKeepEntries: 5 }, async (cluster) => {
    await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    const slow = [...cluster.nodes.keys()].find((name) => name !== leader.nodeId) ?? "";
    await cluster.kill(slow);
    let last = 0;
    // The second snapshot is asked for when the first one is on disk and the log before it is gone.
    for (; last < 350 || leader.snapshotsAsked < 2; last += 50) {
      t.ok(last < 20_000, "snapshots are asked for");
      await propose(leader, numbers(last + 1, last + 50));
    }
    const back = await cluster.start(slow, "restart");
    await cluster.until("the slow one has it all", () => back.applied.length === last);
    t.strictSame(back.applied, numbers(1, last));
    t.ok(back.snapshotsSeen > 0, "by snapshot");
    const snapshots = join(cluster.directoryOf(leader.nodeId), "snapshots");
    const damaged = await damageNewestSnapshot(snapshots);
    const fresh = await cluster.join("n4");
    await cluster.until("the new one has it all", () => fresh.applied.length === last);
    t.notOk(
      (await readdir(snapshots)).includes(damaged),
      "by one that took the place of one that was damaged",
    );
    await cluster.until("it votes", () => fresh.members.filter((m) => m.suffrage === "voter").length === 4);
    await cluster.kill("n4");
    const again = await cluster.start("n4", "restart");
    await cluster.until("it has it all after a restart", () => again.applied.length === last);
  }),
);

t.test(
  "a data key is rotated while the group runs, twice at once too, and all is read after a restart",
  (t) =>
    withCluster(t, { snapshotEntries: 20, keepEntries: 5 }, async (cluster) => {
      const first = await cluster.start("n1", "bootstrap");
      await cluster.until("it leads", () => first.leader.isSelf);
      await propose(first, numbers(1, 30));
      const keyIds = await Promise.all([first.group.rotateDataKey(), first.group.rotateDataKey()]);
      t.strictSame(keyIds, [2, 3]);
      await propose(first, numbers(31, 60));
      await cluster.kill("n1");
      const again = await cluster.start("n1", "restart");
      await cluster.until("all is applied", () => again.applied.length === 60);
      t.strictSame(again.applied, numbers(1, 60));
    }),
);

t.test("leadership goes where it is sent, and nothing is lost by it", (t) =>
  withCluster(t, {}, async (cluster) => {
    const nodes = await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    await propose(leader, ["one"]);
    const target = nodes.find((node) => node !== leader);
    if (target === undefined) throw new Error("no target");
    await leader.group.transferLeadership(target.nodeId);
    await cluster.until("the target leads", () => target.leader.isSelf);
    await propose(target, ["two"]);
    await cluster.until("all have both", () => nodes.every(({ applied }) => applied.join() === "one,two"));
    await t.rejects(target.group.transferLeadership("nobody" as NodeId), { code: "failed-precondition" });
  }),
);

t.test("members are removed, told so, and replaced by new ones of the same node", (t) =>
  withCluster(t, {}, async (cluster) => {
    const nodes = await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    const leaver = nodes.find((node) => node !== leader);
    if (leaver === undefined) throw new Error("no leaver");
    await leader.group.changeMembership({ kind: "remove", nodeId: leaver.nodeId });
    await cluster.until("it is told", () => leaver.failure !== undefined);
    t.equal(leaver.failure?.removed, true);
    t.equal(leader.members.length, 2);
    await cluster.kill(leaver.nodeId);

    const { rm } = await import("node:fs/promises");
    await rm(cluster.directoryOf(leaver.nodeId), { recursive: true });
    const fresh = await cluster.join(leaver.nodeId);
    t.not(fresh.group.memberId, leaver.group.memberId);
    await cluster.until(
      "three vote",
      () => leader.members.filter((m) => m.suffrage === "voter").length === 3,
    );

    await leader.group.changeMembership({ kind: "remove", nodeId: leader.nodeId });
    const next = await cluster.leader().then(async (found) => {
      await cluster.until("another leads", () =>
        [...cluster.nodes.values()].some((n) => n !== leader && n.leader.isSelf),
      );
      return [...cluster.nodes.values()].find((n) => n !== leader && n.leader.isSelf) ?? found;
    });
    await propose(next, ["goes on"]);
    t.equal(next.members.length, 2);
    await cluster.until("the old leader knows", () => leader.failure?.removed === true);
  }),
);

t.test("a removal that would lose the quorum is refused", (t) =>
  withCluster(t, {}, async (cluster) => {
    await cluster.startAll(["n1", "n2", "n3"]);
    const leader = await cluster.leader();
    const [gone = "", alive = ""] = [...cluster.nodes.keys()].filter((name) => name !== leader.nodeId);
    await cluster.kill(gone);
    await t.rejects(leader.group.changeMembership({ kind: "remove", nodeId: alive as NodeId }), {
      code: "failed-precondition",
      message: /loss of quorum/,
    });
    await leader.group.changeMembership({ kind: "remove", nodeId: gone as NodeId });
    t.equal(leader.members.length, 2);
  }),
);

t.test("certificates are replaced while the group runs", (t) =>
  withCluster(t, {}, async (cluster) => {
    const nodes = await cluster.startAll(["n1", "n2", "n3"]);
    for (const { nodeId, group } of nodes) group.updateIdentity(await cluster.identity(nodeId));
    const leader = await cluster.leader();
    await propose(leader, numbers(1, 20));
    await cluster.until("all have it", () => nodes.every(({ applied }) => applied.length === 20));
    t.pass("over connections with new certificates");
  }),
);

t.test("a restart without a log, and a port that is taken, are refused with a reason", (t) =>
  withCluster(t, {}, async (cluster) => {
    await t.rejects(cluster.start("n1", "restart"), { code: "failed-precondition", message: /no log/ });
    const first = await cluster.start("n1", "bootstrap");
    await cluster.until("it leads", () => first.leader.isSelf);
    await t.rejects(first.group.propose(new Uint8Array(2_000_000)), { code: "resource-exhausted" });
    await cluster.kill("n1");
    const [host = "", port = ""] = first.address.split(":");
    const other = createServer().listen(Number(port), host);
    await once(other, "listening");
    await t.rejects(cluster.start("n1", "restart"), { message: /EADDRINUSE/ });
    other.close();
  }),
);

t.test("a state directory that another one uses is refused, and nothing in it is touched", (t) =>
  withCluster(t, {}, async (cluster) => {
    const first = await cluster.start("n1", "bootstrap");
    await cluster.until("it leads", () => first.leader.isSelf);
    const log = `${cluster.directoryOf("n1")}/log`;
    const inodes = async (): Promise<readonly (string | number)[][]> =>
      Promise.all(
        (await readdir(log)).toSorted().map(async (name) => [name, (await stat(`${log}/${name}`)).ino]),
      );
    const before = await inodes();
    t.equal(before.length, 3, "the watermark, and of the segments the one in use and the next");
    await t.rejects(cluster.start("n1", "restart"), {
      code: "unavailable",
      message: /another process uses the state in .*fuser -v/,
    });
    t.strictSame(
      await inodes(),
      before,
      "the prepared segment is still the one that the first will go on in",
    );
    await propose(first, ["still here"]);
    await cluster.kill("n1");
    const again = await cluster.start("n1", "restart");
    await cluster.until("all is applied", () => again.applied.join() === "still here");
  }),
);

t.test(
  "a majority is lost for good: one manager goes on alone with all it has, those that come back are out",
  (t) =>
    withCluster(t, {}, async (cluster) => {
      const nodes = await cluster.startAll(["n1", "n2", "n3"]);
      await propose(await cluster.leader(), numbers(1, 20));
      await cluster.until("all have it", () => nodes.every(({ applied }) => applied.length === 20));
      for (const name of ["n1", "n2", "n3"]) await cluster.kill(name);
      const alone = await cluster.start("n2", "force-new-cluster");
      await cluster.until("it leads", () => alone.leader.isSelf);
      t.strictSame(alone.applied, numbers(1, 20));
      await propose(alone, ["alone"]);
      t.strictSame(
        alone.members.map(({ nodeId, raftAddress }) => ({ nodeId, raftAddress })),
        [{ nodeId: "n2", raftAddress: alone.address }],
      );
      // They would be a majority of the group that was.
      const back = [await cluster.start("n1", "restart"), await cluster.start("n3", "restart")];
      await cluster.until("they are told", () => back.every(({ failure }) => failure?.removed === true));
      for (const name of ["n1", "n2", "n3"]) await cluster.kill(name);
      const again = await cluster.start("n2", "restart");
      await cluster.until("it leads again", () => again.leader.isSelf);
      t.strictSame(again.applied, [...numbers(1, 20), "alone"]);
      const fresh = await cluster.join("n4");
      await cluster.until("it grows again", () => again.members.length === 2 && fresh.applied.length === 21);
    }),
);
