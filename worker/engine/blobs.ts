/** Content of images in containerd: writing blobs with their digests verified, reading them back. */
import { status } from "@grpc/grpc-js";

import { ClusterError } from "../../model/errors.ts";
import {
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponse,
} from "../../proto/gen/containerd/content.ts";
import {
  type Connection,
  detailOf,
  isAlreadyThere,
  received,
  statusOf,
  toEngineError,
  unlessGone,
} from "./connection.ts";

const chunkBytes = 256 * 1024;
/** Without any progress for this long a write is given up. */
const stallMs = 60_000;
const readTimeoutMs = 30_000;

export interface BlobWrite {
  readonly digest: string;
  readonly size: number;
  readonly lease: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** The blob's bytes from `offset` on. Called once, and not at all if the content is there. */
  readonly source: (offset: number) => AsyncIterable<Buffer>;
  readonly onProgress?: (currentBytes: number) => void;
}

/**
 * Writes a blob unless it is there; continues where an interrupted write ended. containerd verifies
 * size and digest before the blob exists.
 */
export async function writeBlob(
  connection: Connection,
  blob: BlobWrite,
  signal: AbortSignal,
): Promise<"written" | "exists"> {
  await connection.ready(signal);
  const session = new WriteSession(connection, blob, signal);
  try {
    const outcome = await session.run();
    return outcome;
  } catch (error) {
    signal.throwIfAborted();
    if (isAlreadyThere(error)) {
      await relabel(connection, blob, signal);
      return "exists";
    }
    if (statusOf(error) === status.FAILED_PRECONDITION) {
      throw new ClusterError("data-loss", `${blob.digest}: ${detailOf(error)}`, { cause: error });
    }
    throw toEngineError(error, `cannot store ${blob.digest}`);
  } finally {
    session.close();
  }
}

/** Forgets what an interrupted or wrong write left, so that the next begins at 0. */
export async function abortBlob(connection: Connection, digest: string, lease: string): Promise<void> {
  const { content } = connection;
  await unlessGone(connection.call(content, "abort", { ref: writeReference(digest) }, { lease }));
}

/** @throws {ClusterError} `not-found`; `failed-precondition` when it is larger than the limit. */
export async function readBlob(connection: Connection, digest: string, limitBytes: number): Promise<Buffer> {
  await connection.ready();
  const [metadata, options] = connection.streamSettings({ timeoutMs: readTimeoutMs });
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    const stream = connection.content.read({ digest, offset: 0, size: 0 }, metadata, options);
    for await (const { data } of received(stream)) {
      size += data.length;
      if (size > limitBytes)
        throw new ClusterError("failed-precondition", `${digest} is larger than ${limitBytes} bytes`);
      chunks.push(data);
    }
  } catch (error) {
    throw toEngineError(error, `cannot read ${digest}`);
  }
  return Buffer.concat(chunks, size);
}

/** One bidirectional write: every request is answered before the next is sent. */
class WriteSession {
  readonly #blob: BlobWrite;
  readonly #signal: AbortSignal;
  readonly #stream;
  readonly #answers: AsyncIterator<WriteContentResponse>;

  constructor(connection: Connection, blob: BlobWrite, signal: AbortSignal) {
    this.#blob = blob;
    this.#signal = signal;
    const [metadata] = connection.streamSettings({ lease: blob.lease });
    this.#stream = connection.content.write(metadata);
    this.#answers = received(this.#stream, signal)[Symbol.asyncIterator]();
  }

  async run(): Promise<"written"> {
    const { digest, size, labels = {}, source, onProgress } = this.#blob;
    let { offset } = await this.#ask({ action: WriteAction.STAT });
    onProgress?.(offset);
    if (offset < size) {
      for await (const chunk of chunked(source(offset))) {
        if (offset + chunk.length > size) {
          throw new ClusterError(
            "data-loss",
            `${digest} is larger than the ${size} bytes that its manifest says`,
          );
        }
        ({ offset } = await this.#ask({ action: WriteAction.WRITE, offset, data: chunk }));
        onProgress?.(offset);
      }
    }
    if (offset !== size) {
      throw new ClusterError("data-loss", `${digest} ended after ${offset} of ${size} bytes`);
    }
    await this.#ask({ action: WriteAction.COMMIT, offset, labels });
    return "written";
  }

  close(): void {
    this.#stream.end();
    this.#stream.cancel();
  }

  async #ask(message: Partial<WriteContentRequest>): Promise<WriteContentResponse> {
    const { digest, size } = this.#blob;
    this.#signal.throwIfAborted();
    this.#stream.write({
      action: WriteAction.STAT,
      ref: writeReference(digest),
      total: size,
      expected: digest,
      offset: 0,
      data: Buffer.alloc(0),
      labels: {},
      ...message,
    });
    const timer = setTimeout(() => this.#stream.cancel(), stallMs);
    try {
      const answer = await this.#answers.next();
      if (answer.done === true)
        throw new ClusterError("unavailable", `containerd ended the write of ${digest}`);
      return answer.value;
    } finally {
      clearTimeout(timer);
    }
  }
}

function writeReference(digest: string): string {
  return `shoal-${digest}`;
}

/** Content that was there keeps its bytes but may lack the references that hold others. */
async function relabel(connection: Connection, blob: BlobWrite, signal: AbortSignal): Promise<void> {
  const labels = blob.labels ?? {};
  const keys = Object.keys(labels);
  if (keys.length === 0) return;
  const { content } = connection;
  await connection.call(
    content,
    "update",
    {
      info: { digest: blob.digest, size: 0, labels: { ...labels } },
      updateMask: keys.map((key) => `labels.${key}`),
    },
    { signal },
  );
}

/** Joins small pieces and cuts large ones, so that a round trip carries enough. */
async function* chunked(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of source) {
    pieces.push(piece);
    size += piece.length;
    if (size < chunkBytes) continue;
    const joined = Buffer.concat(pieces, size);
    for (let start = 0; start < size; start += chunkBytes) yield joined.subarray(start, start + chunkBytes);
    pieces = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(pieces, size);
}

/** The bytes of a blob, piece by piece; ends early only by failing. */
export async function* streamBlob(
  connection: Connection,
  digest: string,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  await connection.ready(signal);
  const [metadata, options] = connection.streamSettings({});
  try {
    const stream = connection.content.read({ digest, offset: 0, size: 0 }, metadata, options);
    for await (const { data } of received(stream, signal)) yield data;
  } catch (error) {
    signal.throwIfAborted();
    throw toEngineError(error, `cannot read ${digest}`);
  }
}
