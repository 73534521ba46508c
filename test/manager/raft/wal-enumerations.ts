import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { Keyring } from "../../../manager/raft/seal.ts";
import type { Wal } from "../../../manager/raft/wal.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle } from "../../sim/clock.ts";
import {
  type CrashLoss,
  type DiskCall,
  SimDisk,
  keepSectors,
  loseAll,
  loseContents,
  loseNames,
  loseNothing,
  loseSome,
  sectorBytes,
} from "../../sim/disk.ts";
import {
  type OpenWal,
  Progress,
  batchCount,
  logDirectory,
  newDisk,
  print,
  reopen,
  runScript,
} from "./wal-work.ts";

/** How many cases were tried (or refused, where that is the point), and which of them went wrong. */
export interface Found {
  readonly count: number;
  readonly wrong: readonly string[];
}

/** Every fault in every call. Run in threads of their own: under the test runner each promise costs several times more. */
export const enumerations = { crashes, tears, recoveryCrashes, errors, fullCalls, flips, zeros };

export type EnumerationName = keyof typeof enumerations;

/** Deaths of process and machine; the sectors of the last write come back in every order that matters. */
const deaths = (): readonly { readonly name: string; readonly die: (disk: SimDisk) => void }[] => [
  { name: "the process dies", die: (disk: SimDisk) => disk.killProcess() },
  ...Object.entries({
    loseAll,
    loseNothing,
    loseContents,
    loseNames,
    first: keepSectors((order) => order < 1),
    butFirst: keepSectors((order) => order >= 1),
    even: keepSectors((order) => order % 2 === 0),
    odd: keepSectors((order) => order % 2 === 1),
    some: loseSome(seededRandom(1)),
    others: loseSome(seededRandom(2)),
  } satisfies Record<string, CrashLoss>).map(([name, loss]) => ({
    name: `power is lost, ${name}`,
    die: (disk: SimDisk) => disk.losePower(loss),
  })),
];

/** Runs the script on a disk with this plan of faults; a disk that stopped ends it. */
async function attempt(disk: SimDisk, progress: Progress): Promise<Wal | undefined> {
  let open: OpenWal | undefined;
  try {
    open = await reopen(disk);
    await runScript(open, progress);
  } catch (error) {
    if (disk.stopped) return undefined;
    throw error;
  }
  return open.wal;
}

/** All calls of an undisturbed run, from opening to its end. */
async function allCalls(): Promise<readonly DiskCall[]> {
  const calls: DiskCall[] = [];
  const disk = await newDisk((call) => void calls.push(call));
  await attempt(disk, new Progress());
  return calls;
}

/** What was acknowledged is there, nothing else is, and it stays so: on the disk, and when written on. */
async function checkRecovery(disk: SimDisk, progress: Progress): Promise<string | undefined> {
  const { state } = await reopen(disk);
  const wrong = progress.judge(state);
  if (wrong !== undefined) return wrong;
  disk.losePower(loseAll); // What was served must have been on the disk, not in the cache.
  const second = await reopen(disk);
  if (print(second.state) !== print(state)) return `second recovery: ${print(second.state)}`;
  const next = (state.entries.at(-1)?.index ?? 0) + 1;
  const entry = { index: next, term: 9, kind: "data", data: new Uint8Array(99) } as const;
  const hardState = { term: 9, vote: "c", commit: state.hardState.commit };
  await second.wal.append({ hardState, entries: [entry], installed: undefined });
  disk.losePower(loseAll);
  const { state: third } = await reopen(disk);
  const expected = print({ ...state, hardState, entries: [...state.entries, entry] });
  return print(third) === expected ? undefined : `written on: ${print(third)}, expected ${expected}`;
}

async function crashes(): Promise<Found> {
  const calls = await allCalls();
  const wrong: string[] = [];
  let crashes = 0;
  for (const { number, kind, bytes } of calls) {
    const writes = kind === "write" || kind === "write-synced";
    const tears = writes ? [0, 20, 32, bytes >> 1, bytes] : [0];
    for (const writtenBytes of new Set(tears)) {
      const disk = await newDisk((call) =>
        call.number === number ? { kind: "stop", writtenBytes } : undefined,
      );
      const progress = new Progress();
      await attempt(disk, progress);
      for (const { name, die } of deaths()) {
        const left = disk.clone();
        die(left);
        const problem = await checkRecovery(left, progress).catch(String);
        crashes += 1;
        if (problem !== undefined)
          wrong.push(`call ${number} (${kind}), ${writtenBytes} written, ${name}: ${problem}`);
      }
    }
  }
  return { count: crashes, wrong };
}

