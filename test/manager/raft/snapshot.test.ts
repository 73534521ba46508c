import type { SnapshotMeta } from "raft-ts";
import t from "tap";
import { crc32c } from "../../../manager/raft/crc32c.ts";
import { Keyring, sealOverheadBytes } from "../../../manager/raft/seal.ts";
import { snapshotPartBytes } from "../../../manager/raft/snapshot-file.ts";
import { SnapshotInbox } from "../../../manager/raft/snapshot-inbox.ts";
import { SnapshotStore } from "../../../manager/raft/snapshot.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { SimDisk, loseAll, loseContents, loseNames, loseNothing } from "../../sim/disk.ts";

const directory = "/raft/snapshots";
const seal = await Keyring.load({ disk: new SimDisk(), random: seededRandom(1) }, "/key", "create");
const configuration = { voters: ["a"], outgoing: [], learners: [], contexts: { a: "" } };
const large = new Uint8Array(3 * snapshotPartBytes + 1000).map((_, at) => (at * 7) % 251);

function store(disk: SimDisk, keys: Keyring = seal): SnapshotStore {
  return new SnapshotStore({ disk }, { directory, seal: keys });
}

function meta(index: number): SnapshotMeta {
  return { index, term: 3, configuration };
}

async function save(snapshots: SnapshotStore, index: number, data: Uint8Array): Promise<void> {
  const writer = await snapshots.begin(meta(index));
  for (let at = 0; at < data.length; at += 100_000) await writer.append(data.subarray(at, at + 100_000));
  await writer.finish();
  await snapshots.keep(writer);
}

async function newest(snapshots: SnapshotStore): Promise<{ meta: SnapshotMeta; text: string } | undefined> {
  const file = await snapshots.newestReadable();
  if (file === undefined) return undefined;
  const parts: Uint8Array[] = [];
  for await (const { data } of file.parts()) parts.push(data);
  await file.close();
  return { meta: file.meta, text: Buffer.concat(parts).toString("latin1") };
}

function setFormat(disk: SimDisk, name: string, format: number): void {
  disk.damage(`${directory}/${name}`, (bytes) =>
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, format, true),
  );
}

async function threeSaved(): Promise<SimDisk> {
  const disk = new SimDisk();
  await store(disk).prepare();
  for (const index of [10, 20, 30]) await save(store(disk), index, Buffer.from(`state ${index}`));
  return disk;
}

t.test("the newest is loaded, the one before is kept, older ones go", async (t) => {
  const disk = await threeSaved();
  t.strictSame(await newest(store(disk)), { meta: meta(30), text: "state 30" });
  t.equal((await disk.list(directory)).length, 2);
  t.equal(await store(disk).oldestIndex(), 20);
  t.equal(await store(disk).dropOlder(), true);
  t.equal(await store(disk).oldestIndex(), 30);
});

t.test("without any there is nothing to load; an empty state is one", async (t) => {
  const disk = new SimDisk();
  await store(disk).prepare();
  t.equal(await newest(store(disk)), undefined);
  await save(store(disk), 5, new Uint8Array());
  t.strictSame(await newest(store(disk)), { meta: meta(5), text: "" });
});

t.test(
  "a bit flipped anywhere in the newest falls back to the one before; two damaged ones are refused",
  async (t) => {
    const disk = await threeSaved();
    const [older = "", newer = ""] = (await disk.list(directory)).toSorted();
    const flip = (path: string, at: number): SimDisk => {
      const copy = disk.clone();
      copy.damage(`${directory}/${path}`, (bytes) => (bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8))));
      return copy;
    };
    const wrong: number[] = [];
    for (let at = 0; at < disk.contents(`${directory}/${newer}`).length; at += 1) {
      const found = await newest(store(flip(newer, at)));
      if (found?.meta.index !== 20) wrong.push(at);
    }
    t.strictSame(wrong, []);
    const both = flip(newer, 50);
    both.damage(`${directory}/${older}`, (bytes) => bytes.fill(0, 30, 40));
    await t.rejects(newest(store(both)), { code: "data-loss", message: /cannot read any snapshot/ });
  },
);

