import { ClusterError } from "../../model/errors.ts";

const unitsMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/**
 * A time of a query: unix seconds with fraction, RFC 3339, or a duration before now such as "1h30m".
 *
 * @returns Unix milliseconds; undefined for what is absent, empty or "0".
 * @throws {ClusterError} `invalid-argument` for anything else.
 */
export function parseTime(text: string | null, nowMs: number): number | undefined {
  if (text === null || text === "" || text === "0") return undefined;
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1_000;
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  if (parts.length > 0 && parts.map(([whole]) => whole).join("") === text) {
    const agoMs = parts.reduce((sum, [, count, unit]) => sum + Number(count) * (unitsMs[unit ?? ""] ?? 0), 0);
    return nowMs - agoMs;
  }
  const atMs = Date.parse(text);
  if (Number.isNaN(atMs)) throw new ClusterError("invalid-argument", `invalid time "${text}"`);
  return atMs;
}
