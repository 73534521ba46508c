import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Entry } from "raft-ts";
import { DiskSpace } from "../../manager/raft/disk-space.ts";
import { recover } from "../../manager/raft/recover.ts";
import { Keyring } from "../../manager/raft/seal.ts";
import { Wal } from "../../manager/raft/wal.ts";
import type { NodeId } from "../../model/ids.ts";
import { systemCalls } from "../../runtime/disk-calls.ts";
import { type BlockDisk, diskOver, systemDisk } from "../../runtime/disk.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import type { Delay } from "./loop-delay.ts";
import { machine } from "./report.ts";
import type { SnapshotFigures } from "./raft-snapshot.ts";

export interface StorageBenchOptions {
  readonly entries: number;
  readonly entryBytes: number;
  readonly snapshotMib: number;
  /** Of each load on the log. */
  readonly seconds: number;
}

const segmentBytes = 8 * 1024 * 1024;
const mib = 1024 * 1024;

interface Row {
  readonly what: string;
  readonly figure: string;
}

/** The log and the snapshots of one member on this machine's disk. */
export async function benchStorage(
  options: StorageBenchOptions,
  say: (line: string) => void,
): Promise<string> {
  const rows: Row[] = [];
  const add = (what: string, figure: string): void => {
    rows.push({ what, figure });
    say(`${what}: ${figure}`);
  };
  for (const inFlight of [1, 64, 1000]) {
    const { perSecond, perSync, p50Ms, p99Ms } = await benchAppend(options, inFlight);
    const figures = [
      `${Math.round(perSecond)}/s`,
      `p50 ${p50Ms.toFixed(2)} ms`,
      `p99 ${p99Ms.toFixed(2)} ms`,
    ];
    add(
      `appends of one entry, sealed and synced, ${inFlight} under way`,
      `${figures.join(", ")}, ${perSync.toFixed(1)} a sync`,
    );
  }
  for (const batch of [64, 1]) {
    const { seconds, cpuSeconds, bytes } = await benchRestart(options, batch);
    const size = `${Math.round(bytes / mib)} MiB`;
    add(
      `restart from ${options.entries} entries, ${batch} in a record`,
      `${seconds.toFixed(2)} s, ${cpuSeconds.toFixed(2)} s of CPU (${size})`,
    );
  }
  const snapshot = await benchSnapshot(options.snapshotMib * mib);
  const rate = (seconds: number, { lateMs, ownMs }: Delay): string =>
    `${seconds.toFixed(1)} s, raft threads stalled for ${lateMs.toFixed(1)} ms at most, ${ownMs.toFixed(1)} ms by their own work`;
  const size = `snapshot of ${options.snapshotMib} MiB`;
  add(`${size} taken`, rate(snapshot.takeSeconds, snapshot.takeDelay));
  add(`${size} sent, stored and handed over`, rate(snapshot.streamSeconds, snapshot.streamDelay));
  add(`restart from a ${size}`, `${snapshot.restartSeconds.toFixed(1)} s`);
  add("resident at most, both members in one process", `${Math.round(snapshot.peakMemoryBytes / mib)} MiB`);
  const lines = rows.map(({ what, figure }) => `| ${what} | ${figure} |`);
  const note = `${options.entryBytes}-byte entries (${machine()}).`;
  return ["| figure | |", "| --- | --- |", ...lines, "", note, ""].join("\n");
}

