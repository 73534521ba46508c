/**
 * The runtime's program on a mount of its own that nobody can write through. crun would else make itself such a mount and
 * start again from there, each time that it is called, so that no container can overwrite it by way of /proc/self/exe (CVE-2019-5736).
 * containerd's environment tells it that it has one.
 */
import { execFile } from "node:child_process";
import { type BigIntStats, closeSync, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { errorText } from "../model/errors.ts";
import type { Log } from "../runtime/log.ts";

export type RunProgram = (program: string, args: readonly string[]) => Promise<unknown>;

const commandTimeoutMs = 10_000;

export class ReadOnlyRuntime {
  readonly #program: string;
  readonly #point: string;
  readonly #log: Log;
  readonly #run: RunProgram;
  #work: Promise<void> | undefined;
  #isClosed = false;
  #refusal = "";

  /**
   * @param program - Full path of crun.
   * @param directory - To be before the program's own in containerd's PATH. Without the mount there is a file in it that
   *   is not executable, which a search passes over.
   */
  constructor(program: string, directory: string, log: Log, run: RunProgram = runProgram) {
    this.#program = program;
    this.#point = join(directory, "crun");
    this.#log = log;
    this.#run = run;
  }

  /** Mounts it unless it is there; anew once the program is another one, as after an upgrade. Never rejects. */
  look(): Promise<void> {
    this.#work ??= this.#mount()
      .catch((error: unknown) => {
        // As slow as it was, and no less safe.
        const refusal = errorText(error);
        if (refusal !== this.#refusal)
          this.#log.warn({ error: refusal }, "crun gets no read-only mount of its own");
        this.#refusal = refusal;
      })
      .finally(() => (this.#work = undefined));
    return this.#work;
  }

  /** Takes the mount away; containers go on, and whoever starts one meanwhile finds crun where it is. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#work;
    const mounted = statOf(this.#point);
    if (mounted !== undefined && mounted.size > 0n)
      await this.#run("umount", ["--lazy", this.#point]).catch(() => {});
  }

  async #mount(): Promise<void> {
    if (this.#isClosed) return;
    const wanted = statOf(this.#program);
    const mounted = statOf(this.#point);
    if (wanted === undefined) return; // In the middle of an upgrade.
    if (mounted?.ino === wanted.ino && mounted.dev === wanted.dev) return;
    if (mounted === undefined) closeSync(openSync(this.#point, "w", 0o600));
    else if (mounted.size > 0n) await this.#run("umount", ["--lazy", this.#point]);
    await this.#run("mount", ["--bind", this.#program, this.#point]);
    try {
      await this.#run("mount", ["-o", "remount,bind,ro", this.#point]);
    } catch (error) {
      await this.#run("umount", ["--lazy", this.#point]);
      throw error;
    }
  }
}

const execFileLater = promisify(execFile);
const runProgram: RunProgram = (program, args) => execFileLater(program, args, { timeout: commandTimeoutMs });

function statOf(path: string): BigIntStats | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false });
}
