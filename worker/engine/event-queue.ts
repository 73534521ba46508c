/** Fan-out of the engine's events: each consumer has a bounded queue of its own. */
import type { EngineEvent } from "./engine.ts";

/** A consumer this far behind loses the oldest and is told so. */
const queueLimit = 1_000;

export class EventQueue {
  readonly #consumers = new Set<Consumer>();

  send(event: EngineEvent): void {
    for (const consumer of this.#consumers) consumer.push(event);
  }

  async *subscribe(signal: AbortSignal): AsyncGenerator<EngineEvent> {
    const consumer = new Consumer();
    const wake = (): void => consumer.wake();
    this.#consumers.add(consumer);
    signal.addEventListener("abort", wake, { once: true });
    try {
      while (!signal.aborted) {
        const event = consumer.shift();
        if (event === undefined) await consumer.more();
        else yield event;
      }
    } finally {
      signal.removeEventListener("abort", wake);
      this.#consumers.delete(consumer);
    }
  }
}

class Consumer {
  #events: EngineEvent[] = [];
  #waiting: (() => void) | undefined;

  push(event: EngineEvent): void {
    if (this.#events.length >= queueLimit) this.#events = [{ kind: "lagged", atMs: event.atMs }];
    this.#events.push(event);
    this.wake();
  }

  shift(): EngineEvent | undefined {
    return this.#events.shift();
  }

  more(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  wake(): void {
    this.#waiting?.();
    this.#waiting = undefined;
  }
}
