const nanosecondsOf: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3_600e9,
};

/** "1m30s", "500ms" or "0" as nanoseconds. */
export function parseDuration(text: string): number {
  if (text === "0") return 0;
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)];
  if (parts.length === 0 || parts.map(([part]) => part).join("") !== text) {
    throw new Error(`invalid duration '${text}': expected a number and a unit, such as 500ms, 10s or 1m30s`);
  }
  return Math.round(
    parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * (nanosecondsOf[unit ?? ""] ?? 0), 0),
  );
}

/** "512m", "1.5g" or "1024" as bytes; units are binary. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  if (match === null)
    throw new Error(`invalid size '${text}': expected a number and a unit, such as 64m or 1g`);
  const power = "bkmgtp".indexOf((match[2] ?? "").toLowerCase() || "b");
  return Math.floor(Number(match[1]) * 1024 ** power);
}

/** "0.5" cores as billionths of a core. */
export function parseCpus(text: string): number {
  const cores = Number(text);
  if (!Number.isFinite(cores) || cores < 0)
    throw new Error(`invalid number of CPUs '${text}': expected such as 0.5`);
  return Math.round(cores * 1e9);
}

export function parseCount(text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`invalid number '${text}': expected 0, 1, 2, …`);
  return Number(text);
}

/** "K=V" as a pair; a bare "K" has an empty value. */
export function parsePair(text: string): [string, string] {
  const split = text.indexOf("=");
  return split < 0 ? [text, ""] : [text.slice(0, split), text.slice(split + 1)];
}