for (const damaged of ["removed by the next", "replaced by one at the same index"] as const) {
  t.test(
    `the one that was fallen back to stays until a newer one is known to be good: ${damaged}`,
    async (t) => {
      const disk = await threeSaved();
      const newer = (await disk.list(directory)).toSorted().at(-1) ?? "";
      disk.damage(`${directory}/${newer}`, (bytes) => (bytes[40] = (bytes[40] ?? 0) ^ 1));
      const snapshots = store(disk);
      t.equal((await newest(snapshots))?.meta.index, 20);
      t.equal((await snapshots.open())?.meta.index, 20, "the damaged one is given to nobody");
      t.equal(await snapshots.oldestIndex(), 20);
      const next = damaged === "removed by the next" ? 40 : 30;
      await save(snapshots, next, Buffer.from("next"));
      t.same((await newest(store(disk)))?.meta.index, next);
      t.equal(await snapshots.oldestIndex(), 20, "and the log behind it stays");
      t.equal((await disk.list(directory)).length, 2);
      await save(snapshots, 50, Buffer.from("last"));
      t.equal(await snapshots.oldestIndex(), next);
    },
  );
}

t.test("one that turns out to be damaged is given to nobody again, and may be made anew", async (t) => {
  const disk = await threeSaved();
  const snapshots = store(disk);
  const newer = (await disk.list(directory)).toSorted().at(-1) ?? "";
  t.notOk(snapshots.isDamaged(meta(30)));
  disk.damage(`${directory}/${newer}`, (bytes) => (bytes[40] = (bytes[40] ?? 0) ^ 1));
  await t.rejects(snapshots.open(meta(30)), /checksum of its header/);
  t.ok(snapshots.isDamaged(meta(30)));
  t.equal((await snapshots.open(meta(30)))?.meta.index, 20);
  await save(snapshots, 30, Buffer.from("again"));
  t.notOk(snapshots.isDamaged(meta(30)));
  t.strictSame(await newest(store(disk)), { meta: meta(30), text: "again" });
});

t.test("what keeps the disk from being read says nothing of what is on it", async (t) => {
  for (const code of ["EMFILE", "EIO"] as const) {
    const disk = await threeSaved();
    const snapshots = store(disk);
    const fails = code === "EIO" ? "read" : "open";
    const failNow = (): void => {
      disk.onCall = ({ kind, path }) =>
        kind === fails && path.endsWith(".snap") ? { kind: "fail", code } : undefined;
    };
    failNow();
    await t.rejects(snapshots.newestReadable(), { code: "unavailable", message: new RegExp(code) });
    disk.onCall = () => undefined;
    t.equal((await newest(snapshots))?.meta.index, 30);

    const newer = (await disk.list(directory)).toSorted().at(-1) ?? "";
    disk.damage(`${directory}/${newer}`, (bytes) => (bytes[40] = (bytes[40] ?? 0) ^ 1));
    t.equal((await newest(snapshots))?.meta.index, 20);
    const writer = await snapshots.begin(meta(40));
    await writer.finish();
    failNow();
    await t.rejects(snapshots.keep(writer), { code: "unavailable" }, "nor when it is read back");
    disk.onCall = () => undefined;
    t.equal((await newest(store(disk)))?.meta.index, 40);
  }
});

t.test("on a full disk the damaged one goes, not the one that was fallen back to", async (t) => {
  const disk = await threeSaved();
  const newer = (await disk.list(directory)).toSorted().at(-1) ?? "";
  disk.damage(`${directory}/${newer}`, (bytes) => (bytes[40] = (bytes[40] ?? 0) ^ 1));
  const snapshots = store(disk);
  await newest(snapshots);
  t.equal(await snapshots.dropOlder(), true);
  t.equal((await newest(store(disk)))?.meta.index, 20);
});

t.test("a disk that damaged one and then the next is told, with the good one still there", async (t) => {
  const disk = await threeSaved();
  const newer = (await disk.list(directory)).toSorted().at(-1) ?? "";
  const flip = (path: string): void => disk.damage(path, (bytes) => (bytes[40] = (bytes[40] ?? 0) ^ 1));
  flip(`${directory}/${newer}`);
  const snapshots = store(disk);
  await newest(snapshots);
  const writer = await snapshots.begin(meta(40));
  await writer.append(Buffer.from("next"));
  await writer.finish();
  flip(writer.path);
  await t.rejects(snapshots.keep(writer), { code: "data-loss" });
  t.equal((await newest(store(disk)))?.meta.index, 20);
});

