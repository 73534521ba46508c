/**
 * The file in which containerd gathers a blob. What goes to it by calls is cut, copied and sent several times on either side; written
 * into its file it is copied once, and containerd reads it for its digest. Decision 0057.
 */
import { type FileHandle, open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import { containerdNamespace } from "../../proto/host.ts";

const flushBytes = 16 * 1024 * 1024;

/**
 * Nobody else may be writing the blob meanwhile.
 *
 * @param root - containerd's own directory; of a containerd whose files are elsewhere nothing is found in it.
 * @param offset - How much of the blob containerd says it has.
 * @returns undefined where the bytes have to go by calls.
 */
export async function openIngest(
  root: string,
  reference: string,
  offset: number,
): Promise<FileHandle | undefined> {
  const directory = join(root, "io.containerd.content.v1.content", "ingest");
  try {
    for (const name of await readdir(directory)) {
      const of = await readFile(join(directory, name, "ref"), "utf8").catch(absent);
      if (of?.startsWith(`${containerdNamespace}/`) !== true || !of.endsWith(`/${reference}`)) continue;
      const file = await open(join(directory, name, "data"), "r+");
      const { size } = await file.stat();
      if (size === offset) return file;
      await file.close();
    }
  } catch (error) {
    absent(error);
  }
  return undefined;
}

/** All of the pieces, one behind the other. */
export async function writeAt(file: FileHandle, pieces: readonly Buffer[], position: number): Promise<void> {
  const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
  const { bytesWritten } = await file.writev(pieces, position);
  if (bytesWritten === bytes) return;
  const rest = Buffer.concat(pieces).subarray(bytesWritten);
  await writeAt(file, [rest], position + bytesWritten);
}

/**
 * Sends what was written on its way to the disk now and then, beside the writing: else containerd, which syncs the whole at its end, would
 * wait for all of it.
 */
export class Flusher {
  readonly #file: FileHandle;
  #dueBytes = 0;
  #isBusy = false;
  #last = Promise.resolve();

  constructor(file: FileHandle) {
    this.#file = file;
  }

  wrote(bytes: number): void {
    this.#dueBytes += bytes;
    if (this.#isBusy || this.#dueBytes < flushBytes) return;
    this.#dueBytes = 0;
    this.#isBusy = true;
    this.#last = this.#last.then(() => this.#file.datasync()).finally(() => (this.#isBusy = false));
    this.#last.catch(() => undefined); // Told by `end`, and nothing is flushed after it.
  }

  /**
   * @throws {ClusterError} `data-loss` with what a disk said: the system says it once, and containerd's own sync would not hear of
   *   it, so that nothing of the file counts.
   */
  async end(): Promise<void> {
    try {
      await this.#last;
    } catch (cause) {
      throw new ClusterError("data-loss", `the disk did not take it: ${errorText(cause)}`, { cause });
    }
  }
}

/** Finished, given up or somewhere else. */
function absent(error: unknown): undefined {
  const { code = "" } = error as NodeJS.ErrnoException;
  if (!["ENOENT", "ENOTDIR", "EACCES"].includes(code)) throw error;
}
