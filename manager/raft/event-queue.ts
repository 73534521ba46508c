interface Item<T> {
  readonly value: T;
  readonly onTaken: (() => void) | undefined;
}

/**
 * Events in order for one consumer. Nothing in it can be dropped, so whoever fills it bounds it: by `onTaken` it learns
 * how far the consumer is, and it gives no more than a window ahead of that.
 */
export class EventQueue<T> implements AsyncIterable<T> {
  #items: Item<T>[] = [];
  #ended = false;
  #failure: Error | undefined;
  #wake: () => void = () => {};

  /** @param onTaken - Called when the consumer, done with this one, asks for the next. */
  push(value: T, onTaken?: () => void): void {
    if (this.#ended) return;
    this.#items.push({ value, onTaken });
    this.#wake();
  }

  /** What was pushed before is still delivered. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** As {@link end}, and then the consumer is thrown this. */
  fail(error: Error): void {
    this.#failure = error;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      const items = this.#items;
      this.#items = [];
      for (const { value, onTaken } of items) {
        yield value;
        onTaken?.();
      }
      if (this.#items.length > 0) continue;
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
