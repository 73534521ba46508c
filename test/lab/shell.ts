import { spawn } from "node:child_process";

export interface RunOptions {
  /** Text for standard input; none by default. */
  readonly input?: string | Buffer;
  /** The command is killed after this; default 30 s. */
  readonly timeoutMs?: number;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end and never throws for its exit code; 127 stands for a command that is not there. */
export function tryRun(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [file, ...args] = argv;
  if (file === undefined) return Promise.reject(new Error("cannot run a command: no words given"));
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...options.env },
      timeout: options.timeoutMs ?? 30_000,
      killSignal: "SIGKILL",
    });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", (error) => resolve({ code: 127, stdout, stderr: stderr + error.message }));
    child.on("close", (code, signal) =>
      resolve({
        code: code ?? 128,
        stdout,
        stderr: signal === null ? stderr : `${stderr}killed by ${signal}`,
      }),
    );
    child.stdin.on("error", () => undefined); // a command that reads nothing closes its end: not a failure
    child.stdin.end(options.input);
  });
}

/**
 * Runs a command that has to succeed.
 *
 * @returns Its standard output.
 * @throws {Error} with the command, its exit code and what it said.
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await tryRun(argv, options);
  if (code === 0) return stdout;
  const said = (stderr.trim() || stdout.trim()).slice(0, 2_000);
  throw new Error(`cannot run ${argv.join(" ")}: exit code ${code}: ${said}`);
}

export interface WaitOptions {
  readonly timeoutMs: number;
  /** Between two looks; default 50 ms. */
  readonly everyMs?: number;
}

/**
 * Looks until `look` gives something else than `undefined` or `false`; a look that throws counts as "not yet".
 *
 * @param what - What is waited for, for the message: "3 tasks running".
 * @throws {Error} when the time is over, with the last failure as cause.
 */
export async function waitFor<T>(
  what: string,
  options: WaitOptions,
  look: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const end = performance.now() + options.timeoutMs;
  let cause: unknown;
  for (;;) {
    try {
      const seen = await look();
      if (seen !== undefined && seen !== false) return seen;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > end) {
      const why = cause instanceof Error ? `: ${cause.message}` : "";
      throw new Error(`not within ${options.timeoutMs} ms: ${what}${why}`, { cause });
    }
    await sleep(options.everyMs ?? 50);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
