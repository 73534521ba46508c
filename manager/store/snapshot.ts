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

/**
 * Gives every encoded change to `accept`, in order.
 * @throws {ClusterError} `data-loss` when the bytes are no whole snapshot.
 */
export function readSnapshot(
  data: Iterable<Uint8Array>,
  accept: (change: Uint8Array) => void,
): SnapshotHeader {
  let header: (SnapshotHeader & { readonly objects: number }) | undefined;
  let read = 0;
  for (const bytes of pieces(data)) {
    const decoded = StoreSnapshotPiece.decode(bytes);
    if (header === undefined) {
      if (decoded.header?.format !== format) {
        throw damaged(`format ${decoded.header?.format ?? "missing"}, ${format} is accepted`);
      }
      header = decoded.header;
    }
    for (const change of decoded.changes) accept(change);
    read += decoded.changes.length;
  }
  if (header === undefined) throw damaged("no header");
  if (read !== header.objects) throw damaged(`${read} objects, ${header.objects} announced`);
  return header;
}

function piece(message: StoreSnapshotPiece): Uint8Array {
  const body = StoreSnapshotPiece.encode(message).finish();
  const framed = Buffer.allocUnsafe(lengthBytes + body.length);
  framed.writeUInt32BE(body.length, 0);
  framed.set(body, lengthBytes);
  return framed;
}

function* pieces(data: Iterable<Uint8Array>): Generator<Uint8Array, void, undefined> {
  let rest: Buffer = Buffer.alloc(0);
  for (const part of data) {
    rest =
      rest.length === 0
        ? Buffer.from(part.buffer, part.byteOffset, part.length)
        : Buffer.concat([rest, part]);
    for (;;) {
      if (rest.length < lengthBytes) break;
      const length = rest.readUInt32BE(0);
      if (length > pieceLimitBytes) throw damaged(`a piece of ${length} bytes`);
      if (rest.length < lengthBytes + length) break;
      yield rest.subarray(lengthBytes, lengthBytes + length);
      rest = rest.subarray(lengthBytes + length);
    }
  }
  if (rest.length > 0) throw damaged("the last piece is cut off");
}

function damaged(seen: string): ClusterError {
  return new ClusterError("data-loss", `snapshot of the store cannot be read: ${seen}`);
}
