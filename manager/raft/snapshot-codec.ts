import { type Client, type ClientDuplexStream, Metadata } from "@grpc/grpc-js";
import { RaftPeerService, SnapshotPart, type SnapshotReceipt } from "../../proto/gen/shoal/raft.ts";
import { encodeWith, readerOf } from "./wire.ts";

/** Field number and wire type (`raft.proto`), as they stand before each value. */
const tags = { data: 26, offset: 32 } as const;
const noData = Buffer.alloc(0);

/**
 * `RaftPeer` without the copies that the generated code makes of what is in a part: a dozen of a quarter of a megabyte
 * each, and with every 64 MiB of them V8 stops the raft thread to collect its garbage.
 */
export const snapshotService = {
  ...RaftPeerService,
  sendSnapshot: {
    ...RaftPeerService.sendSnapshot,
    requestSerialize: encodeSnapshotPart,
    requestDeserialize: decodeSnapshotPart,
  },
} as const;

/**
 * Waits for a connection: between two dials gRPC refuses other calls at once, and a leader whose peer was just away would try
 * again with every answer to a heartbeat. The caller has the bound.
 */
export function openSnapshotCall(client: Client): ClientDuplexStream<SnapshotPart, SnapshotReceipt> {
  const { path, requestSerialize, responseDeserialize } = snapshotService.sendSnapshot;
  const metadata = new Metadata({ waitForReady: true });
  return client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, metadata);
}

/** As the generated code, in one piece of memory. */
export function encodeSnapshotPart(part: SnapshotPart): Buffer {
  const { hello, message, data, offset } = part;
  if (hello !== undefined || message !== undefined) return Buffer.from(SnapshotPart.encode(part).finish());
  const head = encodeWith((writer) => writer.uint32(tags.data).uint32(data.byteLength));
  const tail = encodeWith((writer) => writer.uint32(tags.offset).uint64(offset));
  return Buffer.concat([head, data, tail]);
}

/** As the generated code; the data is a view of `bytes`. */
export function decodeSnapshotPart(bytes: Buffer): SnapshotPart {
  const reader = readerOf(bytes);
  let data = noData;
  let offset = 0;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === tags.offset) offset = reader.number();
    else if (tag === tags.data) data = viewOf(reader.bytes());
    else return SnapshotPart.decode(bytes); // The first part, or one of a later version.
  }
  return { hello: undefined, message: undefined, data, offset };
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): Buffer<ArrayBuffer> {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength); // As it was received.
}
