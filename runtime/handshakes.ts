import type { Socket } from "node:net";
import type { Clock } from "./clock.ts";

/** How fast a listener begins TLS handshakes: this many in each stretch of time, and how many may wait for theirs. */
export interface HandshakePace {
  readonly count: number;
  readonly everyMs: number;
  readonly waiting: number;
}

/**
 * Counts handshakes that are not over, by address. Until then nobody knows who is there, and a connection that says nothing holds a
 * place among all for as long as a handshake may take: one address must not hold them all.
 */
export class OpenHandshakes {
  readonly #most: number;
  readonly #ports = new Map<string, Set<number>>();

  /** @param most - Of one address at a time; hosts may share one. */
  constructor(most: number) {
    this.#most = most;
  }

  /** @returns false when the address has as many; it is to be turned away then. */
  begin(socket: Pick<Socket, "remoteAddress" | "remotePort" | "once">): boolean {
    const { remoteAddress = "", remotePort = 0 } = socket;
    const ports = this.#ports.get(remoteAddress) ?? new Set();
    if (ports.size >= this.#most) return false;
    this.#ports.set(remoteAddress, ports.add(remotePort));
    socket.once("close", () => this.end({ remoteAddress, remotePort }));
    return true;
  }

  end({ remoteAddress = "", remotePort = 0 }: Pick<Socket, "remoteAddress" | "remotePort">): void {
    const ports = this.#ports.get(remoteAddress);
    if (ports?.delete(remotePort) === true && ports.size === 0) this.#ports.delete(remoteAddress);
  }
}

/** What the queue needs of a connection. */
export interface Arrival extends Pick<Socket, "remoteAddress" | "destroyed"> {
  destroy(): unknown;
}

/**
 * A handshake costs about a millisecond of the thread, whoever asks for it. Where timers matter, thousands that come at once
 * have to wait for each other, and not everything else for them. Addresses take turns, so that one which opens
 * many connections is in nobody's way but its own; when too many wait, the last of those that have most are turned away.
 */
export class HandshakeQueue<T extends Arrival> {
  readonly #clock: Pick<Clock, "after">;
  readonly #pace: HandshakePace;
  readonly #begin: (arrival: T) => void;
  /** By address, in the order of their turns; none is empty. */
  readonly #waiting = new Map<string, T[]>();
  #waitingCount = 0;
  #left: number;
  #cancel: (() => void) | undefined;
  #isClosed = false;

  constructor(clock: Pick<Clock, "after">, pace: HandshakePace, begin: (arrival: T) => void) {
    this.#clock = clock;
    this.#pace = pace;
    this.#begin = begin;
    this.#left = pace.count;
  }

  add(arrival: T): void {
    if (this.#isClosed) {
      arrival.destroy();
      return;
    }
    const address = arrival.remoteAddress ?? "";
    const before = this.#waiting.get(address);
    if (before === undefined) this.#waiting.set(address, [arrival]);
    else before.push(arrival);
    this.#waitingCount += 1;
    if (this.#waitingCount > this.#pace.waiting) this.#turnAwayOne();
    this.#beginSome();
  }

  /** Whoever waits is turned away. */
  close(): void {
    this.#isClosed = true;
    this.#cancel?.();
    for (const arrivals of this.#waiting.values()) for (const arrival of arrivals) arrival.destroy();
    this.#waiting.clear();
  }

  #turnAwayOne(): void {
    const [longest] = [...this.#waiting].toSorted(([, one], [, other]) => other.length - one.length);
    if (longest === undefined) return;
    const [address, arrivals] = longest;
    arrivals.pop()?.destroy();
    if (arrivals.length === 0) this.#waiting.delete(address);
    this.#waitingCount -= 1;
  }

  #beginSome(): void {
    for (const [address, arrivals] of this.#waiting) {
      if (this.#left === 0) break;
      const first = arrivals.shift();
      this.#waitingCount -= 1;
      // Behind the others until its next turn; this loop meets it there again.
      this.#waiting.delete(address);
      if (arrivals.length > 0) this.#waiting.set(address, arrivals);
      if (first === undefined || first.destroyed) continue; // It did not wait.
      this.#left -= 1;
      this.#begin(first);
    }
    if (this.#left === this.#pace.count) return;
    this.#cancel ??= this.#clock.after(this.#pace.everyMs, () => {
      this.#cancel = undefined;
      this.#left = this.#pace.count;
      this.#beginSome();
    });
  }
}
