import { readFileSync } from "node:fs";
import { SourceMap, type SourceMapPayload } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { lineTableOf } from "./programs.ts";

/** Gives the content of a file; throws when there is none. */
export type ReadText = (path: string) => string;

/**
 * The stack of an error with places in our compiled files replaced by those in the TypeScript they come from.
 *
 * Node can do this itself (`--enable-source-maps`), but then every process keeps the maps of all files it has loaded,
 * in each of its threads: ten MiB of an idle manager. Here they are read when an error is written down.
 *
 * @param stack - As in `Error.stack`; frames of which nothing is known stay as they are.
 */
export function mapStack(stack: string, read: ReadText = readOnce()): string {
  return stack.replaceAll(
    /(file:\/\/)?(\/[^\s():]+\.js):(\d+):(\d+)/g,
    (frame: string, scheme: string | undefined, path: string, line: string, column: string) => {
      const file = scheme === undefined ? path : fileURLToPath(`file://${path}`);
      // Only ours: packages are shipped with maps, but seldom with the sources that these name.
      if (file.includes("/node_modules/")) return frame;
      return (
        inBundle(file, Number(line), read) ?? inModule(file, Number(line), Number(column), read) ?? frame
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

/** By the line table that `tools/bundle.ts` has made. */
function inBundle(file: string, line: number, read: ReadText): string | undefined {
  const place = orUndefined(() => read(lineTableOf(file)))?.split("\n", line)[line - 1];
  return place === undefined || place === "" ? undefined : resolve(dirname(file), "../..", place);
}

function inModule(file: string, line: number, column: number, read: ReadText): string | undefined {
  const map = orUndefined(() => new SourceMap(JSON.parse(read(`${file}.map`)) as SourceMapPayload));
  const entry = map?.findEntry(line - 1, column - 1);
  if (entry === undefined || !("originalSource" in entry)) return undefined;
  return `${resolve(dirname(file), entry.originalSource)}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
}

/** For one stack, most of whose frames are of one file. */
function readOnce(): ReadText {
  const known = new Map<string, string>();
  return (path) => {
    const text = known.get(path) ?? readFileSync(path, "utf8");
    known.set(path, text);
    return text;
  };
}