t.test("a state never lies in the clear on the disk, and the first format is refused as such", async (t) => {
  const disk = await threeSaved();
  const names = await disk.list(directory);
  for (const name of names) t.notMatch(disk.contents(`${directory}/${name}`).toString("latin1"), /state/);
  for (const name of names) setFormat(disk, name, 1);
  await t.rejects(newest(store(disk)), { message: /it has format 1, this version reads 2 and 3/ });
});

t.test("one of a later version is left alone for that version, or the one before it is read", async (t) => {
  const disk = await threeSaved();
  const [older = "", newer = ""] = (await disk.list(directory)).toSorted();
  setFormat(disk, newer, 4);
  t.equal((await newest(store(disk)))?.meta.index, 20);
  setFormat(disk, older, 4);
  await t.rejects(newest(store(disk)), {
    code: "failed-precondition",
    message:
      /it has format 4, .*Start it with the version that wrote it; or remove this manager from the group/,
  });
  t.equal((await disk.list(directory)).length, 2);
});

t.test(
  "a state of several parts comes back whole, from any part on, and not when one is missing",
  async (t) => {
    const disk = new SimDisk();
    await store(disk).prepare();
    await save(store(disk), 7, large);
    t.ok((await newest(store(disk)))?.text === Buffer.from(large).toString("latin1"));
    const file = await store(disk).open(meta(7));
    t.equal(file?.identity.dataBytes, large.length);
    const offsets: number[] = [];
    for await (const { offset, data } of file?.parts(2 * snapshotPartBytes) ?? []) {
      offsets.push(offset);
      t.ok(Buffer.from(data).equals(large.subarray(offset, offset + snapshotPartBytes)));
    }
    t.strictSame(offsets, [2 * snapshotPartBytes, 3 * snapshotPartBytes]);
    const [name = ""] = await disk.list(directory);
    const bytes = disk.contents(`${directory}/${name}`);
    await disk.replace(
      `${directory}/${name}`,
      Buffer.concat([bytes.subarray(0, 400_000), bytes.subarray(700_000)]),
    );
    await t.rejects(newest(store(disk)), { code: "data-loss" });
  },
);

t.test("the format before, with a checksum before each part, is read as well", async (t) => {
  const disk = new SimDisk();
  await store(disk).prepare();
  await save(store(disk), 7, large);
  const [name = ""] = await disk.list(directory);
  const bytes = Buffer.from(disk.contents(`${directory}/${name}`));
  const dataAt = 28 + bytes.readUInt32LE(12);
  const head = bytes.subarray(0, dataAt);
  head.writeUInt32LE(2, 4);
  head.writeUInt32LE(crc32c(head.subarray(0, 24)), 24);
  const end = bytes.length - (8 + 32 + sealOverheadBytes);
  const pieces: Buffer[] = [head];
  for (let at = dataAt; at < end; at += snapshotPartBytes + sealOverheadBytes) {
    pieces.push(
      Buffer.alloc(4),
      bytes.subarray(at, Math.min(end, at + snapshotPartBytes + sealOverheadBytes)),
    );
  }
  await disk.replace(`${directory}/${name}`, Buffer.concat([...pieces, bytes.subarray(end)]));
  t.ok((await newest(store(disk)))?.text === Buffer.from(large).toString("latin1"));
  const parts = (await store(disk).open(meta(7)))?.parts(2 * snapshotPartBytes) ?? [];
  for await (const { offset, data } of parts)
    t.ok(Buffer.from(data).equals(large.subarray(offset, offset + snapshotPartBytes)));
});

t.test("a crash in any call leaves the snapshot before or the new one, whatever was lost", async (t) => {
  const seen = new Set<string>();
  const wrong: string[] = [];
  for (let stopAt = 1; ; stopAt += 1) {
    const disk = await threeSaved();
    const first = disk.callCount;
    disk.onCall = ({ number, bytes }) =>
      number === first + stopAt ? { kind: "stop", writtenBytes: bytes >> 1 } : undefined;
    const done = await save(store(disk), 40, large).then(
      () => true,
      () => false,
    );
    for (const loss of [loseAll, loseNothing, loseContents, loseNames]) {
      const left = disk.clone();
      left.losePower(loss);
      await store(left).prepare();
      const found = (await newest(store(left)))?.meta.index;
      seen.add(`${done} ${found ?? "none"}`);
      if (done ? found !== 40 : found !== 30 && found !== 40)
        wrong.push(`call ${stopAt}: ${found ?? "none"}`);
      if ((await left.list(directory)).some((name) => name.endsWith(".part")))
        wrong.push(`call ${stopAt}: rest`);
    }
    if (done) break;
  }
  t.strictSame(wrong, []);
  t.strictSame([...seen].toSorted(), ["false 30", "false 40", "true 40"]);
});

