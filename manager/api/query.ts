/** Query parameters: strict booleans, versions, times, and what filters mean. */
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { Filters } from "../../runtime/http.ts";

const goTrue = ["1", "t", "T", "true", "TRUE", "True"];
const goFalse = ["", "0", "f", "F", "false", "FALSE", "False"];

/** The strict booleans of a few swarm parameters; absent is false. */
export function strictFlag(query: URLSearchParams, name: string): boolean {
  const text = query.get(name) ?? "";
  if (goTrue.includes(text)) return true;
  if (goFalse.includes(text)) return false;
  throw new ClusterError(
    "invalid-argument",
    `invalid value for ${name}: ${text}: strconv.ParseBool: parsing ${JSON.stringify(text)}: invalid syntax`,
  );
}

/** The object version that an update was made from. `kind` as in the API's text, such as "node". */
export function requireVersion(query: URLSearchParams, kind: string): number {
  const text = query.get("version") ?? "";
  const version = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(version)) return version;
  if (kind === "secret" || kind === "config") {
    throw new ClusterError("invalid-argument", `invalid ${kind} version`);
  }
  const problem = /^\d+$/.test(text) ? "value out of range" : "invalid syntax";
  throw new ClusterError(
    "invalid-argument",
    `invalid ${kind} version '${text}': strconv.ParseUint: parsing ${JSON.stringify(text)}: ${problem}`,
  );
}

const unitMs = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const;
const durationPattern = /^(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+$/;

/** Go's form, such as "1h30m"; undefined when it is none. */
export function parseDurationMs(text: string): number | undefined {
  if (!durationPattern.test(text)) return undefined;
  let sum = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)/g)) {
    sum += Number(amount) * unitMs[unit as keyof typeof unitMs];
  }
  return sum;
}

/**
 * A point in time: unix seconds with fraction, RFC 3339 with or without zone, a date, or a duration
 * back from now.
 *
 * @returns Unix milliseconds, or undefined when absent or zero.
 */
export function parseTime(text: string | null, name: string, nowMs: number): number | undefined {
  if (text === null || text === "" || text === "0") return undefined;
  if (/^\d+(?:\.\d+)?$/.test(text)) return Number(text) * 1_000;
  const back = parseDurationMs(text);
  if (back !== undefined) return nowMs - back;
  if (/^\d{4}-\d{2}-\d{2}(?:T\d{2}(?::\d{2}(?::\d{2}(?:\.\d+)?)?)?(?:Z|[+-]\d{2}:\d{2})?)?$/.test(text)) {
    const atMs = Date.parse(withMinutes(text));
    if (!Number.isNaN(atMs)) return atMs;
  }
  throw new ClusterError(
    "invalid-argument",
    `invalid value for ${name}: "${text}" (unix seconds, RFC 3339 or a duration such as 10m is expected)`,
  );
}

/** "2026-01-02T03" is a time to Docker's clients, but not to JavaScript; a bare date is in local time. */
function withMinutes(text: string): string {
  if (/^\d{4}-\d{2}-\d{2}$/.test(text)) return `${text}T00:00:00`;
  return text.replace(/^(\d{4}-\d{2}-\d{2}T\d{2})(?=Z|[+-]|$)/, "$1:00");
}

/** Every wanted label is there: "key" for presence, "key=value" for equality. */
export function labelsMatch(labels: Labels, wanted: readonly string[] | undefined): boolean {
  return (wanted ?? []).every((text) => {
    const at = text.indexOf("=");
    if (at < 0) return Object.hasOwn(labels, text);
    const key = text.slice(0, at);
    return Object.hasOwn(labels, key) && labels[key] === text.slice(at + 1);
  });
}

/** As {@link labelsMatch}, but "key=" asks for the label alone: so it is with all that swarms have but networks. */
export function swarmLabelsMatch(labels: Labels, wanted: readonly string[] | undefined): boolean {
  return labelsMatch(
    labels,
    wanted?.map((text) => text.replace(/^([^=]+)=$/, "$1")),
  );
}

/** True when the key is not filtered on or `accepts` one of its values. */
export function anyOf(filters: Filters, key: string, accepts: (wanted: string) => boolean): boolean {
  const wanted = filters.get(key);
  return wanted === undefined || wanted.length === 0 || wanted.some(accepts);
}

/** Prefix of an id or a name, letter by letter. */
export function hasPrefix(text: string): (prefix: string) => boolean {
  return (prefix) => text.startsWith(prefix);
}
