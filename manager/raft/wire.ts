import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";

/** A buffer that grew beyond this is not kept for the next encoding. */
const keptBytes = 4 * 1024 * 1024;
/** What a varint of up to four bytes holds. */
const shortVarintBits = 28;

/**
 * The library turns every 64-bit number into a BigInt and back by way of a string; terms and indexes are numbers that most
 * often fit into 32 bits, which have the same form on the wire.
 */
class NumberWriter extends BinaryWriter {
  override uint64(value: string | number | bigint): this {
    const isShort = typeof value === "number" && value >= 0 && value < 2 ** 32;
    return isShort ? this.uint32(value) : super.uint64(value);
  }
}

export class NumberReader extends BinaryReader {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    super(bytes);
    this.#bytes = bytes;
  }

  override uint64(): bigint | string {
    let value = 0;
    let at = this.pos;
    for (let shift = 0; shift < shortVarintBits; shift += 7) {
      const byte = this.#bytes[at] ?? 0x80; // Beyond the end: the library says so.
      at += 1;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.pos = at;
        return value as unknown as bigint; // Generated code makes a number of it, whatever it is.
      }
    }
    return super.uint64();
  }

  /** For decoders of our own. @throws {RangeError} beyond what a number holds exactly. */
  number(): number {
    const value = Number(this.uint64());
    if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is too large`);
    return value;
  }
}

let shared = new NumberWriter();

/** Encodes with a writer whose buffer is used again and again, since growing one costs more than filling it. */
export function encodeWith(write: (writer: BinaryWriter) => BinaryWriter): Uint8Array {
  const writer = shared;
  shared = new NumberWriter(); // Stays if `write` throws: what it had begun is not continued by the next.
  const bytes = write(writer).finish();
  if (bytes.byteLength <= keptBytes) shared = writer;
  return bytes;
}

/** For the generated `decode`. */
export function readerOf(bytes: Uint8Array): NumberReader {
  return new NumberReader(bytes);
}
