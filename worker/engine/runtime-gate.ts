/** Versions of runtimes out of which containers are known to have a way. Pure. */

/** "crun version 1.8.1", "runc version 1.1.5+ds1"; undefined for anything else. */
export function parseRuntimeVersion(
  text: string,
): { readonly name: string; readonly version: string } | undefined {
  const [, name, version] = /^(crun|runc) version (\d+\.\d+(?:\.\d+)?[^\s]*)/m.exec(text) ?? [];
  return name === undefined || version === undefined ? undefined : { name, version };
}

interface Escape {
  readonly name: "crun" | "runc";
  readonly ids: string;
  /** The first good version of each line of releases, the oldest line first; a version of no line is judged by the last one. */
  readonly fixed: readonly string[];
}

const escapes: readonly Escape[] = [
  { name: "runc", ids: "CVE-2024-21626", fixed: ["1.1.12"] },
  { name: "runc", ids: "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", fixed: ["1.2.8", "1.3.3"] },
  { name: "crun", ids: "CVE-2022-27650", fixed: ["1.4.4"] },
];

/** What to say of a runtime's `--version`; distributions may have mended what its number says is old. */
export function runtimeWarnings(text: string): string[] {
  const found = parseRuntimeVersion(text);
  if (found === undefined) return [];
  return escapes
    .filter(({ name, fixed }) => name === found.name && !isFixed(found.version, fixed))
    .map(
      ({ ids, fixed }) =>
        `WARNING: ${found.name} ${found.version} has known ways out of a container (${ids}) unless your distribution has mended it: ${found.name} ${fixed.join(" or ")} or newer has none of them`,
    );
}

function isFixed(version: string, fixed: readonly string[]): boolean {
  const own = numbersOf(version);
  const line = fixed.find((each) => sameLine(numbersOf(each), own)) ?? fixed.at(-1) ?? "0";
  return compare(own, numbersOf(line)) >= 0;
}

function sameLine(a: readonly number[], b: readonly number[]): boolean {
  return a[0] === b[0] && a[1] === b[1];
}

function numbersOf(version: string): number[] {
  const [, ...parts] = /^(\d+)\.(\d+)(?:\.(\d+))?/.exec(version) ?? [];
  return parts.map((part) => Number(part) || 0);
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let index = 0; index < 3; index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
