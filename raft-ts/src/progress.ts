import { type Entry, type SnapshotMeta, totalBytes } from "./message.ts";

/**
 * How a peer is brought the log: `probe` asks where it agrees, `replicate` sends as much as the window allows, and `snapshot`
 * waits for the transfer of one.
 *
 * ```
 *            accepted                       gap or loss
 *   probe ─────────────▶ replicate ───────────────────────▶ probe
 *     │  one message per    │  pipelined, next runs ahead
 *     │  round trip         │
 *     └────── log compacted ┴──▶ snapshot ── done or failed ──▶ probe
 * ```
 */
export type ProgressState = "probe" | "replicate" | "snapshot";

/** Window of what was sent and not acknowledged, limited by count and by bytes. */
export class Inflights {
  readonly #maxCount: number;
  readonly #maxBytes: number;
  /** Oldest first, from `#from` on: what lies before is freed and forgotten now and then. */
  #sent: { readonly lastIndex: number; readonly bytes: number }[] = [];
  #from = 0;
  #bytes = 0;

  constructor(limits: { maxCount: number; maxBytes: number }) {
    this.#maxCount = limits.maxCount;
    this.#maxBytes = limits.maxBytes;
  }

  get full(): boolean {
    return this.count >= this.#maxCount || this.#bytes >= this.#maxBytes;
  }

