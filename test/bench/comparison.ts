/** Figures beside what they are compared with, and beside what is aimed at. */

/** Of the value itself, or of its share of what it stands beside. */
export interface Aim {
  readonly of: "value" | "share";
  readonly bound: "at most" | "at least";
  readonly limit: number;
}

export interface Comparison {
  readonly what: string;
  readonly unit: string;
  /** NaN for one that could not be measured. */
  readonly value: number;
  readonly beside?: { readonly what: string; readonly value: number };
  readonly aim?: Aim;
}

/** @returns undefined where nothing is aimed at. */
export function isReached({ value, beside, aim }: Comparison): boolean | undefined {
  if (aim === undefined || (aim.of === "share" && beside === undefined)) return undefined;
  const seen = aim.of === "value" ? value : value / (beside?.value ?? Number.NaN);
  return aim.bound === "at most" ? seen <= aim.limit : seen >= aim.limit;
}

/**
 * As a Markdown table, a row a figure.
 *
 * @param note - A sentence on how they were taken.
 */
export function comparisonTable(rows: readonly Comparison[], note: string): string {
  const lines = rows.map((row) => {
    const { what, unit, value, beside, aim } = row;
    const share = beside === undefined ? Number.NaN : value / beside.value;
    const cells = [
      what,
      withUnit(value, unit),
      beside === undefined ? "" : `${withUnit(beside.value, unit)} (${beside.what})`,
      Number.isFinite(share) ? `${share.toFixed(2)}×` : "",
      aim === undefined ? "" : aimText(aim, unit),
      { true: "yes", false: "no", undefined: "" }[String(isReached(row)) as "true" | "false" | "undefined"],
    ];
    return `| ${cells.join(" | ")} |`;
  });
  const head = ["| figure | Shoal | beside | share | aimed at | reached |", "|---|--:|--:|--:|--:|---|"];
  return [note, "", ...head, ...lines, ""].join("\n");
}

/** "12.3 ms", "1 234 /s"; "failed" for what could not be measured. */
export function withUnit(value: number, unit: string): string {
  return Number.isNaN(value) ? "failed" : `${printed(value)} ${unit}`;
}

function aimText({ of, bound, limit }: Aim, unit: string): string {
  return of === "value" ? `${bound} ${printed(limit)} ${unit}` : `${bound} ${printed(limit)}×`;
}

/** Three digits, or all before the point. */
function printed(value: number): string {
  const size = Math.abs(value);
  if (size >= 100) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return String(Number(value.toFixed(size >= 10 ? 1 : 2)));
}
