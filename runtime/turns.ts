import { orAborted } from "./signal.ts";

/** Works on the same thing follow one another, by its key; those on different things go on beside each other. */
export class Turns {
  readonly #running = new Map<string, Promise<unknown>>();

  /**
   * Waits for whoever is at the same thing, and is not told of their failure.
   *
   * @param signal - Ends the waiting; the work itself has to look.
   */
  async take<Result>(key: string, work: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    for (let other = this.#running.get(key); other !== undefined; other = this.#running.get(key)) {
      const over = other.catch(() => undefined);
      await (signal === undefined ? over : orAborted(over, signal));
    }
    const mine = work();
    this.#running.set(key, mine);
    try {
      return await mine;
    } finally {
      this.#running.delete(key);
    }
  }
}
