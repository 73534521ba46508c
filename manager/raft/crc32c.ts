const polynomial = 0x82f63b78; // Castagnoli, reflected (RFC 3720 appendix B.4).
const stride = 8;
const tableSize = 256;

/** Row `k` is what a byte does to the checksum `k` bytes later, so that eight bytes take one step. */
const table = new Int32Array(stride * tableSize);
for (let byte = 0; byte < tableSize; byte += 1) {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1;
  table[byte] = value;
}
for (let at = tableSize; at < table.length; at += 1) {
  const before = entry(at - tableSize);
  table[at] = (before >>> 8) ^ entry(before & 0xff);
}

/** CRC-32C of `bytes`, continuing `previous`, so that a chain of records vouches for its order. */
export function crc32c(bytes: Uint8Array, previous = 0): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return crc32cWithin(view, { from: 0, to: bytes.byteLength }, previous);
}

/** Of the bytes `from <= position < to`, for whoever has a view of many records. */
export function crc32cWithin(
  view: DataView,
  { from, to }: { readonly from: number; readonly to: number },
  previous = 0,
): number {
  const whole = to - ((to - from) % stride);
  let crc = ~previous;
  for (let at = from; at < whole; at += stride) {
    const low = crc ^ view.getInt32(at, true);
    const high = view.getInt32(at + 4, true);
    crc =
      entry(1792 + (low & 0xff)) ^
      entry(1536 + ((low >>> 8) & 0xff)) ^
      entry(1280 + ((low >>> 16) & 0xff)) ^
      entry(1024 + (low >>> 24)) ^
      entry(768 + (high & 0xff)) ^
      entry(512 + ((high >>> 8) & 0xff)) ^
      entry(256 + ((high >>> 16) & 0xff)) ^
      entry(high >>> 24);
  }
  for (let at = whole; at < to; at += 1) {
    crc = entry((crc ^ view.getUint8(at)) & 0xff) ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/** Every index asked for lies within the table. */
function entry(at: number): number {
  return table[at] as number;
}
