/** What services say beyond the Engine API, as labels under `shoal.`; any client can set them. */
import { parseCidr, printCidr } from "./address.ts";
import { type Constraint, parseConstraint } from "./constraint.ts";
import { defaultProgressDeadlineMs, defaultRestartBackoffLimitMs } from "./defaults.ts";
import { errorText } from "./errors.ts";
import type { Labels } from "./meta.ts";

const prefix = "shoal.";

/**
 * What becomes of tasks whose node is down:
 * - `replace`: they run elsewhere once it has been down for `afterMs`;
 * - `wait`: they stay where they are, whatever comes; for work that must never run twice;
 * - `stop`: as `replace`, and a worker that has not heard a manager for `afterMs` stops them itself.
 */
export interface UnreachablePolicy {
  readonly kind: "replace" | "wait" | "stop";
  readonly afterMs: number;
}

/** A soft preference: nodes that meet it come first. */
export type Preference =
  | { readonly kind: "node"; readonly constraint: Constraint }
  /** `service==NAME`: near its tasks; `service!=NAME`: away from them. */
  | { readonly kind: "service"; readonly operator: "==" | "!="; readonly name: string };

export interface Extensions {
  /** `shoal.prefer`, comma-separated, the most important first. */
  readonly prefer: readonly Preference[];
  /** `shoal.avoid`, comma-separated: services, lower case, that may not share a node with this one. */
  readonly avoid: readonly string[];
  /** `shoal.on-unreachable`: `replace`, `wait` or `stop`, and how long as in `replace:30s`. */
  readonly onUnreachable: UnreachablePolicy;
  /** `shoal.restart.max-delay`: where the crash back-off ends. */
  readonly restartMaxDelayMs: number;
  /** `shoal.update.deadline`: a new task that does not run by then counts as failed. */
  readonly updateDeadlineMs: number;
  /** `shoal.update.settle`: with start-first, how long a new task must have run before the old one goes. */
  readonly updateSettleMs: number;
  /** `shoal.rebalance`: `never` keeps the service's tasks where they are. */
  readonly rebalance: "allowed" | "never";
  /** `shoal.mesh`: with `local`, a host with a serving task gives clients of published ports to no other. */
  readonly mesh: "any" | "local";
  /** `shoal.publish.address`: canonical IPv4 CIDR of the host addresses that ports are published on; empty for all. */
  readonly publishAddresses: readonly string[];
}

/** A worker that loses its manager finds another well within this. */
const defaultStopAfterMs = 15_000;
/** Shorter, a change of leader or a manager's pause may stop tasks. */
export const soundStopAfterMs = 5_000;

const defaults: Extensions = {
  prefer: [],
  avoid: [],
  onUnreachable: { kind: "replace", afterMs: 0 },
  restartMaxDelayMs: defaultRestartBackoffLimitMs,
  updateDeadlineMs: defaultProgressDeadlineMs,
  updateSettleMs: 0,
  rebalance: "allowed",
  mesh: "any",
  publishAddresses: [],
};

type Reader = (value: string) => Partial<Extensions>;

/** One reader per label; each throws with what it accepts. */
const readers: Readonly<Record<string, Reader>> = {
  prefer: (value) => ({ prefer: parts(value).map(parsePreference) }),
  avoid: (value) => ({ avoid: parts(value).map((name) => name.toLowerCase()) }),
  "on-unreachable": (value) => ({ onUnreachable: parseUnreachable(value) }),
  "restart.max-delay": (value) => ({ restartMaxDelayMs: parseDurationMs(value) }),
  "update.deadline": (value) => ({ updateDeadlineMs: parseDurationMs(value) }),
  "update.settle": (value) => ({ updateSettleMs: parseDurationMs(value) }),
  rebalance: (value) => {
    if (value !== "never" && value !== "allowed") throw new Error("never or allowed is accepted");
    return { rebalance: value };
  },
  mesh: (value) => {
    if (value !== "any" && value !== "local") throw new Error("any or local is accepted");
    return { mesh: value };
  },
  "publish.address": (value) => ({ publishAddresses: parts(value).map(parseBlock) }),
};

const readByLabels = new WeakMap<Labels, Extensions>();

/** What a service's labels ask for; what cannot be read, which the API refuses, counts as not there. */
export function extensionsOf(labels: Labels): Extensions {
  let extensions = readByLabels.get(labels);
  if (extensions === undefined) readByLabels.set(labels, (extensions = read(labels, () => {})));
  return extensions;
}

/** Problems of the labels that are ours; the names of those that nobody knows are for `unknownExtensions`. */
export function extensionProblems(labels: Labels): string[] {
  const problems: string[] = [];
  const refuse = (label: string, why: string): void => {
    problems.push(`invalid label ${label}=${JSON.stringify(labels[label])}: ${why}`);
  };
  read(labels, (label, reason) => refuse(label, errorText(reason)));
  return problems;
}

/** Labels under `shoal.` that mean nothing; a misspelt one would otherwise go unnoticed. */
export function unknownExtensions(labels: Labels): string[] {
  return Object.keys(labels).filter(
    (label) => label.startsWith(prefix) && !Object.hasOwn(readers, label.slice(prefix.length)),
  );
}

export const extensionLabels: readonly string[] = Object.keys(readers).map((name) => `${prefix}${name}`);

function read(labels: Labels, onProblem: (label: string, reason: unknown) => void): Extensions {
  let extensions = defaults;
  for (const [name, reader] of Object.entries(readers)) {
    const label = `${prefix}${name}`;
    const value = labels[label];
    if (value === undefined) continue;
    try {
      extensions = { ...extensions, ...reader(value) };
    } catch (reason) {
      onProblem(label, reason);
    }
  }
  return extensions;
}

function parts(value: string): string[] {
  return value
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

/** An address alone is a block of one. */
function parseBlock(text: string): string {
  const block = parseCidr(text.includes("/") ? text : `${text}/32`);
  if (block === undefined || text.includes(":")) {
    throw new Error(`an IPv4 address or block such as 10.0.0.0/8 is expected, not ${JSON.stringify(text)}`);
  }
  return printCidr(block);
}

function parsePreference(text: string): Preference {
  const constraint = parseConstraint(text);
  if (constraint.key.toLowerCase() !== "service") return { kind: "node", constraint };
  return { kind: "service", operator: constraint.operator, name: constraint.value.toLowerCase() };
}

function parseUnreachable(value: string): UnreachablePolicy {
  const [kind = "", after, ...more] = value.split(":");
  if ((kind !== "replace" && kind !== "wait" && kind !== "stop") || more.length > 0) {
    throw new Error("replace, wait or stop is accepted, and a time as in replace:30s");
  }
  const defaultMs = kind === "stop" ? defaultStopAfterMs : 0;
  return { kind, afterMs: after === undefined ? defaultMs : parseDurationMs(after) };
}

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const longestMs = 365 * 24 * 3_600_000;

/**
 * A time as Go prints it: numbers with the units h, m, s and ms, such as "1m30s".
 * @throws {Error} naming what is accepted.
 */
export function parseDurationMs(text: string): number {
  const problem = new Error(`a time such as 30s, 5m or 1h30m is expected, not ${JSON.stringify(text)}`);
  if (text.length > 32 || !/^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/.test(text)) throw problem;
  let sumMs = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    sumMs += Number(amount) * (unitMs[unit ?? ""] ?? 0);
  }
  if (sumMs > longestMs) throw problem;
  return Math.round(sumMs);
}
