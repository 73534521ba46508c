import type { LogLine } from "../logs/reader.ts";

const headerBytes = 8;

/** One line as clients read it: with a header that names its stream, or raw for a terminal. */
export function frameLine(
  { stream, timeMs, line, partial }: LogLine,
  { tty, timestamps }: { readonly tty: boolean; readonly timestamps: boolean },
): Uint8Array {
  // Always nine digits of fraction, as clients split on it.
  const prefix = timestamps ? `${new Date(timeMs).toISOString().slice(0, -1)}000000Z ` : "";
  const payload = Buffer.concat([Buffer.from(prefix), line, Buffer.from(partial ? "" : "\n")]);
  if (tty) return payload;
  const header = Buffer.alloc(headerBytes);
  header.writeUInt8(stream === "stdout" ? 1 : 2, 0);
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}
