import { type RaftNode, type SnapshotMessage, type SnapshotMeta, compactionIndex } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Log } from "../../runtime/log.ts";
import { isFull } from "./disk-space.ts";
import type { LogLimits, RaftGroupOptions } from "./group.ts";
import { type ThreadCommand, type ThreadOutput, snapshotPart } from "./port.ts";
import type { Recovered } from "./recover.ts";
import type { SnapshotFile, SnapshotIdentity, SnapshotWriter } from "./snapshot-file.ts";
import { SnapshotInbox, type SnapshotIntake } from "./snapshot-inbox.ts";

const defaultSnapshotEntries = 10_000;
const defaultSnapshotBytes = 64 * 1024 * 1024;
const defaultKeepEntries = 500;
/** Writing less than this again and again costs nothing worth saving. */
const defaultSmallSnapshotBytes = 1024 * 1024;
/** A restart takes in what was logged in two such stretches and a part of a third, at some 100,000 entries a second. */
const maxUnsavedEntries = 250_000;
/** A peer that is this far behind gets a snapshot, whatever the compaction was asked to keep for it. */
const defaultMaxKeepEntries = 20_000;
const maxKeepBytes = 64 * 1024 * 1024;
/** ... unless it is awaited, and this is less than twice the state: then it would be sent one snapshot after another. */
const maxAwaitedBytes = 256 * 1024 * 1024;
const maxAwaitedEntries = 2 * maxUnsavedEntries;

/** What the member lends. */
export interface SnapshotDeps {
  readonly log: Log;
  readonly node: RaftNode;
  readonly emit: (output: ThreadOutput) => void;
  readonly send: (
    message: SnapshotMessage,
    file: SnapshotFile,
    onProgress: (heldBytes: number) => void,
  ) => Promise<void>;
  /** Runs something against the core and lets the rounds go on. */
  readonly guarded: (action: () => void) => void;
  readonly fail: (error: unknown) => void;
}

interface Taking {
  readonly index: number;
  /** Undefined when it is not worth writing. */
  readonly writer: Promise<SnapshotWriter | undefined>;
}

/** What was applied since a snapshot. */
interface Growth {
  readonly entries: number;
  /** With the envelopes: what the log, memory and a restart have of them. */
  readonly bytes: number;
}

const noGrowth: Growth = { entries: 0, bytes: 0 };

/** What decides when a snapshot is due. */
export interface SnapshotPace {
  /** The least between two snapshots, unless these have `maxBytes`. */
  readonly minEntries: number;
  /** A state of at most this size is written without regard to its size. */
  readonly smallBytes: number;
  /** The most between two snapshots; where `minEntries` is more, that is. */
  readonly maxEntries: number;
  readonly maxBytes: number;
}

/**
 * Whether the log has grown enough for another snapshot: by the entries asked for, and by as much as the last snapshot has, so
 * that a large state is not written again and again for small changes; in any case by the most that a restart is to take in.
 *
 * @param lastBytes - Size of the last snapshot's data; 0 when there was none.
 */
export function isSnapshotDue(since: Growth, lastBytes: number, pace: SnapshotPace): boolean {
  if (since.bytes >= pace.maxBytes) return true;
  if (since.entries < pace.minEntries) return false;
  return lastBytes <= pace.smallBytes || since.bytes >= lastBytes || since.entries >= pace.maxEntries;
}

function grown({ entries, bytes }: Growth, by: Growth): Growth {
  return { entries: entries + by.entries, bytes: bytes + by.bytes };
}

/**
 * The snapshots of one member, in parts everywhere: from the main thread to the disk, from the disk to a peer, from a peer
 * to the disk, from the disk to the main thread; and what may go once there is one.
 */
export class MemberSnapshots {
  readonly #deps: SnapshotDeps;
  readonly #options: RaftGroupOptions;
  readonly #state: Recovered;
  readonly #inbox: SnapshotInbox;
  /** Received whole, and not installed yet; by index. */
  readonly #received = new Map<number, SnapshotWriter>();
  #limits: Required<LogLimits>;
  #since = noGrowth;
  /** Of that, what came after the snapshot under way was asked for: it may not be in it. */
  #sinceWanted = noGrowth;
  /** Of the last snapshot. */
  #lastBytes: number;
  #isBusy = false;
  /** There was no room for the last one. */
  #isBlocked = false;
  #taking: Taking | undefined;
  #lastPart: Promise<void> = Promise.resolve();
  #credits: number = snapshotPart.window;
  #onCredit: () => void = () => {};
  #isStopped = false;