  get count(): number {
    return this.#sent.length - this.#from;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What may still be added; a single larger thing may be added all the same when nothing is in flight. */
  get freeBytes(): number {
    return Math.max(0, this.#maxBytes - this.#bytes);
  }

  add(lastIndex: number, bytes: number): void {
    this.#sent.push({ lastIndex, bytes });
    this.#bytes += bytes;
  }

  /** Everything up to `index` has arrived. */
  freeTo(index: number): void {
    for (;;) {
      const oldest = this.#sent[this.#from];
      if (oldest === undefined || oldest.lastIndex > index) break;
      this.#bytes -= oldest.bytes;
      this.#from += 1;
    }
    if (this.#from === this.#sent.length) this.reset();
    else if (this.#from > 64) {
      this.#sent = this.#sent.slice(this.#from);
      this.#from = 0;
    }
  }

  reset(): void {
    this.#sent = [];
    this.#from = 0;
    this.#bytes = 0;
  }
}

/** A snapshot on its way to a peer. `ackedBytes` is what the peer is known to hold of it. */
export interface SnapshotTransfer {
  /** New for each attempt: news of an earlier one must not be taken for news of this one. */
  readonly id: number;
  readonly meta: SnapshotMeta;
  readonly ackedBytes: number;
}

/** A snapshot that broke off. Each further try that gets no further waits twice as long, up to this many election timeouts. */
const maxRestElections = 16;

interface BrokenOff {
  /** Of the snapshot. */
  readonly index: number;
  /** The most that the peer ever held of it. */
  readonly reachedBytes: number;
  /** Tries in a row that got no further. */
  readonly count: number;
}

/** What the leader knows of one peer. `match < next`; in `replicate`, `next` runs ahead of the answers. */
export class Progress {
  state: ProgressState = "probe";
  match = 0;
  next: number;
  /** Last commit index this peer was told together with entries that reach it. */
  sentCommit = 0;
  /** Ticks since it was last heard from; a new peer has the same grace (`RaftState.maxSilentTicks`). */
  silentTicks = 0;
  /** Whether it ever answered this leader: the grace is no answer. */
  hasAnswered = false;
  /** Latest read round it confirmed. */
  ackedRound = 0;
  /** In `snapshot`: what it is being sent. In `probe`: what was broken off, to be resumed. */
  transfer: SnapshotTransfer | undefined;
  /** In `probe`: a question is under way. */
  probeSent = false;
  /** Send at the next chance even if there is nothing new: the answer tells whether something was lost. */
  nudge = false;
  readonly inflights: Inflights;
  #brokenOff: BrokenOff | undefined;
  /** Before that snapshot is tried again. */
  #restTicks = 0;

  constructor(next: number, limits: { maxCount: number; maxBytes: number }) {
    this.next = next;
    this.inflights = new Inflights(limits);
  }

  get paused(): boolean {
    switch (this.state) {
      case "probe":
        return this.probeSent;
      case "replicate":
        return this.inflights.full;
      case "snapshot":
        return true;
    }
  }

  tick(): void {
    this.silentTicks += 1;
    if (this.#restTicks > 0) this.#restTicks -= 1;
  }

  /** An answer of it came in, whatever it says. */
  heard(): void {
    this.silentTicks = 0;
    this.hasAnswered = true;
  }

  /** An append with `entries` was handed out. */
  sent(entries: readonly Entry[]): void {
    this.nudge = false;
    const last = entries.at(-1);
    if (this.state === "probe") this.probeSent = true;
    if (this.state !== "replicate" || last === undefined) return;
    this.inflights.add(last.index, totalBytes(entries));
    this.next = last.index + 1;
  }

  /** The peer holds everything up to `index`. @returns whether that is news. */
  accepted(index: number): boolean {
    this.probeSent = false;
    this.inflights.freeTo(index);
    this.next = Math.max(this.next, index + 1);
    if (index <= this.match) return false;
    this.match = index;
    return true;
  }

  /** The peer refused an append after `rejectedIndex`; an answer that is out of date changes nothing. */
  rejected(rejectedIndex: number, nextCandidate: number): void {
    if (this.state === "snapshot" || rejectedIndex <= this.match) return;
    if (this.state === "replicate") {
      this.becomeProbe();
      return;
    }
    if (rejectedIndex !== this.next - 1) return;
    this.next = Math.max(Math.min(rejectedIndex, nextCandidate), this.match + 1);
    this.probeSent = false;
  }

  becomeProbe(): void {
    this.next = this.match + 1;
    this.#enter("probe");
  }

  becomeReplicate(): void {
    this.next = this.match + 1;
    this.transfer = undefined;
    this.snapshotMayPass();
    this.#enter("replicate");
  }

  becomeSnapshot(transfer: SnapshotTransfer): void {
    this.#enter("snapshot");
    this.transfer = transfer;
  }

  /**
   * This transfer is over: delivered, so that the log goes on behind it, or broken off.
   *
   * @param electionTicks - The unit in which it rests before it is tried again.
   */
  snapshotEnded(id: number | undefined, outcome: "sent" | "failed", electionTicks: number): void {
    const { transfer } = this;
    if (this.state !== "snapshot" || transfer === undefined || transfer.id !== id) return;
    this.becomeProbe();
    if (outcome === "sent") {
      this.next = Math.max(this.match, transfer.meta.index) + 1;
      this.transfer = undefined;
      this.snapshotMayPass();
    } else this.#rest(transfer, electionTicks);
    this.probeSent = true; // Waits for a sign of life before the next try.
  }

  /** What was broken off is not resumed any more. */
  giveUpTransfer(): void {
    if (this.state !== "snapshot") this.transfer = undefined;
  }

  /** The peer holds the first `ackedBytes` of the snapshot that this transfer brings. */
  snapshotReached(id: number | undefined, ackedBytes: number): void {
    const { transfer } = this;
    if (this.state !== "snapshot" || transfer === undefined || transfer.id !== id) return;
    this.transfer = { ...transfer, ackedBytes };
  }

  /** Whether the snapshot at this index was broken off so lately that it would be again. */
  isResting(index: number): boolean {
    return this.#restTicks > 0 && this.#brokenOff?.index === index;
  }

  /** Whatever broke it off may be over: the next try comes at once. */
  snapshotMayPass(): void {
    this.#brokenOff = undefined;
    this.#restTicks = 0;
  }

  /** What is refused, by a full disk at either end for instance, costs both of them a whole try and a warning each time. */
  #rest({ meta, ackedBytes }: SnapshotTransfer, electionTicks: number): void {
    const before = this.#brokenOff;
    const isAgain = before?.index === meta.index && ackedBytes <= before.reachedBytes;
    const count = isAgain ? before.count + 1 : 1;
    const reachedBytes = isAgain ? before.reachedBytes : ackedBytes;
    this.#brokenOff = { index: meta.index, reachedBytes, count };
    // The first one may have been bad luck. No power is taken of a number that grows for ever.
    const elections = count === 1 ? 0 : Math.min(2 ** Math.min(count - 2, 10), maxRestElections);
    this.#restTicks = elections * electionTicks;
  }

  #enter(state: ProgressState): void {
    this.state = state;
    this.probeSent = false;
    this.sentCommit = 0;
    this.inflights.reset();
  }
}
