import { readFileSync } from "node:fs";
import { SourceMap, type SourceMapPayload } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { sourceOf } from "./line-table.ts";
import { lineTableOf } from "./programs.ts";

/** Gives the content of a file; throws when there is none. */
export type Read = (path: string) => Buffer;

/**
 * The stack of an error with places in our compiled files replaced by those in the TypeScript they come from.
 *
 * Node can do this itself (`--enable-source-maps`), but then every process keeps the maps of all files it has loaded,
 * in each of its threads: ten MiB of an idle manager. Here they are read when an error is written down.
 *
 * @param stack - As in `Error.stack`; frames of which nothing is known stay as they are.
 */
export function mapStack(stack: string, read: Read = (path) => readFileSync(path)): string {
  const tableOf = once((bundle) => orUndefined(() => read(lineTableOf(bundle))));
  const mapOf = once((module) =>
    orUndefined(() => new SourceMap(JSON.parse(read(`${module}.map`).toString()) as SourceMapPayload)),
  );
  return stack.replaceAll(
    /(file:\/\/)?(\/[^\s():]+\.js):(\d+):(\d+)/g,
    (frame: string, scheme: string | undefined, path: string, line: string, column: string) => {
      const file = scheme === undefined ? path : fileURLToPath(`file://${path}`);
      // Only ours: packages are shipped with maps, but seldom with the sources that these name.
      if (file.includes("/node_modules/")) return frame;
      return (
        inBundle(file, tableOf(file), Number(line)) ??
        inModule(file, mapOf(file), Number(line), Number(column)) ??
        frame
      );
    },
  );
}

/** A place that cannot be looked up costs the line number, never the message it was wanted for. */
function orUndefined<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

function once<R>(look: (path: string) => R): (path: string) => R {
  const known = new Map<string, R>();
  return (path) => {
    const found = known.get(path);
    if (found !== undefined || known.has(path)) return found as R;
    const looked = look(path);
    known.set(path, looked);
    return looked;
  };
}

/** By the line table that `tools/bundle.ts` has made. */
function inBundle(file: string, table: Buffer | undefined, line: number): string | undefined {
  const found = table && orUndefined(() => sourceOf(table, line));
  return found && `${resolve(dirname(file), "../..", found.source)}:${found.line}`;
}

function inModule(
  file: string,
  map: SourceMap | undefined,
  line: number,
  column: number,
): string | undefined {
  const entry = map?.findEntry(line - 1, column - 1);
  if (entry === undefined || !("originalSource" in entry)) return undefined;
  return `${resolve(dirname(file), entry.originalSource)}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
}
