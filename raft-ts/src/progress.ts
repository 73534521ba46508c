import type { Entry } from "./message.ts";
import { totalBytes } from "./message.ts";

/**
 * ```
 *            accepted                       gap or loss
 *   probe ─────────────▶ replicate ───────────────────────▶ probe
 *     │  one message per    │  pipelined, next runs ahead
 *     │  round trip         │
 *     └────── log compacted ┴──▶ snapshot ── done or failed ──▶ probe
 * ```
 */
export type ProgressState = "probe" | "replicate" | "snapshot";

/** Window of appends that were sent and not acknowledged, limited by count and by bytes. */
export class Inflights {
  readonly #maxCount: number;
  readonly #maxBytes: number;
  #sent: { readonly lastIndex: number; readonly bytes: number }[] = [];
  #bytes = 0;

  constructor(limits: { maxCount: number; maxBytes: number }) {
    this.#maxCount = limits.maxCount;
    this.#maxBytes = limits.maxBytes;
  }

  get full(): boolean {
    return this.#sent.length >= this.#maxCount || this.#bytes >= this.#maxBytes;
  }

  get count(): number {
    return this.#sent.length;
  }

  add(lastIndex: number, bytes: number): void {
    this.#sent.push({ lastIndex, bytes });
    this.#bytes += bytes;
  }

  /** Everything up to `index` has arrived. */
  freeTo(index: number): void {
    let freed = 0;
    for (const { lastIndex, bytes } of this.#sent) {
      if (lastIndex > index) break;
      this.#bytes -= bytes;
      freed += 1;
    }
    if (freed > 0) this.#sent = this.#sent.slice(freed);
  }

  reset(): void {
    this.#sent = [];
    this.#bytes = 0;
  }
}

/** What the leader knows of one peer. `match < next`; in `replicate`, `next` runs ahead of the answers. */
export class Progress {
  state: ProgressState = "probe";
  match = 0;
  next: number;
  /** Last commit index this peer was told together with entries that reach it. */
  sentCommit = 0;
  /** Heard from since the last quorum check. */
  recentActive = false;
  /** Latest read round it confirmed. */
  ackedRound = 0;
  /** In `snapshot`: what it will hold when the snapshot is in. */
  snapshotIndex = 0;
  /** In `probe`: a question is under way. */
  probeSent = false;
  /** Send at the next chance even if there is nothing new: the answer tells whether something was lost. */
  nudge = false;
  readonly inflights: Inflights;

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

  /** The peer refused an append after `rejectedIndex`. @returns false for an answer that is out of date. */
  rejected(rejectedIndex: number, nextCandidate: number): boolean {
    if (this.state === "snapshot" || rejectedIndex <= this.match) return false;
    if (this.state === "replicate") {
      this.becomeProbe();
      this.next = this.match + 1;
      return true;
    }
    if (rejectedIndex !== this.next - 1) return false;
    this.next = Math.max(Math.min(rejectedIndex, nextCandidate), this.match + 1);
    this.probeSent = false;
    return true;
  }

  becomeProbe(): void {
    this.next = this.state === "snapshot" ? Math.max(this.match, this.snapshotIndex) + 1 : this.match + 1;
    this.#enter("probe");
  }

  becomeReplicate(): void {
    this.next = this.match + 1;
    this.#enter("replicate");
  }

  becomeSnapshot(index: number): void {
    this.#enter("snapshot");
    this.snapshotIndex = index;
  }

  #enter(state: ProgressState): void {
    this.state = state;
    this.probeSent = false;
    this.snapshotIndex = 0;
    this.sentCommit = 0;
    this.inflights.reset();
  }
}
