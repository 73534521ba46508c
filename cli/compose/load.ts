import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Ajv, type ErrorObject } from "ajv";
import { parse } from "yaml";
import { installation } from "../installation.ts";
import { readNamedFile } from "../files.ts";
import { parseDuration } from "../units.ts";
import { type Environment, interpolateAll } from "./interpolate.ts";
import { composeNumbers } from "./numbers.ts";
import { mergeFiles } from "./merge.ts";
import { resolveServices } from "./resolve.ts";
import type { ComposeFile } from "./types.ts";

const largestFileBytes = 4 * 1024 * 1024;

/** What a file holds, and where relative paths in it start. */
export interface LoadedFile {
  readonly file: ComposeFile;
  readonly folder: string;
}

/**
 * Reads compose files; later ones override and add to earlier ones (`merge.ts`).
 * @param paths - "-" is standard input.
 * @throws with the file, the place in it and what is accepted there.
 */
export function loadCompose(
  paths: readonly string[],
  environment: Environment,
  warn: (text: string) => void,
): LoadedFile {
  const first = paths[0];
  if (first === undefined) throw new Error('required flag(s) "compose-file" not set');
  const check = compileSchema();
  const files = paths.map((path) => loadOne(path, environment, warn, check));
  const folder = first === "-" ? process.cwd() : dirname(resolve(first));
  return { file: resolveServices(files.reduce(mergeFiles), { folder, environment }), folder };
}

type Check = (value: unknown) => string | undefined;

function loadOne(
  path: string,
  environment: Environment,
  warn: (text: string) => void,
  check: Check,
): ComposeFile {
  const text = readNamedFile(path === "-" ? 0 : path).toString("utf8");
  if (text.length > largestFileBytes) throw new Error(`${path}: larger than ${largestFileBytes} bytes`);
  let raw: unknown;
  try {
    raw = parse(text, { merge: true, maxAliasCount: 1_000, customTags: composeNumbers });
  } catch (cause) {
    throw new Error(`${path}: ${(cause as Error).message}`, { cause });
  }
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw new Error(`${path}: top-level object must be a mapping`);
  }
  const missing = new Set<string>();
  const value = interpolateSections(raw as Record<string, unknown>, environment, missing);
  for (const name of missing) warn(`The "${name}" variable is not set. Defaulting to a blank string.`);
  const problem = check(value);
  if (problem !== undefined) throw new Error(`${path}: ${problem}`);
  return value;
}

function interpolateSections(
  raw: Readonly<Record<string, unknown>>,
  environment: Environment,
  missing: Set<string>,
): Record<string, unknown> {
  const { name: _projectName, ...sections } = raw; // A key of docker compose, which stacks ignore.
  const value = interpolateAll({ ...sections }, environment, (name) => missing.add(name)) as Record<
    string,
    unknown
  >;
  // The schema belongs to 3.13; files of any 3.x version, or of none, are valid by it.
  const version = JSON.stringify(value["version"] ?? "3");
  if (!/^"?3(\.\d+)?"?$/.test(version)) {
    throw new Error(`unsupported Compose file version: ${version}; expected 3.0 to 3.13, or none`);
  }
  return { ...value, version: "3.13" };
}

function compileSchema(): Check {
  const text = readFileSync(new URL("cli/compose/config-schema-v3.13.json", installation), "utf8");
  // The file is of draft 4; what it uses means the same in draft 7, but for the names of these two keywords.
  const schema = JSON.parse(text, (key, value: unknown) =>
    key === "id" || key === "$schema" ? undefined : value,
  ) as object;
  const ajv = new Ajv({ strict: false, allErrors: false, verbose: true });
  ajv.addFormat("duration", isDuration);
  ajv.addFormat("ports", true);
  ajv.addFormat("expose", true);
  ajv.addFormat("subnet_ip_address", /^\d+\.\d+\.\d+\.\d+\/\d+$|:/);
  const validate = ajv.compile(schema);
  return (value) => {
    if (validate(value)) return undefined;
    return describe(validate.errors ?? []);
  };
}

function describe(errors: readonly ErrorObject[]): string {
  const depth = ({ instancePath }: ErrorObject) => instancePath.split("/").length;
  // Of a value with a short and a long form each form has its say: the one that got furthest is meant.
  const error = errors.toSorted((a, b) => depth(b) - depth(a))[0];
  if (error === undefined) return "not a valid compose file";
  const place = error.instancePath.slice(1).replaceAll("/", ".") || "(root)";
  const detail =
    error.keyword === "additionalProperties" ? ` '${String(error.params["additionalProperty"])}'` : "";
  return `${place} ${error.message ?? "is invalid"}${detail}`;
}

function isDuration(text: string): boolean {
  try {
    parseDuration(text);
    return true;
  } catch {
    return false;
  }
}
