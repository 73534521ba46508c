/** What buildah prints → what Docker's classic builder prints. Pure but for the place in the build that it keeps. */
import { Lines } from "./lines.ts";
import type { Step } from "./plan.ts";

/**
 * Follows a build through its output. A command of the build may print what looks like a mark of a step; only the one
 * that is due is taken for it, and nothing but what is shown depends on it.
 */
export class BuildOutput {
  readonly #steps: readonly Step[];
  readonly #say: (text: string) => void;
  readonly #baseOf: (step: Step) => string;
  readonly #lines: Lines;
  #current = -1;
  /** An id alone on a line: at the very end it is the built image's, which others tell. */
  #held = "";
  #lastId = "";

  /** @param baseOf - Id of the image that a FROM stands for; empty for none. */
  constructor(steps: readonly Step[], baseOf: (step: Step) => string, say: (text: string) => void) {
    this.#steps = steps;
    this.#say = say;
    this.#baseOf = baseOf;
    this.#lines = new Lines((line) => this.#line(line), say);
  }

  /** Index of the step that is carried out; -1 before the first. */
  get current(): number {
    return this.#current;
  }

  write(text: string): void {
    this.#lines.write(text);
  }

  /** The id of the built image, as 64 digits; undefined when it printed none. */
  end(): string | undefined {
    this.#lines.end();
    return this.#held === "" ? undefined : this.#held;
  }

  #line(line: string): void {
    if (this.#held !== "") this.#say(`${this.#held}\n`);
    this.#held = "";
    const mark = /^(?:\[(\d+)\/\d+\] )?STEP (\d+)\/\d+: /.exec(line);
    if (mark !== null && this.#isDue(Number(mark[1] ?? 1), Number(mark[2]))) return this.#begin();
    if (/^(?:\[\d+\/\d+\] )?COMMIT$/.test(line)) return;
    const [, cached] = /^--> Using cache ([0-9a-f]{64})$/.exec(line) ?? [];
    if (cached !== undefined) this.#say(" ---> Using cache\n");
    const [, id = cached] = /^--> ([0-9a-f]{11,64})$/.exec(line) ?? [];
    if (id !== undefined) return this.#sayId(id);
    const [, unused] = /^\[Warning\] one or more build args were not consumed: (\[.*\])$/.exec(line) ?? [];
    if (unused !== undefined) this.#say(`[Warning] One or more build-args ${unused} were not consumed\n`);
    else if (/^[0-9a-f]{64}$/.test(line)) this.#held = line;
    else this.#say(`${line}\n`);
  }

  /** Once for a step, whatever number of times buildah says it. */
  #sayId(id: string): void {
    if (this.#lastId !== "" && this.#lastId.startsWith(id)) return;
    this.#lastId = id;
    this.#say(` ---> ${id.slice(0, 12)}\n`);
  }

  /** @param stage - Counting from 1, as buildah does; `step` as well, within the stage. */
  #isDue(stage: number, step: number): boolean {
    let next = this.#current + 1;
    while (this.#steps[next]?.stage === -1) next++;
    const first = this.#steps.findIndex((other) => other.stage === stage - 1);
    return this.#steps[next]?.stage === stage - 1 && next - first === step - 1;
  }

  #begin(): void {
    for (;;) {
      this.#current++;
      const step = this.#steps[this.#current];
      if (step === undefined) return;
      this.#lastId = "";
      this.#say(`Step ${this.#current + 1}/${this.#steps.length} : ${step.text}\n`);
      if (step.stage === -1) continue;
      if (step.keyword === "FROM") this.#say(` ---> ${this.#baseOf(step).slice(0, 12)}\n`);
      return;
    }
  }
}
