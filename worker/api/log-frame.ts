import type { LogLine } from "../logs/reader.ts";

const headerBytes = 8;

export interface FrameOptions {
  readonly tty: boolean;
  readonly timestamps: boolean;
  /** Told with each line; a blank follows even if there are none. Absent: not asked for. */
  readonly details?: string;
}

/**
 * The labels and variables of a container that its log options name, as "k=v,k=v", sorted and escaped.
 *
 * @param options - Of its log driver; `labels` and `env` are lists of names.
 * @param env - As "NAME=value".
 */
export function logDetails(
  options: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
  env: readonly string[],
): string {
  const namesOf = (option: string): string[] => (options[option] ?? "").split(",");
  const told = new Map<string, string>();
  const known = new Map(Object.entries(labels));
  for (const name of namesOf("labels")) {
    const value = known.get(name);
    if (value !== undefined) told.set(name, value);
  }
  const variables = new Map(
    env.map((text) => [text.split("=", 1)[0] ?? "", text.slice(text.indexOf("=") + 1)]),
  );
  for (const name of namesOf("env")) {
    const value = variables.get(name);
    if (value !== undefined) told.set(name, value);
  }
  return [...told]
    .map(([key, value]) => new URLSearchParams([[key, value]]).toString())
    .toSorted((a, b) => (a < b ? -1 : 1))
    .join(",");
}

/** One line as clients read it: with a header that names its stream, or raw for a terminal. */
export function frameLine(
  { stream, timeMs, line, partial }: LogLine,
  { tty, timestamps, details }: FrameOptions,
): Uint8Array {
  // Always nine digits of fraction, as clients split on it.
  const time = timestamps ? `${new Date(timeMs).toISOString().slice(0, -1)}000000Z ` : "";
  const prefix = `${time}${details === undefined ? "" : `${details} `}`;
  const payload = Buffer.concat([Buffer.from(prefix), line, Buffer.from(partial ? "" : "\n")]);
  if (tty) return payload;
  return framed(stream, payload);
}

/** What clients know the streams by; "error" is the daemon's own, which they fail with. */
const streamNumbers = { stdout: 1, stderr: 2, error: 3 } as const;

/** A piece of output with the header that says which stream it is of. */
export function framed(stream: keyof typeof streamNumbers, bytes: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(headerBytes + bytes.length);
  frame.fill(0, 0, headerBytes);
  frame.writeUInt8(streamNumbers[stream], 0);
  frame.writeUInt32BE(bytes.length, 4);
  frame.set(bytes, headerBytes);
  return frame;
}
