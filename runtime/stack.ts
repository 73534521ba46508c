import { readFileSync } from "node:fs";
import { SourceMap, type SourceMapPayload } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Gives the source map of a compiled file as JSON, undefined when it has none. */
export type ReadSourceMap = (path: string) => string | undefined;

/**
 * The stack of an error with places in our compiled files replaced by those in the TypeScript they come from.
 *
 * Node can do this itself (`--enable-source-maps`), but then every process keeps the maps of all files it has loaded,
 * in each of its threads: ten MiB of an idle manager. Here a map is read when an error is written down.
 *
 * @param stack - As in `Error.stack`; frames without a map stay as they are.
 */
export function mapStack(stack: string, read: ReadSourceMap = readSourceMap): string {
  return stack.replaceAll(
    /(file:\/\/)?(\/[^\s():]+\.js):(\d+):(\d+)/g,
    (frame: string, scheme: string | undefined, path: string, line: string, column: string) => {
      const file = scheme === undefined ? path : fileURLToPath(`file://${path}`);
      const entry = mapOf(file, read)?.findEntry(Number(line) - 1, Number(column) - 1);
      if (entry === undefined || !("originalSource" in entry)) return frame;
      const source = resolve(dirname(file), entry.originalSource);
      return `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
    },
  );
}

/** A map that cannot be read or understood costs the line numbers, never the message it was wanted for. */
function mapOf(file: string, read: ReadSourceMap): SourceMap | undefined {
  try {
    const text = read(file);
    return text === undefined ? undefined : new SourceMap(JSON.parse(text) as SourceMapPayload);
  } catch {
    return undefined;
  }
}

/** Only ours: packages are shipped with maps, but seldom with the sources that these name. */
function readSourceMap(file: string): string | undefined {
  return file.includes("/node_modules/") ? undefined : readFileSync(`${file}.map`, "utf8");
}
