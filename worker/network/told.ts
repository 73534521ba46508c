/** Which addresses askers of names were told lately, and may use on for as long as an answer holds. Pure, but for what it remembers. */

export class ToldAddresses {
  readonly #ttlMs: number;
  readonly #untilMs = new Map<string, number>();
  #withdrawnUntilMs = 0;

  constructor(ttlMs: number) {
    this.#ttlMs = ttlMs;
  }

  /** @param nowMs - Monotonic, as in all calls. */
  note(addresses: readonly string[], nowMs: number): void {
    for (const address of addresses) this.#untilMs.set(address, nowMs + this.#ttlMs);
  }

  /** To be called once nobody is told them any more. */
  withdraw(addresses: readonly string[], nowMs: number): void {
    for (const address of addresses) {
      this.#withdrawnUntilMs = Math.max(this.#withdrawnUntilMs, this.#untilMs.get(address) ?? 0);
    }
    for (const [address, untilMs] of this.#untilMs) if (untilMs <= nowMs) this.#untilMs.delete(address);
  }

  /** For how long somebody may still use an address that was withdrawn, in milliseconds. */
  heldMs(nowMs: number): number {
    return Math.max(0, this.#withdrawnUntilMs - nowMs);
  }
}
