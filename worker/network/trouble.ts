/** What could not be done, and what was found amiss, in words. Pure. */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";

/** Findings named in one line of the log. */
const mostFindings = 10;

/** What a round could not do. */
export interface Trouble {
  /** Concerns everything. */
  readonly all?: ClusterError;
  readonly overlay?: ClusterError;
  /** Part of `overlay`: encrypted networks reach no other host. */
  readonly tunnel?: ClusterError;
  readonly tasks: ReadonlyMap<TaskId, string>;
  /** By the bridge network's id. */
  readonly bridges: ReadonlyMap<string, string>;
  /** Addresses on which no names are answered. */
  readonly gateways: ReadonlyMap<string, ClusterError>;
}

export function troubleTexts({ all, overlay, tasks, bridges }: Trouble): string[] {
  return [all?.message, overlay?.message, ...bridges.values(), ...tasks.values()].filter(
    (text) => text !== undefined,
  );
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
