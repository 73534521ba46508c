/** What buildah writes to its standard error → what commands of the build wrote there, and its own last words. */
import { Lines } from "./lines.ts";

const lastLine = /^Error: /;
const beforeLast = /^error running container: /;

/**
 * Commands write to the same stream, and may write lines that look like buildah's own: only the very last ones of a build
 * that failed are. So what looks like them is held back until more comes.
 */
export class BuildErrors {
  readonly #say: (text: string) => void;
  readonly #lines: Lines;
  #held: string[] = [];

  constructor(say: (text: string) => void) {
    this.#say = say;
    this.#lines = new Lines(
      (line) => this.#line(line),
      (part) => {
        this.#release();
        say(part);
      },
    );
  }

  write(text: string): void {
    this.#lines.write(text);
  }

  /** @returns Why it failed, in its own words; undefined after a success, or when it said nothing of that form. */
  end(outcome: "built" | "failed"): string | undefined {
    this.#lines.end();
    if (outcome === "built") {
      this.#release();
      return undefined;
    }
    const failure = this.#held.pop();
    if (beforeLast.test(this.#held.at(-1) ?? "")) this.#held.pop();
    this.#release();
    return failure;
  }

  #line(line: string): void {
    const isFirst = this.#held.length === 0;
    if (lastLine.test(line) || beforeLast.test(line)) {
      // Two can be buildah's own; whatever came before them is not.
      if (!isFirst && !beforeLast.test(this.#held.at(-1) ?? "")) this.#release();
      this.#held.push(line);
      return;
    }
    this.#release();
    this.#say(`${line}\n`);
  }

  #release(): void {
    for (const line of this.#held) this.#say(`${line}\n`);
    this.#held = [];
  }
}
