/** What could not be done, and what was found amiss, in words. Pure. */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";

/** Findings named in one line of the log. */
const mostFindings = 10;

/** What a round could not do. */
export interface Trouble {
  /** Concerns everything. */
  readonly all?: ClusterError;
  /** By the overlay's id: why it is not set up, or not whole. */
  readonly overlays: ReadonlyMap<string, string>;
  /** What concerns nobody: no network or task is the worse for it. */
  readonly rest: readonly string[];
  readonly tasks: ReadonlyMap<TaskId, string>;
  /** By the bridge network's id. */
  readonly bridges: ReadonlyMap<string, string>;
  /** Addresses on which no names are answered. */
  readonly gateways: ReadonlyMap<string, ClusterError>;
}

export function troubleWithAll(reason: unknown): Trouble {
  const none = { overlays: new Map(), rest: [], tasks: new Map(), bridges: new Map(), gateways: new Map() };
  return { all: failureOf(reason), ...none };
}

/** All but that of overlays, which `OverlayTroubles` tells. */
export function troubleTexts({ all, rest, tasks, bridges }: Trouble): string[] {
  return [...(all === undefined ? [] : [all.message]), ...rest, ...bridges.values(), ...tasks.values()];
}

export function report(
  { warn }: { readonly warn: (text: string) => void },
  what: string,
  trouble: Trouble,
): void {
  const texts = troubleTexts(trouble);
  if (texts.length > 0) warn(`${what}: ${texts.join("; ")}`);
}

export function some(found: readonly string[]): string {
  const rest = found.length - mostFindings;
  return [...found.slice(0, mostFindings), ...(rest > 0 ? [`and ${rest} more`] : [])].join(", ");
}

export function failureOf(reason: unknown): ClusterError {
  if (reason instanceof ClusterError) return reason;
  return new ClusterError("internal", `cannot change the host's network: ${errorText(reason)}`, {
    cause: reason,
  });
}
