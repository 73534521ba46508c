import {
  type Configuration,
  type MemberId,
  MemoryStorage,
  type SnapshotMeta,
  bootstrapEntry,
  forceSoleVoter,
} from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { BlockDisk } from "../../runtime/disk.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import { DiskSpace } from "./disk-space.ts";
import type { RaftGroupOptions } from "./group.ts";
import { encodeContext, newMemberId, nodeIdOf } from "./membership.ts";
import { Keyring } from "./seal.ts";
import { SnapshotStore } from "./snapshot.ts";
import type { SnapshotFile } from "./snapshot-file.ts";
import { Wal, type WalState } from "./wal.ts";

const memberIdBytes = 6;
const defaultSegmentBytes = 8 * 1024 * 1024;
/** Room set aside for the way out of a full disk: a segment to go on in, and a small snapshot. */
const reserveSegments = 2;

/** A member as its disk knows it, ready to run. */
export interface Recovered {
  readonly memberId: MemberId;
  readonly wal: Wal;
  readonly snapshots: SnapshotStore;
  readonly storage: MemoryStorage;
  readonly space: DiskSpace;
  readonly seal: Keyring;
  /** What the state machine starts from, all of it checked. Whoever reads it closes it. */
  readonly snapshot: SnapshotFile | undefined;
}

/**
 * Reads, or makes, the state directory: `member` (the member's id), `key`, `log/`, `snapshots/`.
 *
 * @throws {ClusterError} `data-loss` when it cannot be trusted, `failed-precondition` when it does not fit;
 *   `resource-exhausted` when it has to be added to and the disk is full, `unavailable` when the disk does not let itself be
 *   read: both may pass.
 */
export async function recover(
  deps: { disk: BlockDisk; random: Random; log: Log },
  options: {
    readonly directory: string;
    readonly nodeId: NodeId;
    readonly raftAddress: string;
    readonly start: RaftGroupOptions["start"];
    readonly segmentBytes?: number;
    readonly snapshotPartBytes?: number;
  },
): Promise<Recovered> {
  const { directory } = options;
  await deps.disk.makeDirectory(directory);
  const hasLog = (await deps.disk.list(`${directory}/log`)).length > 0;
  const memberId = await loadMemberId(deps, { ...options, onMissing: hasLog ? "refuse" : "create" });
  const seal = await Keyring.load(deps, `${directory}/key`, hasLog ? "refuse" : "create");
  const snapshots = new SnapshotStore(deps, {
    directory: `${directory}/snapshots`,
    seal,
    ...(options.snapshotPartBytes !== undefined && { partBytes: options.snapshotPartBytes }),
  });
  await snapshots.prepare();
  const snapshot = await snapshots.newestReadable();
  if (snapshot !== undefined && !hasLog) {
    await snapshot.close();
    // Term and vote are in the log alone: who goes on without them may vote twice in one term.
    throw lost(directory, "there is none, but a snapshot is there");
  }
  const { segmentBytes = defaultSegmentBytes } = options;
  const space = new DiskSpace(deps, {
    path: `${directory}/reserve`,
    bytes: reserveSegments * segmentBytes,
  });
  let wal: Wal | undefined;
  try {
    const log = { directory: `${directory}/log`, seal, space, segmentBytes, isTended: false };
    const opened = await Wal.open(deps, log);
    wal = opened.wal;
    const storage = new MemoryStorage();
    await fill(storage, { ...opened, snapshot: snapshot?.meta, directory });
    await begin(storage, wal, { ...options, memberId });
    wal.tended(); // By the member, which takes over here.
    return { memberId, wal, snapshots, storage, space, seal, snapshot };
  } catch (error) {
    // The log makes its next segment ready already, which may not go on once another member has the directory.
    await wal?.close().catch(() => undefined); // The failure to report is the first one.
    await snapshot?.close().catch(() => undefined);
    throw error;
  }
}

/** What the way of starting asks of the log, or adds to it. @throws {ClusterError} `failed-precondition` when they do not fit. */
async function begin(
  storage: MemoryStorage,
  wal: Wal,
  options: {
    readonly directory: string;
    readonly nodeId: NodeId;
    readonly memberId: MemberId;
    readonly raftAddress: string;
    readonly start: RaftGroupOptions["start"];
  },
): Promise<void> {
  const { directory, nodeId, memberId, raftAddress, start } = options;
  const isEmpty = storage.lastIndex() === 0;
  if (isEmpty && start === "bootstrap") {
    await bootstrap(storage, wal, foundingConfiguration(memberId, raftAddress));
  }
  if (isEmpty && (start === "restart" || start === "force-new-cluster")) {
    throw new ClusterError(
      "failed-precondition",
      `cannot restart the manager of node ${nodeId}: there is no log in ${directory}; let it join again`,
    );
  }
  if (start === "force-new-cluster") await standAlone(storage, wal, options);
}

