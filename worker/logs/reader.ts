/** What readers of a container's output share, whoever kept it. */

/** Lines longer than this are given in pieces, as Docker's json-file does. */
export const logLineLimitBytes = 16_384;

export interface LogLine {
  readonly stream: "stdout" | "stderr";
  /** Unix milliseconds at which the worker saw it. */
  readonly timeMs: number;
  /** Without the newline; not necessarily UTF-8. */
  readonly line: Uint8Array;
  /** More of the same line follows: no newline is printed after it. */
  readonly partial: boolean;
}

export interface LogOptions {
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** The last lines to begin with; absent: all. */
  readonly tail?: number;
  /** Inclusive. */
  readonly sinceMs?: number;
  /** Exclusive; a follower ends once it is past. */
  readonly untilMs?: number;
  /** Goes on until the container has ended and all of its output was given. */
  readonly follow: boolean;
}

export interface LogReader {
  /** Oldest first. Ends early and without error when `signal` aborts. `break` frees everything. */
  read(options: LogOptions, signal: AbortSignal): AsyncGenerator<LogLine>;
}
