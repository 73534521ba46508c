import { execFile } from "node:child_process";

const toolTimeoutMs = 120_000;

export interface ToolOptions {
  readonly cwd?: string;
  /** Ends the program, which may then take as long as it needs; otherwise two minutes are enough for it. */
  readonly signal?: AbortSignal;
}

/** Runs one program of the system to its end; rejects with its own words. */
export function runTool(
  command: string,
  args: readonly string[],
  { cwd, signal }: ToolOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(signal.reason as Error);
    const timeout = signal === undefined ? toolTimeoutMs : 0;
    const options = { timeout, encoding: "utf8", ...(cwd !== undefined && { cwd }) } as const;
    // Settled by its end alone: what it has open is then closed.
    const end = (): void => void child.kill("SIGKILL");
    signal?.addEventListener("abort", end);
    const child = execFile(command, [...args], options, (error, stdout, stderr) => {
      signal?.removeEventListener("abort", end);
      if (error === null) resolve(stdout);
      else reject(new Error(`${command}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}
