import type { Entry } from "raft-ts";
import type { WalBatch } from "../../../manager/raft/codec.ts";
import { DiskSpace } from "../../../manager/raft/disk-space.ts";
import { Keyring } from "../../../manager/raft/seal.ts";
import { Wal, type WalState } from "../../../manager/raft/wal.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { silentLog } from "../../../runtime/log.ts";
import { type DiskCall, type DiskFault, SimDisk } from "../../sim/disk.ts";

export const logDirectory = "/raft/log";
export const segmentBytes = 2048;

export interface OpenWal {
  readonly wal: Wal;
  readonly state: WalState;
  readonly space: DiskSpace;
  readonly seal: Keyring;
}

export function newSeal(seed: number, disk = new SimDisk()): Promise<Keyring> {
  return Keyring.load({ disk, random: seededRandom(seed) }, "/key", "create");
}

export async function openWal(disk: SimDisk, seal: Keyring, bytes = segmentBytes): Promise<OpenWal> {
  const space = new DiskSpace({ disk, log: silentLog }, { path: "/raft/reserve", bytes: 2 * bytes });
  const options = { directory: logDirectory, seal, space, segmentBytes: bytes };
  return { ...(await Wal.open({ disk }, options)), space, seal };
}

/** A disk with keys and nothing else, so that every run makes the same calls. */
export async function newDisk(onCall?: (call: DiskCall) => DiskFault | undefined): Promise<SimDisk> {
  const disk = new SimDisk();
  await newSeal(1, disk);
  disk.onCall = onCall ?? (() => undefined);
  return disk;
}

export async function reopen(disk: SimDisk): Promise<OpenWal> {
  const seal = await Keyring.load({ disk, random: seededRandom(9) }, "/key", "refuse");
  return openWal(disk, seal);
}

/** The script of all fault tests: groups, votes, a conflict, segments that begin and go, a large batch, a new key. */
type Step =
  | { readonly kind: "append"; readonly batches: readonly WalBatch[] }
  | { readonly kind: "release"; readonly index: number }
  | { readonly kind: "maintain" }
  | { readonly kind: "rotate" };

const hardState = (term: number, commit: number) => ({ term, vote: term % 2 === 0 ? "b" : "a", commit });
const entry = (index: number, term: number, bytes = 150): Entry => {
  return { index, term, kind: "data", data: new Uint8Array(bytes).fill(index) };
};
const batch = (term: number, commit: number, entries: readonly Entry[]): WalBatch => {
  return { hardState: hardState(term, commit), entries, installed: undefined };
};

export const script: readonly Step[] = [
  { kind: "append", batches: [batch(1, 0, [entry(1, 1), entry(2, 1)])] },
  // The first one is written alone, the others gather meanwhile.
  { kind: "append", batches: [3, 4, 5, 6].map((index) => batch(1, index - 2, [entry(index, 1)])) },
  { kind: "append", batches: [batch(2, 5, [])] },
  { kind: "append", batches: [batch(3, 5, [entry(6, 3), entry(7, 3, 700)])] },
  { kind: "maintain" },
  { kind: "append", batches: [8, 9, 10].map((index) => batch(3, index - 1, [entry(index, 3, 500)])) },
  { kind: "rotate" },
  { kind: "append", batches: [batch(3, 10, [entry(11, 3, 3000)])] },
  { kind: "release", index: 9 },
  { kind: "append", batches: [12, 13].map((index) => batch(4, index, [entry(index, 4)])) },
];

const batches = script.flatMap((step) => (step.kind === "append" ? step.batches : []));
export const batchCount = batches.length;
const releasedIndex = 9;

export function print({ entries, hardState: { term, vote, commit } }: WalState): string {
  return `t${term} ${vote ?? "-"} c${commit} ${entries.map((e) => `${e.index}/${e.term}/${e.data.length}`).join(" ")}`;
}

/** What the log holds after the first `count` batches. */
function modelState(count: number): WalState {
  const held: Entry[] = [];
  for (const { entries } of batches.slice(0, count)) {
    if (entries[0] !== undefined) held.length = entries[0].index - 1;
    held.push(...entries);
  }
  const last = batches[count - 1];
  return {
    entries: held,
    hardState: last?.hardState ?? { term: 0, vote: undefined, commit: 0 },
    installed: undefined,
  };
}

/** How far a run of the script came. */
export class Progress {
  /** Batches that were given to the log, and of those, that it said are durable; the latter in order. */
  issued = 0;
  acknowledged = 0;

  /** @returns what is wrong with `state`, if anything: it must hold all acknowledged batches and none not issued. */
  judge(state: WalState): string | undefined {
    const found = print(state);
    for (let count = this.acknowledged; count <= this.issued; count += 1) {
      const model = modelState(count);
      const first = state.entries[0]?.index ?? (model.entries.at(-1)?.index ?? 0) + 1;
      if (first - 1 > Math.min(releasedIndex, model.entries.length)) continue;
      if (found === print({ ...model, entries: model.entries.slice(first - 1) })) return undefined;
    }
    return `${this.acknowledged} of ${this.issued} batches were acknowledged, found ${found}`;
  }
}

/** Runs the script to its end, or to the first failure, which is thrown. */
export async function runScript(open: OpenWal, progress: Progress): Promise<void> {
  for (const step of script) {
    switch (step.kind) {
      case "append":
        await Promise.all(
          step.batches.map(async (given) => {
            progress.issued += 1;
            await open.wal.append(given);
            progress.acknowledged += 1;
          }),
        );
        break;
      case "release":
        await open.wal.release(step.index);
        break;
      case "maintain":
        await open.wal.maintain();
        break;
      case "rotate":
        await open.seal.rotate();
        break;
    }
  }
}
