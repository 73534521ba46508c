import type { MemberId } from "./message.ts";

/** A read that waits for proof that its leader still leads. `ctx` is the asker's own number. */
export interface ReadRequest {
  readonly ctx: number;
  readonly from: MemberId;
}

/** A confirmed read: safe to answer once everything up to `index` is applied here. */
export interface ReadState {
  readonly ctx: number;
  readonly index: number;
}

interface Round {
  readonly round: number;
  readonly index: number;
  readonly requests: readonly ReadRequest[];
}

/**
 * Reads in rounds (thesis §6.4): all requests since the last round share one exchange of heartbeats. A round
 * that a quorum has acknowledged confirms every earlier one too, so lost answers need no repair of their own.
 */
export class ReadQueue {
  readonly #maxPending: number;
  #waiting: ReadRequest[] = [];
  #rounds: Round[] = [];
  #round = 0;
  #pending = 0;

  constructor(maxPending: number) {
    this.#maxPending = maxPending;
  }

  /** Latest round; heartbeats carry it. */
  get round(): number {
    return this.#round;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** @returns false at the limit, when the request is not taken. */
  add(request: ReadRequest): boolean {
    if (this.#pending >= this.#maxPending) return false;
    this.#pending += 1;
    this.#waiting.push(request);
    return true;
  }

  /** Puts what waits into a new round; `index` must be the commit index at this moment. */
  startRound(index: number): void {
    this.#round += 1;
    this.#rounds.push({ round: this.#round, index, requests: this.#waiting });
    this.#waiting = [];
  }

  /** A quorum acknowledged `round`: these reads are confirmed. */
  confirm(round: number): readonly (ReadRequest & { readonly index: number })[] {
    const done = this.#rounds.filter((candidate) => candidate.round <= round);
    if (done.length === 0) return [];
    this.#rounds = this.#rounds.slice(done.length);
    const reads = done.flatMap(({ index, requests }) => requests.map((request) => ({ ...request, index })));
    this.#pending -= reads.length;
    return reads;
  }
}
