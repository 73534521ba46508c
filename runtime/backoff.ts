import type { Random } from "./random.ts";

export interface BackoffOptions {
  readonly firstMs: number;
  readonly limitMs: number;
  /** Each delay is this times the one before. */
  readonly factor: number;
  /** 0..1: how much of a delay is left to chance, so that many do not come back at once. */
  readonly jitterRatio: number;
}

export const defaultBackoff: BackoffOptions = { firstMs: 100, limitMs: 8_000, factor: 2, jitterRatio: 0.5 };

/** Delays in milliseconds, without end: growing up to the limit, each shortened by chance. */
export function* backoff(random: Random, options: BackoffOptions = defaultBackoff): Generator<number, never> {
  let delayMs = options.firstMs;
  for (;;) {
    yield delayMs * (1 - options.jitterRatio * random.next());
    delayMs = Math.min(delayMs * options.factor, options.limitMs);
  }
}
