const columnGap = 3;
const leastColumnWidth = 10;

/** Rows as aligned columns, first row the heading; the last column is never padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.slice(0, -1).forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? leastColumnWidth, cell.length + columnGap);
    });
  }
  return rows
    .map((row) =>
      row.map((cell, index) => (index < row.length - 1 ? cell.padEnd(widths[index] ?? 0) : cell)).join(""),
    )
    .join("\n");
}

export function write(text: string): void {
  process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
}

/** The first twelve characters, as lists show ids. */
export function shortId(id: string): string {
  return id.slice(0, 12);
}

export function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** At most `length` characters, the last one an ellipsis when something was cut. */
export function ellipsis(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

/** A span of time in words, as "5 seconds" or "About a minute". */
export function inWords(ms: number): string {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < 60) return `${seconds} seconds`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return "About a minute";
  if (minutes < 60) return `${minutes} minutes`;
  const hours = Math.round(seconds / 3_600);
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  const days = Math.floor(hours / 24);
  if (days < 14) return `${days} days`;
  if (days < 60) return `${Math.floor(days / 7)} weeks`;
  if (days < 730) return `${Math.floor(days / 30)} months`;
  return `${Math.floor(days / 365)} years`;
}

export function ago(timestamp: string, nowMs: number): string {
  return `${inWords(nowMs - Date.parse(timestamp))} ago`;
}

/** An image reference as people read it: no digest beside a tag, no default registry. */
export function familiarImage(image: string): string {
  const at = image.indexOf("@");
  const name = at < 0 ? image : image.slice(0, at);
  const tagged = name.lastIndexOf(":") > name.lastIndexOf("/");
  const shown = at < 0 || tagged ? name : image;
  return shown.replace(/^docker\.io\/(library\/)?/, "");
}

/** An image reference in the list of containers, as docker shows it there: never with a digest. */
export function imageWithoutDigest(image: string): string {
  const at = image.indexOf("@");
  return familiarImage(at < 0 ? image : image.slice(0, at));
}

/** Numbers inside names count as numbers: web.2 before web.10. */
export function naturalOrder(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
}

/** What an answer says beside its success, such as of a label that nobody knows. */
export interface Warned {
  readonly Warnings?: readonly string[] | null;
}

export function printWarnings({ Warnings: warnings }: Warned): void {
  for (const warning of warnings ?? []) process.stderr.write(`${warning}\n`);
}
