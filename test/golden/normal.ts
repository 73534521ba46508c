/** What no two engines say alike, such as ids, times, addresses and sizes, in words that say what it is. Pure. */
import type { Answer } from "./ask.ts";

/** Numbers that depend on the machine and the hour; zero is told from all others. */
const countedKeys = new Set([
  "Created",
  "CreatedAt",
  "Images",
  "LayersSize",
  "MemTotal",
  "NCPU",
  "NEventsListener",
  "NFd",
  "NGoroutines",
  "Pid",
  "Size",
  "SizeRootFs",
  "SizeRw",
  "SpaceReclaimed",
  "VirtualSize",
  "current",
  "size",
  "time",
  "timeNano",
  "total",
]);
/** Statistics: every number below them. */
const measuredKeys = new Set([
  "blkio_stats",
  "cpu_stats",
  "memory_stats",
  "networks",
  "pids_stats",
  "precpu_stats",
]);
/** Lists whose order says nothing. */
const sortKeys = ["Destination", "Name", "Path"] as const;
/** From here on the kernel and engines choose ports by themselves. */
const chosenPortLeast = 32_768;

const texts: readonly (readonly [RegExp, string])[] = [
  [/sha256:[0-9a-f]{64}/g, "sha256:<digest>"],
  [/\b[0-9a-f]{64}\b/g, "<id>"],
  [/\b[0-9a-f]{32}\b/g, "<id32>"],
  [/\bsha256:[0-9a-f]{12}\b/g, "sha256:<digest12>"],
  [/\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{11,12}\b/g, "<id12>"],
  [/\b\d{12}\b/g, "<id12>"], // One in three hundred has no letter; nothing else has twelve digits.
  [/\b(?!0001)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)/g, "<time>"],
  [/\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b/gi, "<mac>"],
  [/\b172\.(1[6-9]|2\d|3[01])\.\d+\.\d+\b/g, "<address>"],
  [/\b(Less than a second|1 second|\d+ seconds|About a minute|\d+ minutes)\b/gi, "<duration>"],
  [/\b(About an hour|\d+ (hours|days|weeks|months|years))\b/gi, "<duration>"],
  [/\b\d+(\.\d+)? ?(B|kB|MB|GB|KiB|MiB|GiB)\b/g, "<size>"],
  [/\b0B\b/g, "<size>"],
  [/\boci runtime error\b/gi, "OCI runtime error"],
  [/\bavailable: \d+(-\d+)?/g, "available: <list>"],
  [/\bto \d+\.00, as there are only \d+ CPUs\b/g, "to <number>, as there are only <number> CPUs"],
  [/ {2,}/g, "  "],
  [/-{4,}/g, "----"],
];

export class Normal {
  readonly #own: readonly string[];

  /** @param own - Paths of the engine's own. */
  constructor(own: readonly string[]) {
    this.#own = own;
  }

  command({ code, out, err }: { code: number; out: string; err: string }): Answer {
    return { code, out: this.#text(out), err: this.#text(err) };
  }

  answer({ status, type, body, stat }: Extract<Answer, { status: number }>): Answer {
    return {
      status,
      type,
      body: this.#value(body, ""),
      ...(stat !== undefined && { stat: this.#value(stat, "") }),
    };
  }

  #value(value: unknown, key: string): unknown {
    if (typeof value === "string") return isChosenPort(key, value) ? "<port>" : this.#text(value);
    if (typeof value === "number") {
      const isVarying = countedKeys.has(key) || isChosenPort(key, value);
      return isVarying && value !== 0 ? "<number>" : value;
    }
    if (key === "Processes" && Array.isArray(value)) return value.map(commandOf);
    if (Array.isArray(value)) return sorted(joined(value).map((each) => this.#value(each, "")));
    if (typeof value !== "object" || value === null) return value;
    if (measuredKeys.has(key)) return measured(value);
    const entries = Object.entries(value).map(([name, each]) => [this.#text(name), this.#value(each, name)]);
    return Object.fromEntries(entries) as unknown;
  }

  #text(text: string): string {
    const without = this.#own.reduce((rest, path) => rest.replaceAll(path, "<own>"), text);
    return texts.reduce((rest, [pattern, word]) => rest.replaceAll(pattern, word), without);
  }
}

/** The last column of a process. */
function commandOf(row: unknown): unknown {
  return Array.isArray(row) ? row.at(-1) : row;
}

/** Lines of progress: what is said of single layers comes as it comes, and texts are cut anywhere. */
function joined(lines: readonly unknown[]): unknown[] {
  const kept: unknown[] = [];
  for (const line of lines) {
    const { id, status, stream } = {
      ...(line as { id?: unknown; status?: unknown; stream?: unknown } | null),
    };
    if (id !== undefined && status !== undefined && !("Type" in (line as object))) continue;
    const last = kept.at(-1);
    if (typeof stream === "string" && isStream(last))
      kept[kept.length - 1] = { stream: last.stream + stream };
    else kept.push(line);
  }
  return kept;
}

function isStream(line: unknown): line is { readonly stream: string } {
  return typeof line === "object" && line !== null && "stream" in line && typeof line.stream === "string";
}

function isChosenPort(key: string, value: string | number): boolean {
  return (key === "HostPort" || key === "PublicPort") && Number(value) >= chosenPortLeast;
}

function measured(value: unknown): unknown {
  if (typeof value === "number") return "<number>";
  if (Array.isArray(value)) return value.slice(0, 1).map(measured);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, measured(each)]));
}

/** Newest first is a promise of some lists only, and what is as old as another may stand before or after it. */
function sorted(list: unknown[]): unknown[] {
  const key = sortKeys.find((name) =>
    list.every((each) => each !== null && typeof each === "object" && name in each),
  );
  if (key === undefined) return list;
  const textOf = (each: unknown): string => String((each as Record<string, unknown>)[key]);
  return list.toSorted((a, b) => (textOf(a) < textOf(b) ? -1 : 1));
}