t.test("new keys seal new snapshots; the keys of those on the disk are known", async (t) => {
  const disk = new SimDisk();
  const keys = await Keyring.load({ disk, random: seededRandom(2) }, "/key", "create");
  const snapshots = store(disk, keys);
  await snapshots.prepare();
  await save(snapshots, 10, large);
  const begun = await snapshots.begin(meta(20));
  await keys.rotate();
  await begun.append(large);
  t.strictSame([...((await snapshots.keyIds()) ?? [])], [1]);
  await begun.finish();
  await snapshots.keep(begun);
  await save(snapshots, 30, large);
  t.strictSame((await snapshots.keyIds()) ?? new Set(), new Set([1, 2]));
  await snapshots.dropOlder();
  await keys.retain(() => snapshots.keyIds());
  t.strictSame(keys.keyIds, [2]);
  const again = await Keyring.load({ disk, random: seededRandom(3) }, "/key", "refuse");
  t.equal((await newest(store(disk, again)))?.meta.index, 30);
});

t.test("keys that are changed at once get a number each, and none is forgotten over the other", async (t) => {
  const disk = new SimDisk();
  const keys = await Keyring.load({ disk, random: seededRandom(2) }, "/key", "create");
  await Promise.all([keys.rotate(), keys.rotate()]);
  t.strictSame(keys.keyIds, [1, 2, 3]);
  await Promise.all([keys.retain(() => Promise.resolve(new Set([2]))), keys.rotate()]);
  t.strictSame(keys.keyIds, [2, 3, 4]);
  const sealed = keys.seal(Buffer.from("text"), "place");
  const again = await Keyring.load({ disk, random: seededRandom(3) }, "/key", "refuse");
  t.equal(Buffer.from(again.open(sealed, keys.keyId, "place")).toString(), "text");
});

t.test("the key of a snapshot whose file is still being made is needed", async (t) => {
  const disk = new SimDisk();
  const keys = await Keyring.load({ disk, random: seededRandom(2) }, "/key", "create");
  const snapshots = store(disk, keys);
  await snapshots.prepare();
  const beginning = snapshots.begin(meta(3));
  t.strictSame(await snapshots.keyIds(), new Set([1]));
  await (await beginning).abort();
});

t.test("keys that were damaged, or are of the first format, are refused", async (t) => {
  const disk = new SimDisk();
  const deps = { disk, random: seededRandom(2) };
  await Keyring.load(deps, "/key", "create");
  disk.damage("/key", (bytes) => (bytes[20] = (bytes[20] ?? 0) ^ 1));
  await t.rejects(Keyring.load(deps, "/key", "refuse"), { code: "data-loss", message: /checksum/ });
  await disk.replace("/key", new Uint8Array(32).fill(1));
  await t.rejects(Keyring.load(deps, "/key", "refuse"), { code: "data-loss", message: /format 1/ });
});

/** A snapshot at 50 on one disk, and an inbox on another. */
async function sendingAndReceiving() {
  const from = new SimDisk();
  await store(from).prepare();
  await save(store(from), 50, large);
  const file = await store(from).open();
  if (file === undefined) throw new Error("no snapshot");
  const disk = new SimDisk();
  const snapshots = store(disk);
  await snapshots.prepare();
  const inbox = new SnapshotInbox(snapshots);
  let received = 0;
  const offer = (identity = file.identity) =>
    inbox.offer(meta(identity.index), identity, async (writer) => {
      received += 1;
      await snapshots.keep(writer);
    });
  const parts: { offset: number; data: Uint8Array }[] = [];
  for await (const part of file.parts()) parts.push(part);
  return { disk, snapshots, inbox, file, offer, parts, received: () => received };
}

