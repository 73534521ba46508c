import { destination, pino } from "pino";
import { mapStack } from "./stack.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";

type Line = (fields: Readonly<Record<string, unknown>>, text: string) => void;

/** Structured lines; `fields` carry the facts, `text` stays the same from line to line. */
export interface Log {
  readonly debug: Line;
  readonly info: Line;
  readonly warn: Line;
  readonly error: Line;
  readonly fatal: Line;
  /** A log whose every line carries these fields. */
  child(fields: Readonly<Record<string, unknown>>): Log;
}

/**
 * One JSON line per entry on standard error. Writes are synchronous, so that the last line before a crash is kept.
 *
 * @param name - The process, such as "manager".
 */
export function createLog(name: string, level: LogLevel): Log {
  const options = { name, level, timestamp: () => `,"time":"${new Date().toISOString()}"` };
  return wrap(pino(options, destination({ dest: 2, sync: true })));
}

interface Target {
  debug(fields: object, text: string): void;
  info(fields: object, text: string): void;
  warn(fields: object, text: string): void;
  error(fields: object, text: string): void;
  fatal(fields: object, text: string): void;
  child(fields: Record<string, unknown>): Target;
  isLevelEnabled(level: string): boolean;
}

function wrap(target: Target): Log {
  return {
    // Stacks are mapped only for those who read them.
    debug: (fields, text) => {
      if (target.isLevelEnabled("debug")) target.debug(printable(fields), text);
    },
    info: (fields, text) => target.info(printable(fields), text),
    warn: (fields, text) => target.warn(printable(fields), text),
    error: (fields, text) => target.error(printable(fields), text),
    fatal: (fields, text) => target.fatal(printable(fields), text),
    child: (fields) => wrap(target.child(printable(fields))),
  };
}

/** Errors under any name become their stack and causes; JSON alone would print `{}`. */
function printable(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [
      key,
      value instanceof Error ? describeError(value) : value,
    ]),
  );
}

function describeError(error: Error): string {
  const text = mapStack(error.stack ?? `${error.name}: ${error.message}`);
  return error.cause instanceof Error ? `${text}\ncaused by ${describeError(error.cause)}` : text;
}

/** For tests and for code that is run without an audience. */
export const silentLog: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  fatal: () => {},
  child: () => silentLog,
};
