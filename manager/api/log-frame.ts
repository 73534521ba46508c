/** A log line → the frame that clients read. */
import type { LogLine } from "../../proto/telemetry.ts";

export interface FrameOptions {
  /** The container has a terminal: raw bytes, no header. */
  readonly tty: boolean;
  readonly timestamps: boolean;
  readonly details: boolean;
}

const newline = 0x0a;
const headerBytes = 8;
const nanosecondsPerSecond = 1_000_000_000n;

/** One frame for one line: clients take a frame apart as "[timestamp] [details] text". */
export function frameLine(entry: LogLine, { tty, timestamps, details }: FrameOptions): Uint8Array {
  const prefix = `${timestamps ? `${printLogTime(entry.atNs)} ` : ""}${details ? `${printDetails(entry)} ` : ""}`;
  const ends = entry.line[entry.line.length - 1] === newline;
  const payload = Buffer.concat([Buffer.from(prefix), entry.line, Buffer.from(ends ? "" : "\n")]);
  return tty ? payload : frame(entry.stream === "stdout" ? 1 : 2, payload);
}

/** A failure amid the stream; clients end with its text. */
export function frameError(message: string): Uint8Array {
  return frame(3, Buffer.from(message));
}

function frame(stream: 1 | 2 | 3, payload: Buffer): Uint8Array {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt8(stream, 0);
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}

/** Always nine digits of fraction, as clients split on it. */
export function printLogTime(atNs: string): string {
  const ns = BigInt(atNs);
  const seconds = new Date(Number(ns / nanosecondsPerSecond) * 1_000).toISOString().slice(0, 19);
  return `${seconds}.${(ns % nanosecondsPerSecond).toString().padStart(9, "0")}Z`;
}

/** Sorted by key; ids need no escaping. */
function printDetails({ nodeId, serviceId, taskId }: LogLine): string {
  return `com.docker.swarm.node.id=${nodeId},com.docker.swarm.service.id=${serviceId},com.docker.swarm.task.id=${taskId}`;
}
