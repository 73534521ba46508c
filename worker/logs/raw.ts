/** A container's output as bytes, for those who are attached to it: as it comes, unfinished lines too. */
import { type FileHandle, open } from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";
import type { OutputFile } from "./file.ts";

const blockBytes = 64 * 1024;
const streams = ["stdout", "stderr"] as const;
type Stream = (typeof streams)[number];

export interface OutputChunk {
  readonly stream: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

export interface RawOptions {
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** Begin with what is kept, or with what comes from now on. */
  readonly from: "start" | "now";
  /** Ends with what is there now. */
  readonly follow: boolean;
}

/**
 * Opens the files at once, so that a container that is removed as soon as it has ended loses nothing,
 * and nothing that comes after this call is missed. Ends with the container's next end, or when
 * `signal` aborts, which also frees what nobody began to read. What it has not read is kept, up to a bound.
 *
 * @throws {ClusterError} `resource-exhausted`, while it is read, once the next of it is gone: never a hole in it.
 */
export async function openRaw(
  file: OutputFile,
  options: RawOptions,
  signal: AbortSignal,
): Promise<AsyncGenerator<OutputChunk>> {
  const wanted = streams.filter((stream) => options[stream]);
  const endings = file.endings;
  const handles = new Map<Stream, FileHandle>();
  const place = {
    stdout: options.stdout ? file.first.stdoutBytes : Infinity,
    stderr: options.stderr ? file.first.stderrBytes : Infinity,
  };
  // From the first, so that nothing is freed while the files are being opened.
  const letGo = file.hold(place);
  let isBegun = false;
  const close = async (): Promise<void> => {
    letGo();
    for (const handle of handles.values()) await handle.close();
  };
  try {
    for (const stream of wanted) {
      const handle = await open(stream === "stdout" ? file.stdoutPath : file.stderrPath, "r");
      handles.set(stream, handle);
      if (options.from === "now") place[stream] = (await handle.stat()).size;
    }
  } catch (error) {
    await close();
    throw error;
  }
  const unread = (): void => {
    letGo();
    if (!isBegun) void close().catch(() => undefined); // What was only opened has nothing to lose.
  };
  signal.addEventListener("abort", unread, { once: true });
  if (signal.aborted) unread();
  return chunks();

  async function* chunks(): AsyncGenerator<OutputChunk> {
    isBegun = true;
    try {
      for (;;) {
        if (signal.aborted) return;
        // Read before looking for output: what ended then has written all it ever will.
        const isOver = file.endings > endings || !options.follow;
        const change = nextChange(file, signal);
        let read = 0;
        for (const [stream, handle] of handles) {
          const buffer = Buffer.allocUnsafe(blockBytes);
          const { bytesRead } = await handle.read(buffer, 0, blockBytes, place[stream]);
          if (file.freed[stream] > place[stream]) {
            change.cancel();
            throw lost(file.freed[stream] - place[stream], stream);
          }
          place[stream] += bytesRead;
          read += bytesRead;
          if (bytesRead > 0) yield { stream, bytes: buffer.subarray(0, bytesRead) };
          if (signal.aborted) return change.cancel();
        }
        if (read > 0) {
          change.cancel();
          continue;
        }
        if (isOver) return change.cancel();
        await change.settled;
      }
    } finally {
      signal.removeEventListener("abort", unread);
      await close();
    }
  }
}

function lost(bytes: number, stream: Stream): ClusterError {
  return new ClusterError(
    "resource-exhausted",
    `output is lost: ${bytes} bytes of ${stream} were freed before they were read: the reader was too far behind for what the disk may keep`,
  );
}

function nextChange(file: OutputFile, signal: AbortSignal): { settled: Promise<void>; cancel(): void } {
  let cancel = (): void => undefined;
  const settled = new Promise<void>((resolve) => {
    const stop = file.onChange(done);
    signal.addEventListener("abort", done, { once: true });
    cancel = done;
    function done(): void {
      stop();
      signal.removeEventListener("abort", done);
      resolve();
    }
    if (signal.aborted) done();
  });
  return { settled, cancel: () => cancel() };
}
