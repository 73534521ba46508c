/** A container's output as bytes, for those who are attached to it: as it comes, unfinished lines too. */
import { type FileHandle, open } from "node:fs/promises";

import type { OutputFile } from "./file.ts";

const blockBytes = 64 * 1024;
const streams = ["stdout", "stderr"] as const;

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
 * `signal` aborts. A reader that is slower than the rotation loses the oldest.
 */
export async function openRaw(
  file: OutputFile,
  options: RawOptions,
  signal: AbortSignal,
): Promise<AsyncGenerator<OutputChunk>> {
  const wanted = streams.filter((stream) => options[stream]);
  const endings = file.endings;
  const handles = new Map<(typeof streams)[number], FileHandle>();
  const offsets = { stdout: 0, stderr: 0 };
  for (const stream of wanted) {
    const handle = await open(stream === "stdout" ? file.stdoutPath : file.stderrPath, "r");
    handles.set(stream, handle);
    offsets[stream] = options.from === "start" ? kept(stream) : (await handle.stat()).size;
  }
  return chunks();

  async function* chunks(): AsyncGenerator<OutputChunk> {
    try {
      for (;;) {
        // Read before looking for output: what ended then has written all it ever will.
        const isOver = file.endings > endings || !options.follow;
        const change = nextChange(file, signal);
        let read = 0;
        for (const [stream, handle] of handles) {
          offsets[stream] = Math.max(offsets[stream], kept(stream));
          const buffer = Buffer.allocUnsafe(blockBytes);
          const { bytesRead } = await handle.read(buffer, 0, blockBytes, offsets[stream]);
          offsets[stream] += bytesRead;
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
      for (const handle of handles.values()) await handle.close();
    }
  }

  function kept(stream: "stdout" | "stderr"): number {
    return stream === "stdout" ? file.first.stdoutBytes : file.first.stderrBytes;
  }
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
