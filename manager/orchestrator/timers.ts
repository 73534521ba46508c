import type { Clock } from "../../runtime/clock.ts";

/** At most one alarm per key; what is due gathers until it is taken. */
export class Timers<Key> implements Disposable {
  readonly #clock: Clock;
  readonly #onDue: () => void;
  readonly #alarms = new Map<Key, () => void>();
  readonly #due = new Set<Key>();

  constructor(clock: Clock, onDue: () => void) {
    this.#clock = clock;
    this.#onDue = onDue;
  }

  /** Replaces the key's alarm; `undefined` only takes it away. */
  set(key: Key, atMs: number | undefined): void {
    this.#alarms.get(key)?.();
    this.#alarms.delete(key);
    if (atMs === undefined) return;
    const cancel = this.#clock.after(Math.max(0, atMs - this.#clock.now()), () => {
      this.#alarms.delete(key);
      this.#due.add(key);
      this.#onDue();
    });
    this.#alarms.set(key, cancel);
  }

  takeDue(): readonly Key[] {
    const due = [...this.#due];
    this.#due.clear();
    return due;
  }

  [Symbol.dispose](): void {
    for (const cancel of this.#alarms.values()) cancel();
    this.#alarms.clear();
    this.#due.clear();
  }
}
