import type { Random } from "../../runtime/random.ts";

const usPerMs = 1000;

interface Event {
  readonly atUs: number;
  readonly order: number;
  readonly fire: () => void;
  cancelled: boolean;
}

/** Virtual time for a whole world: events in the order of their moment, and of their making at one moment. */
export class Schedule {
  readonly #heap: Event[] = [];
  #nowUs = 0;
  #order = 0;
  #fired = 0;

  get nowMs(): number {
    return this.#nowUs / usPerMs;
  }

  /** Events so far. */
  get fired(): number {
    return this.#fired;
  }

  /** @returns what cancels it. */
  after(ms: number, fire: () => void): () => void {
    this.#order += 1;
    const atUs = this.#nowUs + Math.max(0, Math.round(ms * usPerMs));
    const event: Event = { atUs, order: this.#order, fire, cancelled: false };
    push(this.#heap, event);
    return () => {
      event.cancelled = true;
    };
  }

  /** Fires what is due until then, or until `done`; between two events all promises that can settle do. */
  async runUntil(ms: number, done: () => boolean = () => false): Promise<void> {
    const untilUs = Math.round(ms * usPerMs);
    await drained();
    while (!done()) {
      const next = this.#heap[0];
      if (next === undefined || next.atUs > untilUs) {
        this.#nowUs = Math.max(this.#nowUs, untilUs);
        return;
      }
      pop(this.#heap);
      if (next.cancelled) continue;
      this.#nowUs = next.atUs;
      this.#fired += 1;
      next.fire();
      await drained();
    }
  }
}

/**
 * Settles once no promise is left that can. Node runs its tick queue when the microtasks are through, so this needs
 * neither a timer nor a turn of the event loop.
 */
export function drained(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}

/** Small, fast and repeatable (xorshift128); never for keys. */
export function simRandom(
  seed: number,
): Random & { chance(ratio: number): boolean; pick<T>(from: readonly T[]): T | undefined } {
  let [a, b, c, d] = [seed | 0, 0x9e3779b9 | 0, 0x243f6a88 | 0, 0xb7e15162 | 0];
  const draw = (): number => {
    let t = d;
    const s = a;
    d = c;
    c = b;
    b = s;
    t ^= t << 11;
    t ^= t >>> 8;
    a = t ^ s ^ (s >>> 19);
    return a >>> 0;
  };
  for (let round = 0; round < 16; round += 1) draw();
  const next = (): number => draw() / 2 ** 32;
  return {
    next,
    integer: (below) => Math.floor(next() * below),
    bytes(length) {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length; at += 1) bytes[at] = draw();
      return bytes;
    },
    chance: (ratio) => next() < ratio,
    pick: (from) => from[Math.floor(next() * from.length)],
  };
}

export type SimRandom = ReturnType<typeof simRandom>;

function push(heap: Event[], event: Event): void {
  let at = heap.length;
  heap.push(event);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent];
    if (above === undefined || before(above, event)) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = event;
}

function pop(heap: Event[]): void {
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    let least = heap[child];
    if (least === undefined) break;
    const right = heap[child + 1];
    if (right !== undefined && before(right, least)) {
      child += 1;
      least = right;
    }
    if (before(last, least)) break;
    heap[at] = least;
    at = child;
  }
  heap[at] = last;
}

function before(a: Event, b: Event): boolean {
  return a.atUs < b.atUs || (a.atUs === b.atUs && a.order < b.order);
}
