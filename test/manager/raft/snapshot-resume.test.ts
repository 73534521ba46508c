import type { SnapshotMeta } from "raft-ts";
import t from "tap";
import { Keyring, sealOverheadBytes } from "../../../manager/raft/seal.ts";
import type { SnapshotIdentity } from "../../../manager/raft/snapshot-file.ts";
import { SnapshotInbox } from "../../../manager/raft/snapshot-inbox.ts";
import { SnapshotStore } from "../../../manager/raft/snapshot.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { SimDisk, loseAll, loseContents, loseNames, loseNothing } from "../../sim/disk.ts";

const directory = "/raft/snapshots";
const partBytes = 1_000;
const seal = await Keyring.load({ disk: new SimDisk(), random: seededRandom(1) }, "/key", "create");
const configuration = { voters: ["a"], outgoing: [], learners: [], contexts: { a: "" } };
const whole = new Uint8Array(4 * partBytes + 300).map((_, at) => (at * 7) % 251);
const partCount = 5;
const source = await sender(50, whole);

t.test("what arrived before the receiver's process ended is gone on with by the next one", async (t) => {
  const disk = await interrupted(3);
  disk.killProcess();
  const { offer, inbox, text } = await started(disk);
  const intake = await offer(source);
  t.equal(intake.offset, 3 * partBytes);
  for (const part of missing(intake.offset)) await intake.add(part);
  await intake.finish();
  t.ok((await text())?.equals(whole));
  await inbox.discardUpTo(50);
  t.equal((await disk.list(directory)).length, 1);
});

t.test("also when all of it had arrived, and more than once", async (t) => {
  const disk = await interrupted(1);
  for (const count of [3, 5]) {
    const { offer } = await started(disk);
    const intake = await offer(source);
    for (const part of missing(intake.offset).filter(({ offset }) => offset < count * partBytes))
      await intake.add(part);
    disk.killProcess();
  }
  const { offer, text } = await started(disk);
  const intake = await offer(source);
  t.equal(intake.offset, 4 * partBytes, "less than a part is never written before the end");
  await intake.add(source.parts[4] ?? fail());
  await intake.finish();
  t.ok((await text())?.equals(whole));
});

t.test("a process that is told to stop leaves what has arrived to the next one", async (t) => {
  const disk = new SimDisk();
  const first = await started(disk);
  const before = await first.offer(source);
  for (const part of source.parts.slice(0, 2)) await before.add(part);
  await first.inbox.close();
  await t.rejects(before.add(source.parts[2] ?? fail()), { code: "failed-precondition" });
  await t.rejects(first.offer(source), { code: "unavailable" });
  const { offer } = await started(disk);
  t.equal((await offer(source)).offset, 2 * partBytes);
});

t.test("one that was whole and not taken in yet needs nothing sent again", async (t) => {
  const disk = new SimDisk();
  const first = await started(disk);
  const writer = await first.snapshots.receive(source.meta, source.identity, new AbortController().signal);
  await writer.append(whole);
  await writer.finish();
  disk.killProcess();
  const { offer, text } = await started(disk);
  const intake = await offer(source);
  t.equal(intake.offset, whole.byteLength);
  await intake.finish();
  t.ok((await text())?.equals(whole));
});

t.test(
  "a bit flipped anywhere in what is there costs what comes from that part on, or all of it",
  async (t) => {
    const disk = await interrupted(4);
    const [name = ""] = await disk.list(directory);
    const path = `${directory}/${name}`;
    const bytes = disk.contents(path).byteLength;
    const dataAt = bytes - 4 * (partBytes + sealOverheadBytes);
    const wrong: string[] = [];
    for (let at = 0; at < bytes; at += 7) {
      const copy = disk.clone();
      copy.damage(path, (contents) => (contents[at] = (contents[at] ?? 0) ^ (1 << (at % 8))));
      const { offer, text } = await started(copy);
      const intake = await offer(source);
      const sound = Math.max(0, Math.floor((at - dataAt) / (partBytes + sealOverheadBytes)));
      if (intake.offset !== sound * partBytes) wrong.push(`${at}: goes on at ${intake.offset}`);
      for (const part of missing(intake.offset)) await intake.add(part);
      await intake.finish();
      if ((await text())?.equals(whole) !== true) wrong.push(`${at}: another state`);
    }
    t.strictSame(wrong, []);
  },
);