  constructor(deps: SnapshotDeps, options: RaftGroupOptions, state: Recovered) {
    this.#deps = deps;
    this.#options = options;
    this.#state = state;
    const { snapshotEntries = defaultSnapshotEntries, keepEntries = defaultKeepEntries } = options;
    this.#limits = { snapshotEntries, keepEntries };
    this.#inbox = new SnapshotInbox(state.snapshots);
    this.#lastBytes = state.snapshot?.identity.dataBytes ?? 0;
    state.snapshots.holdWhile(() => this.#beingSent());
  }

  /** Gives a snapshot to the main thread, in parts and not faster than it takes them. Closes the file. */
  async deliver(file: SnapshotFile): Promise<void> {
    const { index } = file.meta;
    try {
      for await (const { offset, data } of file.parts()) {
        while (this.#credits === 0 && !this.#isStopped) {
          await new Promise<void>((resolve) => (this.#onCredit = resolve));
        }
        if (this.#isStopped) return;
        this.#credits -= 1;
        const isLast = offset + data.byteLength === file.identity.dataBytes;
        this.#deps.emit({ kind: "snapshot", index, data, isLast });
      }
      if (file.identity.dataBytes === 0) {
        this.#deps.emit({ kind: "snapshot", index, data: new Uint8Array(), isLast: true });
      }
    } finally {
      await file.close();
    }
  }

  /** The main thread has taken a part. */
  taken(): void {
    this.#credits += 1;
    this.#onCredit();
  }

  /** From the next snapshot on. */
  limit(limits: Required<LogLimits>): void {
    this.#limits = limits;
  }

  /** @param bytes - Of the entries, with their envelopes. */
  applied(entries: number, bytes: number): void {
    this.#since = grown(this.#since, { entries, bytes });
    this.#sinceWanted = grown(this.#sinceWanted, { entries, bytes });
  }

  /** Asks the store for its state when the log has grown, when nothing else makes room, or when the one there is was damaged. */
  want(handedIndex: number): void {
    const isGrown = isSnapshotDue(this.#since, this.#lastBytes, this.#pace());
    const isLost = this.#state.snapshots.isDamaged(this.#state.storage.snapshot());
    const isNeeded = isGrown || isLost || (this.#since.entries > 0 && this.#state.space.state === "short");
    if (this.#isBusy || this.#isBlocked || !isNeeded) return;
    this.#isBusy = true;
    this.#sinceWanted = noGrowth;
    this.#deps.emit({ kind: "snapshot-wanted", id: 0, atLeast: handedIndex });
  }

  /** A part of the store's state; each is answered once there is room for another. */
  part(command: ThreadCommand & { kind: "snapshot" }): void {
    this.#lastPart = this.#lastPart.then(async () => {
      try {
        await this.#store(command);
      } catch (error) {
        await this.#giveUp(error);
        // What still comes of it is let pass.
        this.#isBusy = !command.isLast;
        if (!command.isLast) this.#taking = { index: command.index, writer: Promise.resolve(undefined) };
      }
      this.#deps.emit({ kind: "snapshot-more", id: command.id });
    });
  }

  /** The store could not give its state, or the rest of it. */
  none(text: string): void {
    this.#deps.log.warn({ error: text }, "the store gave no snapshot");
    this.#lastPart = this.#lastPart.then(() => this.#giveUp(undefined));
    this.#since = this.#sinceWanted; // Not again at once.
  }

  async send(message: SnapshotMessage): Promise<void> {
    const { log, node, send, guarded } = this.#deps;
    let outcome: "sent" | "failed" = "failed";
    let file: SnapshotFile | undefined;
    try {
      file = await this.#state.snapshots.open(message.snapshot);
      // A newer one than the message names is as good; after an older one there would be a gap.
      if (file === undefined || file.meta.index < message.snapshot.index) {
        throw new Error("there is none on the disk until another one is made");
      }
      const { meta } = file;
      await send({ ...message, snapshot: meta }, file, (heldBytes) =>
        guarded(() => node.reportSnapshotProgress(message, heldBytes)),
      );
      outcome = "sent";
    } catch (error) {
      log.warn({ peer: message.to, error: errorText(error) }, "snapshot was not delivered");
      if (file?.isDamaged === true) this.#state.snapshots.damaged(file.meta);
    }
    await file
      ?.close()
      .catch((error: unknown) => log.warn({ error: errorText(error) }, "snapshot was not closed"));
    guarded(() => node.reportSnapshot(message, outcome));
  }

  /**
   * A peer begins to send one.
   *
   * @throws {ClusterError} `failed-precondition` when it leads no more: it must not end what the leader sends meanwhile.
   */
  async offer(message: SnapshotMessage, identity: SnapshotIdentity): Promise<SnapshotIntake> {
    const { term } = this.#deps.node.status();
    if (message.term < term) {
      const seen = `a snapshot of the leader of term ${message.term}`;
      throw new ClusterError("failed-precondition", `${seen}: this member is in term ${term}`);
    }
    return this.#inbox.offer(message.snapshot, identity, (writer) => this.#take(message, writer));
  }

  /** Puts a received snapshot among the others, durably. */
  async install({ index }: SnapshotMeta): Promise<void> {
    const writer = this.#received.get(index);
    if (writer === undefined) throw new Error("assertion failed: a snapshot came without its data");
    await this.#state.snapshots.keep(writer);
    this.#received.delete(index);
  }

  /** After {@link install}, once the log knows of it. */
  async installed(meta: SnapshotMeta): Promise<void> {
    this.#since = noGrowth;
    this.#sinceWanted = noGrowth;
    const file = await this.#state.snapshots.open(meta);
    if (file?.meta.index !== meta.index) throw new Error(`the snapshot at ${meta.index} has gone`);
    this.#lastBytes = file.identity.dataBytes;
    await this.deliver(file);
  }

  /** Once a second or so. */
  async maintain(handedIndex: () => number): Promise<void> {
    const { wal, storage } = this.#state;
    this.#isBlocked = false;
    await wal.maintain();
    await this.#state.snapshots.tidy();
    await this.#inbox.discardUpTo(this.#deps.node.status().commit);
    for (const [index, writer] of this.#received) {
      // The log had it all by the time it came: the core has no use for it.
      const isOver = index <= storage.snapshot().index || storage.term(index) === writer.meta.term;
      if (isOver) await this.#dropReceived(index, writer);
    }
    this.want(handedIndex());
  }

  /** A new data key seals from now on; old ones go with what they sealed. @returns its number. */
  async rotateKey(): Promise<number> {
    const keyId = await this.#state.seal.rotate();
    await this.#retainKeys();
    return keyId;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#onCredit();
    await this.#lastPart;
    // What the leader sent stays for the next start, whole or not; the store gives its state again.
    await this.#inbox.close();
    for (const writer of this.#received.values()) await this.#state.snapshots.leave(writer);
    const taking = await this.#taking?.writer.catch(() => undefined); // Told when it failed.
    if (taking !== undefined) await this.#state.snapshots.drop(taking);
  }

  async #take(message: SnapshotMessage, writer: SnapshotWriter): Promise<void> {
    const { index } = message.snapshot;
    const { node, guarded } = this.#deps;
    if (index <= node.status().commit) {
      guarded(() => node.step(message)); // Known, or taken and waiting to be installed: what is here stays.
      await this.#state.snapshots.drop(writer);
      return;
    }
    const before = this.#received.get(index);
    if (before !== undefined) await this.#dropReceived(index, before);
    this.#received.set(index, writer);
    guarded(() => node.step(message));
    // Not taken, such as one of an earlier term, or known already: nobody will ask for the data.
    const isTaken = this.#received.has(index) && node.status().commit >= index;
    if (!isTaken) await this.#dropReceived(index, writer);
  }

  async #dropReceived(index: number, writer: SnapshotWriter): Promise<void> {
    this.#received.delete(index);
    await this.#state.snapshots.drop(writer);
  }

  async #store({ index, data, isLast }: ThreadCommand & { kind: "snapshot" }): Promise<void> {
    const { snapshots } = this.#state;
    this.#taking ??= { index, writer: this.#begin(index) };
    const writer = await this.#taking.writer;
    await writer?.append(data);
    if (!isLast) return;
    const { storage } = this.#state;
    await writer?.finish();
    const isWanted = !this.#isCovered(index); // Else one from the leader came meanwhile.
    if (writer !== undefined) await (isWanted ? snapshots.keep(writer) : snapshots.drop(writer));
    // Not before: what fails until here leaves a file that is to go, and nobody is to be asked for the next one meanwhile.
    this.#taking = undefined;
    this.#isBusy = false;
    if (writer === undefined || !isWanted) return;
    this.#since = this.#sinceWanted;
    this.#lastBytes = writer.bytes;
    storage.setSnapshot(writer.meta);
    this.#deps.node.compacted(index);
    await this.#compact();
  }

  #pace(): SnapshotPace {
    const { snapshotBytes: maxBytes = defaultSnapshotBytes } = this.#options;
    const { smallSnapshotBytes: smallBytes = defaultSmallSnapshotBytes } = this.#options;
    return { minEntries: this.#limits.snapshotEntries, smallBytes, maxEntries: maxUnsavedEntries, maxBytes };
  }

  async #begin(index: number): Promise<SnapshotWriter | undefined> {
    const { storage, snapshots } = this.#state;
    const term = storage.term(index);
    if (term === undefined || this.#isCovered(index)) return undefined;
    const configuration = this.#deps.node.configurationAt(index);
    return await snapshots.begin({ index, term, configuration });
  }

  /** By a snapshot that can be read, as far as is known. */
  #isCovered(index: number): boolean {
    const { storage, snapshots } = this.#state;
    const meta = storage.snapshot();
    return index < meta.index || (index === meta.index && !snapshots.isDamaged(meta));
  }

  /** What was written goes. A full disk is tried again later; any other error ends the member. */
  async #giveUp(error: unknown): Promise<void> {
    const { snapshots, space } = this.#state;
    const taking = this.#taking;
    this.#taking = undefined;
    this.#isBusy = false;
    try {
      const writer = await taking?.writer.catch(() => undefined); // It is the error in question.
      if (writer !== undefined) await snapshots.drop(writer);
      if (error === undefined) return;
      if (!isFull(error)) throw error;
      this.#deps.log.warn({ directory: this.#options.directory }, "no snapshot was made: the disk is full");
      this.#isBlocked = true;
      await space.spend();
      if (await snapshots.dropOlder()) await this.#compact();
    } catch (failure) {
      this.#deps.fail(failure);
    }
  }

  /** Lets go of what the snapshots cover and nobody needs. */
  async #compact(): Promise<void> {
    const { storage, snapshots, wal } = this.#state;
    const { maxKeepEntries = defaultMaxKeepEntries } = this.#options;
    const { keepEntries } = this.#limits;
    const isShort = this.#state.space.state === "short";
    const snapshotIndex = storage.snapshot().index;
    const awaitedBytes = Math.min(2 * this.#lastBytes, maxAwaitedBytes);
    const compactTo = compactionIndex({
      snapshotIndex,
      firstIndex: storage.firstIndex(),
      peers: isShort ? [] : this.#deps.node.status().peers,
      keepEntries: isShort ? 0 : keepEntries,
      maxEntries: isShort ? 0 : Math.max(keepEntries, maxKeepEntries),
      floorIndex: storage.indexWithin(maxKeepBytes),
      awaitedFloorIndex: Math.max(snapshotIndex - maxAwaitedEntries, storage.indexWithin(awaitedBytes)),
    });
    storage.compact(compactTo);
    await wal.release(Math.min(compactTo, await snapshots.oldestIndex()));
    await this.#retainKeys();
  }

  /** By index: what peers hold a part of, and can go on from once they have it all. */
  #beingSent(): ReadonlySet<number> {
    if (this.#state.space.state === "short") return new Set();
    const { peers, firstIndex } = this.#deps.node.status();
    const sent = peers.flatMap(({ snapshot }) => snapshot ?? []);
    const begun = sent.filter(({ index, ackedBytes }) => ackedBytes > 0 && index + 1 >= firstIndex);
    return new Set(begun.map(({ index }) => index));
  }

  async #retainKeys(): Promise<void> {
    const { wal, snapshots, seal } = this.#state;
    if (seal.keyIds.length === 1) return;
    await seal.retain(async () => {
      const inSnapshots = await snapshots.keyIds();
      return inSnapshots && new Set([...wal.keyIds, ...inSnapshots]);
    });
  }
}
