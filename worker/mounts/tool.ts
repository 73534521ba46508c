import { execFile } from "node:child_process";

const toolTimeoutMs = 120_000;

/** Runs one program of the system to its end, in a directory if one is given; rejects with its own words. */
export function runTool(command: string, args: readonly string[], cwd?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: toolTimeoutMs, encoding: "utf8", ...(cwd !== undefined && { cwd }) } as const;
    execFile(command, [...args], options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`${command}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}
