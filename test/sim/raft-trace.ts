type Detail = string | number | undefined;

/** What happened, as a digest of all of it and, when asked for, as lines to read. */
export class Trace {
  readonly #lines: string[] | undefined;
  readonly #now: () => number;
  #low = 0x811c9dc5 | 0;
  #high = 0x2545f491 | 0;
  #count = 0;

  constructor(now: () => number, keep: "lines" | "digest") {
    this.#now = now;
    this.#lines = keep === "lines" ? [] : undefined;
  }

  /** One step: who, what, and what else tells it apart. */
  note(who: string, what: string, ...details: readonly Detail[]): void {
    const ms = this.#now();
    this.#count += 1;
    this.#mix(Math.round(ms * 1000));
    this.#mixText(who);
    this.#mixText(what);
    for (const detail of details) {
      if (typeof detail === "number") this.#mix(detail);
      else this.#mixText(detail ?? "-");
    }
    if (this.#lines === undefined) return;
    const text = details.map((detail) => detail ?? "-").join(" ");
    this.#lines.push(
      `${ms.toFixed(3).padStart(10)} ${who.padEnd(4)} ${what}${text === "" ? "" : ` ${text}`}`,
    );
  }

  /** For who reads the lines; no part of the digest. */
  remark(who: string, text: string): void {
    this.#lines?.push(`${this.#now().toFixed(3).padStart(10)} ${who.padEnd(4)} # ${text}`);
  }

  get lines(): readonly string[] {
    return this.#lines ?? [];
  }

  /** Sixteen hexadecimal digits; equal for equal traces. */
  get digest(): string {
    return [this.#low, this.#high ^ this.#count]
      .map((word) => (word >>> 0).toString(16).padStart(8, "0"))
      .join("");
  }

  #mixText(text: string): void {
    for (let at = 0; at < text.length; at += 1) {
      this.#low = Math.imul(this.#low ^ text.charCodeAt(at), 0x01000193);
    }
    this.#mix(text.length);
  }

  #mix(value: number): void {
    this.#low = Math.imul(this.#low ^ (value | 0), 0x01000193);
    this.#high = (Math.imul(this.#high ^ this.#low, 0x5bd1e995) + Math.floor(value / 2 ** 31)) | 0;
  }
}
