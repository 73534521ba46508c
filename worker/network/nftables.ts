/** Loads the table of `rules.ts` where it differs from what was loaded. */
import { writeFile } from "node:fs/promises";

import type { Clock } from "../../runtime/clock.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";

/** After this long the same text is loaded again, in case somebody else flushed the kernel's rules. */
const trustMs = 60_000;

export class Rules {
  readonly #clock: Clock;
  readonly #run: Run;
  /** `nft` reads a file: it refuses the socket that a child of ours has as its input. */
  readonly #file: string;
  #loaded = "";
  #loadedAtMs = 0;

  constructor({ clock, run, file }: { clock: Clock; run: Run; file: string }) {
    this.#clock = clock;
    this.#run = run;
    this.#file = file;
  }

  /** The same text again costs nothing; the kernel takes all of a text or nothing. */
  async load(text: string): Promise<void> {
    const nowMs = this.#clock.monotonic();
    if (text === this.#loaded && nowMs - this.#loadedAtMs < trustMs) return;
    await writeFile(this.#file, text, { mode: 0o600 });
    await must(this.#run, "load the firewall rules of tasks", ["nft", "-f", this.#file]);
    this.#loaded = text;
    this.#loadedAtMs = nowMs;
  }
}