async function tears(): Promise<Found> {
  let tried = 0;
  const calls = await allCalls();
  const written = calls.filter(({ kind, path }) => kind === "write-synced" && path.endsWith(".wal"));
  const wrong: string[] = [];
  for (const { number, bytes } of written.slice(2, 4)) {
    for (let writtenBytes = 0; writtenBytes <= bytes; writtenBytes += 1) {
      const disk = await newDisk((call) =>
        call.number === number ? { kind: "stop", writtenBytes } : undefined,
      );
      const progress = new Progress();
      await attempt(disk, progress);
      disk.losePower(loseNothing);
      tried += 1;
      const problem = await checkRecovery(disk, progress).catch(String);
      if (problem !== undefined) wrong.push(`call ${number}, ${writtenBytes} of ${bytes}: ${problem}`);
    }
  }
  return { count: tried, wrong };
}

async function recoveryCrashes(): Promise<Found> {
  let tried = 0;
  const calls = await allCalls();
  const torn = calls.filter(({ kind, path }) => kind === "write-synced" && path.endsWith(".wal"))[6];
  const disk = await newDisk(({ number }) =>
    number === torn?.number ? { kind: "stop", writtenBytes: torn.bytes >> 1 } : undefined,
  );
  const progress = new Progress();
  await attempt(disk, progress);
  disk.losePower(loseNothing);
  const wrong: string[] = [];
  for (let stopAt = 1; stopAt < 60; stopAt += 1) {
    for (const { name, die } of deaths()) {
      const left = disk.clone();
      left.onCall = ({ number }) => (number === stopAt ? { kind: "stop", writtenBytes: 300 } : undefined);
      await reopen(left).catch(() => undefined);
      await settle();
      left.onCall = () => undefined;
      die(left);
      tried += 1;
      const problem = await checkRecovery(left, progress).catch(String);
      if (problem !== undefined) wrong.push(`call ${stopAt}, ${name}: ${problem}`);
    }
  }
  return { count: tried, wrong };
}

async function errors(): Promise<Found> {
  let tried = 0;
  const calls = await allCalls();
  const wrong: string[] = [];
  for (const { number, kind } of calls) {
    const disk = await newDisk((call) =>
      call.number === number ? { kind: "fail", code: "EIO" } : undefined,
    );
    const progress = new Progress();
    let failure: unknown;
    const wal = await attempt(disk, progress).catch((error: unknown) => void (failure = error));
    if (failure === undefined && kind !== "close") {
      // It struck a file prepared ahead: the next append tells.
      await settle();
      const more = { hardState: undefined, entries: [], installed: undefined };
      await wal?.append(more).catch((error: unknown) => (failure = error));
    }
    const expected = progress.issued === 0 ? /unavailable|EIO/ : /data-loss|EIO/; // Nothing was at risk before.
    if (kind !== "close" && !expected.test(codeOf(failure)))
      wrong.push(`call ${number} (${kind}): ${codeOf(failure)}`);
    disk.onCall = () => undefined;
    for (const { name, die } of deaths()) {
      const left = disk.clone();
      die(left);
      tried += 1;
      const problem = await checkRecovery(left, progress).catch(String);
      if (problem !== undefined) wrong.push(`call ${number} (${kind}), ${name}: ${problem}`);
    }
  }
  return { count: tried, wrong };
}

async function fullCalls(): Promise<Found> {
  let tried = 0;
  const calls = (await allCalls()).filter(({ kind }) => kind !== "close");
  const wrong: string[] = [];
  for (const { number, kind } of calls) {
    for (const count of [1, 7, 40]) {
      const full = (call: DiskCall): boolean =>
        call.kind === "write" || call.kind === "write-synced" || call.kind === "create";
      let left = count;
      const disk = await newDisk((call) => {
        if (call.number < number || left === 0 || !(full(call) || call.number === number)) return undefined;
        left -= 1;
        return { kind: "fail", code: "ENOSPC" };
      });
      const progress = new Progress();
      tried += 1;
      const problem = await untilDone(disk, progress).catch(String);
      if (problem !== undefined || progress.acknowledged !== batchCount) {
        wrong.push(`call ${number} (${kind}) × ${count}: ${problem ?? `${progress.acknowledged} batches`}`);
      }
    }
  }
  return { count: tried, wrong };
}