interface AppendFigures {
  readonly perSecond: number;
  readonly perSync: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

async function benchAppend(options: StorageBenchOptions, inFlight: number): Promise<AppendFigures> {
  const { entryBytes, seconds } = options;
  return withDirectory(async (directory) => {
    let syncs = 0;
    const disk = diskOver({
      ...systemCalls,
      async open(path, how, mode) {
        const file = await systemCalls.open(path, how, mode);
        if (how !== "write-synced") return file;
        return { ...file, write: (data, position) => ((syncs += 1), file.write(data, position)) };
      },
    });
    const wal = await openWal(disk, directory);
    const data = systemRandom.bytes(entryBytes);
    const waits: number[] = [];
    let index = 0;
    const endMs = performance.now() + seconds * 1000;
    const syncsBefore = syncs;
    const client = async (): Promise<void> => {
      while (performance.now() < endMs) {
        index += 1;
        const began = performance.now();
        await wal.append({ hardState: undefined, entries: [entry(index, data)], installed: undefined });
        waits.push(performance.now() - began);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, client));
    const perSync = index / (syncs - syncsBefore);
    await wal.close();
    const sorted = waits.toSorted((a, b) => a - b);
    const at = (ratio: number): number => sorted[Math.floor(sorted.length * ratio)] ?? Number.NaN;
    return { perSecond: index / seconds, perSync, p50Ms: at(0.5), p99Ms: at(0.99) };
  });
}

/** Writes the log without syncs, so that it takes no hour, and reads it as a member that starts. */
async function benchRestart(
  { entries, entryBytes }: StorageBenchOptions,
  batch: number,
): Promise<{ seconds: number; cpuSeconds: number; bytes: number }> {
  return withDirectory(async (directory) => {
    const unsynced = diskOver({
      ...systemCalls,
      open: (path, how, mode) => systemCalls.open(path, how === "write-synced" ? "write" : how, mode),
    });
    const place = { directory, nodeId: "n1" as NodeId, raftAddress: "127.0.0.1:1" };
    const made = await recover(
      { disk: unsynced, random: systemRandom, log: silentLog },
      { ...place, start: "bootstrap" },
    );
    const data = systemRandom.bytes(entryBytes);
    for (let index = made.storage.lastIndex() + 1; index <= entries;) {
      const count = Math.min(batch, entries - index + 1);
      const group = Array.from({ length: count }, (_, at) => entry(index + at, data));
      index += count;
      await made.wal.append({ hardState: undefined, entries: group, installed: undefined });
    }
    await made.wal.close();
    const began = performance.now();
    const usedBefore = process.cpuUsage();
    const found = await recover(
      { disk: systemDisk, random: systemRandom, log: silentLog },
      { ...place, start: "restart" },
    );
    const seconds = (performance.now() - began) / 1000;
    const used = process.cpuUsage(usedBefore);
    const cpuSeconds = (used.user + used.system) / 1e6;
    if (found.storage.lastIndex() !== entries) throw new Error(`found ${found.storage.lastIndex()} entries`);
    await found.wal.close();
    let bytes = 0;
    for (const name of await systemDisk.list(`${directory}/log`)) {
      const file = await systemDisk.openRead(`${directory}/log/${name}`);
      bytes += file?.bytes ?? 0;
      await file?.close();
    }
    return { seconds, cpuSeconds, bytes };
  });
}

/** In a process of its own, whose raft threads are watched from their start. */
async function benchSnapshot(bytes: number): Promise<SnapshotFigures> {
  const watch = new URL("loop-delay.js", import.meta.url);
  const child = fork(new URL("raft-snapshot.js", import.meta.url), { execArgv: ["--import", watch.href] });
  const ended = once(child, "exit").then(() => Promise.reject(new Error("the measuring process ended")));
  child.send(bytes);
  const [figures] = (await Promise.race([once(child, "message"), ended])) as [SnapshotFigures];
  await ended.catch(() => undefined); // It has told all by then.
  return figures;
}

async function openWal(disk: BlockDisk, directory: string): Promise<Wal> {
  const seal = await Keyring.load({ disk, random: systemRandom }, `${directory}/key`, "create");
  const space = new DiskSpace(
    { disk, log: silentLog },
    { path: `${directory}/reserve`, bytes: 2 * segmentBytes },
  );
  const { wal } = await Wal.open({ disk }, { directory: `${directory}/log`, seal, space, segmentBytes });
  return wal;
}

function entry(index: number, data: Uint8Array): Entry {
  return { index, term: 1, kind: "data", data };
}

async function withDirectory<T>(action: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-bench-storage-"));
  try {
    return await action(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