t.test("a loss of power in any call costs time at most, whatever it takes along", async (t) => {
  const wrong: string[] = [];
  const offsets = new Set<number>();
  for (let stopAt = 1; ; stopAt += 1) {
    const disk = await interrupted(2);
    disk.killProcess();
    const first = disk.callCount;
    disk.onCall = ({ number, bytes }) =>
      number === first + stopAt ? { kind: "stop", writtenBytes: bytes >> 1 } : undefined;
    const isDone = await received(disk).then(
      () => true,
      () => false,
    );
    for (const loss of [loseAll, loseNothing, loseContents, loseNames]) {
      const left = disk.clone();
      left.losePower(loss);
      const { snapshots, offer, text } = await started(left);
      if ((await snapshots.oldestIndex()) === 0) {
        const intake = await offer(source);
        offsets.add(intake.offset);
        for (const part of missing(intake.offset)) await intake.add(part);
        await intake.finish();
      }
      if ((await text())?.equals(whole) !== true) wrong.push(`call ${stopAt}`);
    }
    if (isDone) break;
  }
  t.strictSame(wrong, []);
  t.ok(offsets.size >= partCount - 1, [...offsets].join(" "));
});

t.test("what a failed sync left in the system's cache alone is written again", async (t) => {
  const disk = new SimDisk();
  const { offer } = await started(disk);
  const intake = await offer(source);
  for (const part of source.parts) await intake.add(part);
  const gone = new Promise<void>((resolve) => {
    disk.onCall = ({ kind }) => {
      if (kind === "sync") return { kind: "fail", code: "EIO" };
      if (kind !== "remove") return undefined;
      resolve();
      return { kind: "stop", writtenBytes: 0 };
    };
  });
  void intake.finish().catch(() => undefined); // Of a process that is gone.
  await gone;
  disk.killProcess();
  disk.onCall = () => undefined;
  await received(disk);
  disk.losePower(loseAll);
  t.ok((await (await started(disk)).text())?.equals(whole));
});

t.test("one under the name of another snapshot is found out at the end, and begun anew", async (t) => {
  const other = await sender(50, new Uint8Array(whole.byteLength).fill(9));
  const disk = await interrupted(3, other);
  const [name = ""] = await disk.list(directory);
  const { digest } = source.identity;
  await disk.rename(`${directory}/${name}`, `${directory}/${name.replace(other.identity.digest, digest)}`);
  const { offer, text } = await started(disk);
  const intake = await offer(source);
  t.equal(intake.offset, 3 * partBytes);
  for (const part of missing(intake.offset)) await intake.add(part);
  await t.rejects(intake.finish(), { code: "data-loss" });
  const again = await offer(source);
  t.equal(again.offset, 0);
  for (const part of source.parts) await again.add(part);
  await again.finish();
  t.ok((await text())?.equals(whole));
});

t.test("a file that is longer than the whole can be is begun anew", async (t) => {
  const disk = await interrupted(3);
  const [name = ""] = await disk.list(directory);
  const path = `${directory}/${name}`;
  await disk.replace(path, Buffer.concat([disk.contents(path), Buffer.alloc(10 * partBytes)]));
  t.equal((await (await started(disk)).offer(source)).offset, 0);
});

const others = [
  { name: "a newer one", other: await sender(60, whole) },
  { name: "one at the same index with another state", other: await sender(50, whole.slice(1)) },
] as const;

for (const { name, other } of others) {
  t.test(`what there is of another snapshot goes when the leader sends ${name}`, async (t) => {
    const disk = await interrupted(3);
    const { offer } = await started(disk);
    t.equal((await offer(other)).offset, 0);
    const names = await disk.list(directory);
    t.equal(names.length, 1);
    t.match(names[0], new RegExp(other.identity.digest));
  });
}

t.test(
  "what there is goes once the log has it all, and where it is no newer than what is there",
  async (t) => {
    const disk = await interrupted(3);
    const { inbox } = await started(disk);
    await inbox.discardUpTo(49);
    t.equal((await disk.list(directory)).length, 1);
    await inbox.discardUpTo(50);
    t.strictSame(await disk.list(directory), []);

    const later = await interrupted(3);
    const { snapshots } = await started(later.clone());
    const writer = await snapshots.begin({ ...source.meta, index: 50 });
    await writer.finish();
    await later.replace(`${directory}/${hex(50)}-${hex(3)}.snap`, new Uint8Array());
    await started(later);
    t.equal((await later.list(directory)).filter((name) => name.endsWith(".part")).length, 0);
  },
);

