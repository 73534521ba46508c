/**
 * Starts the kernel's tools from processes much smaller than this one. To start a program is to copy the page tables of
 * whoever starts it: from a worker of 100 MB that takes milliseconds of its main thread for each `ip`; from a shell it
 * takes almost nothing. There are as many shells as commands were ever under way at once; they live as long as we do, and each reads
 * one command after the other on its standard input.
 *
 * What a command reads and writes are its shell's files, used again and again.
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
/** The shell waits for the copy of itself that becomes the command. */
const script = `cd "$1" || exit 1
newline='
'
while read -r command; do
  eval "exec $command" <"$2.in" >"$2.out" 2>"$2.err" &
  echo "began $!"
  wait $!
  echo "ended $?"
done`;

export class Launcher implements Disposable {
  readonly #directory: string;
  readonly #timeoutMs: number;
  readonly #places = new Limit(slotCount);
  /** The last one is used next, so that there are no more than are needed. */
  readonly #free: Slot[];
  readonly #slots: readonly Slot[];
  readonly #never = new AbortController().signal;
  #isOpened = false;
  #isClosed = false;

  /** @param directory - For the files of slots; made when it is needed, and nobody else's. */
  constructor(directory: string, timeoutMs = commandTimeoutMs) {
    this.#directory = directory;
    this.#timeoutMs = timeoutMs;
    this.#slots = Array.from({ length: slotCount }, (_, number) => new Slot(directory, String(number)));
    this.#free = this.#slots.toReversed();
  }

  /** As `runCommand`. */
  readonly run: Run = (argv, input = "") =>
    new Promise((resolve, reject) => {
      const work = async (): Promise<void> => {
        const slot = this.#free.pop();
        if (slot === undefined) throw new Error("assertion failed: a place without a slot");
        // One that is late has failed for whoever waits, and keeps its slot until it has ended.
        const timer = setTimeout(() => {
          slot.kill();
          reject(lateFailure(argv, this.#timeoutMs));
        }, this.#timeoutMs);
        try {
          this.#open();
          resolve(await slot.run(argv, input));
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
    for (const slot of this.#slots) slot.close();
  }

  #open(): void {
    if (this.#isClosed) throw new ClusterError("unavailable", "the host's network is shutting down");
    if (this.#isOpened) return;
    this.#isOpened = true;
    // What a former process's commands still write, they write to files that have no name any more.
    rmSync(this.#directory, { recursive: true, force: true });
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
  }
}

interface UnderWay {
  pid: number | undefined;
  isLate: boolean;
  readonly end: (outcome: number | ClusterError) => void;
}

/** A shell and its files. One command at a time. */
class Slot {
  readonly #directory: string;
  readonly #name: string;
  #shell: ChildProcess | undefined;
  #underWay: UnderWay | undefined;
  #isClosed = false;

  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  async run(argv: readonly string[], input: string): Promise<CommandResult> {
    const shell = this.#opened();
    await writeFile(this.#file("in"), input, { mode: 0o600 });
    const code = await this.#ended(shell, argv);
    const [stdout, stderr] = await Promise.all([this.#written("out", argv), this.#written("err", argv)]);
    if (code === notFoundCode && stderr.startsWith(`${shellName}:`)) {
      throw startFailure(argv[0] ?? "", Object.assign(new Error(stderr.trim()), { code: "ENOENT" }));
    }
    return { code, stdout, stderr };
  }

  /** Also of one that has not begun yet. */
  kill(): void {
    if (this.#underWay === undefined) return;
    this.#underWay.isLate = true;
    if (this.#underWay.pid !== undefined) kill(this.#underWay.pid);
  }

  close(): void {
    this.#isClosed = true;
    this.#shell?.stdin?.end();
    this.#shell = undefined;
  }

  #file(kind: "in" | "out" | "err"): string {
    return join(this.#directory, `${this.#name}.${kind}`);
  }

  async #written(kind: "out" | "err", argv: readonly string[]): Promise<string> {
    const { size } = await stat(this.#file(kind));
    if (size > maxOutputBytes) throw overflowFailure(argv);
    return size === 0 ? "" : readFile(this.#file(kind), "utf8");
  }

  async #ended(shell: ChildProcess, argv: readonly string[]): Promise<number> {
    const outcome = await new Promise<number | ClusterError>((end) => {
      if (shell !== this.#shell) return end(endedFailure()); // While its input was written.
      this.#underWay = { pid: undefined, isLate: false, end };
      shell.stdin?.write(`${argv.map(quoted).join(" ")}\n`);
    });
    this.#underWay = undefined;
    if (typeof outcome === "number") return outcome;
    throw outcome;
  }

  #opened(): ChildProcess {
    if (this.#shell !== undefined) return this.#shell;
    if (this.#isClosed) throw endedFailure();
    // A command of a shell that was killed may still write.
    for (const kind of ["in", "out", "err"] as const) rmSync(this.#file(kind), { force: true });
    const shell = spawn("/bin/sh", ["-c", script, shellName, this.#directory, this.#name], {
      stdio: ["pipe", "pipe", "ignore"],
      detached: true, // A terminal's interrupt is for us to hear.
      env: { ...process.env, LC_ALL: "C" }, // What tools say is read, and reading a locale costs them time.
    });
    this.#shell = shell;
    shell.stdin.on("error", () => undefined); // Its end is told by `exit`.
    createInterface({ input: shell.stdout }).on("line", (line) => this.#hear(shell, line));
    const lost = (cause?: Error): void => {
      if (this.#shell === shell) this.#shell = undefined;
      this.#underWay?.end(endedFailure(cause));
    };
    shell.once("error", lost).once("exit", () => lost());
    return shell;
  }

  #hear(shell: ChildProcess, line: string): void {
    const known = this.#underWay;
    if (known === undefined || (shell !== this.#shell && !this.#isClosed)) return;
    const [word, value = ""] = line.split(" ");
    if (word === "began") {
      known.pid = Number(value);
      if (known.isLate) kill(known.pid);
    } else known.end(Number(value));
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