/** Opens, as often as the disk refuses, and runs the script while upkeep goes on beside it. */
async function untilDone(disk: SimDisk, progress: Progress): Promise<string | undefined> {
  let open: OpenWal | undefined;
  for (let tries = 0; open === undefined; tries += 1) {
    if (tries > 60) return "cannot be opened";
    open = await reopen(disk).catch((error: unknown) => {
      if (!/ENOSPC|resource-exhausted/.test(codeOf(error))) throw error;
      disk.killProcess();
      return undefined;
    });
  }
  const { wal, seal, state } = open;
  if (state.entries.length > 0) return "something was invented";
  const run = { done: false };
  const retrying: Keyring = Object.create(seal, {
    rotate: {
      value: async () => {
        for (;;) {
          const isDone = await seal.rotate().then(
            () => true,
            () => false,
          );
          if (isDone) return;
        }
      },
    },
  }) as Keyring;
  const running = runScript({ ...open, seal: retrying }, progress).finally(() => (run.done = true));
  running.catch(() => undefined); // Awaited below.
  for (let round = 0; round < 300 && !run.done; round += 1) {
    await settle();
    await wal.maintain();
  }
  if (!run.done) return "it waits for ever";
  await running;
  await wal.close();
  disk.onCall = () => undefined;
  disk.losePower(loseAll);
  return checkRecovery(disk, progress);
}

async function flips(): Promise<Found> {
  const disk = await newDisk();
  const progress = new Progress();
  const wal = await attempt(disk, progress);
  await wal?.close();
  disk.losePower(loseAll);
  const whole = print((await reopen(disk.clone())).state);
  const wrong: string[] = [];
  let refused = 0;
  for (const path of disk.paths().filter((name) => name.endsWith(".wal") || name.endsWith("watermark"))) {
    const used = Buffer.from(disk.contents(path)).findLastIndex((byte) => byte !== 0) + 40;
    for (let at = 0; at < Math.min(used, disk.contents(path).length); at += 1) {
      // Of headers every bit, of the rest one bit of each byte.
      const bits = isHeader(disk, path, at) ? [0, 1, 2, 3, 4, 5, 6, 7] : [at % 8];
      for (const bit of bits) {
        const copy = disk.clone();
        copy.damage(path, (bytes) => (bytes[at] = (bytes[at] ?? 0) ^ (1 << bit)));
        const before = copy.contents(path);
        const outcome = await reopen(copy).then(
          ({ state }) => print(state),
          (error: unknown) => error as Error,
        );
        if (outcome === whole) continue;
        refused += 1;
        const place = outcome instanceof Error && outcome.message.includes(`${path} is damaged at offset `);
        if (!place) wrong.push(`${path}, byte ${at}, bit ${bit}: ${String(outcome)}`);
        else if (!copy.contents(path).equals(before)) wrong.push(`${path}, byte ${at}: it was changed`);
      }
    }
  }
  return { count: refused, wrong };
}

function isHeader(disk: SimDisk, path: string, at: number): boolean {
  return disk.contents(path).readUInt32LE(at - (at % 32)) === 0x52574853;
}

async function zeros(): Promise<Found> {
  let tried = 0;
  const disk = await newDisk();
  const wal = await attempt(disk, new Progress());
  // Records with sectors of their own behind the last segment's start. The log is never closed, as when power fails: all but what
  // the last second brought is known to be there.
  for (const index of [14, 15]) {
    const data = new Uint8Array(sectorBytes).fill(index);
    const hardState = { term: 4, vote: "b", commit: 13 };
    await wal?.append({ hardState, entries: [{ index, term: 4, kind: "data", data }], installed: undefined });
  }
  await wal?.maintain();
  disk.losePower(loseAll);
  const whole = print((await reopen(disk.clone())).state);
  const wrong: string[] = [];
  const segments = disk.paths().filter((name) => name.startsWith(logDirectory) && name.endsWith(".wal"));
  for (const path of segments) {
    const bytes = disk.contents(path);
    const ranges: [number, number][] = [[0, bytes.length]];
    for (let from = 0; from < bytes.length; from += sectorBytes) {
      ranges.push([from, Math.min(bytes.length, from + sectorBytes)], [from, bytes.length]);
    }
    for (const [from, to] of ranges) {
      if (bytes.subarray(from, to).every((byte) => byte === 0)) continue;
      tried += 1;
      const copy = disk.clone();
      copy.damage(path, (damaged) => damaged.fill(0, from, to));
      const outcome = await reopen(copy).then(
        ({ state }) => print(state),
        (error: { code?: string }) => error.code,
      );
      if (outcome !== "data-loss" && outcome !== whole)
        wrong.push(`${path} ${from}..${to}: ${outcome ?? "?"}`);
    }
    const missing = disk.clone();
    await missing.remove(path);
    const outcome = await reopen(missing).then(
      ({ state }) => print(state),
      (error: { code?: string }) => error.code,
    );
    if (outcome !== "data-loss" && outcome !== whole && path !== segments[0])
      wrong.push(`${path} gone: ${outcome ?? "?"}`);
  }
  return { count: tried, wrong };
}

function codeOf(error: unknown): string {
  const { code } = (error ?? {}) as { code?: string };
  return code ?? String(error);
}

if (!isMainThread) parentPort?.postMessage(await enumerations[workerData as EnumerationName](), []);