t.test("of several the newest stays; those of before they had names do not", async (t) => {
  const disk = await interrupted(3);
  const [name = ""] = await disk.list(directory);
  const contents = disk.contents(`${directory}/${name}`);
  for (const other of [name.replace(hex(50), hex(40)), "incoming-3.part", "own-1.part"]) {
    await disk.replace(`${directory}/${other}`, contents);
  }
  await started(disk);
  t.strictSame(await disk.list(directory), [name]);
});

t.test("on a full disk what there is makes room", async (t) => {
  const disk = await interrupted(3);
  const { snapshots } = await started(disk);
  const writer = await snapshots.begin({ ...source.meta, index: 20 });
  await writer.finish();
  await snapshots.keep(writer);
  await snapshots.dropOlder();
  t.match(await disk.list(directory), [/\.snap$/]);
});

t.test("one whose key is gone is begun anew; while it is read no key goes", async (t) => {
  const deps = { disk: new SimDisk(), random: seededRandom(5) };
  const keys = await Keyring.load(deps, "/key", "create");
  const disk = await interrupted(3, source, keys);
  disk.killProcess();
  const { snapshots, offer } = await started(disk, keys);
  let during: ReadonlySet<number> | undefined = new Set();
  disk.onCall = ({ kind }) => void (kind === "read" && void snapshots.keyIds().then((ids) => (during = ids)));
  t.equal((await offer(source)).offset, 3 * partBytes);
  t.equal(during, undefined);
  disk.onCall = () => undefined;
  disk.killProcess();
  await keys.rotate();
  await keys.retain(() => Promise.resolve(new Set()));
  t.equal((await (await started(disk, keys)).offer(source)).offset, 0);
});

interface Source {
  readonly meta: SnapshotMeta;
  readonly identity: SnapshotIdentity;
  readonly parts: readonly { readonly offset: number; readonly data: Uint8Array }[];
}

async function sender(index: number, data: Uint8Array): Promise<Source> {
  const disk = new SimDisk();
  const snapshots = new SnapshotStore({ disk }, { directory, seal, partBytes });
  await snapshots.prepare();
  const meta = { index, term: 3, configuration };
  const writer = await snapshots.begin(meta);
  await writer.append(data);
  await writer.finish();
  await snapshots.keep(writer);
  const file = (await snapshots.open()) ?? fail();
  const parts: { offset: number; data: Uint8Array }[] = [];
  for await (const part of file.parts()) parts.push({ ...part, data: part.data.slice() });
  return { meta, identity: file.identity, parts };
}

/** The store and the inbox of a process that starts with this disk. */
async function started(disk: SimDisk, keys = seal) {
  const snapshots = new SnapshotStore({ disk }, { directory, seal: keys, partBytes });
  await snapshots.prepare();
  const inbox = new SnapshotInbox(snapshots);
  const offer = ({ meta, identity }: Source) =>
    inbox.offer(meta, identity, (writer) => snapshots.keep(writer));

  async function text(): Promise<Buffer | undefined> {
    const file = await snapshots.newestReadable();
    const parts: Uint8Array[] = [];
    for await (const { data } of file?.parts() ?? []) parts.push(data.slice());
    await file?.close();
    return file && Buffer.concat(parts);
  }

  return { snapshots, inbox, offer, text };
}

/** A disk of which a process has ended after so many parts. */
async function interrupted(count: number, of = source, keys = seal): Promise<SimDisk> {
  const disk = new SimDisk();
  const { offer } = await started(disk, keys);
  const intake = await offer(of);
  for (const part of of.parts.slice(0, count)) await intake.add(part);
  return disk;
}

/** All that is missing arrives. */
async function received(disk: SimDisk): Promise<void> {
  const { offer } = await started(disk);
  const intake = await offer(source);
  for (const part of missing(intake.offset)) await intake.add(part);
  await intake.finish();
}

function missing(from: number): Source["parts"] {
  return source.parts.filter(({ offset }) => offset >= from);
}

function hex(value: number): string {
  return value.toString(16).padStart(16, "0");
}

function fail(): never {
  throw new Error("not there");
}
