/** Names and numbers of signals. Pure but for the platform's own numbers. */
import { constants } from "node:os";

import { ClusterError } from "../../model/errors.ts";

const realtimeFirst = 34;
const realtimeLast = 64;

/** @param signal - "SIGTERM", "term", "15", "SIGRTMIN+3". @throws {ClusterError} `invalid-argument` with Docker's text. */
export function signalNumber(signal: string): number {
  const text = signal.toUpperCase();
  if (/^\d+$/.test(text)) {
    const number = Number(text);
    if (number >= 1 && number <= realtimeLast) return number;
  }
  const name = text.startsWith("SIG") ? text : `SIG${text}`;
  const known = (constants.signals as Readonly<Record<string, number>>)[name];
  if (known !== undefined) return known;
  const [, base, offset] = /^SIGRTM(IN|AX)(?:[+-](\d+))?$/.exec(name) ?? [];
  if (base !== undefined) {
    const number = base === "IN" ? realtimeFirst + Number(offset ?? 0) : realtimeLast - Number(offset ?? 0);
    if (number >= realtimeFirst && number <= realtimeLast) return number;
  }
  throw new ClusterError("invalid-argument", `invalid signal: ${signal}`);
}
