import type { StoreEvent } from "./change.ts";
import type { TableName } from "./tables.ts";

/** Events a slow watcher may fall behind; beyond it gets one `resync` instead of them. */
export const watchLimitEvents = 200_000;

const noEvents: readonly StoreEvent[] = [];

/**
 * The events of some tables, one batch per commit; batches grow together while the consumer is busy.
 * One consumer. Ends when disposed or when its signal aborts.
 */
export class Watch implements Disposable, AsyncIterable<readonly StoreEvent[]> {
  readonly tables: ReadonlySet<TableName>;
  readonly #release: (watch: Watch) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => this[Symbol.dispose]();
  #pending: StoreEvent[] = [];
  #ended = false;
  #poked = false;
  #wake: (() => void) | undefined;

  constructor(tables: readonly TableName[], release: (watch: Watch) => void, signal?: AbortSignal) {
    this.tables = new Set(tables);
    this.#release = release;
    this.#signal = signal;
    if (signal?.aborted === true) this.#ended = true;
    else signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** For the store: never blocks, never throws. */
  push(events: readonly StoreEvent[]): void {
    if (this.#ended || events.length === 0) return;
    if (this.#pending.length + events.length > watchLimitEvents) this.#pending = [{ kind: "resync" }];
    else for (const event of events) this.#pending.push(event);
    this.#wake?.();
  }

  /** Wakes the consumer with what there is, perhaps nothing; for its own timers. */
  poke(): void {
    this.#poked = true;
    this.#wake?.();
  }

  /** What came since the last call, without waiting. */
  take(): readonly StoreEvent[] {
    if (this.#pending.length === 0) return noEvents;
    const events = this.#pending;
    this.#pending = [];
    return events;
  }

  /** Settles when there is something to take, or with false at the end. */
  async ready(): Promise<boolean> {
    while (this.#pending.length === 0 && !this.#ended && !this.#poked) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
    this.#poked = false;
    return !this.#ended;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<readonly StoreEvent[], void, undefined> {
    try {
      while (await this.ready()) yield this.take();
    } finally {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#pending = [];
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#release(this);
    this.#wake?.();
  }
}
