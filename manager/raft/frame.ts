/** The protocol by name, as the TLS handshake agrees on it (ALPN); a change that old members cannot read gets another. */
export const peerProtocol = "shoal-raft/1";

/** Of one frame, and of one message of a gRPC call between members: a peer that says more is not listened to. */
export const maxPeerMessageBytes = 16 * 1024 * 1024;

/**
 * What members say on a stream. Its opener begins with `hello` (RaftHello); the other end answers `notice` (RaftNotice),
 * empty when the opener is welcome. Then `messages` (RaftFrame) flow, and now and then a `ping`, answered by `pong`.
 */
const kindNumbers = { hello: 1, notice: 2, messages: 3, ping: 4, pong: 5 } as const;

export type FrameKind = keyof typeof kindNumbers;

export interface Frame {
  readonly kind: FrameKind;
  /** May be a view of what was received. */
  readonly payload: Uint8Array;
}

const headerBytes = 5;
const kinds = new Map<number, FrameKind>(
  Object.entries(kindNumbers).map(([kind, number]) => [number, kind as FrameKind]),
);

/** Length of the payload (u32, little endian), kind (u8), payload. */
export function encodeFrame(kind: FrameKind, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(headerBytes + payload.byteLength);
  frame.writeUInt32LE(payload.byteLength, 0);
  frame[4] = kindNumbers[kind];
  frame.set(payload, headerBytes);
  return frame;
}

/** Cuts what arrives into frames. */
export class FrameReader {
  /** Of one payload; may change between frames. */
  maxBytes: number;
  #parts: Buffer[] = [];
  #heldBytes = 0;
  /** Of the frame under way, header included, once its header is here. */
  #wantedBytes = headerBytes;

  /** @param maxBytes - Of one payload. */
  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** @throws {Error} for a frame that is too long or of no known kind; nothing after it can be read. */
  *push(chunk: Buffer): Generator<Frame> {
    this.#parts.push(chunk);
    this.#heldBytes += chunk.byteLength;
    if (this.#heldBytes < this.#wantedBytes) return;
    const [first = chunk] = this.#parts;
    const bytes = this.#parts.length === 1 ? first : Buffer.concat(this.#parts, this.#heldBytes);
    let at = 0;
    this.#wantedBytes = headerBytes;
    while (bytes.byteLength - at >= headerBytes) {
      const length = bytes.readUInt32LE(at);
      if (length > this.maxBytes) {
        throw new Error(`a frame of ${length} bytes arrived, at most ${this.maxBytes} are taken`);
      }
      const kind = kinds.get(bytes[at + 4] ?? 0);
      if (kind === undefined) throw new Error(`a frame of kind ${bytes[at + 4]} arrived, which is not known`);
      const end = at + headerBytes + length;
      if (end > bytes.byteLength) {
        this.#wantedBytes = headerBytes + length;
        break;
      }
      yield { kind, payload: bytes.subarray(at + headerBytes, end) };
      at = end;
    }
    this.#parts = at === bytes.byteLength ? [] : [bytes.subarray(at)];
    this.#heldBytes = bytes.byteLength - at;
  }
}
