/** Lines out of bytes that come in pieces. Pure. */
import { logLineLimitBytes } from "./reader.ts";

export interface CutLine {
  readonly line: Buffer;
  /** More of the same line follows. */
  readonly partial: boolean;
}

const newline = 10;

export class LineCutter {
  #rest: Buffer[] = [];
  #restBytes = 0;

  /** Lines that end in these bytes, and whole pieces of lines beyond the limit. */
  *cut(bytes: Buffer): Generator<CutLine> {
    let start = 0;
    while (start < bytes.length) {
      const end = bytes.indexOf(newline, start);
      const stop = end < 0 ? bytes.length : end;
      yield* this.#grow(bytes.subarray(start, stop));
      if (end < 0) return;
      yield { line: this.#take(), partial: false };
      start = end + 1;
    }
  }

  /** The beginning of a line that was given before, or will be given with its end. */
  begin(bytes: Buffer): void {
    this.#take();
    if (bytes.length < logLineLimitBytes) this.#keep(bytes);
  }

  /** What came after the last newline, once nothing more can come. */
  *rest(): Generator<CutLine> {
    if (this.#restBytes > 0) yield { line: this.#take(), partial: false };
  }

  forget(): void {
    this.#take();
  }

  *#grow(piece: Buffer): Generator<CutLine> {
    let left = piece;
    while (this.#restBytes + left.length > logLineLimitBytes) {
      const room = logLineLimitBytes - this.#restBytes;
      this.#keep(left.subarray(0, room));
      left = left.subarray(room);
      yield { line: this.#take(), partial: true };
    }
    if (left.length > 0) this.#keep(left);
  }

  #keep(piece: Buffer): void {
    // Copied, because the caller reuses its buffer.
    this.#rest.push(Buffer.from(piece));
    this.#restBytes += piece.length;
  }

  #take(): Buffer {
    const line = this.#rest.length === 1 ? (this.#rest[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#rest);
    this.#rest = [];
    this.#restBytes = 0;
    return line;
  }
}