t.test("what arrived before a stream broke stays, and the next one goes on there", async (t) => {
  const { snapshots, offer, parts, received } = await sendingAndReceiving();
  const first = await offer();
  t.equal(first.offset, 0);
  for (const part of parts.slice(0, 2)) await first.add(part);
  const second = await offer();
  t.equal(second.offset, 2 * snapshotPartBytes);
  await t.rejects(first.add(parts[2] ?? fail()), { code: "failed-precondition", message: /another stream/ });
  for (const part of parts.slice(2)) await second.add(part);
  await second.finish();
  t.equal(received(), 1);
  t.equal((await newest(snapshots))?.text, Buffer.from(large).toString("latin1"));
});

t.test("a part out of place is refused, and costs nothing of what is there", async (t) => {
  const { offer, parts } = await sendingAndReceiving();
  const [one = fail()] = parts;
  const intake = await offer();
  await intake.add(one);
  await t.rejects(intake.add(one), { code: "invalid-argument", message: /are next/ });
  await t.rejects(intake.finish(), { code: "invalid-argument", message: /ended after/ });
  t.equal((await offer()).offset, snapshotPartBytes);
});

t.test(
  "another snapshot begins from nothing; a whole that is not what was announced is refused",
  async (t) => {
    const { file, disk, offer, parts, received } = await sendingAndReceiving();
    const first = await offer();
    await first.add(parts[0] ?? fail());
    const other = await offer({ ...file.identity, digest: "00".repeat(32) });
    t.equal(other.offset, 0);
    t.equal((await disk.list(directory)).length, 1, "what was there of the first one is gone");
    for (const part of parts) await other.add(part);
    await t.rejects(other.finish(), { code: "data-loss", message: /digest does not match/ });
    t.equal(received(), 0);
    t.strictSame(await disk.list(directory), []);
  },
);

t.test("a part that arrives changed is found at the end, and none of it is kept", async (t) => {
  const { disk, offer, parts, received } = await sendingAndReceiving();
  const intake = await offer();
  for (const [at, { offset, data }] of parts.entries()) {
    const changed = Uint8Array.from(data, (byte, place) => (at === 1 && place === 5 ? byte ^ 1 : byte));
    await intake.add({ offset, data: changed });
  }
  await t.rejects(intake.finish(), { code: "data-loss", message: /arrived changed/ });
  t.equal(received(), 0);
  t.strictSame(await disk.list(directory), []);
});

t.test("a leader that offers while what broke off is being let go of costs nobody anything", async (t) => {
  const { disk, inbox, offer, parts } = await sendingAndReceiving();
  const first = await offer();
  const begun = new Promise<void>((resolve) => {
    disk.onCall = ({ kind }) => void (kind === "write" && resolve());
  });
  const writing = first.add(parts[0] ?? fail());
  await begun;
  const discarding = inbox.discardUpTo(50);
  const second = offer(); // Of another leader, before the disk is through with the part.
  await t.resolves(discarding);
  await t.resolves(writing);
  t.equal((await second).offset, 0, "it begins from nothing");
  await t.rejects(first.add(parts[1] ?? fail()), { code: "failed-precondition" });
  t.equal((await disk.list(directory)).length, 1);
});

t.test("a stream whose snapshot has become useless is told so; a newer snapshot is left alone", async (t) => {
  const { disk, inbox, offer, parts } = await sendingAndReceiving();
  const intake = await offer();
  await intake.add(parts[0] ?? fail());
  await inbox.discardUpTo(49);
  await intake.add(parts[1] ?? fail());
  await inbox.discardUpTo(50);
  await t.rejects(intake.add(parts[2] ?? fail()), { code: "failed-precondition" });
  t.strictSame(await disk.list(directory), []);
});

t.test("a full disk refuses the stream, and what it took is given back", async (t) => {
  const { disk, offer, parts } = await sendingAndReceiving();
  disk.capacityBytes = snapshotPartBytes + 10_000;
  const intake = await offer();
  await intake.add(parts[0] ?? fail());
  await t.rejects(intake.add(parts[1] ?? fail()), {
    code: "resource-exhausted",
    message: /the disk is full/,
  });
  t.equal(disk.usedBytes, 0);
});

t.test("CRC-32C gives the values of RFC 3720, in one piece and in several", (t) => {
  t.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  t.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  t.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
  for (let cut = 0; cut <= 100; cut += 1) {
    t.equal(crc32c(large.subarray(cut, 100), crc32c(large.subarray(0, cut))), crc32c(large.subarray(0, 100)));
  }
  t.end();
});

function fail(): never {
  throw new Error("there is no such part");
}
