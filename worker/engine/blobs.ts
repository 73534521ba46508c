/** Content of images in containerd: writing blobs with their digests verified, reading them back. */
import { status } from "@grpc/grpc-js";

import { ClusterError } from "../../model/errors.ts";
import {
  ContentService,
  WriteAction,
  WriteContentRequest,
  type WriteContentResponse,
} from "../../proto/gen/containerd/content.ts";
import { explainSystemError } from "../../runtime/system-error.ts";
import {
  type Connection,
  detailOf,
  isAlreadyThere,
  received,
  statusOf,
  toEngineError,
  unlessGone,
} from "./connection.ts";
import { Flusher, openIngest, writeAt } from "./ingest.ts";

const chunkBytes = 256 * 1024;
/** As much and more is written into containerd's own file, which takes a call more. */
const directBytes = 2 * 1024 * 1024;
/** containerd reads what it has of a blob for its digest before it answers; a slow disk gives this much in a millisecond. */
const hashedBytesPerMs = 20_000;
/** Requests of a write under way at once. */
const windowChunks = 4;
/** Field 6, a string of bytes. */
const dataTag = (6 << 3) | 2;
/** Without any progress for this long a write is given up. */
const stallMs = 60_000;
const readTimeoutMs = 30_000;

export interface BlobWrite {
  readonly digest: string;
  readonly size: number;
  readonly lease: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** The blob's bytes from `offset` on. Called once as a rule, and not at all if the content is there. */
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
  try {
    if (blob.size >= directBytes) await fillAlone(connection, blob, signal);
    using session = new WriteSession(connection, blob, signal);
    return await session.run();
  } catch (error) {
    signal.throwIfAborted();
    if (isAlreadyThere(error)) {
      // It keeps its bytes but may lack the references that hold others.
      await relabelBlob(connection, blob.digest, blob.labels ?? {}, signal);
      return "exists";
    }
    if (statusOf(error) === status.FAILED_PRECONDITION) {
      throw new ClusterError("data-loss", `${blob.digest}: ${detailOf(error)}`, { cause: error });
    }
    throw toEngineError(error, `cannot store ${blob.digest}`);
  }
}

/** As {@link fill}, for one writer at a time: once it is a blob, nobody may write to that file any more. */
async function fillAlone(connection: Connection, blob: BlobWrite, signal: AbortSignal): Promise<void> {
  const { filling } = connection;
  if (filling.has(blob.digest))
    throw new ClusterError("unavailable", `${blob.digest} is being written already`);
  filling.add(blob.digest);
  try {
    await fill(connection, blob, signal);
  } finally {
    filling.delete(blob.digest);
  }
}

/** Writes what is missing of a blob into the file that containerd gathers it in, where that can be found. */
async function fill(connection: Connection, blob: BlobWrite, signal: AbortSignal): Promise<void> {
  const { digest, size, source, onProgress } = blob;
  const { containerdRoot } = connection;
  if (containerdRoot === undefined) return;
  let offset: number;
  {
    using session = new WriteSession(connection, blob, signal);
    offset = await session.begin();
    if (size - offset < directBytes) return;
    await session.end();
  }
  const file = await openIngest(containerdRoot, writeReference(digest), offset);
  if (file === undefined) return;
  const flusher = new Flusher(file);
  try {
    onProgress?.(offset);
    let writing = Promise.resolve();
    for await (const { pieces, bytes } of chunked(source(offset))) {
      signal.throwIfAborted();
      requireWithin(blob, offset + bytes);
      await writing;
      onProgress?.(offset);
      writing = writeAt(file, pieces, offset).catch((error: unknown) => {
        throw explainSystemError(error) ?? error;
      });
      writing.catch(() => undefined); // Awaited before the next, or below.
      offset += bytes;
      flusher.wrote(bytes);
    }
    await writing;
    onProgress?.(offset);
  } finally {
    // Also when the source broke off: what is there would be gone on with.
    await flusher.end().finally(() => file.close());
  }
  requireWhole(blob, offset);
}

function requireWithin({ digest, size }: BlobWrite, bytes: number): void {
  if (bytes <= size) return;
  throw new ClusterError("data-loss", `${digest} is larger than the ${size} bytes that its manifest says`);
}