async function loadMemberId(
  { disk, random }: { disk: BlockDisk; random: Random },
  { directory, nodeId, onMissing }: { directory: string; nodeId: NodeId; onMissing: "create" | "refuse" },
): Promise<MemberId> {
  const path = `${directory}/member`;
  const known = await disk.read(path);
  if (known === undefined) {
    // Under a new name it would be nobody that the log knows of, and wait for ever.
    if (onMissing === "refuse") throw lost(directory, `${path}, which says whose it is, is not there`);
    const memberId = newMemberId(nodeId, random.bytes(memberIdBytes));
    await disk.replace(path, Buffer.from(memberId), 0o600);
    return memberId;
  }
  const memberId = Buffer.from(known).toString();
  if (nodeIdOf(memberId) !== nodeId) {
    throw new ClusterError(
      "failed-precondition",
      `cannot use the state in ${directory}: it belongs to member ${memberId}, this node is ${nodeId}`,
    );
  }
  return memberId;
}

async function fill(
  storage: MemoryStorage,
  found: { wal: Wal; state: WalState; snapshot: SnapshotMeta | undefined; directory: string },
): Promise<void> {
  const { wal, state, snapshot, directory } = found;
  const { entries, hardState, installed } = state;
  const base = snapshot?.index ?? 0;
  if ((installed?.index ?? 0) > base) {
    throw lost(directory, `the snapshot at index ${installed?.index ?? 0} is missing`);
  }
  const first = entries[0];
  const follows = first !== undefined && first.index <= base + 1;
  if (first !== undefined && !follows) {
    throw lost(directory, `the log begins at index ${first.index}, the snapshot ends at ${base}`);
  }
  const last = first === undefined ? base : first.index + entries.length - 1;
  const atBase = first === undefined ? undefined : entries[base - first.index];
  // The log goes on from the snapshot only if both agree at its index; else it is what the snapshot replaced.
  const agrees =
    snapshot === undefined ||
    (first?.index ?? 0) === base + 1 ||
    (atBase !== undefined && atBase.term === snapshot.term);
  if (snapshot !== undefined) storage.installSnapshot(snapshot);
  const known = base + 1 - (first?.index ?? base + 1);
  if (last > base && agrees) storage.append(known === 0 ? entries : entries.slice(known));
  else if (snapshot !== undefined && (last !== base || (first !== undefined && !agrees))) {
    await wal.append({ hardState, entries: [], installed: snapshot }); // What follows must not look like a gap.
  }
  if (hardState.commit > storage.lastIndex()) {
    throw lost(directory, `commit index ${hardState.commit} is beyond the log's end ${storage.lastIndex()}`);
  }
  storage.setHardState({ ...hardState, commit: Math.max(hardState.commit, base) });
}

async function bootstrap(storage: MemoryStorage, wal: Wal, configuration: Configuration): Promise<void> {
  const entries = [bootstrapEntry(configuration)];
  const hardState = { term: 1, vote: undefined, commit: 1 };
  await wal.append({ hardState, entries, installed: undefined });
  storage.append(entries);
  storage.setHardState(hardState);
}

/** From here on this member alone is the group; it goes on with all that is in its log. */
async function standAlone(
  storage: MemoryStorage,
  wal: Wal,
  {
    memberId,
    raftAddress,
    directory,
  }: { readonly memberId: MemberId; readonly raftAddress: string; readonly directory: string },
): Promise<void> {
  const context = encodeContext({ raftAddress, promote: true });
  const forced = forceSoleVoter(storage, { id: memberId, context });
  if (forced === undefined) {
    throw new ClusterError(
      "failed-precondition",
      `cannot go on alone with the state in ${directory}: the group removed this manager; do it on a manager that was a ` +
        "member to the end, or leave the cluster and make a new one",
    );
  }
  const { hardState, entries } = forced;
  await wal.append({ hardState, entries, installed: undefined });
  storage.append(entries);
  storage.setHardState(hardState);
}

function foundingConfiguration(memberId: MemberId, raftAddress: string): Configuration {
  return {
    voters: [memberId],
    outgoing: [],
    learners: [],
    contexts: { [memberId]: encodeContext({ raftAddress, promote: true }) },
  };
}

function lost(directory: string, what: string): ClusterError {
  return new ClusterError(
    "data-loss",
    `cannot read the log in ${directory}: ${what}. Remove this manager from the group on another manager, remove this ` +
      "directory, and let it join again",
  );
}
