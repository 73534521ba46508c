/**
 * A bounded hand-over between producers and one consumer: `push` waits while the queue is full, so a slow consumer slows
 * its producers and nothing is dropped.
 */
export class BoundedQueue<Item> implements AsyncIterable<Item> {
  readonly #limit: number;
  readonly #items: Item[] = [];
  #ended = false;
  #failure: { readonly reason: unknown } | undefined;
  #wakeConsumer: (() => void) | undefined;
  readonly #wakeProducers: (() => void)[] = [];

  /** @param limit - Items held before `push` waits. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Items waiting to be consumed. */
  get size(): number {
    return this.#items.length;
  }

  /** Settles once the item is taken in, or at once when the consumer has gone; then it answers `false`. */
  async push(item: Item): Promise<boolean> {
    while (this.#items.length >= this.#limit && !this.#ended) {
      await new Promise<void>((resolve) => this.#wakeProducers.push(resolve));
    }
    if (this.#ended) return false;
    this.#items.push(item);
    this.#wakeConsumer?.();
    return true;
  }

  /** What is queued is still delivered; afterwards the consumer ends. */
  end(): void {
    this.#ended = true;
    this.#wakeAll();
  }

  /** The consumer's iteration throws `reason` after what is queued. */
  fail(reason: unknown): void {
    this.#failure ??= { reason };
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item> {
    try {
      for (;;) {
        const item = this.#items.shift();
        if (item !== undefined) {
          this.#wakeProducers.shift()?.();
          yield item;
        } else if (this.#failure !== undefined) {
          throw this.#failure.reason;
        } else if (this.#ended) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.#wakeConsumer = resolve;
          });
          this.#wakeConsumer = undefined;
        }
      }
    } finally {
      this.#ended = true;
      this.#items.length = 0;
      this.#wakeAll();
    }
  }

  #wakeAll(): void {
    this.#wakeConsumer?.();
    for (const wake of this.#wakeProducers.splice(0)) wake();
  }
}
