/** Loads the table of `rules.ts`, each text once. */
import { writeFile } from "node:fs/promises";

import { must } from "./command.ts";
import type { Run } from "./command.ts";

export class Rules {
  readonly #run: Run;
  /** `nft` reads a file: it refuses the socket that a child of ours has as its input. */
  readonly #file: string;
  #loaded = "";

  constructor({ run, file }: { run: Run; file: string }) {
    this.#run = run;
    this.#file = file;
  }

  /** The same text again costs nothing; the kernel takes all of a text or nothing. */
  async load(text: string): Promise<void> {
    if (text === this.#loaded) return;
    await writeFile(this.#file, text, { mode: 0o600 });
    await must(this.#run, "load the firewall rules of tasks", ["nft", "-f", this.#file]);
    this.#loaded = text;
  }

  /** Makes the next `load` a real one: the kernel may have been changed behind us. */
  forget(): void {
    this.#loaded = "";
  }
}