function requireWhole({ digest, size }: BlobWrite, bytes: number): void {
  if (bytes === size) return;
  throw new ClusterError("data-loss", `${digest} ended after ${bytes} of ${size} bytes`);
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

/**
 * One bidirectional write. A few requests are under way at a time, so that the next piece is read while the last is being
 * written; containerd takes and answers them in order.
 */
class WriteSession {
  readonly #blob: BlobWrite;
  readonly #signal: AbortSignal;
  readonly #stream;
  readonly #cancel = (): void => this.#stream.cancel();
  #unanswered = 0;
  /** As the last answer says. */
  #heldBytes = 0;
  #failure: unknown;
  #wake = (): void => undefined;

  constructor(connection: Connection, blob: BlobWrite, signal: AbortSignal) {
    this.#blob = blob;
    this.#signal = signal;
    const [metadata] = connection.streamSettings({ lease: blob.lease });
    const { path, responseDeserialize } = ContentService.write;
    this.#stream = connection.content.makeBidiStreamRequest(path, encodeWrite, responseDeserialize, metadata);
    this.#stream.on("data", ({ offset }: WriteContentResponse) => {
      this.#unanswered -= 1;
      this.#heldBytes = offset;
      this.#wake();
    });
    this.#stream.on("error", (error: Error) => this.#fail(error));
    this.#stream.on("end", () => {
      this.#fail(new ClusterError("unavailable", `containerd ended the write of ${blob.digest}`));
    });
    signal.addEventListener("abort", this.#cancel, { once: true });
  }

  /** @returns how much of the blob is there. */
  async begin(): Promise<number> {
    this.#send({ action: WriteAction.STAT });
    await this.#until(0, stallMs + this.#blob.size / hashedBytesPerMs);
    return this.#heldBytes;
  }

  async run(): Promise<"written"> {
    const { size, labels = {}, source, onProgress } = this.#blob;
    let offset = await this.begin();
    onProgress?.(offset);
    if (offset < size) {
      for await (const { pieces, bytes } of chunked(source(offset))) {
        requireWithin(this.#blob, offset + bytes);
        await this.#until(windowChunks - 1);
        this.#send({ action: WriteAction.WRITE, offset }, pieces);
        offset += bytes;
        onProgress?.(this.#heldBytes);
      }
      await this.#until(0);
      onProgress?.(this.#heldBytes);
    }
    requireWhole(this.#blob, this.#heldBytes);
    this.#send({ action: WriteAction.COMMIT, offset, labels });
    await this.#until(0);
    return "written";
  }

  /** Settles once containerd has let go of the blob, and keeps what it has of it. */
  async end(): Promise<void> {
    const ended = new Promise<void>((resolve, reject) => {
      this.#stream.once("status", ({ code, details }) =>
        code === status.OK ? resolve() : reject(new ClusterError("unavailable", details)),
      );
    });
    this.#stream.end();
    const timer = setTimeout(this.#cancel, stallMs);
    try {
      await ended;
    } finally {
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    this.#signal.removeEventListener("abort", this.#cancel);
    this.#stream.end();
    this.#stream.cancel();
  }

  #send(fields: Partial<WriteContentRequest>, pieces: readonly Buffer[] = []): void {
    const { digest, size } = this.#blob;
    this.#signal.throwIfAborted();
    this.#unanswered += 1;
    this.#stream.write({
      request: {
        action: WriteAction.STAT,
        ref: writeReference(digest),
        total: size,
        expected: digest,
        offset: 0,
        data: Buffer.alloc(0),
        labels: {},
        ...fields,
      },
      pieces,
    });
  }

  /** Settles once no more than so many requests wait for their answers. */
  async #until(unanswered: number, boundMs = stallMs): Promise<void> {
    const timer = setTimeout(this.#cancel, boundMs);
    try {
      while (this.#unanswered > unanswered) {
        if (this.#failure !== undefined) throw this.#failure;
        await new Promise<void>((resolve) => (this.#wake = resolve));
        timer.refresh();
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #fail(failure: unknown): void {
    this.#failure ??= failure;
    this.#wake();
  }
}

/** A request, whose data is in pieces. */
interface Write {
  readonly request: WriteContentRequest;
  readonly pieces: readonly Buffer[];
}

/** The message with its data behind all else: generated code would copy it three times, and V8 collects by such memory. */
function encodeWrite({ request, pieces }: Write): Buffer {
  const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
  const writer = WriteContentRequest.encode(request);
  if (bytes > 0) writer.uint32(dataTag).uint32(bytes);
  return Buffer.concat([writer.finish(), ...pieces]);
}

function writeReference(digest: string): string {
  return `shoal-${digest}`;
}

/** Sets these labels beside those that it has; an empty one is taken away. */
export async function relabelBlob(
  connection: Connection,
  digest: string,
  labels: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<void> {
  const updateMask = Object.keys(labels).map((key) => `labels.${key}`);
  if (updateMask.length === 0) return;
  const info = { digest, size: 0, labels: { ...labels } };
  const call = connection.call(
    connection.content,
    "update",
    { info, updateMask },
    { ...(signal && { signal }) },
  );
  await unlessGone(call);
}

/** Puts small pieces together and cuts large ones, so that a request carries enough. */
async function* chunked(
  source: AsyncIterable<Buffer>,
): AsyncGenerator<{ readonly pieces: readonly Buffer[]; readonly bytes: number }> {
  let pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of source) {
    for (let at = 0; at < piece.length;) {
      const part = piece.subarray(at, at + chunkBytes - bytes);
      at += part.length;
      bytes += part.length;
      pieces.push(part);
      if (bytes < chunkBytes) continue;
      yield { pieces, bytes };
      pieces = [];
      bytes = 0;
    }
  }
  if (bytes > 0) yield { pieces, bytes };
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
