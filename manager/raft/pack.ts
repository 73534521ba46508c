/** Pieces of bytes behind one another: one buffer crosses between two threads for much less than many do. */
export interface Packed {
  readonly data: Uint8Array;
  /** Where in `data` each piece ends. */
  readonly ends: readonly number[];
}

/** Copies the pieces into a buffer of its own, which can be transferred. */
export function pack(pieces: readonly Uint8Array[]): Packed {
  const data = new Uint8Array(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  const ends = pieces.map((piece) => {
    data.set(piece, at);
    return (at += piece.byteLength);
  });
  return { data, ends };
}

/** Views of the pieces. */
export function unpack({ data, ends }: Packed): Uint8Array[] {
  return ends.map((end, at) => data.subarray(ends[at - 1] ?? 0, end));
}
