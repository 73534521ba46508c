/**
 * Starts the kernel's tools from a process much smaller than this one. To start a program is to copy the page tables of
 * whoever starts it: from a worker of 100 MB that takes milliseconds of its main thread for each `ip`; from a shell it
 * takes almost nothing. The shell lives as long as we do, and reads requests on its standard input.
 *
 * A request is a slot and a command. What the command reads and writes are that slot's files, used again and again.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { ClusterError } from "../../model/errors.ts";
import { Limit } from "../../runtime/limit.ts";
import {
  type CommandResult,
  commandTimeoutMs,
  lateFailure,
  maxOutputBytes,
  overflowFailure,
  type Run,
  startFailure,
} from "./command.ts";

/** Commands at a time; more wait. */
const slotCount = 16;
/** Begins what the shell itself says, such as that there is no program of that name. */
const shellName = "shoal-launcher";
const notFoundCode = 127;
/** Two shells a command: the inner one becomes the command, the outer one waits for it. */
const script = `cd "$1" || exit 1
newline='
'
while read -r slot command; do
  {
    eval "exec $command" <"$slot.in" >"$slot.out" 2>"$slot.err" &
    echo "$slot began $!"
    wait $!
    echo "$slot ended $?"
  } &
done`;

interface UnderWay {
  pid: number | undefined;
  isLate: boolean;
  readonly end: (outcome: number | ClusterError) => void;
}

export class Launcher implements Disposable {
  readonly #directory: string;
  readonly #timeoutMs: number;
  readonly #places = new Limit(slotCount);
  readonly #free = Array.from({ length: slotCount }, (_, slot) => slot);
  readonly #underWay = new Map<number, UnderWay>();
  readonly #never = new AbortController().signal;
  #shell: ChildProcess | undefined;
  #isClosed = false;

  /** @param directory - For the files of slots; made when it is needed, and nobody else's. */
  constructor(directory: string, timeoutMs = commandTimeoutMs) {
    this.#directory = directory;
    this.#timeoutMs = timeoutMs;
  }

  /** As `runCommand`. */
  readonly run: Run = (argv, input = "") =>
    new Promise((resolve, reject) => {
      const work = async (): Promise<void> => {
        const slot = this.#free.pop();
        if (slot === undefined) throw new Error("assertion failed: a place without a slot");
        // One that is late has failed for whoever waits, and keeps its slot until it has ended.
        const timer = setTimeout(() => {
          this.#kill(slot);
          reject(lateFailure(argv, this.#timeoutMs));
        }, this.#timeoutMs);
        try {
          resolve(await this.#runIn(slot, argv, input));
        } finally {
          clearTimeout(timer);
          this.#free.push(slot);
        }
      };
      this.#places.run(work, this.#never).catch(reject);
    });

  /** Commands under way go on to their end; none begins after this. */
  [Symbol.dispose](): void {
    this.#isClosed = true;
    this.#shell?.stdin?.end();
    this.#shell = undefined;
  }

  async #runIn(slot: number, argv: readonly string[], input: string): Promise<CommandResult> {
    const shell = this.#opened();
    const file = (kind: string): string => join(this.#directory, `${slot}.${kind}`);
    await writeFile(file("in"), input, { mode: 0o600 });
    const code = await this.#ended(shell, slot, argv);
    const sizes = await Promise.all([stat(file("out")), stat(file("err"))]);
    if (sizes.some(({ size }) => size > maxOutputBytes)) throw overflowFailure(argv);
    const [stdout, stderr] = await Promise.all([
      readFile(file("out"), "utf8"),
      readFile(file("err"), "utf8"),
    ]);
    if (code === notFoundCode && stderr.startsWith(`${shellName}:`)) {
      throw startFailure(argv[0] ?? "", Object.assign(new Error(stderr.trim()), { code: "ENOENT" }));
    }
    return { code, stdout, stderr };
  }

  async #ended(shell: ChildProcess, slot: number, argv: readonly string[]): Promise<number> {
    const request = `${slot} ${argv.map(quoted).join(" ")}`;
    const outcome = await new Promise<number | ClusterError>((end) => {
      if (shell !== this.#shell) return end(endedFailure()); // While its input was written.
      this.#underWay.set(slot, { pid: undefined, isLate: false, end });
      shell.stdin?.write(`${request}\n`);
    });
    this.#underWay.delete(slot);
    if (typeof outcome === "number") return outcome;
    throw outcome;
  }

  #opened(): ChildProcess {
    if (this.#shell !== undefined) return this.#shell;
    if (this.#isClosed) throw new ClusterError("unavailable", "the host's network is shutting down");
    // What a former shell's commands still write, they write to files that have no name any more.
    rmSync(this.#directory, { recursive: true, force: true });
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const shell = spawn("/bin/sh", ["-c", script, shellName, this.#directory], {
      stdio: ["pipe", "pipe", "ignore"],
      detached: true, // A terminal's interrupt is for us to hear.
    });
    this.#shell = shell;
    shell.stdin.on("error", () => undefined); // Its end is told by `exit`.
    createInterface({ input: shell.stdout }).on("line", (line) => this.#hear(line));
    const lost = (cause?: Error): void => {
      if (this.#shell === shell) this.#shell = undefined;
      for (const { end } of this.#underWay.values()) end(endedFailure(cause));
    };
    shell.once("error", lost).once("exit", () => lost());
    return shell;
  }

  #hear(line: string): void {
    const [slot = "", word, value = ""] = line.split(" ");
    const known = this.#underWay.get(Number(slot));
    if (known === undefined) return;
    if (word === "began") {
      known.pid = Number(value);
      if (known.isLate) kill(known.pid);
    } else known.end(Number(value));
  }

  #kill(slot: number): void {
    const known = this.#underWay.get(slot);
    if (known === undefined) return;
    known.isLate = true;
    if (known.pid !== undefined) kill(known.pid);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}

function endedFailure(cause?: Error): ClusterError {
  const options = cause === undefined ? {} : { cause };
  return new ClusterError("unavailable", "the shell that starts the kernel's tools has ended", options);
}

/** As one word of the shell, on one line. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''").replaceAll("\n", `'"$newline"'`)}'`;
}
