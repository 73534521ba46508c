import { spawn } from "node:child_process";
import { open } from "node:fs/promises";
import { ClusterError, errorText } from "../model/errors.ts";

/** How flock(1) says that another one holds the lock; its own failures have other codes. */
const takenCode = 75;
const lockFd = 3;

/** Held until it is closed, or until this process ends, however it ends. */
export interface FileLock {
  close(): Promise<void>;
}

/**
 * Takes the file for this process alone; it is made when it is not there, and stays.
 *
 * Node has no call for it. flock(1) locks the open file that it inherits, and what it locked stays so for as long as this
 * process has that file open: across network and process namespaces, and with nothing to clean up after a crash.
 *
 * @param waitMs - For whoever holds it now.
 * @returns undefined when another one holds it still.
 * @throws {ClusterError} `failed-precondition` when flock(1) is missing; the system's error when the file cannot be opened.
 */
export async function lockFile(path: string, waitMs: number): Promise<FileLock | undefined> {
  const file = await open(path, "a", 0o600);
  try {
    if (await lockOpenFile(path, file.fd, waitMs)) return { close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
  await file.close();
  return undefined;
}

function lockOpenFile(path: string, fd: number, waitMs: number): Promise<boolean> {
  const options = [
    "--exclusive",
    "--timeout",
    String(waitMs / 1_000),
    "--conflict-exit-code",
    String(takenCode),
  ];
  return new Promise((resolve, reject) => {
    const child = spawn("flock", [...options, String(lockFd)], { stdio: ["ignore", "ignore", "pipe", fd] });
    let said = "";
    child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    child.once("error", (cause) => {
      const text = `cannot lock ${path}: ${errorText(cause)}; on Debian: apt-get install --no-install-recommends util-linux`;
      reject(new ClusterError("failed-precondition", text, { cause }));
    });
    child.once("close", (code, signal) => {
      if (code === 0) resolve(true);
      else if (code === takenCode) resolve(false);
      else reject(new Error(`cannot lock ${path}: flock: ${said.trim() || (signal ?? `exit code ${code}`)}`));
    });
  });
}
