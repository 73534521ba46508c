/** The keys by which a client leaves a container that goes on running. Pure. */
import { ClusterError } from "../../model/errors.ts";

/** ctrl-p, ctrl-q. */
export const defaultDetachKeys = Uint8Array.of(16, 17);

/**
 * @param text - "ctrl-p,ctrl-q": single characters, or "ctrl-" with one of a-z and @[\]^_.
 * @throws {ClusterError} `invalid-argument`.
 */
export function parseDetachKeys(text: string): Uint8Array {
  if (text === "") return defaultDetachKeys;
  return Uint8Array.from(
    text.split(",").map((key) => {
      const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1];
      if (control !== undefined) return control.toUpperCase().charCodeAt(0) - 64;
      if (key.length === 1) return key.charCodeAt(0);
      throw new ClusterError(
        "invalid-argument",
        `Invalid detach keys (${text}) provided: Unknown character: '${key}'`,
      );
    }),
  );
}

/** Holds back what may be the beginning of the keys, until it is known not to be. */
export class DetachFilter {
  readonly #keys: Uint8Array;
  #matched = 0;

  constructor(keys: Uint8Array) {
    this.#keys = keys;
  }

  pass(bytes: Uint8Array): { readonly bytes: Uint8Array; readonly isDetached: boolean } {
    const passed: number[] = [];
    for (const byte of bytes) {
      if (byte === this.#keys[this.#matched]) {
        this.#matched += 1;
        if (this.#matched === this.#keys.length) return { bytes: Uint8Array.from(passed), isDetached: true };
        continue;
      }
      passed.push(...this.#keys.subarray(0, this.#matched));
      this.#matched = byte === this.#keys[0] && this.#keys.length > 1 ? 1 : 0;
      if (this.#matched === 0) passed.push(byte);
    }
    return { bytes: Uint8Array.from(passed), isDetached: false };
  }
}
