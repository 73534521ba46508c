/** Text that comes in pieces → lines. */

/** A line without an end is passed on in parts once it is this long. */
const lineLimit = 16 * 1024;

/** Keeps no more than the last piece and a line's beginning, whatever comes. */
export class Lines {
  readonly #onLine: (line: string) => void;
  readonly #onPart: (part: string) => void;
  #open = "";

  /**
   * @param onLine - A line, or the last part of a long one; without its end.
   * @param onPart - Of a long line, whose end is yet to come.
   */
  constructor(onLine: (line: string) => void, onPart: (part: string) => void) {
    this.#onLine = onLine;
    this.#onPart = onPart;
  }

  write(text: string): void {
    const lines = `${this.#open}${text}`.split("\n");
    this.#open = lines.pop() ?? "";
    for (const line of lines) this.#onLine(line);
    if (this.#open.length < lineLimit) return;
    this.#onPart(this.#open);
    this.#open = "";
  }

  /** Nothing comes any more: what has no end is the last line. */
  end(): void {
    if (this.#open !== "") this.#onLine(this.#open);
    this.#open = "";
  }
}
