/** Log lines as they reach a reader of `service logs`: collected from workers, read by the API. */
import type { NodeId, ServiceId, TaskId } from "../model/ids.ts";
import type { NetworkCheckReply } from "./gen/shoal/telemetry.ts";

export type LogStream = "stdout" | "stderr";

export interface LogOptions {
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** Stay until the signal aborts; without it the sequence ends even when a node cannot be reached. */
  readonly follow: boolean;
  /** Last lines of each task; new lines of a followed task always come. */
  readonly tail: number | "all";
  /** Unix milliseconds with fraction, inclusive; absent: from the first line kept. */
  readonly sinceMs?: number;
  /** Unix milliseconds with fraction, exclusive; absent: no end. */
  readonly untilMs?: number;
}

export interface LogLine {
  readonly taskId: TaskId;
  readonly serviceId: ServiceId;
  readonly nodeId: NodeId;
  readonly stream: LogStream;
  /** Unix nanoseconds, decimal: more than a JavaScript number holds. */
  readonly atNs: string;
  /** As the container wrote it; the line break is included where there was one. */
  readonly line: Uint8Array;
}

/** What a node said of the networks it shares with others. */
export interface CheckedNode {
  readonly nodeId: NodeId;
  /** Undefined when it did not answer. */
  readonly reply?: NetworkCheckReply;
  /** Empty when it answered. */
  readonly problem: string;
}
