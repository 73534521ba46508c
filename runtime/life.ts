/** What can end a wait early. Every `AbortSignal` is one. */
export interface Cancellation {
  readonly aborted: boolean;
  /** Why; undefined until then. */
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void, options?: { readonly once: true }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/**
 * Lasts until somebody ends it, with a reason. To make a signal, and to listen to one, costs as much as all else that a
 * small request does, and hardly any request ends early: so there is none until it is asked for.
 */
export class Life implements Cancellation {
  readonly #listeners = new Set<() => void>();
  #controller: AbortController | undefined;
  #end: { readonly reason: unknown } | undefined;

  get aborted(): boolean {
    return this.#end !== undefined;
  }

  get reason(): unknown {
    return this.#end?.reason;
  }

  /** For whoever needs a real one. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#end !== undefined) this.#controller.abort(this.#end.reason);
    }
    return this.#controller.signal;
  }

  /** Only the first end counts. */
  end(reason: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = { reason };
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
    this.#controller?.abort(reason);
  }

  /** Listeners hear it once. */
  addEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.delete(listener);
  }

  /** Settles as `promise` does, or rejects with the reason once this has ended. */
  race<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const onEnd = (): void => reject(this.reason);
      if (this.aborted) onEnd();
      this.#listeners.add(onEnd);
      promise.then(
        (value) => {
          this.#listeners.delete(onEnd);
          resolve(value);
        },
        (reason: unknown) => {
          this.#listeners.delete(onEnd);
          reject(reason);
        },
      );
    });
  }
}
