/**
 * Dockerfiles as the classic builder reads them. What is printed again from here, one instruction a line, is all that
 * the tool that carries it out gets to see: so what was checked is what is done. Pure.
 *
 * @see https://docs.docker.com/reference/dockerfile/ for the format.
 */
import { ClusterError } from "../../model/errors.ts";

/** Larger ones are refused before they are read. */
export const dockerfileLimitBytes = 1 << 20;
const instructionLimit = 10_000;

const keywords = [
  ..."ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL".split(
    " ",
  ),
  ..."USER VOLUME WORKDIR".split(" "),
];

/** Those the classic builder has; what is not here needs BuildKit, or is unknown. */
const flagsOf: Readonly<Record<string, readonly string[]>> = {
  ADD: ["chown"],
  COPY: ["chown", "from"],
  FROM: ["platform"],
  HEALTHCHECK: ["interval", "retries", "start-interval", "start-period", "timeout"],
};
const buildKitFlags: Readonly<Record<string, readonly string[]>> = {
  ADD: ["checksum", "chmod", "exclude", "keep-git-dir", "link", "unpack"],
  COPY: ["chmod", "exclude", "link", "parents"],
  RUN: ["device", "mount", "network", "security"],
};

export interface Instruction {
  /** Of its first line, counting from 1. */
  readonly line: number;
  /** In capitals. */
  readonly keyword: string;
  readonly flags: Readonly<Record<string, string>>;
  /** What follows keyword and flags. */
  readonly rest: string;
  /** The whole of it on one line, as it was written. */
  readonly text: string;
}

export interface Stage {
  readonly from: Instruction;
  /** In small letters; absent without "AS name". */
  readonly name?: string;
  /** Not expanded. */
  readonly image: string;
  readonly instructions: readonly Instruction[];
}

export interface Dockerfile {
  /** The character that ends a line that goes on, and keeps a `$` from being a variable. */
  readonly escape: "\\" | "`";
  /** `ARG`s before the first `FROM`. */
  readonly globals: readonly Instruction[];
  readonly stages: readonly Stage[];
}

/** Those that take one argument, no more and no less. */
const single = ["USER", "WORKDIR", "STOPSIGNAL"];

/** @throws {ClusterError} `invalid-argument` in Docker's words. */
export function parseDockerfile(text: string): Dockerfile {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  const escape = escapeOf(lines);
  const instructions = joinLines(lines, escape).map(({ line, text: joined }) =>
    parseInstruction(line, joined, escape),
  );
  if (instructions.length === 0) throw problem(1, "file with no instructions");
  if (instructions.length > instructionLimit)
    throw problem(1, `${instructions.length} instructions, at most ${instructionLimit} are accepted`);
  const first = instructions.findIndex(({ keyword }) => keyword === "FROM");
  const globals = first < 0 ? instructions : instructions.slice(0, first);
  const stray = globals.find(({ keyword }) => keyword !== "ARG");
  if (stray !== undefined || first < 0)
    throw problem((stray ?? instructions[0])?.line ?? 1, "no build stage in current context");
  const stages: { from: Instruction; name?: string; image: string; instructions: Instruction[] }[] = [];
  for (const instruction of instructions.slice(first)) {
    if (instruction.keyword === "FROM")
      stages.push({ from: instruction, ...parseFrom(instruction), instructions: [] });
    else stages.at(-1)?.instructions.push(instruction);
  }
  return { escape, globals, stages };
}

