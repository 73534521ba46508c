import { ClusterError } from "../../model/errors.ts";
import { StoreSnapshotPiece } from "../../proto/gen/shoal/store.ts";
import { encodeChange } from "./codec.ts";
import type { StoredObject, TableName } from "./tables.ts";

export interface SnapshotHeader {
  readonly appliedIndex: number;
  readonly basis: number;
  readonly version: number;
}

const format = 1;
const pieceBytes = 1_000_000;
const lengthBytes = 4;
/** Above what any piece can reach; a larger length means damage. */
const pieceLimitBytes = 64_000_000;

/** Length-prefixed pieces: a header, then every object as the change that creates it. */
export function* writeSnapshot(
  header: SnapshotHeader,
  tables: readonly { readonly table: TableName; readonly objects: readonly StoredObject[] }[],
): Generator<Uint8Array, void, undefined> {
  const objects = tables.reduce((sum, { objects: ofTable }) => sum + ofTable.length, 0);
  yield piece({ header: { format, ...header, objects }, changes: [] });
  let changes: Buffer[] = [];
  let bytes = 0;
  for (const { table, objects: ofTable } of tables) {
    for (const object of ofTable) {
      const encoded = Buffer.from(encodeChange({ kind: "put", table, object }));
      changes.push(encoded);
      bytes += encoded.length;
      if (bytes < pieceBytes) continue;
      yield piece({ header: undefined, changes });
      changes = [];
      bytes = 0;
    }
  }
  if (changes.length > 0) yield piece({ header: undefined, changes });
}

/** Reads a snapshot that comes in parts, cut anywhere, and gives every encoded change to `accept`, in order. */
export class SnapshotReader {
  readonly #accept: (change: Uint8Array) => void;
  #header: (SnapshotHeader & { readonly objects: number }) | undefined;
  #readCount = 0;
  #rest: Buffer = Buffer.alloc(0);

  constructor(accept: (change: Uint8Array) => void) {
    this.#accept = accept;
  }

  /** @throws {ClusterError} `data-loss` when it cannot be part of a snapshot. */
  push(part: Uint8Array): void {
    const view = Buffer.from(part.buffer, part.byteOffset, part.length);
    this.#rest = this.#rest.length === 0 ? view : Buffer.concat([this.#rest, view]);
    for (;;) {
      if (this.#rest.length < lengthBytes) break;
      const length = this.#rest.readUInt32BE(0);
      if (length > pieceLimitBytes) throw damaged(`a piece of ${length} bytes`);
      if (this.#rest.length < lengthBytes + length) break;
      this.#take(this.#rest.subarray(lengthBytes, lengthBytes + length));
      this.#rest = this.#rest.subarray(lengthBytes + length);
    }
  }

  /** @throws {ClusterError} `data-loss` when something is missing. */
  finish(): SnapshotHeader {
    if (this.#rest.length > 0) throw damaged("the last piece is cut off");
    if (this.#header === undefined) throw damaged("no header");
    if (this.#readCount !== this.#header.objects) {
      throw damaged(`${this.#readCount} objects, ${this.#header.objects} announced`);
    }
    return this.#header;
  }

  #take(bytes: Uint8Array): void {
    const decoded = StoreSnapshotPiece.decode(bytes);
    if (this.#header === undefined) {
      if (decoded.header?.format !== format) {
        throw damaged(`format ${decoded.header?.format ?? "missing"}, ${format} is accepted`);
      }
      this.#header = decoded.header;
    }
    for (const change of decoded.changes) this.#accept(change);
    this.#readCount += decoded.changes.length;
  }
}

function piece(message: StoreSnapshotPiece): Uint8Array {
  const body = StoreSnapshotPiece.encode(message).finish();
  const framed = Buffer.allocUnsafe(lengthBytes + body.length);
  framed.writeUInt32BE(body.length, 0);
  framed.set(body, lengthBytes);
  return framed;
}

function damaged(seen: string): ClusterError {
  return new ClusterError("data-loss", `snapshot of the store cannot be read: ${seen}`);
}
