import { rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { ClusterError } from "../model/errors.ts";
import { type FileLock, lockFile } from "../runtime/file-lock.ts";
import { socketAnswers } from "../runtime/unix-socket.ts";

/**
 * Takes both directories for this shoald alone until it ends or closes: two on one state would be the same node twice, also where their run
 * directories differ or one was wiped, and two on one run directory would take each other's sockets.
 *
 * @param waitMs - For one that is just ending.
 * @throws {ClusterError} `failed-precondition` when another one has either.
 */
export async function lockDirectories(
  { runDir, stateDir }: { readonly runDir: string; readonly stateDir: string },
  waitMs: number,
): Promise<{ close(): Promise<void> }> {
  const state = await lockState(stateDir, waitMs);
  try {
    const run = await lockRun(runDir);
    return {
      async close() {
        await new Promise((resolve) => void run.close(resolve));
        await state?.close();
      },
    };
  } catch (error) {
    await state?.close();
    throw error;
  }
}

async function lockState(directory: string, waitMs: number): Promise<FileLock | undefined> {
  const path = join(directory, "state.lock"); // Not as that of the run directory, which may be the same one.
  try {
    const lock = await lockFile(path, waitMs);
    if (lock !== undefined) return lock;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EROFS") return undefined; // Nor can another one write there.
    throw error;
  }
  throw new ClusterError(
    "failed-precondition",
    `another shoald uses the state in ${directory} (fuser -v ${path} shows it); stop it first, or give --state-dir`,
  );
}

/** A socket that answers for as long as shoald lives. */
async function lockRun(directory: string): Promise<Server> {
  const path = join(directory, "shoald.lock");
  if (await socketAnswers(path)) {
    throw new ClusterError(
      "failed-precondition",
      `another shoald already runs on ${directory}; stop it first, or give --run-dir`,
    );
  }
  await rm(path, { force: true });
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return server;
}
