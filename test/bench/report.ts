import { cpus } from "node:os";
import type { Figures } from "./drive.ts";

export interface Column {
  readonly title: string;
  /** Of all rounds. */
  readonly figures: Figures;
}

/** Medians figure by figure; a figure that failed in one round has failed. */
export function medians(rounds: readonly Figures[]): Figures {
  const names = [...new Set(rounds.flatMap((round) => Object.keys(round)))];
  return Object.fromEntries(
    names.map((name) => [name, median(rounds.map((round) => round[name] ?? Number.NaN))]),
  );
}

/** NaN when one of them is. */
export function median(values: readonly number[]): number {
  if (values.some((value) => Number.isNaN(value))) return Number.NaN;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/**
 * The figures as a Markdown table, one column a cluster; the ratio says how many times the second takes of the first.
 *
 * @param note - A sentence on how they were taken.
 */
export function markdownTable(columns: readonly Column[], note: string): string {
  const [first, second] = columns;
  if (first === undefined) return note;
  const names = [...new Set(columns.flatMap(({ figures }) => Object.keys(figures)))];
  const heads = ["figure", ...columns.map(({ title }) => title), ...(second === undefined ? [] : ["ratio"])];
  const rows = names.map((name) => {
    const cells = columns.map(({ figures }) => print(name, figures[name]));
    const ratio = (second?.figures[name] ?? Number.NaN) / (first.figures[name] ?? Number.NaN);
    const last = second === undefined ? [] : [Number.isFinite(ratio) ? `${ratio.toFixed(1)}×` : ""];
    return `| ${[name, ...cells, ...last].join(" | ")} |`;
  });
  const lines = [
    `| ${heads.join(" | ")} |`,
    `|---|${heads
      .slice(1)
      .map(() => "--:|")
      .join("")}`,
    ...rows,
  ];
  return `${note}\n\n${lines.join("\n")}\n`;
}

function print(name: string, value: number | undefined): string {
  if (value === undefined) return "";
  if (Number.isNaN(value)) return "not in time";
  return name.endsWith("_mib") ? `${value.toFixed(0)} MiB` : `${value.toFixed(3)} s`;
}

export function machine(): string {
  const all = cpus();
  return `${all.length} × ${all[0]?.model ?? "unknown processor"}, Node ${process.versions.node}`;
}
