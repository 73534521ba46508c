import { execFile } from "node:child_process";

const toolTimeoutMs = 120_000;

/** Runs one program of the system to its end; rejects with its own words. */
export function runTool(command: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(command, [...args], { timeout: toolTimeoutMs, encoding: "utf8" }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`${command}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}
