import { orAborted } from "../../runtime/signal.ts";

/** Pieces of images that several of those who store them may be at: one at a time. */
export class Turns {
  readonly #running = new Map<string, Promise<unknown>>();

  /**
   * Waits for whoever is at the same piece, then does it as well: then it is there, and doing it only adds it to the caller's
   * lease. So the failure or cancelling of one never fails another.
   */
  async take<Result>(key: string, work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
    for (let other = this.#running.get(key); other !== undefined; other = this.#running.get(key)) {
      await orAborted(
        other.catch(() => {}),
        signal,
      );
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