/** Also for what an image's `ONBUILD` says. @throws {ClusterError} `invalid-argument` in Docker's words. */
export function parseInstruction(line: number, text: string, escape: string): Instruction {
  // White space for some readers and not for others: what follows it could be a flag, or not.
  if (/[\0\u0085\uFEFF]/.test(text)) throw problem(line, "it has a control character");
  const [, word = "", args = ""] = /^(\S+)\s*(.*)$/s.exec(text.trim()) ?? [];
  const keyword = word.toUpperCase();
  if (!keywords.includes(keyword)) throw problem(line, `unknown instruction: ${word}`);
  const { flags, rest } = parseFlags(line, keyword, args, escape);
  if (rest === "" && keyword !== "HEALTHCHECK" && keyword !== "CMD" && keyword !== "ENTRYPOINT")
    throw problem(
      line,
      `${keyword} requires ${single.includes(keyword) ? "exactly" : "at least"} one argument`,
    );
  if ((keyword === "COPY" || keyword === "ADD") && /^[^\s[]\S*$/.test(rest)) {
    throw problem(
      line,
      `${keyword} requires at least two arguments, but only one was provided. Destination could not be determined`,
    );
  }
  if (
    ["RUN", "COPY", "ADD"].includes(keyword) &&
    !rest.startsWith("[") &&
    /(?:^|\s)\d*<<-?["']?\w+["']?(?:\s|$)/.test(rest)
  )
    throw problem(line, "here-documents require BuildKit, which this host does not have");
  if (keyword === "ONBUILD") {
    const { keyword: trigger } = parseInstruction(line, rest, escape);
    if (["ONBUILD", "FROM", "MAINTAINER"].includes(trigger))
      throw problem(line, `${trigger} isn't allowed as an ONBUILD trigger`);
  }
  return { line, keyword, flags, rest, text: text.trim() };
}

/** A form that every reader of Dockerfiles reads alike. */
export function printInstruction({ keyword, flags, rest }: Instruction): string {
  const printed = Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
  return [keyword, ...printed, ...(rest === "" ? [] : [rest])].join(" ");
}

/** The words of a JSON array; undefined for what a shell is to run. */
export function execForm(rest: string): readonly string[] | undefined {
  if (!rest.startsWith("[")) return undefined;
  try {
    const words: unknown = JSON.parse(rest);
    return Array.isArray(words) && words.every((word) => typeof word === "string") ? words : undefined;
  } catch {
    return undefined; // Docker runs it with the shell then.
  }
}

/**
 * Variables of a word, with quotes taken away: `$a`, `${a}`, `${a:-default}`, `${a:+alternative}`.
 *
 * @throws {ClusterError} `invalid-argument` for other forms.
 */
export function expandWord(
  word: string,
  variables: ReadonlyMap<string, string>,
  { escape, line }: { readonly escape: string; readonly line: number },
): string {
  let at = 0;
  const result = read("");
  return result;

  /** Up to the closing character, which is taken; "" for the end of the word. */
  function read(closing: string): string {
    let out = "";
    let isQuoted = false;
    for (;;) {
      const character = word[at];
      if (character === undefined) {
        if (closing !== "" || isQuoted) throw problem(line, `unexpected end of ${JSON.stringify(word)}`);
        return out;
      }
      at++;
      if (character === closing && !isQuoted) return out;
      if (character === '"') isQuoted = !isQuoted;
      else if (character === "'" && !isQuoted) out += literal();
      else if (character === escape) out += word[at++] ?? "";
      else if (character === "$") out += variable();
      else out += character;
    }
  }

  function literal(): string {
    const end = word.indexOf("'", at);
    if (end < 0) throw problem(line, `unexpected end of ${JSON.stringify(word)}`);
    const text = word.slice(at, end);
    at = end + 1;
    return text;
  }

  function variable(): string {
    const isBraced = word[at] === "{";
    if (isBraced) at++;
    const name = /^\w+/.exec(word.slice(at))?.[0] ?? "";
    at += name.length;
    const value = variables.get(name) ?? "";
    if (!isBraced) return name === "" ? "$" : value;
    if (name === "") throw problem(line, `bad substitution in ${JSON.stringify(word)}`);
    if (word[at] === "}") {
      at++;
      return value;
    }
    const operator = word.slice(at, at + 2);
    if (operator !== ":-" && operator !== ":+")
      throw problem(line, `unsupported modifier (${operator}) in substitution`);
    at += 2;
    const other = read("}");
    return (operator === ":-") === (value === "") ? other : operator === ":-" ? value : "";
  }
}

/** The names and defaults of an `ARG`; a default is not expanded. */
export function parseArg({ rest, line }: Instruction): { name: string; value: string | undefined }[] {
  const words = rest.match(/(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\])+/g) ?? [];
  return words.map((word) => {
    const split = word.indexOf("=");
    const name = split < 0 ? word : word.slice(0, split);
    if (!/^\w+$/.test(name)) throw problem(line, `invalid name of an ARG: ${name}`);
    return { name, value: split < 0 ? undefined : word.slice(split + 1) };
  });
}

export function problem(line: number, seen: string): ClusterError {
  return new ClusterError("invalid-argument", `dockerfile parse error line ${line}: ${seen}`);
}

/** Directives stand before everything else, blank lines included. */
function escapeOf(lines: readonly string[]): "\\" | "`" {
  for (const [index, line] of lines.entries()) {
    const [, name, value] = /^#\s*([a-zA-Z]\w*)\s*=\s*(.+?)\s*$/.exec(line.trim()) ?? [];
    if (name === undefined) break;
    if (name.toLowerCase() !== "escape") continue;
    if (value !== "\\" && value !== "`")
      throw problem(index + 1, `invalid ESCAPE '${value}'. Must be \` or \\`);
    return value;
  }
  return "\\";
}

function joinLines(lines: readonly string[], escape: string): { line: number; text: string }[] {
  const joined: { line: number; text: string }[] = [];
  let open: { line: number; parts: string[] } | undefined;
  for (const [index, raw] of lines.entries()) {
    if (/^\s*#/.test(raw) || raw.trim() === "") continue; // Also between the lines of one instruction.
    open ??= { line: index + 1, parts: [] };
    const end = raw.trimEnd();
    const goesOn = end.endsWith(escape);
    open.parts.push(goesOn ? end.slice(0, -1) : raw);
    if (goesOn) continue;
    joined.push({ line: open.line, text: open.parts.join("") });
    open = undefined;
  }
  if (open !== undefined) joined.push({ line: open.line, text: open.parts.join("") });
  return joined.filter(({ text }) => text.trim() !== "");
}

function parseFlags(
  line: number,
  keyword: string,
  args: string,
  escape: string,
): { flags: Record<string, string>; rest: string } {
  const flags: Record<string, string> = {};
  let rest = args.trim();
  while (rest.startsWith("--")) {
    const [word = ""] = /^\S+/.exec(rest) ?? [];
    if (word === "--") break;
    // Quotes and escapes are read in more than one way; no value that flags have needs them.
    if (/["']/.test(word) || word.includes(escape))
      throw problem(line, `the flag ${word} has quotes: plain values are accepted`);
    const split = word.indexOf("=");
    const name = split < 0 ? word.slice(2) : word.slice(2, split);
    if (buildKitFlags[keyword]?.includes(name) === true)
      throw new ClusterError(
        "invalid-argument",
        `the --${name} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images with BuildKit enabled`,
      );
    if (flagsOf[keyword]?.includes(name) !== true) throw problem(line, `unknown flag: --${name}`);
    if (split < 0) throw problem(line, `missing a value on flag: ${name}`);
    if (flags[name] !== undefined) throw problem(line, `duplicate flag specified: ${name}`);
    flags[name] = word.slice(split + 1);
    rest = rest.slice(word.length).trimStart();
  }
  return { flags, rest };
}

function parseFrom({ line, rest }: Instruction): { image: string; name?: string } {
  const [image = "", as, name, ...more] = rest.split(/\s+/);
  if (as === undefined) return { image };
  if (as.toLowerCase() !== "as" || name === undefined || more.length > 0)
    throw problem(line, "FROM requires either one or three arguments");
  const lower = name.toLowerCase();
  if (!/^[a-z][a-z0-9-_.]*$/.test(lower))
    throw problem(
      line,
      `invalid name for build stage: "${name}", name can't start with a number or contain symbols`,
    );
  return { image, name: lower };
}
